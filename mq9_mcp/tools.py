"""The four tools as a model sees them: names, words, arguments, results.

A model sees the structured result and nothing else, so it is complete, flat and small: what is empty is left out. What
others wrote stays inside strings of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mq9_mcp.callers import Handed, agent_of
from mq9_mcp.errors import MailboxError
from mq9_mcp.excerpt import RESULT, cost, cut
from mq9_mcp.reading import Mail
from mq9_mcp.screen import words
from mq9_mcp.service import Service

MAX_WAIT = 45  # seconds; several clients end a tool call after 60
DESCRIPTION = 200  # characters of a description in the directory

Call = Context[Service, Any]


class Result(BaseModel):
    """A tool's result. Fields that have their default are left out of it."""

    unread: int = Field(0, description="waiting in your own mailbox")


class MadeMailbox(Result):
    mail_id: str = Field(description="reads and sends: a secret unless it is a name")
    send_only: str = Field(description="can only be sent to: to hand out")
    expires_at: str = ""
    joined: bool = Field(False, description="it existed already")
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


class MailTool(Tool):
    """A tool that takes no argument it does not know, takes null for absent, and fails in plain words."""

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:
        known = self.parameters["properties"]
        unknown = sorted(repr(name)[:60] for name in arguments if name not in known)
        if unknown:
            raise ToolError(f"{self.name} has no argument {', '.join(unknown[:5])}: it takes {', '.join(known)}")
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            return await super().run(given, context, convert_result)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, MailboxError):
                raise ToolError(str(cause)) from None
            if isinstance(cause, ValidationError) and not isinstance(error, UnexpectedToolError):
                raise ToolError(f"{self.name}: {_complaints(cause)}") from None
            raise


def make_tools(handed: Handed) -> list[Tool]:
    """The tools, in the order in which a model reads them."""

    async def create_mailbox(
        ctx: Call,
        name: Annotated[str | None, Field(description="a-z 0-9 . - _; without: private, a secret address")] = None,
        public: Annotated[bool, Field(description="list it in the directory")] = False,
        ttl_seconds: Annotated[int | None, Field(ge=0, description="default 86400; 0: no end")] = None,
        description: Annotated[str | None, Field(description="for the directory")] = None,
    ) -> Annotated[CallToolResult, MadeMailbox]:
        agent = agent_of(ctx.request_context)
        made = await agent.create_mailbox(name=name, public=public, ttl=ttl_seconds, description=description)
        return _result(
            MadeMailbox(
                mail_id=made.mail_id,
                send_only=made.send_only,
                expires_at=_moment(made.expires_at),
                joined=not made.is_new,
                owner=made.owner or "",
                unread=await agent.unread(),
            )
        )

    async def send(
        ctx: Call,
        to: Annotated[str, Field(description="public name, address, or broadcast.{domain}.{event} (not stored)")],
        body: str,
        subject: Annotated[str, Field(max_length=200)] = "",
        priority: Literal["critical", "urgent", "high", "normal", "low", "notify"] | None = None,
        reply_to: Annotated[str | None, Field(description="where answers go; default: your own mailbox")] = None,
        correlation_id: Annotated[str, Field(max_length=200, description="in a reply: the one of the message")] = "",
        ttl_seconds: Annotated[int | None, Field(ge=1, description="gone after; default: with the mailbox")] = None,
        delay_seconds: Annotated[int | None, Field(ge=1, description="comes after")] = None,
        receipt: Annotated[bool, Field(description="get a message when it is first read, or lost")] = False,
    ) -> Annotated[CallToolResult, SentMessage]:
        agent = agent_of(ctx.request_context, reply_to)
        sent = await agent.send(
            to,
            body,
            subject=subject,
            priority=priority,
            reply_to=reply_to,
            correlation_id=correlation_id,
            ttl=ttl_seconds,
            delay=delay_seconds,
            receipt=receipt,
        )
        unread = await agent.unread()
        if sent is None:
            return _result(SentMessage(stored=False, unread=unread))
        return _result(SentMessage(msg_id=max(sent.msg_id, 0), stored=True, unread=unread))

    async def check_inbox(
        ctx: Call,
        mailbox: Annotated[str | None, Field(description="default: your own; or a name, mail_id, `next`")] = None,
        wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT, description="wait for a first message")] = 0,
        limit: Annotated[int, Field(ge=1, le=50)] = 20,
        group: Annotated[str | None, Field(description="share the work: each message goes to one reader")] = None,
        include_read: Annotated[bool, Field(description="show again all that is stored")] = False,
    ) -> Annotated[CallToolResult, ShownInbox]:
        request = ctx.request_context
        agent = agent_of(request, mailbox)

        async def on_wait(seconds: float) -> None:
            await ctx.report_progress(seconds, wait_seconds, "waiting for mail")

        inbox = await agent.check_inbox(
            mailbox, wait=wait_seconds, limit=limit, group=group, include_read=include_read, on_wait=on_wait
        )
        unread = await agent.unread() if inbox.unread is None else inbox.unread
        now = int(request.lifespan_context.now())
        shown = ShownInbox(
            messages=[_shown(mail, now) for mail in inbox.mails],
            more=bool(inbox.waiting or inbox.more),
            waiting=inbox.waiting,
            next=inbox.more,
            address=inbox.address,
            note="Your mailbox had expired: this is a new one, with a new address." if inbox.moved else "",
            unread=unread,
        )
        result = _result(shown)
        handed.over(request, agent, inbox)
        return result

    async def list_public(
        ctx: Call, prefix: Annotated[str, Field(description="how the names begin")] = ""
    ) -> Annotated[CallToolResult, Listing]:
        agent = agent_of(ctx.request_context)
        directory = await agent.list_public(prefix)
        now = int(ctx.request_context.lifespan_context.now())
        shown: list[ListedMailbox] = []
        room = RESULT
        for listed in directory.mailboxes:
            described = cut(listed.desc, DESCRIPTION)
            ends = "" if listed.expires_at is None else words(max(1, listed.expires_at - now))
            room -= 60 + len(listed.mail_id) + cost(described)
            if room < 0:
                break
            shown.append(ListedMailbox(name=listed.mail_id, description=described, expires_in=ends))
        more = directory.next is not None or len(shown) < len(directory.mailboxes)
        return _result(Listing(mailboxes=shown, more=more, unread=await agent.unread()))

    return [
        _tool(
            check_inbox,
            "Check inbox",
            "Read your mail, or another mailbox, most urgent first. What you are shown counts as read when you check "
            "again.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True),
            now=True,
        ),
        _tool(
            send,
            "Send",
            "Store a message in a mailbox for whoever reads it later. To answer one: `to` is its reply_to or from.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True),
            now=True,
        ),
        _tool(
            create_mailbox,
            "Create mailbox",
            "Make a further mailbox: public under a name to be found, or private. A name that exists is joined and "
            "kept alive. You have a mailbox of your own without it.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False),
        ),
        _tool(
            list_public,
            "List public mailboxes",
            "The directory of public mailboxes.",
            ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        ),
    ]


