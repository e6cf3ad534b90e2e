"""Answers to requests: who waits for which, over one subscription of a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mq9_mcp.errors import Interrupted

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg


class Replies:
    """The requests of one connection that are not answered yet.

    nats-py has requests of its own; they know nothing of a connection that is lost, and would wait on it to their end.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Future[Msg], asyncio.TimerHandle]] = {}
        self._prefix = ""
        self._asked = 0

    async def listen(self, client: Client) -> None:
        """Answers come over `client` from now on."""
        prefix = f"{client.new_inbox()}."
        await client.subscribe(f"{prefix}*", cb=self._on_message)
        self._prefix = prefix

    def expect(self, timeout: float) -> tuple[str, asyncio.Future[Msg]]:
        """A subject to be answered at, and the answer, or TimeoutError. To be forgotten by whoever waits."""
        self._asked += 1
        subject = f"{self._prefix}{self._asked}"
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[subject] = future, loop.call_later(timeout, _fail, future, TimeoutError())
        return subject, future

    def forget(self, subject: str) -> None:
        self._waiting.pop(subject)[1].cancel()

    def interrupt(self, reason: str) -> None:
        """No answer will come any more."""
        for future, _ in self._waiting.values():
            _fail(future, Interrupted(reason))

    async def _on_message(self, message: Msg) -> None:
        future, _ = self._waiting.get(message.subject, (None, None))
        if future is not None and not future.done():
            future.set_result(message)


def _fail(future: asyncio.Future[Msg], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
