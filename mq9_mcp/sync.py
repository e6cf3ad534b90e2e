"""The same client for programs without an event loop: scripts, threads, notebooks.

    with Mailbox() as mq9:
        mine = mq9.create()
        mq9.send("reports", {"done": True}, reply_to=mine.send_only)
        got = mq9.fetch(mine.mail_id, wait=30)

A Mailbox is an AsyncMailbox on an event loop in a thread of its own. Its methods are made from those of AsyncMailbox,
with their arguments and their words.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from mq9_mcp.client import AsyncMailbox
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.live import Stream
from mq9_mcp.mail import Created, Message
from mq9_mcp.portal import Caller, Portal
from mq9_mcp.receiving import Callback, Receiver, must_be_called

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncMailbox, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Mailbox, P], T]:
    """The method of Mailbox that waits until this one is done."""

    @functools.wraps(method)
    def call(self: Mailbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncMailbox, P], Stream[T]],
) -> Callable[Concatenate[Mailbox, P], BlockingStream[T]]:
    """The method of Mailbox that gives the same stream, for `for`."""

    @functools.wraps(method)
    def call(self: Mailbox, /, *args: P.args, **kwargs: P.kwargs) -> BlockingStream[T]:
        return BlockingStream(self, method(self._client, *args, **kwargs))

    call.__doc__ = (method.__doc__ or "").replace("`async for`", "`for`").replace("`async with ", "`with ")
    return call


class Mailbox:
    """Mailboxes over one connection, for programs without an event loop. Share it between threads as you like.

    Use it in `with`, or without: it is closed when it is no longer referred to, and at the end of the program. It works
    where an event loop runs, too, as in a notebook. The arguments, the methods and their errors are AsyncMailbox's.
    After a fork the child makes one of its own; one that is used there raises Misused.
    """

    def __init__(self, url: str | None = None, *, autostart: bool = True, name: str = "mq9") -> None:
        self._portal = Portal()
        self._client = AsyncMailbox(url, autostart=autostart, name=name)
        # at the end of the program, too; it must not know the Mailbox itself, or that would live till then
        self._end = weakref.finalize(self, self._portal.end, self._client.close)

    create = _blocking(AsyncMailbox.create)
    send = _blocking(AsyncMailbox.send)
    ask = _blocking(AsyncMailbox.ask)
    answer = _blocking(AsyncMailbox.answer)
    fetch = _blocking(AsyncMailbox.fetch)
    ack = _blocking(AsyncMailbox.ack)
    messages = _iterating(AsyncMailbox.messages)
    query = _blocking(AsyncMailbox.query)
    delete = _blocking(AsyncMailbox.delete)
    renew = _blocking(AsyncMailbox.renew)
    drop = _blocking(AsyncMailbox.drop)
    list = _blocking(AsyncMailbox.list)
    watch = _iterating(AsyncMailbox.watch)
    broadcast = _blocking(AsyncMailbox.broadcast)
    listen = _iterating(AsyncMailbox.listen)
    declare = _blocking(AsyncMailbox.declare)
    find = _blocking(AsyncMailbox.find)

    @property
    def url(self) -> str:
        """Where the broker was last reached, without credentials; "" before the first use, when no URL was given."""
        return self._client.url

    def receive(self, mailbox: str | Created, callback: Callback, *, resume: str | None = None) -> BlockingReceiver:
        """Calls `callback` with each message: everything waiting, most urgent first, then what arrives, one by one.

        `callback` is a function, called in a thread of this receiver's own, so that it may block and use this Mailbox;
        a coroutine function runs on the Mailbox's own event loop, and must do neither. It runs in the background from
        now on: `wait()` for its end, `stop()` it, or use it in `with`. It ends with the mailbox.

        `resume` is the name of a group: each message goes to one receiver of it, wherever that runs, is kept from the
        others while the callback works, and is acknowledged when it returns; after a restart it goes on where it was.
        Without it every message is received, each time from the first that is stored, and nothing is consumed.

        A callback that raises is logged (logger mq9.client) and the next message received. With `resume` the message is
        not acknowledged: it comes again when its lease ends (the mailbox's `ack_wait`), to any receiver, and after
        `max_deliver` times it goes to the mailbox's `dead_letter`.
        """
        must_be_called(callback)
        return BlockingReceiver(self, mailbox, callback, resume)

    def close(self) -> None:
        """Closes the connection. What was fetched for a group and not acknowledged goes back to its mailbox."""
        self._end()

    def __enter__(self) -> Self:
        self._portal.call(self._client.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class BlockingStream(Generic[T]):
    """An iterator over what comes. `with` begins it at once and ends it in the end; without it, it begins with the
    first `for` and ends with `close()`, or when it is no longer referred to."""

    def __init__(self, mailbox: Mailbox, stream: Stream[T]) -> None:
        self._mailbox = mailbox
        self._stream = stream
        self._ready: deque[T] = deque()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while not self._ready:
            try:
                self._ready.extend(self._mailbox._portal.call(self._stream.batch()))
            except StopAsyncIteration:
                raise StopIteration from None
        return self._ready.popleft()

    def close(self) -> None:
        """Ends it. What a group's reader was given last and did not finish goes back."""
        try:
            self._mailbox._portal.call(self._stream.aclose())
        except BrokerUnavailable:
            pass  # the Mailbox is closed, and this with it

    def __enter__(self) -> Self:
        self._mailbox._portal.call(self._stream.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class BlockingReceiver:
    """Calls a function for each message, until it is stopped, the mailbox ends, or the Mailbox is closed.

    It runs from the moment it is made. `wait()` for its end, or use it in `with`: it is stopped at the end of the
    block.
    """

    def __init__(self, mailbox: Mailbox, address: str | Created, callback: Callback, resume: str | None) -> None:
        self._mailbox = mailbox  # as long as this runs
        self._portal = mailbox._portal
        self._callback = callback
        self._caller = None if inspect.iscoroutinefunction(callback) else Caller("mq9-receiver")
        self._receiver: Receiver
        try:
            self._portal.call(self._begin(address, resume))
        except BaseException:
            self._end()
            raise

    @property
    def running(self) -> bool:
        """Whether messages are still received."""
        return self._receiver.running

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, up to `timeout` seconds; whether it has come. Raises what ended it, if that was an error:
        BrokerUnavailable, when no broker can be started any more."""
        return self._portal.call(self._receiver.wait(timeout))

    def stop(self) -> None:
        """Ends it, without an error. A callback that runs is waited for, and its message acknowledged; called by the
        callback itself it does not wait."""
        if self._caller is not None and self._caller.is_current:
            self._portal.soon(self._receiver.halt)
        else:
            self._portal.call(self._receiver.stop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._portal.call(self._receiver.__aexit__(kind, error, tb))

    async def _begin(self, address: str | Created, resume: str | None) -> None:
        self._receiver = self._mailbox._client.receive(address, self._handle, resume=resume)
        self._receiver.on_end(self._end)
        await self._receiver.begun()

    async def _handle(self, message: Message) -> None:
        if self._caller is None:
            await self._callback(message)
        else:
            result = await self._caller.call(lambda: self._callback(message))
            if inspect.isawaitable(result):  # of something callable that is a coroutine function all the same
                await result

    def _end(self) -> None:
        if self._caller is not None:
            self._caller.end()
