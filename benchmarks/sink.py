"""Answers every request with a prepared success and does nothing else: what the load generator can do at most.

It counts frames by their length without looking at them. `python -m benchmarks.sink FRAME_BYTES RING` prints its port.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import payloads
from benchmarks.servers import Server
from benchmarks.targets import SINK_OK, Place
from benchmarks.wire import INBOX_LENGTH, Wire, pub

_SUBJECT = "benchmark.sink"


class SinkTarget:
    """The sink in the place of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def place(self, wire: Wire) -> Place:
        return Place(_SUBJECT, SINK_OK, "")


@contextmanager
def sink(ring: int) -> Iterator[SinkTarget]:
    """A sink for frames of `_SUBJECT` that repeat after `ring`, in a process of its own."""
    frame = pub(_SUBJECT, payloads(1)[0], "x" * INBOX_LENGTH + ".0000")
    command = [sys.executable, "-m", "benchmarks.sink", str(len(frame)), str(ring)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield SinkTarget(Server("sink", process, int(process.stdout.readline()), Path()))
        finally:
            process.terminate()


class Sink(asyncio.Protocol):
    """One connection: INFO, PONG, and as many prepared replies as frames came in."""

    def __init__(self, frame_bytes: int, ring: int) -> None:
        self._frame_bytes, self._ring = frame_bytes, ring
        self._bytes = self._answered = self._size = 0
        self._hello = self._replies = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(b"INFO {}\r\n")

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
        body = SINK_OK + b"1}"
        replies = [b"MSG %b.%04d 1 %d\r\n%b\r\n" % (inbox, i, len(body), body) for i in range(self._ring)]
        self._size = len(replies[0])
        self._replies = b"".join(replies + replies)


async def _serve(frame_bytes: int, ring: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Sink(frame_bytes, ring), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
