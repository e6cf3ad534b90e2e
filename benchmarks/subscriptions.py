"""Matching: what one message costs beside subscriptions with wildcards that do not match it."""

import time
from itertools import count as numbers

from benchmarks.core import measure
from benchmarks.load import payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, WireError, pub

_OTHERS = (0, 10_000)
_BLOCK = 8192


def run(report: Report, targets: list[Target], *, rounds: int = 4, count: int = 60_000, churns: int = 3000) -> None:
    """Every message on a subject of its own, so that nothing that was remembered helps; then subscriptions with
    wildcards that come and go, each beside a message."""
    texts, serial = payloads(_BLOCK), numbers()
    for _ in range(rounds):
        for others in _OTHERS:
            for target in targets:
                with Wire(target.server.port) as publisher, Wire(target.server.port) as subscriber:
                    for first in range(0, others, 1000):
                        publisher.sock.sendall(b"".join(map(_other, range(first, first + 1000))))
                        publisher.flush()
                    subscriber.subscribe("benchmark.*.here", 2)
                    subscriber.flush()
                    frames = [pub(f"benchmark.{next(serial):09}.here", text) for text in texts]
                    case = f"new subjects, {others:,} others"
                    measure(report, "subscriptions", case, target, publisher, [subscriber], frames, count)
                    case = f"coming and going, {others:,} others"
                    _churn(report, case, target, publisher, subscriber, churns)


def _other(number: int) -> bytes:
    pattern = (f"benchmark.{number}.*", f"benchmark.*.not{number}", f"*.{number}.>", f"other.{number}.>")[number % 4]
    return b"SUB %b o%d\r\n" % (pattern.encode(), number)


def _churn(report: Report, case: str, target: Target, publisher: Wire, subscriber: Wire, count: int) -> None:
    """A subscription comes, a message, the subscription goes, again and again."""
    message = pub("benchmark.hot.here", payloads(1)[0])
    steps = b"".join(
        b"SUB benchmark.%d.* c%d\r\n%bUNSUB c%d\r\n" % (number, number, message, number) for number in range(count)
    )
    started = time.perf_counter()
    publisher.sock.sendall(steps)
    got = subscriber.until(message[-16:], count)
    seconds = time.perf_counter() - started
    if got.count(b"MSG ") != count:
        raise WireError(f"{got.count(b'MSG ')} messages arrived instead of {count}")
    publisher.flush()
    report.add("subscriptions", case, "msg/s", target.server.name, count / seconds)
