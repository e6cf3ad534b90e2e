"""A function called for each message of a mailbox, for as long as it is wanted."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Generator
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeAlias

from mq9_mcp.errors import InvalidRequest, mask
from mq9_mcp.feed import Batches
from mq9_mcp.mail import Message, kind_of
from mq9_mcp.work import Work

Callback: TypeAlias = Callable[[Message], Any]

log = logging.getLogger("mq9.client")


def must_be_called(callback: object) -> None:
    """Raises InvalidRequest for what is no function."""
    if not callable(callback):
        raise InvalidRequest(f"receive calls a function with each message: this is {kind_of(callback)}")


class Receiver:
    """Calls a function for each message, until it is stopped or the mailbox ends.

    It runs from the moment it is made. `await` it to wait for its end, or use it in `async with`: it is stopped at the
    end of the block. It raises what ended it: MailboxNotFound, or BrokerUnavailable.
    """

    def __init__(
        self,
        batches: Batches[Message],
        work: Work | None,
        callback: Callback,
        address: str,
        running: set[Receiver],
    ) -> None:
        self._work = work
        self._callback = callback
        self._address = address
        self._begun = asyncio.get_running_loop().create_future()
        self._busy = False
        self._stopping = False
        self._awaited = False
        self._task = asyncio.create_task(self._run(batches))
        self._task.add_done_callback(self._on_end)
        self._others = running
        running.add(self)

    @property
    def running(self) -> bool:
        """Whether messages are still received."""
        return not self._task.done()

    async def stop(self) -> None:
        """Ends it, without an error. A callback that runs is waited for, and its message acknowledged."""
        self.halt()
        await self._over()

    def halt(self) -> None:
        """Ends it soon, as `stop` does."""
        self._stopping = True
        if not self._busy:
            self._task.cancel()

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end, up to `timeout` seconds; whether it has come. Raises the error that ended it."""
        self._awaited = True
        await asyncio.wait((self._task,), timeout=timeout)
        if self._task.done():
            self._task.result()
        return self._task.done()

    async def begun(self) -> None:
        """Waits until it has begun. Raises MailboxNotFound, or BrokerUnavailable, when it can't."""
        self._awaited = True
        await asyncio.wait((self._begun, self._task), return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        self._awaited = False

    def on_end(self, function: Callable[[], None]) -> None:
        """Has a function called at the end."""
        self._task.add_done_callback(lambda _: function())

    async def cancel(self) -> None:
        """Ends it at once, without an error. A coroutine callback that runs is cancelled, and its message goes back."""
        self._stopping = True
        self._task.cancel()
        await self._over()

    def __await__(self) -> Generator[Any, None, None]:
        self._awaited = True
        return self._task.__await__()

    async def __aenter__(self) -> Receiver:
        await self.begun()
        self._awaited = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            await self.stop()
            self._task.result()
        else:
            await self.cancel()

    async def _over(self) -> None:
        if asyncio.current_task() is not self._task:  # a callback may stop its own receiver
            await asyncio.wait((self._task,))

    async def _run(self, batches: Batches[Message]) -> None:
        try:
            async with aclosing(batches):
                async for batch in batches:
                    if not self._begun.done():
                        self._begun.set_result(None)
                    for message in batch:
                        await self._handle(message)
                        if self._stopping:
                            return
        except asyncio.CancelledError:
            if not self._stopping:
                raise

    async def _handle(self, message: Message) -> None:
        self._busy = True
        try:
            result = self._callback(message)
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._task.cancelling():
                raise  # and not something that the callback awaited
            if self._work is None:
                follows = "nothing was consumed, so every reader still finds it"
            else:
                self._work.leave()
                follows = "it was not acknowledged and comes again when its lease ends"
            log.error(
                "the callback failed on message %d of %s (%s: %s): %s",
                message.msg_id,
                mask(self._address),
                type(error).__name__,
                mask(str(error)),
                follows,
                exc_info=error,
            )
        else:
            if self._stopping and self._work is not None:
                await self._work.finish()
        finally:
            self._busy = False

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._others.discard(self)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self._awaited:
            log.error("receiving from %s has ended: %s", mask(self._address), error)