def _tool(function: Any, title: str, description: str, annotations: ToolAnnotations, *, now: bool = False) -> Tool:
    """`now`: its definition is there at once, where others are looked up when they are wanted."""
    tool = MailTool.from_function(
        function,
        title=title,
        description=description,
        annotations=annotations,
        meta={"anthropic/alwaysLoad": True} if now else None,
    )
    tool.parameters = {**_slim(tool.parameters), "additionalProperties": False}
    tool.fn_metadata.output_schema = _slim(tool.fn_metadata.output_schema)
    return tool


def _slim(schema: Any, *, names: bool = False) -> Any:
    """`schema` without what says nothing to a model: titles, docstrings of models, empty defaults, "or null".

    `names` says that its keys are names of properties, and not words of JSON schema.
    """
    if isinstance(schema, list):
        return [_slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {name: _slim(part) for name, part in schema.items()}
    if options := schema.get("anyOf"):
        schema = {**schema, **next(option for option in options if option.get("type") != "null")}
    empty = [key for key in ("title", "anyOf") if key in schema]
    if "default" in schema and not schema["default"]:
        empty.append("default")
    if "properties" in schema:
        empty.append("description")
    return {key: _slim(part, names=key in ("properties", "$defs")) for key, part in schema.items() if key not in empty}


def _result(result: Result) -> CallToolResult:
    content = result.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=content)


def _shown(mail: Mail, now: int) -> ShownMessage:
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


def _moment(unix: int | None) -> str:
    return "" if unix is None else datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _complaints(error: ValidationError) -> str:
    """What is wrong with which argument, in words."""
    found: list[str] = []
    for detail in error.errors(include_url=False):
        where = ".".join(str(part) for part in detail["loc"])
        given: Mapping[str, Any] = detail
        value = "" if detail["type"] == "missing" else f", not {given['input']!r:.60}"
        found.append(f"`{where}`: {detail['msg']}{value}")
    return "; ".join(found)
