"""The words of acknowledgement: what `msg.ack()`, `msg.nak()`, `msg.in_progress()` and `msg.term()` of NATS clients
send to the reply subject of a delivered message."""

from __future__ import annotations

from mq9_broker.dialects.fields import Fields
from mq9_broker.errors import Mq9Error
from mq9_broker.group import Group
from mq9_broker.hub import Hub
from mq9_broker.leases import PUT_OFF
from mq9_broker.session import Session

SUBJECT = b"$mq9.AI.ACK."
_TOKEN = len(SUBJECT)
#: The words for a message that is done.
_DONE = (b"", b"+ACK")
_A_DAY = 86_400_000_000_000
_LONGEST_REASON = 200


class Acknowledger:
    """Ends or prolongs the leases that a connection holds by subscription."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def acknowledge(self, session: Session, subject: bytes, payload: bytes, now: int) -> bytes:
        """What was published to an ack subject; the answer for who asked for one. Mq9Error when there is nothing that
        this connection may acknowledge under it, or when the word is not known."""
        claim = session.claims.get(subject[_TOKEN:])
        if claim is None or claim[0].mailbox.expires <= now:
            raise Mq9Error(
                "nothing can be acknowledged with this subject on this connection: the message is done, was given to "
                "another connection, or never came from here"
            )
        group, msg_id = claim
        lease = group.leases.out.get(msg_id)
        if group.leases.elsewhere([msg_id], session):
            raise Mq9Error(f"message {msg_id} is leased to another member of the group by now")
        word, _, rest = payload.partition(b" ")
        if word in _DONE and not rest:
            self._writable()
            group.acknowledge([msg_id], now)
        elif word == b"-NAK":
            delay = Fields.parse(rest).integer("delay", 0, 0, _A_DAY)
            if lease is not None and delay:
                until = now + -(-delay // 1_000_000)
                group.put_off(msg_id, until)
                self._hub.watch_leases(group, until)
            elif lease is not None:
                group.release(msg_id)
        elif word == b"+WPI" and not rest:
            if lease is None or lease.holder == PUT_OFF:
                raise Mq9Error(f"the lease of message {msg_id} is over: it goes to the next member")
            deadline = now + group.mailbox.settings.ack_wait * 1000
            group.leases.prolong(msg_id, deadline)
            self._hub.watch_leases(group, deadline)
        elif word == b"+TERM":
            self._writable()
            group.terminate(msg_id, _one_line(rest), now)
        else:
            shown = payload[:60].decode("utf-8", "replace")
            raise Mq9Error(f'unknown acknowledgement {shown!r}: use +ACK, -NAK, -NAK {{"delay":<ns>}}, +WPI or +TERM')
        self._hub.stir(group.mailbox)
        return b'{"error":""}'

    def acknowledge_all(self, session: Session, signals: list[tuple[bytes, bytes]], now: int) -> bool:
        """The same for (subject, payload) in a row that all say that a message is done: True when all of them are,
        False when anything about one of them is not so plain, and nothing has happened."""
        claims = session.claims
        found = [
            claims.get(subject[_TOKEN:])
            for subject, payload in signals
            if subject[:_TOKEN] == SUBJECT and payload in _DONE
        ]
        if self._hub.refusing or None in found or not len(signals) == len(found) == len(set(found)):
            return False
        done: dict[Group, list[int]] = {}
        for group, msg_id in filter(None, found):
            done.setdefault(group, []).append(msg_id)
        for group, msg_ids in done.items():
            if group.mailbox.expires <= now or group.leases.elsewhere(msg_ids, session):
                return False
        for group, msg_ids in done.items():
            group.acknowledge(msg_ids, now)
            self._hub.stir(group.mailbox)
        return True

    def _writable(self) -> None:
        if self._hub.refusing:
            raise Mq9Error(f"the store cannot write: {self._hub.refusing}")


def _one_line(text: bytes) -> str:
    """A reason as it fits into a header."""
    words = "".join(char if char.isprintable() else " " for char in text.decode("utf-8", "replace"))
    return " ".join(words.split())[:_LONGEST_REASON]
