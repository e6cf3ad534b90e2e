"""What can go wrong with a mailbox, as exceptions.

MailboxError                the broker refused, or an argument cannot be sent
├── MailboxNotFound         no such mailbox, or it has expired
└── BrokerUnavailable       no broker could be reached or started
    └── Interrupted         the connection broke before the answer came: it may have been done, or not

Their texts say what happened, to which value and what to do next. Private addresses are shortened in them, because
errors end in logs and on other people's screens.
"""

from __future__ import annotations

import re

_PRIVATE = re.compile(r"\b(m-[a-z2-7]{4})[a-z2-7]{22}\b")


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


class BrokerUnavailable(MailboxError):
    """No broker could be reached or started."""


class Interrupted(BrokerUnavailable):
    """The connection broke before the answer came: what was asked may have been done, or not."""
