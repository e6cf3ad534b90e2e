"""The load generator: prepared frames, a window of N in flight, every reply counted and checked.

The work per round trip is one `send` of a slice of a prepared buffer, one `recv`, and a few searches that run in C.
Replies of one connection come in the order of its requests (checked), so the sending time of a slice and the number of
replies that came back are enough for every message's latency.
"""

import random
import selectors
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, pairwise

from benchmarks.wire import CHUNK, Wire, WireError, pub

PAYLOAD = 256
PAYLOAD_END = b"#\r\n"
_DIGITS = 4
_FIRST_WORD = b"MSG _INBOX."


@cache
def payloads(count: int, seed: int = 1) -> list[bytes]:
    """Different texts of 256 bytes that do not compress, each beginning with its number and ending in `#`."""
    source = random.Random(seed)
    return [b"%08d" % i + b64encode(source.randbytes(186))[: PAYLOAD - 9] + b"#" for i in range(count)]


class Frames:
    """Request frames back to back in one buffer; frame i is answered on `<inbox>.<i, four digits>`.

    After the last one the first follows again, so a few different frames make a load of any length.
    """

    def __init__(self, inbox: str, requests: Iterable[tuple[str, bytes]], window: int) -> None:
        frames = [
            pub(subject, payload, f"{inbox}.{i % 10**_DIGITS:0{_DIGITS}}")
            for i, (subject, payload) in enumerate(requests)
        ]
        self.count = len(frames)
        frames += frames[:window]
        self._ends = list(accumulate(map(len, frames), initial=0))
        self._bytes = memoryview(b"".join(frames))
        self._token_at = len(_FIRST_WORD) - len("_INBOX.") + len(inbox) + 1

    def slice(self, start: int, count: int) -> memoryview:
        """`count` frames (at most the window) from number `start` on."""
        start %= self.count
        return self._bytes[self._ends[start] : self._ends[start + count]]

    def slices(self, count: int) -> list[memoryview]:
        """One memoryview per frame of the first `count`."""
        return [self._bytes[a:b] for a, b in pairwise(self._ends[: count + 1])]

    def check_order(self, lines: bytes, answered: int) -> None:
        """The last reply in `lines` must belong to request number `answered - 1`."""
        at = lines.rfind(_FIRST_WORD) + self._token_at
        token = lines[at : at + _DIGITS]
        if int(token) != (answered - 1) % self.count % 10**_DIGITS:
            raise WireError(f"replies out of order: {token!r} came as number {answered}")


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
    wire: Wire,
    frames: Frames,
    window: int,
    ok: bytes,
    *,
    seconds: float = 60.0,
    count: int | None = None,
    ordered: bool = True,
) -> Result:
    """Keeps `window` requests in flight on one connection, for `seconds` or `count` requests, whichever ends first.

    `ok` is what every successful reply contains and no other; the first reply without it raises WireError. Latencies
    mean something only when replies come in the order of the requests, which is checked when `ordered`.
    """
    send, receive, result = wire.sock.sendall, wire.receive, Result()
    clock, latencies = time.perf_counter, result.latencies
    limit = count if count is not None else 1 << 62
    sent = answered = 0
    rest = b""
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
        if rest:
            data, rest = rest + data, b""
        if not data.endswith(b"\r\n"):
            cut = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
            data, rest = data[:cut], data[cut:]
        good = data.count(ok)
        if good != data.count(_FIRST_WORD):
            data, rest = _whole_replies(data, rest, ok)
            good = data.count(ok)
        if not good:
            _whole_replies(data, b"", ok)
            continue
        before, answered = answered, answered + good
        if ordered:
            frames.check_order(data, answered)
        while waiting and waiting[0][1] <= answered:
            at, last = waiting.popleft()
            latencies.append((now - at, last - before))
            before = last
        if before < answered:
            latencies.append((now - waiting[0][0], answered - before))
    result.replies, result.seconds = answered, now - started
    return result


def one_in_flight_each(wires: Sequence[Wire], frames: Sequence[Frames], ok: bytes, *, seconds: float) -> Result:
    """Keeps one request in flight on each of many connections, for `seconds`."""
    result = Result()
    clock, latencies = time.perf_counter, result.latencies
    requests = [frame.slices(frame.count) for frame in frames]
    numbers, sent_at, partial = [0] * len(wires), [0.0] * len(wires), [b""] * len(wires)
    with selectors.DefaultSelector() as selector:
        for i, wire in enumerate(wires):
            selector.register(wire.sock, selectors.EVENT_READ, (i, wire.sock))
        started = now = clock()
        for i, wire in enumerate(wires):
            sent_at[i] = clock()
            wire.sock.send(requests[i][0])
        busy = len(wires)
        while busy:
            ready = selector.select(20.0)
            if not ready:
                raise WireError(f"{busy} requests were not answered within 20 s")
            for key, _ in ready:
                i, sock = key.data
                if not (data := sock.recv(CHUNK)):
                    raise WireError("the server closed a connection")
                now = clock()
                if partial[i] or ok not in data or not data.endswith(b"\r\n"):
                    data, partial[i] = _whole_replies(partial[i], data, ok)
                    if ok not in data:
                        continue
                numbers[i] += 1
                frames[i].check_order(data, numbers[i])
                latencies.append((now - sent_at[i], 1))
                if now - started < seconds:
                    sent_at[i] = now
                    sock.send(requests[i][numbers[i] % len(requests[i])])
                else:
                    busy -= 1
    result.replies, result.seconds = sum(numbers), now - started
    return result


def _whole_replies(data: bytes, rest: bytes, ok: bytes) -> tuple[bytes, bytes]:
    """Splits so that the first part ends with a whole reply; raises WireError when one of its replies is not good."""
    data += rest
    done = at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        line = data[at:end]
        at = end + 2
        if line.startswith((b"MSG ", b"HMSG ")):
            size = int(line.rsplit(b" ", 1)[1])
            if len(data) < at + size + 2:
                break
            payload = data[at : at + size]
            at += size + 2
            if ok not in payload:
                raise WireError(f"not a success: {line.decode()}: {payload.decode(errors='replace')}")
        elif line.startswith(b"-ERR"):
            raise WireError(line.decode())
        done = at
    return data[:done], data[done:]
