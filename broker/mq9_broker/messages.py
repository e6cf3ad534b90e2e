"""Messages of one mailbox: storing, reading in order, deleting, and the ones that wait for their time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from mq9_broker import keys
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.model import NEVER, TIER_OF, TIERS, Draft

DEDUP_WINDOW = 120_000
#: The answer to a delayed message: its id is given when it is delivered.
LATER = -1
#: How many messages are looked at for one answer.
EXAMINED = 10_000


class Messages:
    """Storing and reading. Ids are given in the order of storing; a reader goes tier by tier, id by id."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._schedule = mailboxes.schedule

    def send(self, mailbox: Mailbox, draft: Draft, now: int) -> tuple[int, bool]:
        """Store a message. Gives (msg_id, duplicate): LATER for a delayed one, the first id for a duplicate."""
        place = mailbox.pending
        seen = b""
        if draft.dedup:
            seen = keys.dedup(mailbox.incarnation, keys.digest(draft.dedup))
            first = place.get(seen)
            if first is not None and keys.number(first[8:]) > now:
                return keys.number(first[:8]) or LATER, True
        expires = now + draft.ttl * 1000 if draft.ttl else 0
        value = keys.encode_message(
            draft.code, now, expires, draft.hops, draft.reply, draft.sender, draft.lines, draft.payload
        )
        if draft.delay:
            msg_id = LATER
            mailbox.last_serial += 1
            due = now + draft.delay * 1000
            place.put(keys.delayed(mailbox.incarnation, mailbox.last_serial), value)
            entry = keys.u64(mailbox.incarnation) + keys.u64(mailbox.last_serial)
            self._schedule.add(place, due, keys.DUE_DELAYED, entry, mailbox.address.encode())
            self._mailboxes.touch(mailbox)
        else:
            msg_id = self.append(mailbox, draft.code, expires, value)
        if draft.dedup:
            until = now + DEDUP_WINDOW
            place.put(seen, keys.u64(max(msg_id, 0)) + keys.u64(until))
            self._schedule.add(place, until, keys.DUE_DEDUP, seen)
        return msg_id, False

    def send_plain(self, mailbox: Mailbox, code: int, payload: bytes, now: int) -> int:
        """Store a message that has nothing but a priority and a payload; gives its id."""
        return self.append(mailbox, code, 0, keys.encode_plain(code, now, payload))

    def append(self, mailbox: Mailbox, code: int, expires: int, value: bytes) -> int:
        """Store an encoded message; gives its id. `expires` in ms, 0 none."""
        tier = TIER_OF[code]
        msg_id = mailbox.last_id = mailbox.last_id + 1
        place = mailbox.pending
        if mailbox.settings.latest:
            self._replace(mailbox)
            place.writes[keys.latest(mailbox.incarnation)] = keys.encode_latest(tier, msg_id, value)
        else:
            place.writes[mailbox.prefixes[tier] + msg_id.to_bytes(8, "big")] = value
        if not mailbox.counts[tier]:
            mailbox.heads[tier] = msg_id
        mailbox.tails[tier] = msg_id
        mailbox.counts[tier] += 1
        if expires:
            entry = _entry(mailbox, tier, msg_id)
            self._schedule.add(place, expires, keys.DUE_MESSAGE, entry, mailbox.address.encode())
        if mailbox.watchers or mailbox.waiters or mailbox.groups:
            mailbox.fresh.append((tier, msg_id, value))
        if not mailbox.dirty:
            self._mailboxes.touch(mailbox)
        return msg_id

    def read(self, mailbox: Mailbox, tier: int, after: int, upto: int) -> Iterator[tuple[int, bytes]]:
        """(id, encoded message) of a tier with after < id <= upto, in order, expired ones included."""
        if mailbox.tails[tier] <= after or mailbox.expires == 0:
            return
        if mailbox.settings.latest:
            value = mailbox.pending.get(keys.latest(mailbox.incarnation))
            if value is not None:
                kept_tier, msg_id, encoded = keys.decode_latest(value)
                if kept_tier == tier and after < msg_id <= upto:
                    yield msg_id, encoded
            return
        prefix = mailbox.prefixes[tier]
        head = mailbox.heads[tier]
        first = max(after + 1, head)
        if first > upto:
            return
        empty = True
        for key, value in mailbox.pending.scan(prefix + keys.u64(first), prefix + keys.u64(upto + 1)):
            msg_id = int.from_bytes(key[-8:], "big")
            if empty:
                # what was consumed from the head is not looked through again
                empty = False
                if first == head and msg_id > head:
                    mailbox.heads[tier] = msg_id
            yield msg_id, value

    def get(self, mailbox: Mailbox, tier: int, msg_id: int, now: int) -> bytes | None:
        """One message, encoded; None when it is gone or expired."""
        if mailbox.settings.latest:
            value = mailbox.pending.get(keys.latest(mailbox.incarnation))
            if value is not None:
                kept_tier, kept_id, value = keys.decode_latest(value)
                if kept_id != msg_id or kept_tier != tier:
                    return None
        else:
            value = mailbox.pending.get(mailbox.prefixes[tier] + keys.u64(msg_id))
        return value if value is not None and (keys.expires_of(value) or NEVER) > now else None

    def count(self, mailbox: Mailbox, now: int) -> int:
        """How many messages are stored and unexpired."""
        return sum(self.count_tier(mailbox, tier, now) for tier in TIERS)

    def count_tier(self, mailbox: Mailbox, tier: int, now: int) -> int:
        """The same for one tier. While a sweep is behind, the first EXAMINED are looked at one by one."""
        count = mailbox.counts[tier]
        if count and self._schedule.behind(now):
            for _, value in islice(self.read(mailbox, tier, 0, mailbox.last_id), EXAMINED):
                if (keys.expires_of(value) or NEVER) <= now:
                    count -= 1
        return count

    def tier_of(self, mailbox: Mailbox, msg_id: int, now: int) -> int | None:
        """The tier in which a message is stored, None when it is not."""
        for tier in TIERS:
            if msg_id <= mailbox.tails[tier] and self.get(mailbox, tier, msg_id, now) is not None:
                return tier
        return None

    def delete(self, mailbox: Mailbox, msg_id: int, now: int) -> bool:
        """Delete one message; whether it was there."""
        tier = self.tier_of(mailbox, msg_id, now)
        if tier is None:
            return False
        value = self.get(mailbox, tier, msg_id, now)
        expires = keys.expires_of(value) if value else 0
        if expires:
            self._schedule.remove(mailbox.pending, expires, keys.DUE_MESSAGE, _entry(mailbox, tier, msg_id))
        self._remove(mailbox, tier, msg_id)
        return True

    def expired(self, mailbox: Mailbox, tier: int, msg_id: int, now: int) -> None:
        """A message's own time is over."""
        if mailbox.settings.latest:
            value = mailbox.pending.get(keys.latest(mailbox.incarnation))
            present = value is not None and keys.decode_latest(value)[1] == msg_id
        else:
            present = mailbox.pending.get(mailbox.prefixes[tier] + keys.u64(msg_id)) is not None
        if present:
            self._remove(mailbox, tier, msg_id)

    def due(self, mailbox: Mailbox, serial: int, now: int) -> None:
        """A delayed message's time has come."""
        key = keys.delayed(mailbox.incarnation, serial)
        value = mailbox.pending.get(key)
        if value is None:
            return
        mailbox.pending.delete(key)
        expires = keys.expires_of(value)
        if not expires or expires > now:
            self.append(mailbox, value[0], expires, value)
        else:
            self._mailboxes.touch(mailbox)

    def _replace(self, mailbox: Mailbox) -> None:
        """The newest of a mailbox of type latest gives way, with the appointment for its end."""
        before = mailbox.pending.get(keys.latest(mailbox.incarnation)) if mailbox.count else None
        if before is not None:
            tier, msg_id, value = keys.decode_latest(before)
            expires = keys.expires_of(value)
            if expires:
                self._schedule.remove(mailbox.pending, expires, keys.DUE_MESSAGE, _entry(mailbox, tier, msg_id))
        mailbox.counts = [0, 0, 0, 0]
        mailbox.removals += 1

    def _remove(self, mailbox: Mailbox, tier: int, msg_id: int) -> None:
        if mailbox.settings.latest:
            mailbox.pending.delete(keys.latest(mailbox.incarnation))
        else:
            mailbox.pending.delete(mailbox.prefixes[tier] + keys.u64(msg_id))
        mailbox.counts[tier] -= 1
        mailbox.removals += 1
        if msg_id == mailbox.heads[tier]:
            mailbox.heads[tier] = msg_id + 1
        mailbox.fresh = [entry for entry in mailbox.fresh if entry[1] != msg_id] if mailbox.fresh else []
        self._mailboxes.touch(mailbox)


def _entry(mailbox: Mailbox, tier: int, msg_id: int) -> bytes:
    return keys.u64(mailbox.incarnation) + bytes((tier,)) + keys.u64(msg_id)
