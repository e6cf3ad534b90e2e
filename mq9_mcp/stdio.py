"""MCP on standard input and output: read by the event loop, written at once where there is room.

The SDK hands every read, write and flush to a thread, and every message from one task to another: together that takes
longer than a mailbox does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

if TYPE_CHECKING:
    from mcp.shared._stream_protocols import ReadStream, WriteStream

CHUNK = 1 << 16  # bytes that are read at once
AHEAD = 1000  # messages that wait to be written when no more are taken: whoever asks has to read, too
ENDING = [getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM") if hasattr(signal, name)]


@asynccontextmanager
async def streams() -> AsyncIterator[tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]]:
    """Standard input and output, for the server alone: what anybody else prints goes to stderr, and there is nothing to
    read for others. Where one of them is no pipe and no socket or is stderr, too, and on Windows, the SDK serves both
    its own way."""
    if sys.platform == "win32" or not (_is_stream(0) and _is_stream(1)):
        async with stdio_server() as pair:
            yield pair
        return
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    with _not_blocking(reading, writing):
        outgoing = Outgoing(writing)
        yield Incoming(reading, outgoing), outgoing


@contextmanager
def _not_blocking(*descriptors: int) -> Iterator[None]:
    """Around the use of files that are not ours alone: a shell may have others read and write them after us. They are
    left as they were, also by a signal that ends the process at once."""
    before = [(descriptor, os.get_blocking(descriptor)) for descriptor in descriptors]

    def restore() -> None:
        for descriptor, blocking in before:
            os.set_blocking(descriptor, blocking)

    def end(number: int, _: FrameType | None) -> None:
        restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    ending = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ending:
        signal.signal(number, end)
    try:
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
        yield
    finally:
        restore()
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


class _End:
    """What the SDK wants of both streams. What they are about is closed with the process."""

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


class Incoming(_End):
    """The messages that come, one a line. What is no message comes as the error that says so.

    `outgoing` is where they are answered.
    """

    def __init__(self, descriptor: int, outgoing: Outgoing) -> None:
        self._descriptor = descriptor
        self._outgoing = outgoing
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []  # pieces of a line that has not ended
        self._came = asyncio.Event()
        self._listening = False
        self._ended = False

    async def receive(self) -> SessionMessage | Exception:
        """Raises EndOfStream when no more will come."""
        await self._outgoing.room()
        while not self._lines:
            if self._ended:
                raise anyio.EndOfStream
            if not self._listening:
                self._listening = True
                self._loop.add_reader(self._descriptor, self._read)
            self._came.clear()
            await self._came.wait()
        line = self._lines.popleft().decode("utf-8", "replace")
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError as error:
            return error

    async def aclose(self) -> None:
        self._rest()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # who leaves without a word has left, too
        *ended, begun = data.split(b"\n")
        if not data:
            self._ended = True
            ended = [b""] if any(self._begun) else []
        if ended:
            ended[0] = b"".join((*self._begun, ended[0]))
            self._begun.clear()
            self._lines.extend(ended)
        self._begun.append(begun)
        if self._ended or len(self._lines) > 1:  # the rest may wait where it is
            self._rest()
        self._came.set()

    def _rest(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._descriptor)


class Outgoing(_End):
    """Writes messages, one a line, in order and whole. Any number of tasks may send."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writing = anyio.Lock(fast_acquire=True)

    async def send(self, item: SessionMessage, /) -> None:
        """Waits while there is no room. Raises BrokenResourceError when nobody is there to read."""
        async with self._writing:
            line = item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            rest = line[self._write(line) :]
            while rest:
                with anyio.CancelScope(shield=len(rest) < len(line)):  # half a line would spoil all that follow
                    await anyio.wait_writable(self._descriptor)
                    rest = rest[self._write(rest) :]

    async def room(self) -> None:
        """Waits while AHEAD messages wait, until those are written."""
        if self._writing.locked() and self._writing.statistics().tasks_waiting >= AHEAD:
            async with self._writing:
                pass

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise anyio.BrokenResourceError from error


def _is_stream(descriptor: int) -> bool:
    """Whether it is a pipe or a socket, and a log line is not lost when that does not block."""
    mode = os.fstat(descriptor).st_mode
    return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and not os.path.sameopenfile(descriptor, 2)
