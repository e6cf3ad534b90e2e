"""Mail and changes as they come: what the streams of the client read."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg

from mq9_mcp.feed import Batches, Open, hear
from mq9_mcp.mail import PREFIX, TIERS, Change, Directory, Listed, Message, change_of, pushed

T = TypeVar("T")


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
