"""What can go wrong with a mailbox, as exceptions.

MailboxError                the broker refused, or an argument cannot be sent
├── MailboxNotFound         no such mailbox, or it has expired
├── MessageNotFound         no such message in the mailbox
├── MailboxFull             the mailbox has as many messages as it may hold
├── NotAllowed              it takes another address: the owner's, or the sender's own
├── LeaseLost               the message is another reader's by now
├── PayloadTooLarge         more bytes than the broker takes
├── InvalidRequest          an argument that cannot be sent, or is not taken (a ValueError, too)
├── InvalidPayload          a message is not what it was read as (a ValueError, too)
├── NoAnswer                nobody answered a question in time (a TimeoutError, too)
├── Misused                 a client was used where it cannot work: another event loop, process or callback
└── BrokerUnavailable       no broker could be reached or started
    └── Interrupted         the connection broke before the answer came: it may have been done, or not

Their texts say what happened, to which value and what to do next. Private addresses are shortened in them, because
errors end in logs and on other people's screens.
"""

from __future__ import annotations

import re

# 26 signs and those that were mistyped: what lacks a sign, or has one too many, gives the right one away
_PRIVATE = re.compile(r"\b(m-[a-z2-7]{4})[a-z2-7]{18,}")


def mask(text: str) -> str:
    """`text` with every private mail_id cut to its first characters: enough to recognise it, useless to anyone else."""
    return _PRIVATE.sub(r"\1…", text)


class MailboxError(Exception):
    """The broker refused a request, or it cannot be sent as it is."""

    def __init__(self, text: str) -> None:
        super().__init__(mask(text))


class MailboxNotFound(MailboxError):
    """No such mailbox, it has expired, or the address cannot read it. `address` is what was asked: maybe a secret."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__(text)
        self.address = address


class MessageNotFound(MailboxError):
    """No such message in the mailbox: it has expired, was deleted, or never was there."""


class MailboxFull(MailboxError):
    """The mailbox holds as many messages as its `max_msgs` allows. Nothing was stored."""


class NotAllowed(MailboxError):
    """The address may not do this: a public mailbox is changed by its owner address, and `sender` is one's own."""


class LeaseLost(MailboxError):
    """The message was not acknowledged in time, and another reader of the group has it now."""


class PayloadTooLarge(MailboxError):
    """The message has `size` bytes with its headers, and the broker takes at most `limit`. Nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the message has {size} bytes, the broker takes at most {limit}: "
            f"send it in parts, or send where to find it"
        )
        self.size = size
        self.limit = limit


class InvalidRequest(MailboxError, ValueError):
    """An argument cannot be sent as it is, or the broker does not take its value. Nothing was done."""


class InvalidPayload(MailboxError, ValueError):
    """A message's payload is not what it was read as: no JSON, or not of that type."""


class NoAnswer(MailboxError, TimeoutError):
    """Nobody answered a question in time. It may still be in the mailbox that it was sent to."""


class Misused(MailboxError):
    """A client was used where it cannot work: in another event loop or process, or from its own callback."""


class BrokerUnavailable(MailboxError):
    """No broker could be reached or started."""


class Interrupted(BrokerUnavailable):
    """The connection broke before the answer came: what was asked may have been done, or not."""


_REFUSALS: tuple[tuple[re.Pattern[str], type[MailboxError]], ...] = (
    (re.compile(r"the mailbox is full: "), MailboxFull),
    (re.compile(r"only the owner may |header mq9-from: "), NotAllowed),
    (re.compile(r"message \d+ does not exist"), MessageNotFound),
    (re.compile(r"message \d+ is leased to another member "), LeaseLost),
    (
        re.compile(r"(a public mailbox|dead_letter|group_name|header|name|subscribe|ttl|unknown priority) "),
        InvalidRequest,
    ),
    (re.compile(r"\w+ must be |\w+ has \d+ "), InvalidRequest),
)


def refusal(text: str, address: str) -> MailboxError:
    """The exception for what a broker answered when it was asked something about `address`."""
    if text == f"mailbox {address} does not exist":
        return MailboxNotFound(address, f"{text}: check the address, or create it; a mailbox ends when its ttl does")
    return next((kind for pattern, kind in _REFUSALS if pattern.match(text)), MailboxError)(text)
