"""Keeps two agents from answering each other for ever: cheap to start, dear to run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from mq9_mcp.errors import MailboxError

MAX_HOPS = 20  # replies to replies
REST = 600.0  # seconds after which an exchange that rested begins anew
SAME_BODY = 5  # times within SAME_WITHIN seconds, to one mailbox
SAME_WITHIN = 60.0
REMEMBERED = 1000  # correspondents and bodies; the oldest are forgotten first

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A dict of the `size` entries that were used last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def __setitem__(self, key: Key, value: Value) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def values(self) -> list[Value]:
        return list(self._entries.values())


class LoopGuard:
    """What one agent has to remember of what it read and sent. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._heard: Recent[tuple[str, str], tuple[float, int]] = Recent(REMEMBERED)
        self._sent: Recent[bytes, deque[float]] = Recent(REMEMBERED)

    def heard(self, hops: int, addresses: tuple[str, ...], correlation_id: str, *, again: bool = False) -> None:
        """A message was read that `hops` replies had led to, and that can be answered at `addresses`.

        The newest counts: one that is read `again` changes nothing that is known.
        """
        keys = [("address", address) for address in addresses if address]
        if correlation_id:
            keys.append(("correlation", correlation_id))
        for key in keys:
            if not again or self._heard.get(key) is None:
                self._heard[key] = (self._now(), hops)

    def hops(self, address: str, correlation_id: str) -> int:
        """How many replies lead to a message that is about to be sent. Raises MailboxError beyond MAX_HOPS."""
        keys = [("address", address), *([("correlation", correlation_id)] if correlation_id else [])]
        answered = [entry for key in keys if (entry := self._heard.get(key)) and entry[0] > self._now() - REST]
        hops = 1 + max((hops for _, hops in answered), default=-1)
        if hops > MAX_HOPS:
            raise MailboxError(
                f"not sent: this would be reply number {hops} in one exchange, and {MAX_HOPS} is the limit, because "
                f"agents that answer each other do not stop by themselves. Tell your user what was reached; after "
                f"{REST / 60:.0f} minutes without a message the exchange can go on"
            )
        return hops

    @contextmanager
    def counting(self, address: str, body: str) -> Iterator[None]:
        """Around a send: counts it unless it fails. Raises MailboxError when the same was sent too often."""
        key = hashlib.blake2b(f"{address} {body}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        times = self._sent.get(key) or deque()
        while times and times[0] <= self._now() - SAME_WITHIN:
            times.popleft()
        if len(times) >= SAME_BODY:
            raise MailboxError(
                f"not sent: the same body went to {address} {SAME_BODY} times within {SAME_WITHIN:.0f} s. Those are "
                f"stored; wait for the answer with check_inbox"
            )
        moment = self._now()
        times.append(moment)
        self._sent[key] = times
        try:
            yield
        except BaseException:
            if moment in times:
                times.remove(moment)
            raise
