"""What a mailbox holds and what a broker answers, as values; and how they are written on the wire."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mq9_mcp.errors import MailboxError

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from pydantic import BaseModel

PREFIX = "$mq9.AI."
TIERS = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
REPLY_TO = "Reply-To"  # a sender who wants to hear the msg_id cannot use the reply subject for answers
_SENDING = re.compile(
    r"\$mq9\.AI\.(?:INBOX|MAILBOX|MSG\.SEND)\.(?P<address>.+?)(?:\.(?P<priority>" + "|".join(TIERS) + r"))?"
)
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ADDRESS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")


Payload: TypeAlias = "bytes | str | Mapping[str, Any] | list[Any] | BaseModel"


@dataclass(frozen=True, slots=True)
class Created:
    """A mailbox, new or joined. `mail_id` reads it, `send_only` is what to hand out; a new public one has `owner`."""

    mail_id: str = field(repr=False)
    send_only: str
    inbox: str = field(repr=False)
    is_new: bool
    ttl: int
    expires_at: int | None
    owner: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """Stored under `msg_id` (-1: delayed, the id is given at delivery). `duplicate`: it had been stored before."""

    msg_id: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was sent. `create_time` is unix seconds; `reply_to` is an address for `send`, or None."""

    msg_id: int
    payload: bytes
    priority: str
    headers: Mapping[str, str | list[str]]
    create_time: int
    reply_to: str | None = None

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 become U+FFFD."""
        return self.payload.decode("utf-8", "replace")

    @property
    def sender(self) -> str | None:
        """The sender's send-only address or public name as the broker checked it, or None."""
        value = self.headers.get("mq9-from")
        return value if isinstance(value, str) else None

    def json(self) -> Any:
        """The payload read as JSON. Raises ValueError when it is none."""
        return json.loads(self.payload)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch returned, most urgent first. `waiting`: what the group still has to get, by tier."""

    messages: list[Message]
    more: bool
    waiting: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a query returned, most urgent first. `unread`: how many are stored; `next`: the cursor for `after`."""

    messages: list[Message]
    unread: int
    next: str | None = None
    waiting: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the directory."""

    mail_id: str
    desc: str
    ttl: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Directory:
    """A page of the directory; `next` is the cursor for `after`."""

    mailboxes: list[Listed]
    next: str | None = None


def address_of(text: str) -> str:
    """The address in `text`: itself, or the one a sending subject names. Raises MailboxError for anything else."""
    subject = _SENDING.fullmatch(text)
    address = subject["address"] if subject else text
    if not _ADDRESS.fullmatch(address) or ".." in address or address.rpartition(".")[2] in TIERS:
        raise MailboxError(
            f"{text!r} is no mailbox address: give a mail_id, a send_only address or a public name "
            f"(lower case letters, digits, '.', '-' and '_')"
        )
    return address


def priority_of(text: str) -> str | None:
    """The priority that a sending subject names, if it is one that does."""
    subject = _SENDING.fullmatch(text)
    return subject["priority"] if subject else None


def as_bytes(payload: Payload) -> bytes:
    """What a payload is on the wire: bytes as they are, text as UTF-8, everything else as compact JSON."""
    if isinstance(payload, bytes):
        return payload
    try:
        if isinstance(payload, str):
            return payload.encode()
        if isinstance(payload, (Mapping, list)):
            return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        return payload.model_dump_json().encode()
    except (TypeError, ValueError) as error:
        raise MailboxError(f"the payload cannot be written as UTF-8 text or JSON ({error}): convert it first") from None


def checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers`, if each can be sent as it is; a client library would change what cannot without a word."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name):
            raise MailboxError(f"{name!r} cannot be a header name: use letters, digits and '-'")
        if "\n" in value or "\r" in value:
            raise MailboxError(f"the header {name!r} has more than one line: put that into the payload")
    return headers


def message_of(item: Mapping[str, Any]) -> Message:
    """A message from its JSON form in a broker's reply."""
    payload = item["payload"]
    headers = item.get("headers") or {}
    return Message(
        msg_id=item["msg_id"],
        payload=base64.b64decode(payload) if item.get("encoding") == "base64" else payload.encode(),
        priority=item["priority"],
        headers=headers,
        create_time=item["create_time"],
        reply_to=reply_address(headers.get("mq9-reply-to") or headers.get(REPLY_TO)),
    )


def reply_address(subject: object) -> str | None:
    """The address to answer to, from a reply subject or header as a stranger wrote it; None when it is none."""
    try:
        return address_of(subject) if isinstance(subject, str) and subject else None
    except MailboxError:
        return None


def pushed(message: Msg) -> Message:
    """A message from its pushed form: what the broker says about it rides in headers."""
    headers = dict(message.headers or {})
    return Message(
        msg_id=int(headers.pop("mq9-msg-id", "0")),
        payload=message.data,
        priority=headers.pop("mq9-priority", "normal"),
        headers=headers,
        create_time=int(headers.pop("mq9-time", "0")) // 1000,
        reply_to=reply_address(message.reply or headers.get(REPLY_TO)),
    )
