"""The load generator: prepared frames, a window of N in flight, every reply counted and checked.

The work per round trip is one `send` of a slice of a prepared buffer, one `recv`, and a few searches that run in C.
Replies of one connection come in the order of its requests, so the sending time of a slice and the number of replies
that came back are enough for every message's latency.
"""

import random
import select
import socket
import sys
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate, cycle
from typing import Protocol

from benchmarks.link import WireError

PAYLOAD = 256
PAYLOAD_END = b"#\r\n"
#: Bytes for which there is room where one reply is on its way: little, for it is made anew for each.
_REPLY = 4096
#: Seconds after which a reply does not come any more.
_PATIENCE = 20


@cache
def payloads(count: int, seed: int = 1, size: int = PAYLOAD) -> list[bytes]:
    """Different texts of `size` bytes that do not compress, each beginning with its number (eight digits) and ending in
    `#`, as far as there is room."""
    source = random.Random(seed)
    texts = (b"%08d" % i + b64encode(source.randbytes(size * 3 // 4)) for i in range(count))
    return [text[: size - 1] + b"#" if size else b"" for text in texts]


class Line(Protocol):
    """A connection to send on and to receive from."""

    sock: socket.socket

    def receive(self) -> bytes:
        """Whatever comes next, at least one byte."""


class Answers(Protocol):
    """The replies to the requests of one connection, as they come."""

    def take(self, data: bytes) -> int:
        """How many more replies are whole with `data`; WireError when one is not a success."""


class Frames:
    """Request frames back to back in one buffer, with how their replies are told.

    After the last one the first follows again, so a few different frames make a load of any length.
    """

    def __init__(self, frames: Sequence[bytes], window: int, answers: Callable[[], Answers]) -> None:
        self.count = len(frames)
        self.frames = frames
        self.answers = answers
        repeated = [frames[i % len(frames)] for i in range(len(frames) + window)]
        self._ends = list(accumulate(map(len, repeated), initial=0))
        self._bytes = memoryview(b"".join(repeated))

    def slice(self, start: int, count: int) -> memoryview:
        """`count` frames (at most the window) from number `start` on."""
        start %= self.count
        return self._bytes[self._ends[start] : self._ends[start + count]]


@dataclass(slots=True)
class Result:
    """What a run gave: replies, seconds from the first send to the last reply, latencies with how many had each."""

    replies: int = 0
    seconds: float = 0.0
    latencies: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.replies / self.seconds

    def microseconds(self, percentile: float) -> float:
        """The latency that `percentile` percent of the messages did not exceed."""
        left = percentile / 100 * sum(count for _, count in self.latencies)
        for latency, count in sorted(self.latencies):
            left -= count
            if left <= 0:
                return latency * 1e6
        return max(self.latencies)[0] * 1e6


def keep_in_flight(
    link: Line,
    frames: Frames,
    window: int,
    *,
    seconds: float = 600.0,
    count: int | None = None,
    kept: list[bytes] | None = None,
) -> Result:
    """Keeps `window` requests in flight on one connection, for `seconds` or `count` requests, whichever ends first;
    what was received is appended to `kept`."""
    send, receive, take, result = link.sock.sendall, link.receive, frames.answers().take, Result()
    clock, latencies = time.perf_counter, result.latencies
    limit = count if count is not None else 1 << 62
    sent = answered = 0
    waiting: deque[tuple[float, int]] = deque()  # when a slice was sent, the number after its last request
    started = now = clock()
    while True:
        room = min(window - sent + answered, limit - sent) if now - started < seconds else 0
        if room:
            waiting.append((clock(), sent + room))
            send(frames.slice(sent, room))
            sent += room
        elif sent == answered:
            break
        data = receive()
        now = clock()
        if kept is not None:
            kept.append(data)
        if not (good := take(data)):
            continue
        before, answered = answered, answered + good
        while waiting and waiting[0][1] <= answered:
            at, last = waiting.popleft()
            latencies.append((now - at, last - before))
            before = last
        if before < answered:
            latencies.append((now - waiting[0][0], answered - before))
    result.replies, result.seconds = answered, now - started
    return result


def one_in_flight_each(links: Sequence[Line], frames: Sequence[Frames], *, seconds: float) -> Result:
    """Keeps one request in flight on each of many connections, for `seconds`."""
    result = Result()
    clock, latencies = time.perf_counter, result.latencies
    lines = {
        link.sock.fileno(): (link.sock.recv, link.sock.send, each.answers().take, cycle(each.frames).__next__)
        for link, each in zip(links, frames, strict=True)
    }
    sent_at = dict.fromkeys(lines, 0.0)
    with _readable(lines) as wait:
        started = now = clock()
        for fd, (_, send, _, following) in lines.items():
            sent_at[fd] = clock()
            send(following())
        busy = len(lines)
        while busy:
            if not (ready := wait()):
                raise WireError(f"{busy} requests were not answered within {_PATIENCE} s")
            for fd, _ in ready:
                receive, send, take, following = lines[fd]
                if not (data := receive(_REPLY)):
                    raise WireError("the server closed a connection")
                now = clock()
                if not take(data):
                    continue
                latencies.append((now - sent_at[fd], 1))
                if now - started < seconds:
                    sent_at[fd] = now
                    send(following())
                else:
                    busy -= 1
    result.replies, result.seconds = len(latencies), now - started
    return result


@contextmanager
def _readable(fds: Iterable[int]) -> Iterator[Callable[[], list[tuple[int, int]]]]:
    """Gives what waits until some of them can be read, and tells which; none when nothing came. (`selectors` would take
    0.7 µs for each.)"""
    if sys.platform == "linux":
        with select.epoll() as ready:
            for fd in fds:
                ready.register(fd, select.EPOLLIN)
            yield partial(ready.poll, _PATIENCE)
    else:
        looking = select.poll()
        for fd in fds:
            looking.register(fd, select.POLLIN)
        yield partial(looking.poll, _PATIENCE * 1000)
