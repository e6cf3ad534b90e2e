"""The four tools as a model sees them: names, words, arguments, results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp.types import Tool as Definition
from pydantic import Field, ValidationError

from mq9_mcp.callers import Handed, Request, agent_of
from mq9_mcp.errors import MailboxError
from mq9_mcp.results import Listing, MadeMailbox, Result, SentMessage, ShownInbox, as_text, inbox_of, listing_of, moment

MAX_WAIT = 45  # seconds; several clients end a tool call after 60

log = logging.getLogger("mq9.tools")


class Tool:
    """A function that a model can call.

    Its arguments and their words are those of the signature, after `request`; what it returns is annotated, too. It
    takes no argument that it does not know, takes null for absent, and fails in plain words.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[Result]],
        title: str,
        description: str,
        annotations: ToolAnnotations,
        *,
        now: bool = False,
    ) -> None:
        """`now`: its definition is there at once, where others are looked up when they are wanted."""
        self._function = function
        self._metadata = func_metadata(function, skip_names=("request",))
        self.definition = Definition(
            name=function.__name__,
            title=title,
            description=description,
            input_schema={**_slim(self._metadata.arg_model.model_json_schema()), "additionalProperties": False},
            output_schema=_slim(self._metadata.output_schema),
            annotations=annotations,
            _meta={"anthropic/alwaysLoad": True} if now else None,
        )

    async def call(self, request: Request, arguments: Mapping[str, Any]) -> CallToolResult:
        name, known = self.definition.name, self.definition.input_schema["properties"]
        unknown = sorted(repr(argument)[:60] for argument in arguments if argument not in known)
        if unknown:
            return _refusal(f"{name} has no argument {', '.join(unknown[:5])}: it takes {', '.join(known)}")
        try:
            given = {argument: value for argument, value in arguments.items() if value is not None}
            result = await self._function(request, **self._metadata.validate_arguments(given))
        except ValidationError as error:
            return _refusal(f"{name}: {_complaints(error)}")
        except MailboxError as error:
            return _refusal(str(error))
        except Exception:
            log.exception("tool %s failed", name)
            return _refusal(f"Error executing tool {name}")
        content = result.content()
        return CallToolResult(content=[TextContent(type="text", text=as_text(content))], structured_content=content)


class Tools:
    """The tools, in the order in which a model reads them."""

    def __init__(self, handed: Handed) -> None:
        tools = make_tools(handed)
        self._tools = {tool.definition.name: tool for tool in tools}
        self._listed = ListToolsResult(tools=[tool.definition for tool in tools])

    async def list(self, request: Request, params: PaginatedRequestParams | None) -> ListToolsResult:
        return self._listed

    async def call(self, request: Request, params: CallToolRequestParams) -> CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            there = ", ".join(self._tools)
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name!r:.60}; there are {there}")
        return await tool.call(request, params.arguments or {})

    def schema(self, name: str) -> Mapping[str, Any] | None:
        """The input schema of the tool of that name."""
        tool = self._tools.get(name)
        return tool.definition.input_schema if tool else None


