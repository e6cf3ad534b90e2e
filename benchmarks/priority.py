"""One critical message while a million normal ones wait: when a FETCH has it, and when a slow subscriber has it.

The subscriber empties the backlog at 50 MB a second, never faster, in pieces, on a socket as the system makes it; what
the kernel holds for it is ahead of every message that comes later. Several times on its way through the backlog a
critical message is sent on another connection, and it is measured until the subscriber's program has read it.
"""

import socket
import termios
import time
from array import array
from collections.abc import Sequence
from fcntl import ioctl
from statistics import median

from benchmarks.drain import fill
from benchmarks.link import WireError
from benchmarks.load import PAYLOAD, Result
from benchmarks.mq9 import GROUP, Mq9Client
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import pub

FETCH, PUSH = "next FETCH", "push to a slow reader"
_RATE = 50e6  # bytes a second
_PIECE = 1 << 15
_LATE = 0.002  # seconds
_EVERY = 0.25  # seconds between critical messages
_MARK = b"critical"
_BLOCK = 100_000


def run(report: Report, targets: Sequence[Target], *, waiting: int = 1_000_000, samples: int = 200) -> None:
    for target in targets:
        _one(report, target, waiting, samples)


def _one(report: Report, target: Target, waiting: int, samples: int) -> None:
    with Mq9Client(target.server.port) as client:
        place = client.place()
        for first in range(0, waiting, _BLOCK):
            fill(client, place, min(_BLOCK, waiting - first))
        result = Result(latencies=[(_fetch(client, place, i), 1) for i in range(samples)])
    _add(report, FETCH, target, result)
    result, ahead, here = _push(target, place, waiting)
    _add(report, PUSH, target, result)
    report.add("priority", PUSH, "KB ahead of it", target.name, median(ahead) / 1e3)
    report.add("priority", PUSH, "KB of them in the reader's socket", target.name, median(here) / 1e3)


def _add(report: Report, case: str, target: Target, result: Result) -> None:
    for name, percentile in (("p50", 50.0), ("p99", 99.0), ("longest", 100.0)):
        report.add("priority", case, f"{name} ms", target.name, result.microseconds(percentile) / 1e3)


def _critical(number: int) -> bytes:
    return (_MARK + b"%08d" % number).ljust(PAYLOAD - 1, b".") + b"#"


def _fetch(client: Mq9Client, place: str, number: int) -> float:
    """Seconds from a stored critical message to the end of the reply of a FETCH that has it."""
    client.sock.sendall(pub(f"$mq9.AI.INBOX.{place}.critical", _critical(number), f"{client.inbox}.0"))
    client.message()
    body = {"group_name": GROUP, "config": {"num_msgs": 1, "max_wait_ms": 0}}
    started = time.perf_counter()
    messages = client.request(f"$mq9.AI.MSG.FETCH.{place}", body)["messages"]
    seconds = time.perf_counter() - started
    if [message["payload"].encode() for message in messages] != [_critical(number)]:
        raise WireError(f"a FETCH gave {messages!r} instead of the critical message")
    client.request(f"$mq9.AI.MSG.ACK.{place}", {"group_name": GROUP, "msg_ids": [messages[0]["msg_id"]]})
    return seconds


def _push(target: Target, place: str, waiting: int) -> tuple[Result, list[int], list[int]]:
    """Latencies; how many bytes came between a send and its delivery; how many of them the reader's own socket held at
    the time of the send, out of the broker's reach."""
    clock, end = time.perf_counter, waiting * PAYLOAD * 0.95
    result, ahead, here, received, number = Result(), list[int](), list[int](), 0, 1_000_000
    sent: tuple[float, int] | None = None  # when, and how much had been received
    tail = b""
    with Mq9Client(target.server.port) as sender, Mq9Client(target.server.port) as reader:
        reader.reader(place)
        due = again = clock()
        while received < end or sent:
            data = tail + reader.sock.recv(_PIECE)
            now = clock()
            received += len(data) - len(tail)
            if sent and _critical(number) in data:
                result.latencies.append((now - sent[0], 1))
                ahead.append(received - sent[1])
                sent, again = None, now + _EVERY
            elif not sent and now >= again and received < end:
                number += 1
                here.append(_waiting(reader.sock))
                sent = clock(), received
                sender.sock.sendall(pub(f"$mq9.AI.INBOX.{place}.critical", _critical(number)))
            # (what it misses while it has no processor, it does not take faster afterwards)
            due = max(due + (len(data) - len(tail)) / _RATE, clock() - _LATE)
            tail = data[-PAYLOAD:]
            if (early := due - clock()) > 0:
                time.sleep(early)
    return result, ahead, here


def _waiting(sock: socket.socket) -> int:
    """Bytes that were received and not yet read."""
    count = array("i", [0])
    ioctl(sock, termios.FIONREAD, count)
    return count[0]
