"""Who wants to hear that a mailbox changed, in both eras of the protocol.

Handshake era: resources/subscribe, until it is unsubscribed or the session ends. Since 2026-07-28:
subscriptions/listen, a request whose answer is the stream of news. Nobody listens, nothing is asked of the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_REQUEST,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from mq9_mcp.callers import Request, agent_of
from mq9_mcp.errors import MailboxError
from mq9_mcp.resources import name_in, refuse
from mq9_mcp.watching import directory_changes, mailbox_changes

SUBSCRIPTIONS = 500  # of one process: each is a question that waits at the broker
OF_ONE = 50  # of one session, or one stream

log = logging.getLogger("mq9.subscriptions")

News = AsyncGenerator[None, None]
Telling = dict[str, "asyncio.Task[None]"]


class Subscriptions:
    """All subscriptions of a process."""

    def __init__(self) -> None:
        self._count = 0
        self._changing = asyncio.Lock()  # requests that cross each other would begin the same one twice

    async def subscribe(self, request: Request, params: SubscribeRequestParams) -> EmptyResult:
        """Tells of the resource until the session ends. Subscribing twice is subscribing once."""
        telling = _of_session(request)
        async with self._changing:
            if params.uri not in telling:
                self._check_room(1, beside=len(telling))
                news = await self._begin(request, params.uri)

                async def tell() -> None:
                    async with aclosing(news):
                        async for _ in news:
                            await request.session.send_resource_updated(params.uri)

                telling[params.uri] = self._run(tell(), telling, params.uri)
        return EmptyResult()

    async def unsubscribe(self, request: Request, params: UnsubscribeRequestParams) -> EmptyResult:
        async with self._changing:
            task = _of_session(request).pop(params.uri, None)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        return EmptyResult()

    async def listen(self, request: Request, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Serves one stream. What it acknowledges is what it will tell of: tools and prompts never change."""
        wanted = params.notifications
        uris = [*dict.fromkeys(wanted.resource_subscriptions or ())]
        self._check_room(len(uris))
        bus = InMemorySubscriptionBus()
        telling: Telling = {}
        async with AsyncExitStack() as stack:
            stack.callback(_cancel_all, telling)
            for uri in uris:
                news = await self._begin(request, uri)
                telling[uri] = self._run(_publish(news, bus, ResourceUpdated(uri=uri)), telling, uri)
            if wanted.resources_list_changed:
                news = await self._first(directory_changes(request.lifespan_context.client))
                telling[""] = self._run(_publish(news, bus, ResourcesListChanged()), telling, "")
            honoured = SubscriptionFilter(
                resource_subscriptions=uris, resources_list_changed=wanted.resources_list_changed
            )
            return await ListenHandler(bus)(request, params.model_copy(update={"notifications": honoured}))

    def _check_room(self, wanted: int, *, beside: int = 0) -> None:
        """Raises MCPError when so many are too many, `beside` those that the session has."""
        if beside + wanted > OF_ONE or self._count + wanted > SUBSCRIPTIONS:
            raise MCPError(
                code=INVALID_REQUEST,
                message=f"too many subscriptions: at most {OF_ONE} for one session, and {SUBSCRIPTIONS} in this server",
            )

    async def _begin(self, request: Request, uri: str) -> News:
        """The changes of a resource, from now on."""
        name = name_in(uri)
        try:
            address = await agent_of(request).address(name)
        except MailboxError as error:
            refuse(error)
        return await self._first(mailbox_changes(request.lifespan_context.client, address))

    async def _first(self, news: News) -> News:
        try:
            await anext(news)
        except MailboxError as error:
            refuse(error)
        return news

    def _run(self, work: Any, telling: Telling, uri: str) -> asyncio.Task[None]:
        self._count += 1
        task: asyncio.Task[None] = asyncio.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            self._count -= 1
            if telling.get(uri) is task:
                del telling[uri]  # the mailbox ended
            if not task.cancelled() and (error := task.exception()):
                log.error("a subscription ended: %s", type(error).__name__)

        task.add_done_callback(done)
        return task


async def _publish(news: News, bus: InMemorySubscriptionBus, event: ServerEvent) -> None:
    async with aclosing(news):
        async for _ in news:
            await bus.publish(event)


def _of_session(request: Request) -> Telling:
    """What the session of this request is told of: URI to the task that tells.

    The SDK keeps such things on its connection, and ends them with it, but gives a request no public way to that.
    """
    connection = request.session._connection
    telling: Telling | None = connection.state.get("mq9")
    if telling is None:
        telling = connection.state["mq9"] = {}
        connection.exit_stack.callback(_cancel_all, telling)
    return telling


def _cancel_all(telling: Telling) -> None:
    for task in [*telling.values()]:
        task.cancel()