def make_tools(handed: Handed) -> list[Tool]:
    async def create_mailbox(
        request: Request,
        name: Annotated[str | None, Field(description="a-z 0-9 . - _; without: private, a secret address")] = None,
        public: Annotated[bool, Field(description="list it in the directory")] = False,
        ttl_seconds: Annotated[int | None, Field(ge=0, description="default 86400; 0: no end")] = None,
        description: Annotated[str | None, Field(description="for the directory")] = None,
        subscribe: Annotated[
            list[str] | None, Field(description="keep the broadcasts of these patterns in it, like build.*")
        ] = None,
    ) -> MadeMailbox:
        agent = agent_of(request)
        made = await agent.create_mailbox(
            name=name, public=public, ttl=ttl_seconds, description=description, subscribe=subscribe or ()
        )
        return MadeMailbox(
            mail_id=made.mail_id,
            send_only=made.send_only,
            expires_at=moment(made.expires_at),
            joined=not made.is_new,
            owner=made.owner or "",
            unread=await agent.unread(),
        )

    async def send(
        request: Request,
        to: Annotated[str, Field(description="public name, address, or broadcast.{domain}.{event} (not stored)")],
        body: str,
        subject: Annotated[str, Field(max_length=200)] = "",
        priority: Literal["critical", "urgent", "high", "normal", "low", "notify"] | None = None,
        reply_to: Annotated[str | None, Field(description="where answers go; default: your own mailbox")] = None,
        correlation_id: Annotated[str, Field(max_length=200, description="in a reply: the one of the message")] = "",
        ttl_seconds: Annotated[int | None, Field(ge=1, description="gone after; default: with the mailbox")] = None,
        delay_seconds: Annotated[int | None, Field(ge=1, description="comes after")] = None,
        receipt: Annotated[bool, Field(description="get a message when it is first read, or lost")] = False,
    ) -> SentMessage:
        agent = agent_of(request, reply_to)
        sending = agent.send(
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
        sent, unread = await asyncio.gather(sending, agent.unread())
        if sent is None:
            return SentMessage(stored=False, unread=unread)
        return SentMessage(msg_id=max(sent.msg_id, 0), stored=True, unread=unread)

    async def check_inbox(
        request: Request,
        mailbox: Annotated[str | None, Field(description="default: your own; or a name, mail_id, `next`")] = None,
        wait_seconds: Annotated[float, Field(ge=0, le=MAX_WAIT, description="wait for a first message")] = 0,
        limit: Annotated[int, Field(ge=1, le=50)] = 20,
        group: Annotated[str | None, Field(description="share the work: each message goes to one reader")] = None,
        include_read: Annotated[bool, Field(description="show again all that is stored")] = False,
    ) -> ShownInbox:
        agent = agent_of(request, mailbox)

        async def on_wait(seconds: float) -> None:
            await request.session.report_progress(seconds, wait_seconds, "waiting for mail")

        reading = agent.check_inbox(
            mailbox, wait=wait_seconds, limit=limit, group=group, include_read=include_read, on_wait=on_wait
        )
        if mailbox and not wait_seconds:
            inbox, unread = await asyncio.gather(reading, agent.unread())
        else:
            inbox = await reading
            unread = await agent.unread() if inbox.unread is None else 0
        shown = inbox_of(inbox, unread if inbox.unread is None else inbox.unread, request.lifespan_context.now())
        handed.over(request, agent, inbox)
        return shown

    async def list_public(
        request: Request, prefix: Annotated[str, Field(description="how the names begin")] = ""
    ) -> Listing:
        agent = agent_of(request)
        directory, unread = await asyncio.gather(agent.list_public(prefix), agent.unread())
        return listing_of(directory, unread, request.lifespan_context.now())

    return [
        Tool(
            check_inbox,
            "Check inbox",
            "Read your mail, or another mailbox, most urgent first. What you are shown counts as read when you check "
            "again.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True),
            now=True,
        ),
        Tool(
            send,
            "Send",
            "Store a message in a mailbox for whoever reads it later. To answer one: `to` is its reply_to or from.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True),
            now=True,
        ),
        Tool(
            create_mailbox,
            "Create mailbox",
            "Make a further mailbox: public under a name to be found, or private. A name that exists is joined and "
            "kept alive. You have a mailbox of your own without it.",
            ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False),
        ),
        Tool(
            list_public,
            "List public mailboxes",
            "The directory of public mailboxes.",
            ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        ),
    ]


def _slim(schema: Any, *, names: bool = False, shared: Mapping[str, Any] | None = None) -> Any:
    """`schema` without what says nothing to a model: titles, docstrings of models, empty defaults, "or null". What it
    refers to stands in its place: that is shorter, and a third faster for a client that checks a result.

    `names` says that its keys are names of properties, and not words of JSON schema; `shared` is what it can refer to.
    """
    if isinstance(schema, list):
        return [_slim(item, shared=shared) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {name: _slim(part, shared=shared) for name, part in schema.items()}
    shared = shared or schema.get("$defs", {})
    if "$ref" in schema:
        schema = {**shared[schema["$ref"].removeprefix("#/$defs/")], **schema}
    if options := schema.get("anyOf"):
        schema = {**schema, **next(option for option in options if option.get("type") != "null")}
    empty = ["title", "anyOf", "$defs", "$ref"]
    if "default" in schema and not schema["default"]:
        empty.append("default")
    if "properties" in schema:
        empty.append("description")
    return {
        key: _slim(part, names=key == "properties", shared=shared) for key, part in schema.items() if key not in empty
    }


def _refusal(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _complaints(error: ValidationError) -> str:
    """What is wrong with which argument, in words."""
    found: list[str] = []
    for detail in error.errors(include_url=False):
        where = ".".join(str(part) for part in detail["loc"])
        given: Mapping[str, Any] = detail
        value = "" if detail["type"] == "missing" else f", not {given['input']!r:.60}"
        found.append(f"`{where}`: {detail['msg']}{value}")
    return "; ".join(found)
