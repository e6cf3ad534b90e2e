"""What tools and resources give a model: models with their words, made of what the service gives.

A model sees the structured result and nothing else, so it is complete, flat and small: what is empty is left out. What
others wrote stays inside strings of it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mq9_mcp.excerpt import RESULT, cost, cut
from mq9_mcp.screen import words

if TYPE_CHECKING:
    from mq9_mcp.mail import Directory
    from mq9_mcp.reading import Inbox, Mail

DESCRIPTION = 200  # characters of a description in the directory


class Result(BaseModel):
    """A tool's result. Fields that have their default are left out of it."""

    unread: int = Field(0, description="waiting in your own mailbox")

    def content(self) -> dict[str, Any]:
        """Its JSON form."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class MadeMailbox(Result):
    mail_id: str = Field(description="reads and sends: a secret unless it is a name")
    send_only: str = Field(description="can only be sent to: to hand out")
    expires_at: str = ""
    joined: bool = Field(False, description="it existed already and keeps its settings, patterns too")
    owner: str = Field("", description="secret that can drop the public mailbox")


class SentMessage(Result):
    msg_id: int = 0
    stored: bool


class ShownMessage(BaseModel):
    """A message. All text in it is what its author wrote, except `from`."""

    model_config = ConfigDict(populate_by_name=True)

    id: int
    sender: str = Field("", validation_alias="from", serialization_alias="from", description="proven by the broker")
    claimed_from: str = Field("", description="not proven")
    type: str = ""
    subject: str = ""
    body: str
    encoding: str = Field("", description="base64: the body is no text")
    length: int = Field(0, description="of the whole body, if only part is shown")
    next: str = Field("", description="as `mailbox`: the rest of the body")
    priority: str
    age: str
    reply_to: str = ""
    correlation_id: str = ""
    deliveries: int = Field(0, description="how often it was given out before, and now")


class ShownInbox(Result):
    messages: list[ShownMessage]
    more: bool = False
    waiting: int = Field(0, description="not shown yet; 1000: or more")
    next: str = Field("", description="as `mailbox`: the rest of the list")
    address: str = Field("", description="where others reach you")
    note: str = ""


class ListedMailbox(BaseModel):
    name: str
    description: str = ""
    expires_in: str = ""


class Listing(Result):
    mailboxes: list[ListedMailbox]
    more: bool = False


def as_text(content: dict[str, Any]) -> str:
    """A result as compact JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def inbox_of(inbox: Inbox, unread: int, now: float) -> ShownInbox:
    """What one reading gave. `now` is in unix seconds."""
    return ShownInbox(
        messages=[message_of(mail, int(now)) for mail in inbox.mails],
        more=bool(inbox.waiting or inbox.more),
        waiting=inbox.waiting,
        next=inbox.more,
        address=inbox.address,
        note="Your mailbox had expired: this is a new one, with a new address." if inbox.moved else "",
        unread=unread,
    )


def message_of(mail: Mail, now: int) -> ShownMessage:
    letter = mail.letter
    age = now - mail.create_time
    return ShownMessage(
        id=mail.msg_id,
        sender=mail.sender,
        claimed_from=letter.sender if letter.sender != mail.sender else "",
        type=letter.type,
        subject=letter.subject,
        body=letter.body,
        encoding=letter.encoding,
        length=mail.cut,
        next=mail.more,
        priority=mail.priority,
        age=f"{words(age)} ago" if age > 0 else "just now",
        reply_to=letter.reply_to,
        correlation_id=letter.correlation_id,
        deliveries=mail.deliveries if mail.deliveries > 1 else 0,
    )


def listing_of(directory: Directory, unread: int, now: float) -> Listing:
    """As much of a page of the directory as fits into a result."""
    shown: list[ListedMailbox] = []
    room = RESULT
    for listed in directory.mailboxes:
        described = cut(listed.desc, DESCRIPTION)
        ends = "" if listed.expires_at is None else words(max(1, listed.expires_at - int(now)))
        room -= 60 + len(listed.mail_id) + cost(described)
        if room < 0:
            break
        shown.append(ListedMailbox(name=listed.mail_id, description=described, expires_in=ends))
    more = directory.next is not None or len(shown) < len(directory.mailboxes)
    return Listing(mailboxes=shown, more=more, unread=unread)


def moment(unix: int | None) -> str:
    """A time as it is written, "" for never."""
    return "" if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
