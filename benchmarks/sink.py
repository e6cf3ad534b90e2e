"""The limit line of a socket and the event loop: answers every request with a prepared success, and does nothing else.

It is what the load generator can do at most, too. It runs on the broker's event loop and counts frames by their length,
without looking at them. `python -m benchmarks.sink FRAME_BYTES RING` prints its port.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from benchmarks.load import Frames, payloads
from benchmarks.mq9 import STORED
from benchmarks.servers import Server
from benchmarks.targets import Target
from benchmarks.wire import INBOX_LENGTH, Wire, pub

_run: Callable[..., None] = asyncio.run
try:
    import uvloop

    _run = uvloop.run
except ImportError:  # (Windows)
    pass

_SUBJECT = "benchmark.sink"


class SinkClient(Wire):
    def place(self) -> str:
        return _SUBJECT

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        return self.frames([(_SUBJECT, text) for text in texts], window, STORED)


@contextmanager
def sink(ring: int) -> Iterator[Target]:
    """A sink for frames of 256 bytes that repeat after `ring`, in a process of its own."""
    frame = pub(_SUBJECT, payloads(1)[0], "x" * INBOX_LENGTH + ".0000")
    command = [sys.executable, "-m", "benchmarks.sink", str(len(frame)), str(ring)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            server = Server("echo server", process, int(process.stdout.readline()), Path())
            yield Target(server, SinkClient)
        finally:
            process.terminate()


class Sink(asyncio.Protocol):
    """One connection: INFO, PONG, and as many prepared replies as frames came in."""

    def __init__(self, frame_bytes: int, ring: int) -> None:
        self._frame_bytes, self._ring = frame_bytes, ring
        self._bytes = self._answered = self._size = 0
        self._hello = self._replies = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"INFO {}\r\n")

    def data_received(self, data: bytes) -> None:
        if not self._size:
            self._hello += data
            if self._hello.endswith(b"PING\r\n"):
                self._prepare(self._hello.partition(b"SUB ")[2].partition(b".* ")[0])
                self._transport.write(b"PONG\r\n")
            return
        self._bytes += len(data)
        upto = self._bytes // self._frame_bytes
        count, start = upto - self._answered, self._answered % self._ring
        self._answered = upto
        self._transport.write(self._replies[start * self._size : (start + count) * self._size])

    def _prepare(self, inbox: bytes) -> None:
        body = STORED + b"1}"
        replies = [b"MSG %b.%04d 1 %d\r\n%b\r\n" % (inbox, i, len(body), body) for i in range(self._ring)]
        self._size = len(replies[0])
        self._replies = b"".join(replies + replies)


async def _serve(frame_bytes: int, ring: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Sink(frame_bytes, ring), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    _run(_serve(int(sys.argv[1]), int(sys.argv[2])))
