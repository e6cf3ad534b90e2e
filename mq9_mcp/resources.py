"""Mailboxes as resources: an agent's own, and the public ones. Reading one consumes nothing.

    mq9://mailbox/own               the agent's own; its secret address is in no URI
    mq9://mailbox/public/{name}     a public one

What strangers wrote, descriptions in the directory included, is in the contents and nowhere else.
"""

from __future__ import annotations

from typing import NoReturn

from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from mq9_mcp.callers import Request, agent_of
from mq9_mcp.errors import BrokerUnavailable, MailboxError
from mq9_mcp.identity import is_private, is_send_only
from mq9_mcp.results import as_text, inbox_of

OWN = "mq9://mailbox/own"
PUBLIC = "mq9://mailbox/public/"
TEMPLATE = PUBLIC + "{name}"
SHOWN = 50  # messages of one reading
JSON = "application/json"


async def list_resources(request: Request, params: PaginatedRequestParams | None) -> ListResourcesResult:
    """The agent's own mailbox, then the directory by pages."""
    agent = agent_of(request)
    cursor = params.cursor if params else None
    resources = []
    if agent.has_home and not cursor:
        about = "The mail that is stored in your own mailbox, read or not. Reading it here consumes nothing."
        resources.append(Resource(name="own", title="Your mailbox", uri=OWN, description=about, mime_type=JSON))
    try:
        page = await agent.list_public(after=cursor)
    except MailboxError as error:
        refuse(error)
    resources += [Resource(name=box.mail_id, uri=PUBLIC + box.mail_id, mime_type=JSON) for box in page.mailboxes]
    return ListResourcesResult(resources=resources, next_cursor=page.next)


async def list_templates(request: Request, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    about = "The mail that is stored in a public mailbox. Reading it here consumes nothing."
    template = ResourceTemplate(
        name="public", title="Public mailbox", uri_template=TEMPLATE, description=about, mime_type=JSON
    )
    return ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(request: Request, params: ReadResourceRequestParams) -> ReadResourceResult:
    """What is stored, as check_inbox shows it."""
    name = name_in(params.uri)
    agent = agent_of(request)
    try:
        if name:
            await agent.address(name)
        inbox = await agent.check_inbox(name or None, limit=SHOWN, include_read=True)
    except MailboxError as error:
        refuse(error)
    agent.reader.handed(inbox)
    shown = inbox_of(inbox, inbox.unread or 0, request.lifespan_context.now())
    contents = TextResourceContents(uri=params.uri, mime_type=JSON, text=as_text(shown.content()))
    return ReadResourceResult(contents=[contents])


def name_in(uri: str) -> str:
    """The name in the URI of a public mailbox, "" for one's own. Raises MCPError for what is no resource."""
    if uri == OWN:
        return ""
    name = uri.removeprefix(PUBLIC)
    if name == uri or not name or is_private(name) or is_send_only(name):
        raise MCPError(
            code=INVALID_PARAMS,
            message=f"Resource not found: {OWN} is your own mailbox, {TEMPLATE} a public one",
            data={"uri": uri},
        )
    return name


def refuse(error: MailboxError) -> NoReturn:
    """Fails a request with what the service said."""
    code = INTERNAL_ERROR if isinstance(error, BrokerUnavailable) else INVALID_PARAMS
    raise MCPError(code=code, message=str(error)) from None
