"""Mailboxes as they fill: the two ways behind AsyncMailbox.messages()."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mq9_mcp.connection import Connection
from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound
from mq9_mcp.mail import PREFIX, TIERS, Fetched, Message, pushed

BUFFER = 32 << 20  # bytes read ahead of a slow reader before the subscription is taken back and begun again
POLL = 60.0  # seconds one long poll waits
EXPIRED = "410"

Claim = tuple[str, str, str]  # address, group and member's name


async def follow(link: Connection, address: str, check: Callable[[], Awaitable[Any]]) -> AsyncGenerator[Message, None]:
    """Every message, each once, until the mailbox ends. `check` raises MailboxNotFound when it does not exist.

    A broker delivers everything again to whoever subscribes again, so a broken connection, a restarted broker and a
    reader too slow for its buffer all have the same cure; what was had before is passed over.
    """
    await check()
    feed = _Feed(link, address)
    try:
        while True:
            await link.ready(patient=True)
            if not feed.subscribed:
                await feed.subscribe()
            while (message := await feed.next()) is not None:
                yield message
            if feed.ended:
                return
    finally:
        await feed.close()


async def work(
    link: Connection, fetch: Callable[..., Awaitable[Fetched]], address: str, group: str, members: set[Claim]
) -> AsyncGenerator[Message, None]:
    """The group's messages one by one, each acknowledged when the next is asked for.

    One at a time, so that what is urgent overtakes and nothing waits behind a slow reader. The member's name is free
    again afterwards: a reader that begins anew on this connection is given what its predecessor left unfinished.
    """
    number = 1
    while (address, group, f"reader-{number}") in members:
        number += 1
    claim = (address, group, f"reader-{number}")
    members.add(claim)
    done: tuple[int, ...] = ()
    begun = False
    try:
        while True:
            await link.ready(patient=True)
            try:
                got = await fetch(address, group=group, member=claim[2], ack=done, limit=1, wait=POLL)
            except MailboxNotFound:
                if begun:
                    return
                raise
            except BrokerUnavailable:
                if link.online:
                    raise
                continue  # `done` goes along again
            except MailboxError:
                if not done:
                    raise
                done = ()  # it took longer than its lease, and is somebody else's now
                continue
            begun = True
            done = ()
            for message in got.messages:
                yield message
                done = (message.msg_id,)
    finally:
        members.discard(claim)


class _Seen:
    """What was delivered already: the newest message of each tier, since a tier comes in order.

    The time is there for a name that ended and began a new life, with ids from 1 again.
    """

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, int]] = {}

    def is_new(self, message: Message) -> bool:
        tier = TIERS.get(message.priority, 0)
        msg_id, time = self._newest.get(tier, (0, 0))
        if 0 < message.msg_id <= msg_id and message.create_time <= time:  # 0: its headers could not be read
            return False
        self._newest[tier] = (message.msg_id, message.create_time)
        return True


class _Feed:
    """A subscription to a whole mailbox, with a bounded buffer into which each message comes once."""

    def __init__(self, link: Connection, address: str) -> None:
        self._link = link
        self._subject = f"{PREFIX}INBOX.{address}"
        self._sub: Subscription | None = None
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._seen = _Seen()
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
            self._sub = await self._link.nats.subscribe(self._subject, cb=self._on_message)
        except nats.errors.ConnectionClosedError:
            pass  # lost this moment: the next turn of the loop finds a connection

    async def next(self) -> Message | None:
        """What has come or comes next; None when something must be done first: it ended, broke, or was too much."""
        while not self._messages:
            if self._full or self._link.nats.is_closed:
                await self._unsubscribe()
            if self.ended or not self.subscribed or not self._link.online:
                return None
            self._wake.clear()
            await self._wake.wait()
        message = self._messages.popleft()
        self._bytes -= len(message.payload)
        return message

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
        # what a sender wrote has an id, whatever its headers say
        if (received.headers or {}).get("Status") == EXPIRED and "mq9-msg-id" not in (received.headers or {}):
            self.ended = True
        elif self._seen.is_new(message := pushed(received)):
            self._messages.append(message)
            self._bytes += len(message.payload)
            self._full = self._bytes > BUFFER
        self._wake.set()

    def _on_event(self, error: Exception | None) -> None:
        # nats-py passes the text on in lower case, without saying which subscription it is about.
        if error is not None and f'"{self._subject.lower()}"' in str(error) and "subscription" in str(error):
            self.ended = True
        self._wake.set()
