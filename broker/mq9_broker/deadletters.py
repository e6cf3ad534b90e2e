"""Dead letters: where a message goes that no member of a group could handle."""

from __future__ import annotations

from mq9_broker import addresses, keys
from mq9_broker.errors import Mq9Error
from mq9_broker.mailboxes import Mailbox, Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.model import Draft
from mq9_broker.receipts import Receipts

#: Why a message is dead: given out as often as may be, or a member said that nobody will ever handle it.
MAX_DELIVER = "max_deliver"
TERMINATED = "terminated"
#: So many mailboxes may follow one another.
_LONGEST_CHAIN = 16


class DeadLetters:
    """Checks where they go, and lets them go there."""

    def __init__(self, mailboxes: Mailboxes, messages: Messages, receipts: Receipts) -> None:
        self._mailboxes = mailboxes
        self._messages = messages
        self._receipts = receipts

    def check(self, given: str, name: str, now: int) -> str:
        """The address under which the mailbox `given` is kept. Mq9Error when it can't take dead letters, or when they
        would come back to the mailbox `name` that is about to be created ("" for a private one)."""
        if addresses.is_secret(given):
            raise Mq9Error("dead_letter must be a send-only address or a public name, not a secret mail_id")
        if given == name:
            raise Mq9Error(f"dead_letter {given} is the mailbox itself")
        first = self._mailboxes.find(given, now)
        if first is None:
            raise Mq9Error(f"dead_letter {given[:140]} does not exist: create that mailbox first")
        following: Mailbox | None = first
        for _ in range(_LONGEST_CHAIN):
            if following is None or not following.settings.dead_letter:
                return first.address
            if following.settings.dead_letter == name:
                raise Mq9Error(f"dead_letter {given} leads back to {name}: {following.address} sends its dead there")
            following = self._mailboxes.find(following.settings.dead_letter, now)
        raise Mq9Error(
            f"dead_letter {given} is the first of more than {_LONGEST_CHAIN} mailboxes that follow each other"
        )

    def bury(self, mailbox: Mailbox, group: str, tier: int, msg_id: int, reason: str, now: int) -> None:
        """A group gives a message up: to the mailbox's dead letters if they can take it, else it stays where it is."""
        value = self._messages.get(mailbox, tier, msg_id, now)
        if value is None:
            return
        self._receipts.dead(mailbox, group, msg_id, value, reason, now)
        address = mailbox.settings.dead_letter
        target = self._mailboxes.find(address, now) if address else None
        if target is None or target is mailbox or not self._messages.has_room(target, b"", now):
            return
        message = keys.decode_message(value)
        head = f"mq9-dead-from: {mailbox.address}\r\nmq9-dead-reason: {reason}\r\nmq9-dead-id: {msg_id}\r\n"
        head += f"mq9-dead-group: {group}\r\n"
        lines = head.encode() + _without_earlier(message.lines)
        self._messages.send(
            target,
            Draft(message.payload, message.code, lines, message.reply, message.sender, message.hops),
            now,
        )
        if mailbox.settings.retain_ack:
            self._messages.remove(mailbox, tier, msg_id, value)


def _without_earlier(lines: bytes) -> bytes:
    """Header lines without those of an earlier death, and with no key: no dead letter replaces another."""
    kept = [line for line in lines.split(b"\r\n")[:-1] if not line.startswith(b"mq9-dead-")]
    return b"".join(
        line.replace(b"mq9-key: ", b"mq9-dead-key: ", 1) + b"\r\n" if line.startswith(b"mq9-key: ") else line + b"\r\n"
        for line in kept
    )
