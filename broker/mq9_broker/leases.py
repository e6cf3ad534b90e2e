"""Leases: which messages of a group are out, with whom, until when, and how often each was given out.

All of it is in memory. A lease ends by an acknowledgement, by its time, or with its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mq9_broker.model import NEVER

if TYPE_CHECKING:
    from mq9_broker.group import Group

#: 128 bits: nobody guesses where another one's message is acknowledged.
_TOKEN_BYTES = 16


class Connection(Protocol):
    """Whoever holds leases. `claims` is what it may acknowledge by subject: token to (group, msg_id)."""

    @property
    def claims(self) -> dict[bytes, tuple[Group, int]]: ...


#: (connection, member). A message that was put off is nobody's: PUT_OFF.
Holder = tuple[Any, Hashable]
PUT_OFF: Holder = (None, None)


@dataclass(slots=True, eq=False)
class Lease:
    """What is out of one tier: `holder` is (connection, member), `deadline` in ms. Messages that were given out at once
    share it: it never changes."""

    tier: int
    holder: Holder
    deadline: int


class Leases:
    """The leases of one group, in the order in which they were given."""

    __slots__ = ("_claims", "_random", "out", "returns")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        # the one under which a message may be acknowledged, and the connection that knows it
        self._claims: dict[int, tuple[Connection, bytes]] = {}
        self.out: dict[int, Lease] = {}
        #: how often a message came back that is not done
        self.returns: dict[int, int] = {}

    def begin(self, msg_ids: Sequence[int], tier: int, holder: Holder, deadline: int) -> None:
        """Lease messages of one tier."""
        self.out.update(dict.fromkeys(msg_ids, Lease(tier, holder, deadline)))

    def deliveries(self, msg_ids: Sequence[int]) -> list[int]:
        """How often each of these has been given out, the time that begins or has begun included."""
        if self.returns.keys().isdisjoint(msg_ids):
            return [1] * len(msg_ids)
        return [self.returns.get(msg_id, 0) + 1 for msg_id in msg_ids]

    def end(self, msg_id: int) -> Lease | None:
        """It is not out any more, and has come back."""
        lease = self.out.pop(msg_id, None)
        if lease is not None and lease.holder != PUT_OFF:
            self.returns[msg_id] = self.returns.get(msg_id, 0) + 1
        return lease

    def undo(self, msg_id: int) -> Lease | None:
        """It was never given out: the answer that said so did not go out."""
        lease = self.out.pop(msg_id, None)
        if lease is None or lease.holder == PUT_OFF:
            # it came back since
            count = self.returns.pop(msg_id, 0)
            if count > 1:
                self.returns[msg_id] = count - 1
        return lease

    def forget(self, msg_ids: Iterable[int]) -> None:
        """They are done."""
        out, returns, claims = self.out, self.returns, self._claims
        for msg_id in msg_ids:
            out.pop(msg_id, None)
            if returns:
                returns.pop(msg_id, None)
            if claims:
                self._drop_claim(msg_id)

    def keep(self, msg_ids: Container[int]) -> None:
        """Everything else is done."""
        self.forget([msg_id for msg_id in {*self.out, *self.returns, *self._claims} if msg_id not in msg_ids])

    def prolong(self, msg_id: int, deadline: int) -> None:
        """Let a lease end later; it counts as the newest."""
        lease = self.out.pop(msg_id)
        self.out[msg_id] = Lease(lease.tier, lease.holder, deadline)

    def held_by_other(self, msg_ids: Iterable[int], holder: Holder) -> bool:
        """Whether somebody else has one of these."""
        leases = {*map(self.out.get, msg_ids)}
        return any(lease is not None and lease.holder not in (holder, PUT_OFF) for lease in leases)

    def elsewhere(self, msg_ids: Iterable[int], connection: Connection) -> bool:
        """Whether another connection has one of these."""
        holders = {lease.holder for lease in {*map(self.out.get, msg_ids)} if lease is not None}
        return any(holder[0] is not connection and holder != PUT_OFF for holder in holders)

    def of(self, holder: Holder) -> list[int]:
        """What a holder has."""
        return [msg_id for msg_id, lease in self.out.items() if lease.holder == holder]

    def of_connection(self, connection: Connection) -> list[int]:
        """What a connection has, whichever member; it can acknowledge none of it any more."""
        for msg_id in [msg_id for msg_id, claim in self._claims.items() if claim[0] is connection]:
            self._drop_claim(msg_id)
        return [msg_id for msg_id, lease in self.out.items() if lease.holder[0] is connection]

    def due(self, now: int) -> list[int]:
        """Those whose time is over."""
        return [msg_id for msg_id, lease in self.out.items() if lease.deadline <= now]

    @property
    def next(self) -> int:
        """When the first one ends by its time, 0 when none does."""
        return min((lease.deadline for lease in self.out.values() if lease.deadline < NEVER), default=0)

    # acknowledging by subject

    def claim(self, group: Group, msg_ids: list[int], connection: Connection) -> list[bytes]:
        """The tokens under which this connection may acknowledge messages, each until it is done or another connection
        gets one: whoever is late, but still the last who had it, may say so."""
        claims = self._claims
        for msg_id in claims.keys() & msg_ids:
            if claims[msg_id][0] is not connection:
                self._drop_claim(msg_id)
        fresh = [msg_id for msg_id in msg_ids if msg_id not in claims]
        text = self._random(_TOKEN_BYTES * len(fresh)).hex().encode()
        tokens = [text[at : at + 2 * _TOKEN_BYTES] for at in range(0, len(text), 2 * _TOKEN_BYTES)]
        connection.claims.update(zip(tokens, [(group, msg_id) for msg_id in fresh], strict=True))
        claims.update(zip(fresh, [(connection, token) for token in tokens], strict=True))
        return [claims[msg_id][1] for msg_id in msg_ids]

    @property
    def claimed(self) -> bool:
        """Whether anything may be acknowledged so."""
        return bool(self._claims)

    def close(self) -> None:
        """Nothing of the group can be acknowledged any more."""
        for msg_id in list(self._claims):
            self._drop_claim(msg_id)

    def _drop_claim(self, msg_id: int) -> None:
        known = self._claims.pop(msg_id, None)
        if known is not None:
            known[0].claims.pop(known[1], None)
