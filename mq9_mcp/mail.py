"""What a mailbox holds and what a broker answers, as values; and how they are written on the wire."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, TypeVar

from mq9_mcp.errors import InvalidPayload, InvalidRequest

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from pydantic import BaseModel

PREFIX = "$mq9.AI."
TIERS = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
REPLY_TO = "Reply-To"  # a sender who wants to hear the msg_id cannot use the reply subject for answers
CORRELATION_ID = "Correlation-Id"
SECRET_LENGTH = 28  # characters of a mail_id
_SENDING = re.compile(
    r"\$mq9\.AI\.(?:INBOX|MAILBOX|MSG\.SEND)\.(?P<address>.+?)(?:\.(?P<priority>" + "|".join(TIERS) + r"))?"
)
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ADDRESS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_WORD = r"[^\s.*>\x00-\x1f\x7f-\x9f]+"
_EVENT = re.compile(rf"{_WORD}(?:\.{_WORD})+")
_PATTERN = re.compile(rf"(?:{_WORD}|\*)(?:\.(?:{_WORD}|\*))*(?:\.>)?|>")

Payload: TypeAlias = "bytes | str | Mapping[str, Any] | list[Any] | BaseModel"
Priority: TypeAlias = Literal["critical", "urgent", "high", "normal", "low", "notify"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Created:
    """A mailbox, new or joined. `mail_id` reads it, `send_only` is what to hand out; a new public one has `owner`.

    The client's methods take it as it is, in the place of any of these.
    """

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


class Content:
    """What has a `payload` of bytes, and how to read it."""

    __slots__ = ()
    payload: bytes

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 become U+FFFD."""
        return self.payload.decode("utf-8", "replace")

    def json(self) -> Any:
        """The payload read as JSON. Raises InvalidPayload when it is none."""
        try:
            return json.loads(self.payload, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise InvalidPayload(f"{self._name()} is no JSON ({error}): read it with .text or .payload") from None

    def model(self, kind: type[T]) -> T:
        """The payload read as `kind`: a pydantic model, a dataclass, a TypedDict, `list[int]`, …

        Raises InvalidPayload, which says what is wrong with which field, and shows none of the values.
        """
        from mq9_mcp.models import read

        return read(kind, self.payload, self._name())

    def _name(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Message(Content):
    """One message of a mailbox, as it was sent.

    `create_time` is unix seconds; `reply_to` is an address for `send`, or None. `headers` are those of the sender, and
    those that the broker vouches for, which begin with `mq9-`.
    """

    msg_id: int
    payload: bytes
    priority: str
    headers: Mapping[str, str | list[str]]
    create_time: int
    reply_to: str | None = None

    @property
    def sender(self) -> str | None:
        """The sender's send-only address or public name as the broker checked it, or None."""
        return self._header("mq9-from")

    @property
    def correlation_id(self) -> str | None:
        """What the sender calls the exchange that this belongs to, or None."""
        return self._header(CORRELATION_ID)

    @property
    def key(self) -> str | None:
        """The key that it was sent with, or None."""
        return self._header("mq9-key")

    @property
    def tags(self) -> list[str]:
        """The tags that it was sent with."""
        tags = self._header("mq9-tags")
        return tags.split(",") if tags else []

    @property
    def deliveries(self) -> int:
        """How often it was given out to the group that it is read with, this time included; 1 without a group."""
        return self._number("mq9-deliveries", 1)

    @property
    def hops(self) -> int:
        """How many replies led to this message."""
        return self._number("mq9-hops", 0)

    @property
    def event(self) -> str | None:
        """Of a broadcast that was stored into the mailbox: its event, like `pipeline.done`. Else None."""
        subject = self._header("mq9-subject")
        return subject.removeprefix(f"{PREFIX}BROADCAST.") if subject else None

    @property
    def receipt(self) -> str | None:
        """Of a receipt: what happened to the message in `json()`: delivered, acked, expired or dead. Else None."""
        return self._header("mq9-receipt")

    def _number(self, name: str, default: int) -> int:
        value = self._header(name)
        return int(value) if value and value.isdecimal() else default

    def _header(self, name: str) -> str | None:
        value = self.headers.get(name)
        return value if isinstance(value, str) else None

    def _name(self) -> str:
        return f"message {self.msg_id}"


@dataclass(frozen=True, slots=True)
class Broadcast(Content):
    """What was broadcast, and heard: `event` is like `pipeline.done`. `reply_to` is an address for `send`, or None."""

    event: str
    payload: bytes
    headers: Mapping[str, str]
    reply_to: str | None = None

    @property
    def sender(self) -> str | None:
        """What the sender calls itself in `mq9-from`. A broadcast's sender is claimed, not proven."""
        return self.headers.get("mq9-from")

    def _name(self) -> str:
        return f"the broadcast {self.event}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch returned, most urgent first: its `messages`, and it can be iterated over itself.

    `more`: there was more than fitted. `waiting`: what the group still has to get, by tier.
    """

    messages: list[Message]
    more: bool
    waiting: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True)
class Page:
    """What a query returned, most urgent first: its `messages`, and it can be iterated over itself.

    `unread`: how many messages are stored. `next`: the cursor for `after`. `waiting`: what the group still has to get.
    """

    messages: list[Message]
    unread: int
    next: str | None = None
    waiting: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of the directory. `ttl` in seconds, `expires_at` in unix seconds, None for never."""

    mail_id: str
    desc: str
    ttl: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Directory:
    """A page of the directory: its `mailboxes`, and it can be iterated over itself. `next`: the cursor for `after`."""

    mailboxes: list[Listed]
    next: str | None = None

    def __iter__(self) -> Iterator[Listed]:
        return iter(self.mailboxes)

    def __len__(self) -> int:
        return len(self.mailboxes)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the directory: `event` is created, renewed, expired or dropped, `mailbox` the line as it was then."""

    event: str
    mailbox: Listed


@dataclass(frozen=True, slots=True)
class Capability:
    """What somebody says it can do, on the capability board. `address` is where to write to."""

    address: str
    can: tuple[str, ...]
    details: Mapping[str, Any]


def address_of(mailbox: str | Created) -> str:
    """The address that reads `mailbox`: itself, or the one a sending subject names. Raises InvalidRequest for anything
    else."""
    text = mailbox.mail_id if isinstance(mailbox, Created) else mailbox
    if not isinstance(text, str):
        raise InvalidRequest(f"a mailbox is named by its address or by what create() gave: this is {kind_of(text)}")
    subject = _SENDING.fullmatch(text)
    address = subject["address"] if subject else text
    if not _ADDRESS.fullmatch(address) or ".." in address or address.rpartition(".")[2] in TIERS:
        raise InvalidRequest(
            f"{text!r} is no mailbox address: give a mail_id, a send_only address or a public name "
            f"(lower case letters, digits, '.', '-' and '_')"
        )
    return address


def owner_of(mailbox: str | Created) -> str:
    """The address with which `mailbox` is changed and spoken for: the owner's, where it is known."""
    return address_of((mailbox.owner or mailbox) if isinstance(mailbox, Created) else mailbox)


def public_form(mailbox: str | Created) -> str:
    """The address of `mailbox` that others may see. Raises InvalidRequest for a secret: it would open the mailbox to
    whoever reads it."""
    address = address_of(mailbox)
    secret = address.startswith("m-") and len(address) == SECRET_LENGTH
    if secret and isinstance(mailbox, Created):
        return mailbox.send_only
    if secret:
        raise InvalidRequest(
            "a mail_id opens its mailbox to everybody who reads it: give its send_only address (s-…), which creating "
            "it also gave"
        )
    return address


def event_of(text: str) -> str:
    """`text`, if it can be broadcast. Raises InvalidRequest when it can't."""
    if not _EVENT.fullmatch(text):
        raise InvalidRequest(
            f"{text!r} is no broadcast event: write it like 'pipeline.done', without wildcards "
            f"and signs that cannot be seen"
        )
    return text


def pattern_of(text: str) -> str:
    """`text`, if one can listen to it. Raises InvalidRequest when one can't."""
    if not _PATTERN.fullmatch(text):
        raise InvalidRequest(
            f"{text!r} is no pattern of broadcasts: write it like 'pipeline.done', 'pipeline.*' or 'pipeline.>'"
        )
    return text


def priority_of(mailbox: str | Created) -> str | None:
    """The priority that a sending subject names, if it is one that does."""
    subject = _SENDING.fullmatch(mailbox) if isinstance(mailbox, str) else None
    return subject["priority"] if subject else None


def as_bytes(payload: Payload) -> bytes:
    """What a payload is on the wire: bytes as they are, text as UTF-8, everything else as compact JSON."""
    if isinstance(payload, bytes):
        return payload
    try:
        if isinstance(payload, str):
            return payload.encode()
        if isinstance(payload, (Mapping, list)):
            return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        if not hasattr(payload, "model_dump_json"):
            raise TypeError(f"it is {kind_of(payload)}, and not bytes, text, a dict, a list or a pydantic model")
        return payload.model_dump_json().encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"the payload cannot be written as UTF-8 text or JSON ({error}): convert it first"
        ) from None


def _no_number(name: str) -> NoReturn:
    """What Python's own json would take for a number."""
    raise ValueError(f"JSON has no {name}")


def ids_of(messages: Iterable[int | Message]) -> list[int]:
    """The `msg_id` of each. Raises InvalidRequest for what has none."""
    found = [item.msg_id if isinstance(item, Message) else item for item in list_of("messages", messages)]
    if wrong := [item for item in found if not isinstance(item, int)]:
        raise InvalidRequest(f"a message is named by itself or by its msg_id: this is {kind_of(wrong[0])}")
    return found


def list_of(name: str, values: Iterable[T]) -> list[T]:
    """`values` as a list. Raises InvalidRequest for one value alone: a text would be taken for its letters."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{name} is {kind_of(values)}: give a list, even of one")
    return [*values]


def words_of(name: str, values: Iterable[str]) -> list[str]:
    """`values` as a list. Raises InvalidRequest for anything but a list of texts without commas, which stand between
    them on the wire."""
    words = list_of(name, values)
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise InvalidRequest(f"{name} holds what is {kind_of(wrong[0])}: give a list of texts")
    if several := [word for word in words if "," in word]:
        raise InvalidRequest(f"{name} holds {several[0]!r}: give what stands between commas as texts of their own")
    return words


def seconds_of(name: str, value: float) -> int:
    """`value` in whole seconds, rounded up. Raises InvalidRequest for what is no time or has no end."""
    if not isinstance(value, (int, float)):
        raise InvalidRequest(f"{name} is {kind_of(value)}: give seconds")
    if not isfinite(value) or value < 0:
        raise InvalidRequest(f"{name} is {value}: give seconds, 0 or more, and an end")
    return ceil(value)


def kind_of(value: object) -> str:
    """The type of `value` in words that name no value."""
    return "None" if value is None else f"of type {type(value).__name__}"


def checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers`, if each can be sent as it is; a client library would change what cannot without a word."""
    for name, value in headers.items():
        if not isinstance(name, str):
            raise InvalidRequest(f"the header {name!r} is no text: a header has a name of letters, digits and '-'")
        if not isinstance(value, str):
            raise InvalidRequest(f"the header {name!r} is {kind_of(value)}: give text")
        if not _HEADER.fullmatch(name):
            raise InvalidRequest(f"{name!r} cannot be a header name: use letters, digits and '-'")
        if "\n" in value or "\r" in value:
            raise InvalidRequest(f"the header {name!r} has more than one line: put that into the payload")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"the header {name!r} cannot be written as UTF-8 text: correct it") from None
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
    except InvalidRequest:
        return None


def listed_of(item: Mapping[str, Any]) -> Listed:
    """A line of the directory from its JSON form."""
    return Listed(item["mail_id"], item.get("desc") or "", item["ttl"], item.get("expires_at"))


def heard(message: Msg) -> Broadcast:
    """A broadcast as it was heard."""
    headers = dict(message.headers or {})
    event = message.subject.removeprefix(f"{PREFIX}BROADCAST.")
    return Broadcast(event, message.data, headers, reply_address(message.reply or headers.get(REPLY_TO)))


def change_of(message: Msg) -> Change:
    """A change of the directory as it was pushed."""
    item = json.loads(message.data)
    return Change(item["event"], listed_of(item))


def capability_of(message: Msg) -> Capability | None:
    """A declaration as it was heard; None for one that says nothing of who or what."""
    try:
        said = json.loads(message.data)
        address, can = address_of(said.pop("from")), said.pop("can")
        words = can if isinstance(can, list) else [can]
        return Capability(address, tuple(word for word in words if isinstance(word, str)), said)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
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
