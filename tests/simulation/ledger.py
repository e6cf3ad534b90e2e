"""What has been promised, from what was sent and what the broker wrote, and whether it is kept.

Everything that is said to a client counts from the moment it is written to its socket: it must be true then, and after
any crash. A message is known by its number, which stands in its payload.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.link import Link

NEVER = 1 << 62
RANK = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
DEDUP_MS = 120_000
_SECRET = re.compile(rb"m-[a-z2-7]{26}")

#: What a stored message is: ("sent", number), ("letter", address, msg_id, group), ("receipt", event, address, msg_id,
#: group).
Identity = tuple[Any, ...]
Rank = tuple[int, int]


class Broken(AssertionError):
    """A promise is broken."""


def require(kept: object, text: str, *about: object) -> None:
    if not kept:
        raise Broken(" ".join([text, *map(str, about)]))


@dataclass(eq=False)
class Sent:
    """One send. `kept` when the broker said so or showed it, `refused` when it said no, `failed` when that was because
    its store failed: until then the message took up room. Times in ms."""

    number: int
    box: Box
    tier: int
    at: int
    expires: int
    delayed: bool = False
    key: str = ""
    dedup: str = ""
    asked: frozenset[str] = frozenset()
    home: Box | None = None
    msg_id: int = 0
    kept: bool = False
    refused: bool = False
    failed: int = -1
    deleting: bool = False
    deleted: bool = False

    def __str__(self) -> str:
        return f"message {self.number} ({self.msg_id} of {self.box})"

    def may_be_gone(self, now: int) -> bool:
        box = self.box
        if self.deleting or self.expires <= now or box.may_have_ended(now):
            return True
        if box.retain_ack and any(
            self.msg_id in group.maybe or group.may_be_dead(self.msg_id) for group in box.groups.values()
        ):
            return True
        return any(not other.refused for other in self._newer())

    def may_have_been_gone(self, now: int) -> bool:
        """Whether it may at least have seemed so, until a commit failed."""
        return self.may_be_gone(now) or bool(self._newer())

    def _newer(self) -> list[Sent]:
        """What replaces it, or may."""
        if not self.key and not self.box.latest:
            return []
        return [
            other
            for other in self.box.sent
            if other is not self and (self.box.latest or other.key == self.key) and not 0 < other.msg_id <= self.msg_id
        ]


@dataclass(eq=False)
class Lease:
    """A message that a member has until `until`, unless it gave it away."""

    link: Link
    holder: object
    until: int
    over: bool = False

    @property
    def holds(self) -> bool:
        return not self.over and self.link.alive


@dataclass(eq=False)
class Group:
    """What is known of a group: `acked` was answered (and asked at), `maybe` may have been acknowledged, `counts` are
    deliveries in
    this life of the broker and `most` in any; so many more may be `hidden`, given to who had just gone."""

    box: Box
    name: str
    acked: dict[int, int] = field(default_factory=dict)
    maybe: set[int] = field(default_factory=set)
    termed: set[int] = field(default_factory=set)
    given: set[int] = field(default_factory=set)
    most: dict[int, int] = field(default_factory=dict)
    hidden: int = 0
    put_off: dict[int, int] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"group {self.name} of {self.box}"

    def may_be_dead(self, msg_id: int) -> bool:
        limit = self.box.max_deliver
        return msg_id in self.termed or 0 < limit <= self.most.get(msg_id, 0) + self.hidden

    def give(
        self, link: Link, holder: object, msg_id: int, deliveries: int, decided: int, now: int, troubled: bool
    ) -> None:
        """A message was written to a member, which the broker decided at `decided` or later."""
        box, lease = self.box, self.leases.get(msg_id)
        what = f"{msg_id} of {self}"
        require(msg_id not in self.acked, "given out after its acknowledgement was answered:", what)
        self.given.add(msg_id)
        if decided + box.ack_wait <= now:
            # its lease may have been over before its answer was stored, or has only begun
            self.most[msg_id] = max(self.most.get(msg_id, 0), deliveries)
            if msg_id not in self.leases or not self.leases[msg_id].holds:
                self.leases[msg_id] = Lease(link, holder, decided + box.ack_wait)
            return
        same = lease is not None and lease.holder == holder
        if lease is not None and not same:
            require(not lease.holds or lease.until <= now, "with two members within one lease:", what)
        # (an end that could not be stored has forgotten them)
        forgotten = troubled and (
            msg_id in self.maybe or msg_id in self.termed or not box.explicit or box.seemed_gone(msg_id, now)
        )
        count = 0 if forgotten else self.counts.get(msg_id, 0)
        if lease is not None and same and deliveries > self.counts.get(msg_id, 0):
            require(not lease.holds or lease.until <= now, "given again within its lease:", what)
        require(deliveries > count or (same and deliveries == count), "deliveries are not counted:", what, deliveries)
        if box.max_deliver and box.explicit:
            require(deliveries <= box.max_deliver, "delivered too often:", what, deliveries)
        self.counts[msg_id] = deliveries
        self.most[msg_id] = max(self.most.get(msg_id, 0), deliveries)
        self.put_off.pop(msg_id, None)
        self.leases[msg_id] = Lease(link, holder, decided + box.ack_wait)


@dataclass(eq=False)
class Box:
    """A mailbox: `mail_id` for those who may read, `kept` for everybody, `owner` for who may change it."""

    mail_id: str
    kept: str
    owner: str
    fields: Mapping[str, Any]
    sure_until: int
    knows: frozenset[int]
    dead_letter: Box | None = None
    dropping: bool = False
    lost: bool = False
    sent: list[Sent] = field(default_factory=list)
    ids: dict[int, Identity] = field(default_factory=dict)
    ranks: dict[Identity, Rank] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fields = self.fields
        self.explicit = fields.get("ack") == "explicit"
        self.ack_wait: int = fields.get("ack_wait", 60) * 1000
        self.max_deliver: int = fields.get("max_deliver", 5)
        self.max_msgs: int = fields.get("max_msgs", 0)
        self.retain_ack = fields.get("retain") == "ack"
        self.latest = fields.get("type") == "latest"
        self.memory = fields.get("storage") == "memory"

    def __str__(self) -> str:
        return self.kept

    def may_have_ended(self, now: int) -> bool:
        return self.dropping or self.lost or self.sure_until <= now

    def seemed_gone(self, msg_id: int, now: int) -> bool:
        """Whether a message may have been taken for gone, until a commit failed."""
        return any(sent.may_have_been_gone(now) for sent in self.sent if sent.msg_id == msg_id)

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group(self, name))


@dataclass(frozen=True)
class Look:
    """What was known when a look at a mailbox was asked for: what it must show, and what it must not."""

    box: Box
    asked: int
    required: Mapping[Identity, Rank]
    deleted: set[Identity]


class Ledger:
    """Everything that was sent and said."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.sent: list[Sent] = []
        self.secrets: dict[bytes, Box] = {}
        #: whether a crash or a refusal may have cost a `delivered` receipt
        self.troubled = False

    def add(self, box: Box) -> None:
        self.boxes[box.kept] = box
        for secret in {box.mail_id, box.owner}:
            if secret.startswith("m-"):
                self.secrets[secret.encode()] = box

    def restart(self) -> None:
        """Another process: what was in memory is gone."""
        self.troubled = True
        for box in self.boxes.values():
            box.lost |= box.memory
            for group in box.groups.values():
                group.leases.clear()
                group.counts.clear()
                group.put_off.clear()

    # what is said

    def check_secrets(self, link: Link, data: bytes) -> None:
        for secret in _SECRET.findall(data):
            box = self.secrets.get(secret)
            require(box is None or link.agent in box.knows, "a secret of", box, "was told to agent", link.agent)

    def identify(self, box: Box, payload: str, headers: Mapping[str, Any]) -> Identity:
        if "mq9-dead-from" in headers:
            return "letter", headers["mq9-dead-from"], int(headers["mq9-dead-id"]), headers["mq9-dead-group"]
        if "mq9-receipt" in headers:
            said = json.loads(payload)
            return "receipt", said["event"], said["mail_id"], said["msg_id"], said.get("group", "")
        return "sent", int(payload.split(" ")[0])

    def observe(self, box: Box, msg_id: int, word: str, payload: str, headers: Mapping[str, Any], now: int) -> Identity:
        """A stored message was shown to somebody: it is kept, under this id for ever."""
        identity = self.identify(box, payload, headers)
        rank = RANK[word], msg_id
        if box.ids.get(msg_id) == identity and box.ranks[identity] == rank:
            return identity
        self._learn(box, identity, rank)
        if identity[0] == "sent":
            self.confirm(self.sent[identity[1]], msg_id, box)
        elif identity[0] == "receipt":
            self._check_receipt(box, identity, payload, now)
        else:
            _, address, dead_id, group = identity
            require(self.boxes[address].dead_letter is box, "a dead letter that nobody sent there:", identity)
            require(self.boxes[address].group(group).may_be_dead(dead_id), "buried alive:", identity)
        return identity

    def confirm(self, sent: Sent, msg_id: int, box: Box) -> None:
        """A message was seen in `box`, or its send was answered: it is kept under this id."""
        require(sent.box is box, "in the wrong mailbox:", sent, box)
        require(not sent.refused, "refused, and there it is:", sent)
        sent.kept, sent.msg_id = True, msg_id
        self._learn(box, ("sent", sent.number), (sent.tier, msg_id))

    @staticmethod
    def _learn(box: Box, identity: Identity, rank: Rank) -> None:
        known = box.ids.setdefault(rank[1], identity)
        require(known == identity, "an id is used twice:", box, rank, known, identity)
        before = box.ranks.setdefault(identity, rank)
        require(before == rank, "stored twice, or in another tier:", box, identity, before, rank)

    def _check_receipt(self, home: Box, identity: Identity, payload: str, now: int) -> None:
        _, event, address, msg_id, group = identity
        box = self.boxes[address]
        named = box.ids.get(msg_id, ("", 0))
        if named[0] == "sent":
            candidates = [self.sent[named[1]]]
        else:
            candidates = [sent for sent in box.sent if not sent.refused and not sent.msg_id]
        fits = [sent for sent in candidates if sent.home is home and event in sent.asked]
        require(fits, "a receipt that nobody asked for:", payload)
        if event == "delivered":
            others = [other for other in home.ranks if other[:4] == identity[:4]]
            require(others == [identity], "told twice:", others)
        reason = json.loads(payload).get("reason", "")
        if event == "acked":
            require(msg_id in box.group(group).maybe, "a receipt of what nobody acknowledged:", payload)
        elif event == "dead":
            require(box.group(group).may_be_dead(msg_id), "a receipt of a death that was none:", payload)
        elif event == "expired":
            ends = {
                "ttl": any(sent.expires <= now for sent in fits),
                "mailbox": box.may_have_ended(now),
                "deleted": any(sent.deleting for sent in fits),
                "replaced": box.latest or any(sent.key for sent in fits),
            }
            require(ends[reason], "a receipt of an end that was none:", payload)
            for sent in fits if reason == "ttl" else ():
                groups = [each for each in box.groups.values() if not each.may_be_dead(msg_id)]
                acked = [each.acked[msg_id] for each in groups if msg_id in each.acked]
                require(not acked or min(acked) >= sent.expires, "expired, and it was acknowledged:", payload)

    # what must be there

    def required(self, box: Box, now: int) -> dict[Identity, Rank]:
        """What a look at the mailbox must show."""
        if box.may_have_ended(now):
            return {}
        found = {
            identity: rank
            for identity, rank in box.ranks.items()
            if identity[0] != "sent" or not self.sent[identity[1]].may_be_gone(now)
        }
        for sent in box.sent:
            if sent.kept and not sent.delayed and not sent.may_be_gone(now):
                found.setdefault(("sent", sent.number), (sent.tier, sent.msg_id or NEVER))
        return found

    def look(self, box: Box, now: int, required: Mapping[Identity, Rank] | None = None) -> Look:
        """What is known as somebody asks for what there is (or for `required` of it)."""
        return Look(box, now, self.required(box, now) if required is None else required, self.deleted(box))

    def check_page(
        self, look: Look, messages: Iterable[Mapping[str, Any]], full: bool, now: int
    ) -> dict[Identity, Rank]:
        """An answer to a QUERY or FETCH: in order, all that is required up to its last message (of all there is when
        `full`), nothing that was gone."""
        box = look.box
        found: dict[Identity, Rank] = {}
        keys: set[str] = set()
        for message in messages:
            headers = message["headers"] or {}
            word, msg_id = message["priority"], message["msg_id"]
            identity = self.observe(box, msg_id, word, message["payload"], headers, now)
            require(identity not in found, "twice in one answer:", box, identity)
            found[identity] = RANK[word], msg_id
            self.check_living(identity, look.asked, identity in look.deleted)
            key = headers.get("mq9-key")
            require(key not in keys, "two messages of one key:", box, key)
            keys |= {key} if key else set()
        ranks = list(found.values())
        require(ranks == sorted(ranks), "out of order:", box, ranks)
        require(not box.latest or len(found) <= 1, "more than the newest:", box, ranks)
        for identity, rank in look.required.items():
            if full or (ranks and rank < ranks[-1]):
                # (what a member was given in between, and its client confirmed, may be consumed)
                given = any(rank[1] in group.leases for group in box.groups.values())
                consumed = box.retain_ack and (given or identity not in self.required(box, now))
                kept = identity in found or consumed
                require(kept, "lost:", box, identity, "shown are", list(found))
        return found

    def check_living(self, identity: Identity, when: int, deleted: bool) -> None:
        """It was shown as of `when`."""
        if identity[0] == "sent":
            sent = self.sent[identity[1]]
            require(not deleted and sent.expires > when, "shown after its end:", sent)

    def deleted(self, box: Box) -> set[Identity]:
        """What its owner was told is deleted."""
        return {("sent", sent.number) for sent in box.sent if sent.deleted}

    # the end

    def reckon(self, shown: Mapping[Box, Mapping[Identity, Rank]], left: Mapping[Group, set[int]], now: int) -> None:
        """Everything is quiet: `shown` is what each mailbox holds, `left` what each group would still be given."""
        for group, there in left.items():
            if group.box in shown:
                self._reckon_group(group, there, shown[group.box])
        for sent in self.sent:
            if sent.home is not None and sent.home in shown and sent.box in shown and sent.kept and sent.msg_id > 0:
                self._reckon_receipts(sent, shown, now)

    def _reckon_group(self, group: Group, there: set[int], shown: Mapping[Identity, Rank]) -> None:
        box = group.box
        for _, msg_id in shown.values():
            if msg_id in there:
                require(msg_id not in group.acked, "acknowledged, and comes again:", msg_id, group)
            elif msg_id not in group.maybe:
                require(group.may_be_dead(msg_id), "neither handled nor dead nor there:", msg_id, group)
                if box.dead_letter is not None:
                    letter = ("letter", box.kept, msg_id, group.name)
                    require(letter in box.dead_letter.ranks, "a dead letter is lost:", letter)

    def _reckon_receipts(self, sent: Sent, shown: Mapping[Box, Mapping[Identity, Rank]], now: int) -> None:
        box, msg_id = sent.box, sent.msg_id
        assert sent.home is not None
        told = [identity for identity in shown[sent.home] if identity[2:4] == (box.kept, msg_id)]
        events = [identity[1] for identity in told]
        undisturbed = not (sent.deleting or sent.expires <= now or sent.key or box.latest)
        groups = box.groups.values()
        if "acked" in sent.asked and undisturbed:
            for group in groups:
                # (who acknowledges what is dead by then is told nothing)
                if msg_id in group.acked and not group.may_be_dead(msg_id):
                    receipt = ("receipt", "acked", box.kept, msg_id, group.name)
                    require(receipt in told, "a receipt is missing:", receipt)
        if "dead" in sent.asked and box.dead_letter in shown:
            for group in groups:
                letter, receipt = (box.kept, msg_id, group.name), ("receipt", "dead", box.kept, msg_id, group.name)
                if ("letter", *letter) in shown[box.dead_letter]:
                    require(receipt in told, "a receipt is missing:", receipt)
        handled = any(msg_id in group.maybe or group.may_be_dead(msg_id) for group in groups)
        if "expired" in sent.asked and not handled and (sent.deleted or (sent.expires <= now and not sent.deleting)):
            require("expired" in events, "a receipt is missing: expired of", sent)
        if "delivered" in sent.asked and not self.troubled and any(msg_id in group.given for group in groups):
            require("delivered" in events or sent.expires <= now, "a receipt is missing: delivered of", sent)
