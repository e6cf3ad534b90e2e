"""Mail as it comes: what is pushed to a subscription, and what a group's reader takes one by one.

Everything here is a generator of batches, lists of what has come; the first one is empty and says that it has begun.
A Stream makes them into an iterator.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mq9_mcp.connection import Connection
from mq9_mcp.errors import BrokerUnavailable, LeaseLost, MailboxError, MailboxNotFound
from mq9_mcp.mail import PREFIX, TIERS, Change, Directory, Fetched, Listed, Message, change_of, pushed

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox

BUFFER = 16 << 20  # bytes read ahead of a slow reader before the subscription is taken back and begun again
POLL = 60.0  # seconds one long poll waits
KEEP_EVERY = 5.0  # seconds between two prolongations of the lease on what a reader is busy with
EXPIRED = "410"

T = TypeVar("T")
Batches: TypeAlias = AsyncGenerator[list[T], None]
Open: TypeAlias = Callable[[], Awaitable[Connection]]


class Stream(Generic[T]):
    """An asynchronous iterator over what comes. `async with` begins it at once and ends it in the end; without it, it
    begins with the first `async for` and ends with `aclose()`."""

    def __init__(self, batches: Batches[T]) -> None:
        self._batches = batches
        self._ready: deque[T] = deque()

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            self._ready.extend(await anext(self._batches))
        return self._ready.popleft()

    async def batch(self) -> list[T]:
        """What has come or comes next, several at once; empty when it has just begun. Raises StopAsyncIteration."""
        return await anext(self._batches)

    async def aclose(self) -> None:
        """Ends it. What a group's reader was given last and did not finish goes back."""
        await self._batches.aclose()

    async def __aenter__(self) -> Stream[T]:
        self._ready.extend(await anext(self._batches, ()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


async def follow(connected: Open, address: str, check: Callable[[], Awaitable[Any]]) -> Batches[Message]:
    """Every message of a mailbox, each once, until it ends. `check` raises MailboxNotFound when it does not exist.

    A broker delivers everything again to whoever subscribes again, so a broken connection, a restarted broker and a
    reader too slow for its buffer all have the same cure; what was had before is passed over.
    """
    await check()
    async with aclosing(hear(connected, f"{PREFIX}INBOX.{address}", _Seen().unseen)) as batches:
        async for batch in batches:
            yield batch


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
    feed = _Feed(link, subject, queue, read)
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
    feed = _Feed(link, subject, "", read)
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


class Work:
    """A group's messages one by one, each acknowledged when the next is asked for.

    One at a time, so that what is urgent overtakes and nothing waits behind a slow reader. The lease on the message
    that the reader is busy with is prolonged until it is done. It all happens on a connection of its own: when the
    reader ends, the broker gives back at once what it had begun, and no long poll of it takes another message.
    """

    def __init__(self, connected: Open, own: AsyncMailbox, address: str, group: str) -> None:
        self._connected = connected
        self._client = own
        self._address = address
        self._group = group
        self._member = "reader"
        self._busy: int | None = None  # with the message of this id

    async def batches(self) -> Batches[Message]:
        await self._begin()
        async with self._client as client:
            link = await client._connected()
            await client.query(self._address, limit=0)
            keeping = asyncio.create_task(self._keep(link))
            done: tuple[int, ...] = ()
            try:
                yield []
                while True:
                    await link.ready(patient=True)
                    try:
                        got = await self._take(ack=done, wait=POLL)
                    except MailboxNotFound:
                        return
                    except BrokerUnavailable:
                        if link.online:
                            raise
                        continue  # `done` goes along again
                    except MailboxError:
                        if not done:
                            raise
                        done = ()  # it took longer than its lease, and is somebody else's now
                        continue
                    done = ()
                    for message in got.messages:
                        self._busy = message.msg_id
                        yield [message]
                        if self._busy is not None:
                            done = (message.msg_id,)
                        self._busy = None
            finally:
                keeping.cancel()

    def leave(self) -> None:
        """The message that was given out last is not done: it goes back when its lease ends, and counts as delivered.

        A member is given its own unfinished messages first, at once: so this reader is another member from now on.
        """
        self._busy = None
        self._member = secrets.token_hex(8)

    async def finish(self) -> None:
        """The message that was given out last is done, and no other is asked for."""
        if self._busy is not None:
            try:
                await self._client.ack(self._address, self._group, [self._busy], member=self._member)
            except LeaseLost:
                pass
            self._busy = None

    async def _begin(self) -> None:
        """Connects. A broker that is away at this moment is waited for, as by every reader."""
        first = await self._connected()
        while True:
            await first.ready(patient=True)
            number = first.made
            try:
                await self._client._connected()
                return
            except BrokerUnavailable:
                try:
                    await first.flush()
                except BrokerUnavailable:
                    continue
                if first.made == number:
                    raise

    async def _take(self, *, ack: tuple[int, ...] = (), wait: float = 0.0) -> Fetched:
        return await self._client.fetch(
            self._address, group=self._group, member=self._member, ack=ack, limit=1, wait=wait
        )

    async def _keep(self, link: Connection) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY)
            if self._busy is not None and link.online:
                try:
                    await self._take()  # a member's own come first, and are leased anew
                except MailboxError:
                    pass


class _Seen:
    """What was delivered already: the newest message of each tier, since a tier comes in order.

    The time is there for a name that ended and began a new life, with ids from 1 again.
    """

    def __init__(self) -> None:
        self._newest: dict[int, tuple[int, int]] = {}

    def unseen(self, received: Msg) -> Message | None:
        message = pushed(received)
        tier = TIERS.get(message.priority, 0)
        msg_id, time = self._newest.get(tier, (0, 0))
        if 0 < message.msg_id <= msg_id and message.create_time <= time:  # 0: its headers could not be read
            return None
        self._newest[tier] = (message.msg_id, message.create_time)
        return message


class Following:
    """The directory as it was told so far, so that one told again says only what is new. `listed` asks for a page."""

    def __init__(self, listed: Callable[[str | None], Awaitable[Directory]]) -> None:
        self._listed = listed
        self._lines: dict[str, Listed] = {}

    def news(self, received: Msg) -> Change | None:
        change = change_of(received)
        name = change.mailbox.mail_id
        if change.event in ("expired", "dropped"):
            self._lines.pop(name, None)
        elif self._lines.get(name) == change.mailbox:
            return None
        else:
            self._lines[name] = change.mailbox
        return change

    async def missed(self) -> list[Change]:
        """What is not there any more."""
        gone = set(self._lines)
        page = await self._listed(None)
        gone.difference_update(line.mail_id for line in page)
        while page.next:
            page = await self._listed(page.next)
            gone.difference_update(line.mail_id for line in page)
        return [Change("expired", self._lines.pop(name)) for name in sorted(gone) if name in self._lines]


class _Feed(Generic[T]):
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
