"""The capability board: the newest declaration per sender, remembered so that a new subscriber sees who can do what."""

from __future__ import annotations

import json
from collections.abc import Iterator

from mq9_broker import addresses, keys
from mq9_broker.mailboxes import Mailboxes

SUBJECT = b"$mq9.AI.BROADCAST.system.capability"
MAX_SENDERS = 10_000
MAX_SIZE = 65_536
_WITHOUT_MAILBOX = 3_600_000


class Board:
    """Declarations by `from`. Their order is kept in memory (at most MAX_SENDERS digests), their text in the store:
    serial, end (the incarnation of the mailbox that `from` names, or a time in ms), that mailbox's address, payload."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._place = mailboxes.disk
        self._order: dict[bytes, None] | None = None
        self._serial = 0

    @property
    def serial(self) -> int:
        """The number of the newest declaration."""
        self._known()
        return self._serial

    def declare(self, payload: bytes, now: int) -> None:
        """Remember a declaration. What is too large, or has no JSON field `from`, was a broadcast and no more."""
        if len(payload) > MAX_SIZE:
            return
        try:
            declared = json.loads(payload)
        except (ValueError, RecursionError):
            return
        sender = declared.get("from") if isinstance(declared, dict) else None
        if not isinstance(sender, str) or not sender:
            return
        kept = addresses.send_only(sender) if addresses.is_secret(sender) else sender
        try:
            digest = keys.digest(kept.encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            return
        order = self._known()
        order.pop(digest, None)
        while len(order) >= MAX_SENDERS:
            oldest = next(iter(order))
            del order[oldest]
            self._place.delete(keys.capability(oldest))
        order[digest] = None
        self._serial += 1
        found = self._mailboxes.find(kept, now)
        mailbox = found.address.encode() if found else b""
        until = found.incarnation if found else now + _WITHOUT_MAILBOX
        head = keys.u64(self._serial) + keys.u64(until) + bytes((len(mailbox),)) + mailbox
        self._place.put(keys.capability(digest), head + payload)
        if not found:
            self._mailboxes.schedule.add(self._place, until, keys.DUE_CAPABILITY, digest)

    def remembered(self, after: bytes, upto: int, now: int) -> Iterator[tuple[bytes, bytes]]:
        """(key, declaration) of those not newer than the number `upto`, from behind the key `after`; b"" stands for
        one that is over."""
        start = after + b"\0" if after else keys.capability(b"")
        for key, value in self._place.scan(start, b"D"):
            if keys.number(value[:8]) > upto:
                continue
            until = keys.number(value[8:16])
            mailbox = value[17 : 17 + value[16]]
            if mailbox:
                living = self._mailboxes.find(mailbox.decode(), now)
                valid = living is not None and living.incarnation == until
            else:
                valid = until > now
            yield key, value[17 + value[16] :] if valid else b""

    def expired(self, digest: bytes, when: int) -> None:
        """An hour has passed since a declaration without a mailbox; a newer one has an entry of its own."""
        value = self._place.get(keys.capability(digest))
        if value is not None and not value[16] and keys.number(value[8:16]) <= when:
            self._place.delete(keys.capability(digest))
            self._known().pop(digest, None)

    def _known(self) -> dict[bytes, None]:
        if self._order is None:
            stored = sorted((value[:8], key[1:]) for key, value in self._place.scan(keys.capability(b""), b"D"))
            self._order = dict.fromkeys(key for _, key in stored)
            self._serial = keys.number(stored[-1][0]) if stored else 0
        return self._order
