"""Subscriptions as they fill: generators of batches, which are lists of what has come.

The first batch is empty and says that it has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mq9_mcp.connection import Connection
from mq9_mcp.errors import BrokerUnavailable, InvalidRequest

BUFFER = 16 << 20  # bytes read ahead of a slow reader before the subscription is taken back and begun again
EXPIRED = "410"

T = TypeVar("T")
Batches: TypeAlias = AsyncGenerator[list[T], None]
Open: TypeAlias = Callable[[], Awaitable[Connection]]


async def hear(
    connected: Open,
    subject: str,
    read: Callable[[Msg], T | None],
    queue: str = "",
    catch_up: Callable[[], Awaitable[list[T]]] | None = None,
) -> Batches[T]:
    """What is pushed to a subscription, until the broker ends it. What `read` gives None for is passed over. `catch_up`
    gives what was missed while there was no connection."""
    link = await connected()
    feed = Feed(link, subject, queue, read)
    number = 0  # of the connection on which it was begun, or caught up
    try:
        while True:
            await link.ready(patient=True)
            if not feed.subscribed:
                await feed.subscribe()
            if number != link.made:
                current = link.made
                try:
                    await link.flush()
                    missed = await catch_up() if number and catch_up else []
                except BrokerUnavailable:
                    continue
                if missed or not number:
                    yield missed
                number = current
            while number == link.made and (batch := await feed.take()) is not None:
                yield batch
            if feed.ended:
                return
    finally:
        await feed.close()


async def remembered(connected: Open, subject: str, read: Callable[[Msg], T | None]) -> list[T]:
    """What the broker says at once to a new subscriber."""
    link = await connected()
    feed = Feed(link, subject, "", read)
    found: list[T] = []
    try:
        await feed.subscribe()
        await link.flush()
        while more := feed.waiting():  # a long answer comes in slices
            found += more
            await link.flush()
    finally:
        await feed.close()
    return found


class Feed(Generic[T]):
    """A subscription with a bounded buffer."""

    def __init__(self, link: Connection, subject: str, queue: str, read: Callable[[Msg], T | None]) -> None:
        self._link = link
        self._subject = subject
        self._queue = queue
        self._read = read
        self._sub: Subscription | None = None
        self._ready: list[T] = []
        self._bytes = 0
        self._full = False
        self._wake = asyncio.Event()
        self.ended = False
        link.listeners.add(self._on_event)

    @property
    def subscribed(self) -> bool:
        return self._sub is not None

    async def subscribe(self) -> None:
        self._full = False
        try:
            self._sub = await self._link.nats.subscribe(self._subject, queue=self._queue, cb=self._on_message)
        except nats.errors.BadSubjectError:
            raise InvalidRequest(f"{self._queue!r} is no name of a group: it has no spaces") from None
        except nats.errors.ConnectionClosedError:
            pass  # lost this moment: the next turn of the loop finds a connection

    async def take(self) -> list[T] | None:
        """What has come or comes next; None when something must be done first: it ended, broke, or was too much."""
        while not self._ready:
            if self._full or self._link.nats.is_closed:
                await self._unsubscribe()
            if self.ended or not self.subscribed or not self._link.online:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self.waiting()

    def waiting(self) -> list[T]:
        """What has come."""
        ready, self._ready, self._bytes = self._ready, [], 0
        return ready

    async def close(self) -> None:
        self._link.listeners.discard(self._on_event)
        await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        sub, self._sub = self._sub, None
        if sub is not None:
            try:
                await sub.unsubscribe()
            except nats.errors.Error:
                pass  # the connection is gone, and the subscription with it

    async def _on_message(self, received: Msg) -> None:
        if self._full:
            return
        headers = received.headers
        # what a sender wrote has an id, whatever its headers say
        if headers and headers.get("Status") == EXPIRED and "mq9-msg-id" not in headers:
            self.ended = True
        elif (item := self._read(received)) is not None:
            self._ready.append(item)
            self._bytes += len(received.data)
            self._full = self._bytes > BUFFER
        self._wake.set()

    def _on_event(self, error: Exception | None) -> None:
        # nats-py passes the text on in lower case, without saying which subscription it is about.
        if error is not None and f'"{self._subject.lower()}"' in str(error) and "subscription" in str(error):
            self.ended = True
        self._wake.set()
