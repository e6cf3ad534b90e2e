"""What the broker promises, as a page of plain Python: every command happens at once, and time moves by itself.

Messages are kept by id. Of what is not `done` in a group, `out` is leased: (holder, deadline), in the order of giving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

NEVER = 1 << 62
RANK = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
PUT_OFF = ("nobody", "")


@dataclass
class Message:
    msg_id: int
    word: str
    payload: str
    expires: int = NEVER
    key: str = ""
    asked: set[str] = field(default_factory=set)

    @property
    def rank(self) -> tuple[int, int]:
        return RANK[self.word], self.msg_id


@dataclass
class Group:
    name: str
    start: int
    done: set[int] = field(default_factory=set)
    out: dict[int, tuple[object, int]] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    claims: dict[int, object] = field(default_factory=dict)
    member: Subscription | None = None


@dataclass(eq=False)
class Subscription:
    client: object
    tiers: frozenset[int]
    expected: list[tuple[int, str, int]] = field(default_factory=list)
    ended: bool = False


@dataclass(eq=False)
class Box:
    address: str
    fields: dict[str, Any]
    expires: int
    last_id: int = 0
    messages: dict[int, Message] = field(default_factory=dict)
    delayed: list[tuple[int, int, Message]] = field(default_factory=list)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    readers: list[Subscription] = field(default_factory=list)
    fresh: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.explicit = self.fields["ack"] == "explicit"
        self.ack_wait = self.fields["ack_wait"] * 1000
        self.max_deliver: int = self.fields["max_deliver"]
        self.consumes = self.fields["retain"] == "ack"
        self.latest = self.fields["type"] == "latest"

    def there(self, tiers: Iterable[int] = range(4)) -> list[Message]:
        return sorted((m for m in self.messages.values() if m.rank[0] in tiers), key=lambda m: m.rank)

    def waiting(self, group: Group, tiers: Iterable[int] = range(4)) -> list[Message]:
        """What a group has yet to be given, in order."""
        taken = group.done | group.out.keys()
        return [m for m in self.there(tiers) if m.msg_id > group.start and m.msg_id not in taken]


class Model:
    def __init__(self, now: int) -> None:
        self.now = now
        self.boxes: dict[str, Box] = {}
        self.receipts: Counter[tuple[object, ...]] = Counter()
        self.letters: Counter[tuple[object, ...]] = Counter()
        self.changes: Counter[tuple[str, str]] = Counter()
        self._serial = 0

    # mailboxes

    def create(self, address: str, fields: dict[str, Any]) -> bool:
        """Whether it is new."""
        ttl = fields["ttl"] * 1000
        box = self.boxes.get(address)
        if box is not None:
            own = box.fields["ttl"] * 1000
            until = self.now + min(ttl or own, own) if own else self.now + ttl if ttl else NEVER
            box.expires = max(box.expires, until)
            return False
        self.boxes[address] = Box(address, fields, self.now + ttl if ttl else NEVER)
        self._change("created", self.boxes[address])
        return True

    def _change(self, event: str, box: Box) -> None:
        if box.fields["public"]:
            self.changes[event, box.address] += 1

    def end(self, box: Box, event: str) -> None:
        del self.boxes[box.address]
        self._change(event, box)
        for message in box.messages.values():
            self._tell("expired", box, message, reason="mailbox")
        for reader in [*box.readers, *(group.member for group in box.groups.values() if group.member)]:
            reader.ended = True

    # sending

    def send(self, box: Box, message: Message, delay: int = 0, dedup: str = "") -> tuple[int, bool] | None:
        """(msg_id, duplicate), None when it is full."""
        if dedup in box.seen and box.seen[dedup][1] > self.now:
            return box.seen[dedup][0], True
        # (what comes later may find no older one of its key then)
        same = message.key and not delay and any(m.key == message.key for m in box.messages.values())
        if not same and self._full(box):
            return None
        msg_id = -1
        if delay:
            self._serial += 1
            box.delayed.append((self.now + delay * 1000, self._serial, message))
        else:
            msg_id = self._store(box, message)
        if dedup:
            box.seen[dedup] = msg_id, self.now + 120_000
        self.settle()
        return msg_id, False

    def send_row(self, box: Box, messages: Iterable[Message]) -> list[int | None]:
        """The msg_id of each, None when it is full: they come at once."""
        ids = [None if self._full(box) else self._store(box, message) for message in messages]
        self.settle()
        return ids

    @staticmethod
    def _full(box: Box) -> bool:
        limit = box.fields["max_msgs"]
        return bool(limit) and not box.latest and len(box.messages) + len(box.delayed) >= limit

    def _store(self, box: Box, message: Message) -> int:
        for older in list(box.messages.values()):
            if box.latest or (message.key and older.key == message.key):
                del box.messages[older.msg_id]
                # (who listens to a mailbox of type latest is shown all that arrives)
                box.fresh = [m for m in box.fresh if m is not older or box.latest]
                self._tell("expired", box, older, reason="replaced")
        box.last_id = message.msg_id = box.last_id + 1
        box.messages[message.msg_id] = message
        box.fresh.append(message)
        return message.msg_id

    def delete(self, box: Box, msg_id: int) -> bool:
        message = box.messages.pop(msg_id, None)
        if message is not None:
            self._tell("expired", box, message, reason="deleted")
        self.settle()
        return message is not None

    def _tell(self, event: str, box: Box, message: Message, group: str = "", reason: str = "") -> None:
        if event in message.asked:
            self.receipts[event, box.address, message.msg_id, group, reason] += 1

    def shown(self, box: Box, message: Message, group: str = "") -> None:
        """A reader got it."""
        self._tell("delivered", box, message, group)
        message.asked.discard("delivered")

    # groups

    def open(self, box: Box, name: str, start: int) -> Group | None:
        """The group; None when there may be no more."""
        if name not in box.groups and box.consumes and box.groups:
            return None
        return box.groups.setdefault(name, Group(name, start))

    def give(self, box: Box, group: Group, message: Message, holder: object) -> int:
        msg_id = message.msg_id
        group.counts[msg_id] += 1
        group.out[msg_id] = holder, self.now + box.ack_wait
        self.shown(box, message, group.name)
        return group.counts[msg_id]

    def acknowledge(self, box: Box, group: Group, msg_ids: Iterable[int]) -> None:
        self._acknowledge(box, group, msg_ids)
        self.settle()

    def _acknowledge(self, box: Box, group: Group, msg_ids: Iterable[int]) -> None:
        for msg_id in msg_ids:
            message = box.messages.get(msg_id)
            if message is not None and msg_id > group.start and msg_id not in group.done:
                self._tell("acked", box, message, group.name)
                message.asked.discard("expired")
                if box.consumes:
                    del box.messages[msg_id]
            self._over(group, msg_id)
            group.done.add(msg_id)

    @staticmethod
    def _over(group: Group, msg_id: int) -> None:
        group.out.pop(msg_id, None)
        group.counts.pop(msg_id, None)
        group.claims.pop(msg_id, None)

    def release(self, box: Box, group: Group, msg_id: int) -> None:
        """A lease ends without an acknowledgement."""
        del group.out[msg_id]
        if 0 < box.max_deliver <= group.counts[msg_id]:
            self.kill(box, group, msg_id, "max_deliver")

    def kill(self, box: Box, group: Group, msg_id: int, reason: str) -> None:
        message = box.messages.get(msg_id)
        if message is not None:
            self._tell("dead", box, message, group.name, reason)
            if box.fields["dead_letter"]:
                self.letters[box.address, msg_id, group.name, reason, message.payload] += 1
                if box.consumes:
                    del box.messages[msg_id]
        self._over(group, msg_id)
        group.done.add(msg_id)

    def leave(self, client: object) -> None:
        """A connection is gone."""
        for box in self.boxes.values():
            box.readers = [reader for reader in box.readers if reader.client is not client]
            for group in box.groups.values():
                if group.member is not None and group.member.client is client:
                    group.member = None
                group.claims = {m: holder for m, holder in group.claims.items() if holder is not client}
                for msg_id in [m for m, (holder, _) in group.out.items() if holder[0] is client]:  # type: ignore[index]
                    self.release(box, group, msg_id)
        self.settle()

    def restart(self) -> None:
        for box in list(self.boxes.values()):
            if box.fields["storage"] == "memory":
                del self.boxes[box.address]
            box.readers.clear()
            for group in box.groups.values():
                group.member = None
                group.out.clear()
                group.counts.clear()
                group.claims.clear()

    # time

    def settle(self) -> None:
        """What is there goes to those who wait for it."""
        for box in list(self.boxes.values()):
            for message in sorted(box.fresh, key=lambda m: m.rank):
                for reader in box.readers:
                    self.read(box, reader, message)
            box.fresh = []
            for group in box.groups.values():
                member = group.member
                for message in box.waiting(group, member.tiers) if member is not None else ():
                    assert member is not None
                    count = self.give(box, group, message, (member.client, member))
                    member.expected.append((message.msg_id, message.payload, count))
                    if box.explicit:
                        group.claims[message.msg_id] = member.client
                    else:
                        self._acknowledge(box, group, [message.msg_id])

    def read(self, box: Box, reader: Subscription, message: Message) -> None:
        if message.rank[0] in reader.tiers:
            reader.expected.append((message.msg_id, message.payload, 0))
            self.shown(box, message)

    def advance(self, seconds: float) -> None:
        until = self.now + round(seconds * 1000)
        while (following := self._next()) <= until:
            self.now = following
            self._due()
        self.now = until

    def _next(self) -> int:
        times = [NEVER + 1]
        for box in self.boxes.values():
            times += [box.expires, *(m.expires for m in box.messages.values()), *(due for due, _, _ in box.delayed)]
            times += [deadline for group in box.groups.values() for _, deadline in group.out.values()]
        return min(times)

    def _due(self) -> None:
        now = self.now
        for box in [box for box in self.boxes.values() if box.expires <= now]:
            self.end(box, "expired")
        for box in list(self.boxes.values()):
            for message in [m for m in box.messages.values() if m.expires <= now]:
                del box.messages[message.msg_id]
                self._tell("expired", box, message, reason="ttl")
            for entry in sorted((e for e in box.delayed if e[0] <= now), key=lambda e: e[:2]):
                box.delayed.remove(entry)
                if entry[2].expires > now:
                    self._store(box, entry[2])
            for group in box.groups.values():
                for msg_id in [m for m, (_, deadline) in group.out.items() if deadline <= now]:
                    if group.out[msg_id][0] == PUT_OFF:
                        del group.out[msg_id]
                    else:
                        self.release(box, group, msg_id)
        self.settle()
