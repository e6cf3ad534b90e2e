"""Threads behind the client for programs without an event loop: one with a loop, others that call functions.

All of them are daemons: none holds up the end of the program.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from mq9_mcp.errors import BrokerUnavailable, Misused

END_WITHIN = 2.0  # seconds that closing a connection may take

T = TypeVar("T")


class Portal:
    """An event loop in a thread of its own, which begins with the first call."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._beginning = threading.Lock()
        self._begun: Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._enough = asyncio.Event()
        self._over = False

    def call(self, doing: Coroutine[Any, Any, T]) -> T:
        """Waits until it is done there. An interrupt (Ctrl-C) cancels it."""
        try:
            loop = self._running()
        except BaseException:
            doing.close()
            raise
        future = asyncio.run_coroutine_threadsafe(doing, loop)
        try:
            return future.result()
        except CancelledError:
            raise BrokerUnavailable("this client was closed meanwhile: make another one") from None
        except BaseException:
            future.cancel()
            raise

    def soon(self, function: Callable[[], object]) -> None:
        """Calls a function there, without waiting for it."""
        if not self._over and self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    def end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Awaits `close()` there, and ends the thread. In the child of a fork there is nothing to end."""
        over, self._over = self._over, True
        thread, loop = self._thread, self._loop
        if over or thread is None or loop is None or self._process != os.getpid():
            return

        async def finish() -> None:
            try:
                async with asyncio.timeout(END_WITHIN):
                    await close()
            finally:
                self._enough.set()

        asyncio.run_coroutine_threadsafe(finish(), loop)
        if thread is not threading.current_thread():
            thread.join(2 * END_WITHIN)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._process != os.getpid():
            raise Misused(
                f"this Mailbox was made in process {self._process}, before the fork that made this one: make a "
                f"Mailbox in each process"
            )
        if self._over:
            raise BrokerUnavailable("this client is closed: make another one")
        if threading.current_thread() is self._thread:
            raise Misused(
                "a Mailbox cannot be waited for on its own event loop: make the callback an ordinary function, or use "
                "AsyncMailbox"
            )
        with self._beginning:
            if self._begun is None:
                self._begun = Future()
                self._thread = threading.Thread(target=self._run, name="mq9-mailbox", daemon=True)
                self._thread.start()
        self._begun.result()
        assert self._loop is not None
        return self._loop

    def _run(self) -> None:
        async def serve() -> None:
            assert self._begun is not None
            self._loop = asyncio.get_running_loop()
            self._begun.set_result(None)
            await self._enough.wait()

        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            runner.run(serve())


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: a call costs two thirds."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class Caller:
    """A thread that calls functions, one after the other, so that they may block."""

    def __init__(self, name: str) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this is that thread."""
        return threading.current_thread() is self._thread

    async def call(self, function: Callable[[], T]) -> T:
        """What the function returns or raises there."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)
                except BaseException as error:  # it would end the loop that awaits it
                    future.set_exception(RuntimeError(f"{type(error).__name__} in a callback"))

        self._todo.put(work)
        return await asyncio.wrap_future(future)

    def end(self) -> None:
        """Ends the thread when it has nothing more to do."""
        self._todo.put(None)

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            work()
