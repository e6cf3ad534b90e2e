"""Messages of one mailbox: storing, reading in order, deleting, and the ones that wait for their time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from mq9_broker import keys
from mq9_broker.errors import Mq9Error
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.model import CODE, EXPIRED, NEVER, TIER_OF, TIERS, WATCHED, Draft
from mq9_broker.store.pending import Pending

DEDUP_WINDOW = 120_000
#: The answer to a delayed message: its id is given when it is delivered.
LATER = -1
#: How many messages are looked at for one answer: nobody waits long for whoever reads much.
EXAMINED = 4000
#: Bytes that take as long to look at as a small message.
_LARGE = 4096
#: Bytes that are read in a row of what is only counted.
COUNTED = 65_536
#: So many messages are worth to be read ahead.
_MANY = 64
#: How many are looked at in a row at least, where some of them may not count.
ROW = 16
#: Headers of a stored message that the broker looks at.
KEY = b"mq9-key"
TAGS = b"mq9-tags"
_TIER_OF_BYTE = tuple(TIER_OF[byte & CODE] if byte & CODE < len(TIER_OF) else -1 for byte in range(256))


class Messages:
    """Storing and reading. Ids are given in the order of storing; a reader goes tier by tier, id by id."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._schedule = mailboxes.schedule
        #: called with (address, msg_id, encoded, reason, now) for a watched message that nobody acknowledged
        self.lost: Callable[[str, int, bytes, str, int], None] = _nobody_asked

    def send(self, mailbox: Mailbox, draft: Draft, now: int) -> tuple[int, bool]:
        """Store a message. Gives (msg_id, duplicate): LATER for a delayed one, the first id for a duplicate. Mq9Error
        when the mailbox is full."""
        place = mailbox.pending
        seen = b""
        if draft.dedup:
            seen = keys.dedup(mailbox.incarnation, keys.digest(draft.dedup))
            first = place.get(seen)
            if first is not None and keys.number(first[8:]) > now:
                return keys.number(first[:8]) or LATER, True
        if mailbox.max_msgs:
            # (what comes later may find no older one of its key then)
            self._require_room(mailbox, b"" if draft.delay else draft.key, now)
        expires = now + draft.ttl * 1000 if draft.ttl else 0
        value = draft.encoded = draft.encoded or _encode(draft, expires, now)
        if draft.delay:
            msg_id = LATER
            mailbox.last_serial += 1
            mailbox.delayed += 1
            due = now + draft.delay * 1000
            place.put(keys.delayed(mailbox.incarnation, mailbox.last_serial), value)
            entry = keys.u64(mailbox.incarnation) + keys.u64(mailbox.last_serial)
            self._schedule.add(place, due, keys.DUE_DELAYED, entry, mailbox.address.encode())
            self._mailboxes.touch(mailbox)
        else:
            msg_id = self.append(mailbox, value[0], expires, value, now)
        if draft.dedup:
            until = now + DEDUP_WINDOW
            place.put(seen, keys.u64(max(msg_id, 0)) + keys.u64(until))
            self._schedule.add(place, until, keys.DUE_DEDUP, seen)
        return msg_id, False

    def send_plain(self, mailbox: Mailbox, code: int, payload: bytes, now: int) -> int:
        """Store a message that has nothing but a priority and a payload; gives its id. Mq9Error as `send`."""
        if mailbox.max_msgs:
            self._require_room(mailbox, b"", now)
        return self.append(mailbox, code, 0, keys.encode_plain(code, now, payload), now)

    def append(self, mailbox: Mailbox, code: int, expires: int, value: bytes, now: int) -> int:
        """Store an encoded message; gives its id. `code` is its first byte, `expires` in ms, 0 none."""
        tier = _TIER_OF_BYTE[code]
        msg_id = mailbox.last_id = mailbox.last_id + 1
        place = mailbox.pending
        replaced: tuple[int, bytes] | None = None
        if mailbox.latest:
            replaced = self._replace(mailbox)
            place.writes[keys.latest(mailbox.incarnation)] = keys.encode_latest(tier, msg_id, value)
        else:
            place.writes[keys.message(mailbox.incarnation, tier, msg_id)] = value
        if code >= WATCHED:
            replaced = self._watch(mailbox, tier, msg_id, value) or replaced
        if not mailbox.counts[tier]:
            mailbox.heads[tier] = msg_id
        mailbox.tails[tier] = msg_id
        mailbox.counts[tier] += 1
        if expires:
            entry = _entry(mailbox, tier, msg_id)
            self._schedule.add(place, expires, due_kind(value), entry, mailbox.address.encode())
        if mailbox.watchers or mailbox.waiters or mailbox.groups:
            mailbox.fresh.append((tier, msg_id, value))
        if not mailbox.dirty:
            self._mailboxes.touch(mailbox)
        if replaced is not None:
            # (last of all: a receipt may come back to this mailbox)
            self.lost(mailbox.address, *replaced, "replaced", now)
        return msg_id

    def append_all(self, mailbox: Mailbox, code: int, payloads: list[bytes], now: int) -> int:
        """Store messages that have nothing but a priority and a payload; gives the id of the first. The mailbox takes
        any number, and keeps more than the latest."""
        tier = _TIER_OF_BYTE[code]
        first, prefix = mailbox.last_id + 1, keys.messages(mailbox.incarnation, tier)
        head = keys.encode_plain(code, now, b"")
        ids = range(first, first + len(payloads))
        values = [head + payload for payload in payloads]
        mailbox.pending.writes.update(zip([prefix + msg_id.to_bytes(8, "big") for msg_id in ids], values, strict=True))
        mailbox.last_id = mailbox.tails[tier] = ids[-1]
        if not mailbox.counts[tier]:
            mailbox.heads[tier] = first
        mailbox.counts[tier] += len(ids)
        if mailbox.listening:
            mailbox.fresh += [(tier, msg_id, value) for msg_id, value in zip(ids, values, strict=True)]
        self._mailboxes.touch(mailbox)
        return first

    # room

    def has_room(self, mailbox: Mailbox, key: bytes, now: int) -> bool:
        """Whether one more message may be stored, one with this key."""
        limit = mailbox.max_msgs
        if not limit or mailbox.count + mailbox.delayed < limit or mailbox.latest:
            return True
        if key and mailbox.pending.get(keys.keyed(mailbox.incarnation, key)) is not None:
            return True  # that of the older one
        # what expired makes room before it is swept
        return self._schedule.behind(now) and self.count(mailbox, now) + mailbox.delayed < limit

    def _require_room(self, mailbox: Mailbox, key: bytes, now: int) -> None:
        if not self.has_room(mailbox, key, now):
            limit = mailbox.max_msgs
            raise Mq9Error(
                f"the mailbox is full: its max_msgs of {limit} is reached; there is room when messages are "
                "deleted or expire" + (", or are acknowledged" if mailbox.settings.retain_ack else "")
            )

    # reading

    def read(self, mailbox: Mailbox, tier: int, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        """(id, encoded message) of a tier with after < id <= upto, in order, expired ones included."""
        return ((_id_of(key), value) for key, value in self.scan(mailbox, tier, after, upto))

    def chunk(
        self, mailbox: Mailbox, tier: int, after: int, upto: int, room: int, around: int
    ) -> tuple[Sequence[int], list[bytes], int]:
        """(ids, encoded messages, their size) as `read` gives them one by one, until their size is `room` or more: that
        is their bytes, and `around` for each."""
        ids, values, rest = _cut(self.scan(mailbox, tier, after, upto, room), None, room, around)
        return ids, values, room - rest

    def scan(self, mailbox: Mailbox, tier: int, after: int, upto: int, room: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """As `read`, with the keys instead of the ids; `room` as in `chunk`."""
        if mailbox.tails[tier] <= after or mailbox.expires == 0:
            return iter(())
        prefix = keys.messages(mailbox.incarnation, tier)
        if mailbox.latest:
            value = mailbox.pending.get(keys.latest(mailbox.incarnation))
            if value is not None:
                kept_tier, msg_id, encoded = keys.decode_latest(value)
                if kept_tier == tier and after < msg_id <= upto:
                    return iter([(prefix + keys.u64(msg_id), encoded)])
            return iter(())
        head = mailbox.heads[tier]
        first = max(after + 1, head)
        if first > upto:
            return iter(())
        ahead = room if upto - first >= _MANY else 0
        found = mailbox.pending.scan(prefix + keys.u64(first), prefix + keys.u64(upto + 1), ahead)
        begin = next(found, None)
        if begin is None:
            return found
        if first == head:
            # what was consumed from the head is not looked through again
            mailbox.heads[tier] = _id_of(begin[0])
        return chain((begin,), found)

    def living(self, ids: Sequence[int], values: list[bytes], now: int) -> tuple[Sequence[int], list[bytes]]:
        """Those in a row that have not expired."""
        if not self._schedule.behind(now):
            return ids, values
        kept = [at for at, value in enumerate(values) if (keys.expires_of(value) or NEVER) > now]
        return [ids[at] for at in kept], [values[at] for at in kept]

    def get(self, mailbox: Mailbox, tier: int, msg_id: int, now: int, look: Look | None = None) -> bytes | None:
        """One message, encoded; None when it is gone or expired. What it costs is counted in `look`."""
        value = self._stored(mailbox, tier, msg_id)
        if look is not None:
            look.add(value or b"")
        return value if value is not None and (keys.expires_of(value) or NEVER) > now else None

    @staticmethod
    def dense(mailbox: Mailbox, tier: int) -> range:
        """The ids of a tier that has no gaps, expired ones included; empty when it has some or nothing is stored."""
        ids = range(mailbox.heads[tier], mailbox.tails[tier] + 1)
        return ids if len(ids) == mailbox.counts[tier] and not mailbox.latest else range(0)

    def count(self, mailbox: Mailbox, now: int) -> int:
        """How many messages are stored and unexpired."""
        return sum(self.counts(mailbox, now))

    def counts(self, mailbox: Mailbox, now: int) -> list[int]:
        """The same for each tier. While a sweep is behind, one look is taken at them; what it does not reach counts."""
        counts = list(mailbox.counts)
        if self._schedule.behind(now):
            look = Look()
            for tier in TIERS:
                found = self.scan(mailbox, tier, 0, mailbox.last_id)
                while (row := look.cut(found, EXAMINED, COUNTED))[0]:
                    counts[tier] -= len(row[0]) - len(self.living(*row, now)[0])
        return counts

    def find(self, mailbox: Mailbox, msg_id: int, now: int) -> tuple[int, bytes] | None:
        """(tier, encoded message) of one that is stored and unexpired."""
        for tier in TIERS:
            value = self.get(mailbox, tier, msg_id, now) if msg_id <= mailbox.tails[tier] else None
            if value is not None:
                return tier, value
        return None

    # taking out

    def delete(self, mailbox: Mailbox, msg_id: int, now: int) -> bool:
        """Delete one message; whether it was there."""
        found = self.find(mailbox, msg_id, now)
        if found is None:
            return False
        tier, value = found
        self.remove(mailbox, tier, msg_id, value)
        if value[0] & EXPIRED:
            self.lost(mailbox.address, msg_id, value, "deleted", now)
        return True

    def remove(self, mailbox: Mailbox, tier: int, msg_id: int, value: bytes) -> None:
        """Take out a stored message and everything that points at it."""
        expires = keys.expires_of(value)
        if expires:
            self._schedule.remove(mailbox.pending, expires, due_kind(value), _entry(mailbox, tier, msg_id))
        self._remove(mailbox, tier, msg_id)
        if value[0] >= WATCHED:
            self._unpoint(mailbox, tier, msg_id, value)

    def expired(self, mailbox: Mailbox, tier: int, msg_id: int, now: int) -> None:
        """A message's own time is over. What is not watched is not read: an entry in the index of times goes with its
        message, so it is there."""
        if not mailbox.latest:
            self._remove(mailbox, tier, msg_id)
            return
        value = mailbox.pending.get(keys.latest(mailbox.incarnation))
        if value is not None and keys.decode_latest(value)[1] == msg_id:
            self._remove(mailbox, tier, msg_id)

    def watched_expired(self, mailbox: Mailbox, tier: int, msg_id: int, now: int) -> None:
        """The same for a watched one."""
        value = self._stored(mailbox, tier, msg_id)
        if value is None:
            return
        self._remove(mailbox, tier, msg_id)
        self._unpoint(mailbox, tier, msg_id, value)
        self.lost(mailbox.address, msg_id, value, "ttl", now)

    def abandoned(self, place: Pending, key: bytes, address: str, now: int) -> None:
        """A message is left in a mailbox that ended and whose sender wanted to hear of it: `key` is that of `asked`."""
        incarnation, tier, msg_id = keys.split_asked(key)
        value = place.get(keys.message(incarnation, tier, msg_id))
        latest = place.get(keys.latest(incarnation)) if value is None else None
        if latest is not None and keys.decode_latest(latest)[1] == msg_id:
            value = keys.decode_latest(latest)[2]
        if value is not None:
            self.lost(address, msg_id, value, "mailbox", now)

    def due(self, mailbox: Mailbox, serial: int, now: int) -> int:
        """A delayed message's time has come; gives its bytes."""
        key = keys.delayed(mailbox.incarnation, serial)
        value = mailbox.pending.get(key)
        if value is None:
            return 0
        mailbox.pending.delete(key)
        mailbox.delayed -= 1
        expires = keys.expires_of(value)
        if not expires or expires > now:
            self.append(mailbox, value[0], expires, value, now)
        else:
            self._mailboxes.touch(mailbox)
            if value[0] & EXPIRED:
                self.lost(mailbox.address, LATER, value, "ttl", now)
        return len(value)

    # what is watched

    def unwatch(self, mailbox: Mailbox, tier: int, msg_id: int, value: bytes, receipt: int) -> None:
        """A receipt has been sent, or is not due any more: note it in the stored message."""
        left = bytes((value[0] & ~receipt,)) + value[1:]
        if mailbox.latest:
            mailbox.pending.put(keys.latest(mailbox.incarnation), keys.encode_latest(tier, msg_id, left))
        else:
            mailbox.pending.put(keys.message(mailbox.incarnation, tier, msg_id), left)
        if receipt == EXPIRED:
            mailbox.pending.delete(keys.asked(mailbox.incarnation, tier, msg_id))
        self._mailboxes.touch(mailbox)

    def by_key(self, mailbox: Mailbox, key: bytes) -> tuple[int, int] | None:
        """(tier, id) of the newest message with a key."""
        if mailbox.latest:
            value = mailbox.pending.get(keys.latest(mailbox.incarnation))
            tier, msg_id, encoded = keys.decode_latest(value) if value is not None else (0, 0, b"")
            return (tier, msg_id) if encoded and keys.field_of(encoded, KEY) == key else None
        found = mailbox.pending.get(keys.keyed(mailbox.incarnation, key))
        return (found[0], keys.number(found[1:])) if found is not None else None

    def _watch(self, mailbox: Mailbox, tier: int, msg_id: int, value: bytes) -> tuple[int, bytes] | None:
        """Point at a message that is watched; gives (id, encoded) of an older one of its key, which is taken out."""
        place = mailbox.pending
        if value[0] & EXPIRED:
            place.put(keys.asked(mailbox.incarnation, tier, msg_id), mailbox.address.encode())
        key = keys.field_of(value, KEY)
        if not key or mailbox.latest:
            return None
        older = self.by_key(mailbox, key)
        before = self._stored(mailbox, *older) if older is not None else None
        place.put(keys.keyed(mailbox.incarnation, key), bytes((tier,)) + keys.u64(msg_id))
        if older is None or before is None:
            return None
        self.remove(mailbox, *older, before)
        return older[1], before

    def _unpoint(self, mailbox: Mailbox, tier: int, msg_id: int, value: bytes) -> None:
        if value[0] & EXPIRED:
            mailbox.pending.delete(keys.asked(mailbox.incarnation, tier, msg_id))
        key = keys.field_of(value, KEY)
        if key and self.by_key(mailbox, key) == (tier, msg_id):
            mailbox.pending.delete(keys.keyed(mailbox.incarnation, key))

    def _stored(self, mailbox: Mailbox, tier: int, msg_id: int) -> bytes | None:
        """One message, expired or not."""
        if not mailbox.latest:
            return mailbox.pending.get(keys.message(mailbox.incarnation, tier, msg_id))
        value = mailbox.pending.get(keys.latest(mailbox.incarnation))
        if value is not None:
            kept_tier, kept_id, value = keys.decode_latest(value)
            if kept_id != msg_id or kept_tier != tier:
                return None
        return value

    def _replace(self, mailbox: Mailbox) -> tuple[int, bytes] | None:
        """The newest of a mailbox of type latest gives way, with all that points at it: (id, encoded)."""
        before = mailbox.pending.get(keys.latest(mailbox.incarnation)) if mailbox.count else None
        mailbox.counts = [0, 0, 0, 0]
        mailbox.removals += 1
        if before is None:
            return None
        tier, msg_id, value = keys.decode_latest(before)
        expires = keys.expires_of(value)
        if expires:
            self._schedule.remove(mailbox.pending, expires, due_kind(value), _entry(mailbox, tier, msg_id))
        if value[0] & EXPIRED:
            mailbox.pending.delete(keys.asked(mailbox.incarnation, tier, msg_id))
        return msg_id, value

    def _remove(self, mailbox: Mailbox, tier: int, msg_id: int) -> None:
        if mailbox.latest:
            mailbox.pending.delete(keys.latest(mailbox.incarnation))
        else:
            mailbox.pending.delete(keys.message(mailbox.incarnation, tier, msg_id))
        mailbox.counts[tier] -= 1
        mailbox.removals += 1
        if msg_id == mailbox.heads[tier]:
            mailbox.heads[tier] = msg_id + 1
        mailbox.fresh = [entry for entry in mailbox.fresh if entry[1] != msg_id] if mailbox.fresh else []
        self._mailboxes.touch(mailbox)


class Look:
    """A look through messages for one answer, that ends when enough of them have been looked at: then it is `over`, if
    there are more. One that is large counts as several."""

    __slots__ = ("_left", "over")

    def __init__(self) -> None:
        self._left = EXAMINED
        self.over = False

    def cut(self, found: Iterator[tuple[bytes, bytes]], limit: int, size: int) -> tuple[Sequence[int], list[bytes]]:
        """(ids, encoded messages) of the next of a scan, up to `limit`, until these have `size` bytes or more; none at
        its end, nor when this look is over."""
        if self._left <= 0:
            self.over = next(found, None) is not None
            return (), []
        ids, values, rest = _cut(found, min(limit, self._left), size)
        self._left -= max(len(values), (size - rest) // _LARGE)
        return ids, values

    def add(self, value: bytes) -> None:
        """This has been looked at."""
        self._left -= max(len(value) // _LARGE, 1)

    def ends(self) -> bool:
        """Whether enough has been looked at: the next one is too much."""
        return self._left <= 0


def _encode(draft: Draft, expires: int, now: int) -> bytes:
    code, lines = draft.code | draft.receipts, draft.lines
    if draft.key:
        lines = KEY + b": " + draft.key + b"\r\n" + lines
    if draft.key or draft.receipts:
        code |= WATCHED
    return keys.encode_message(code, now, expires, draft.hops, draft.reply, draft.sender, lines, draft.payload)


def due_kind(value: bytes) -> bytes:
    """Of which kind the entry in the index of times is that ends an encoded message."""
    return keys.DUE_WATCHED if value[0] >= WATCHED else keys.DUE_MESSAGE


def _nobody_asked(address: str, msg_id: int, value: bytes, reason: str, now: int) -> None:
    return


def _cut(
    found: Iterator[tuple[bytes, bytes]], limit: int | None, size: int, around: int = 0
) -> tuple[Sequence[int], list[bytes], int]:
    """(ids, encoded messages, what is left of `size`) of the next of a scan, up to `limit`, until these, and `around`
    for each, have `size` bytes or more."""
    stored: list[bytes] = []
    values: list[bytes] = []
    for key, value in islice(found, limit):
        stored.append(key)
        values.append(value)
        size -= len(value) + around
        if size <= 0:
            break
    if not stored:
        return (), values, size
    ids = range(_id_of(stored[0]), _id_of(stored[-1]) + 1)
    return ids if len(ids) == len(stored) else [*map(_id_of, stored)], values, size


def watched(ids: Sequence[int], values: list[bytes]) -> list[tuple[int, bytes]]:
    """(id, encoded message) of those in a row that are watched."""
    # (the first byte says so, and is what the greatest has most of)
    if not values or max(values)[0] < WATCHED:
        return []
    return [(msg_id, value) for msg_id, value in zip(ids, values, strict=True) if value[0] >= WATCHED]


def _id_of(key: bytes) -> int:
    """The id of a message, from its key."""
    return int.from_bytes(key[-8:], "big")


def _entry(mailbox: Mailbox, tier: int, msg_id: int) -> bytes:
    return keys.u64(mailbox.incarnation) + bytes((tier,)) + keys.u64(msg_id)
