"""Receipts: small messages to a sender about what became of its message, for the events it asked for.

A receipt is a message like any other, from the mailbox it speaks of. It asks for no receipt itself, so there is no end
of them to tell of, and it is not stored where there is no place for it. Where only the newest is kept it takes the
place of a message, whose sender may want to hear of that: that receipt follows this one, not in the middle of it.
"""

from __future__ import annotations

import json

from mq9_broker import keys
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.model import ACKED, CODE, CODES, DEAD, DELIVERED, EXPIRED, TIER_OF, Draft

#: So many may follow from one another: nobody waits long for whoever sends to the first of many mailboxes.
_LONGEST_CHAIN = 100


class Receipts:
    """Tells senders. `value` is always the encoded message that something happened to."""

    def __init__(self, mailboxes: Mailboxes, messages: Messages) -> None:
        self._mailboxes = mailboxes
        self._messages = messages
        messages.lost = self.lost
        # (to whom, from which mailbox, what) of those that follow from one another
        self._chain: list[tuple[str, str, dict[str, str | int]]] = []

    def delivered(self, mailbox: Mailbox, group: str, msg_id: int, value: bytes, now: int) -> bool:
        """It was written to a reader; the first time is told. Whether it was this one."""
        tier = TIER_OF[value[0] & CODE]
        current = self._messages.get(mailbox, tier, msg_id, now)
        if current is None or not current[0] & DELIVERED:
            return False
        self._messages.unwatch(mailbox, tier, msg_id, current, DELIVERED)
        self._tell("delivered", mailbox.address, msg_id, current, now, group=group)
        return True

    def acknowledged(self, mailbox: Mailbox, group: str, msg_id: int, value: bytes, now: int) -> None:
        """A group is done with it. Its end is no news any more."""
        if value[0] & ACKED:
            self._tell("acked", mailbox.address, msg_id, value, now, group=group)
        if value[0] & EXPIRED:
            self._messages.unwatch(mailbox, TIER_OF[value[0] & CODE], msg_id, value, EXPIRED)

    def dead(self, mailbox: Mailbox, group: str, msg_id: int, value: bytes, reason: str, now: int) -> None:
        """A group gave it up."""
        if value[0] & DEAD:
            self._tell("dead", mailbox.address, msg_id, value, now, group=group, reason=reason)

    def lost(self, address: str, msg_id: int, value: bytes, reason: str, now: int) -> None:
        """It is gone and nobody acknowledged it: `reason` is ttl, mailbox, replaced or deleted."""
        if value[0] & EXPIRED:
            self._tell("expired", address, msg_id, value, now, reason=reason)

    def _tell(self, event: str, address: str, msg_id: int, value: bytes, now: int, **more: str) -> None:
        said: dict[str, str | int] = {"event": event, "mail_id": address, "msg_id": msg_id, "time": now // 1000}
        said |= {name: text for name, text in more.items() if text}
        if len(self._chain) >= _LONGEST_CHAIN:
            return
        self._chain.append((keys.decode_message(value).sender.decode(), address, said))
        if len(self._chain) > 1:
            return  # (it follows from the one that is being stored)
        try:
            for receipt in self._chain:
                self._store(*receipt, now)
        finally:
            self._chain.clear()

    def _store(self, to: str, address: str, said: dict[str, str | int], now: int) -> None:
        mailbox = self._mailboxes.find(to, now)
        if mailbox is None or not self._messages.has_room(mailbox, b"", now):
            return
        if mailbox.latest and mailbox.address == address:
            return  # it would take the place of what came
        draft = Draft(
            json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode(),
            CODES["notify"],
            b"mq9-receipt: %b\r\n" % str(said["event"]).encode(),
            sender=address.encode(),
        )
        self._messages.send(mailbox, draft, now)
