"""Matching: what one message costs beside subscriptions with wildcards that do not match it."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count as numbers

from benchmarks.core import measure
from benchmarks.link import WireError
from benchmarks.load import payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, pub

_COUNTS = (10, 100, 1000, 10_000, 100_000)
NEW, CHURN = "every message on a new subject", "a subscription comes, a message, it goes"
_SHARE = 50_000  # subscriptions of one connection, at most
_BLOCK = 8192


def run(
    report: Report,
    targets: Sequence[Target],
    *,
    rounds: int = 2,
    count: int = 60_000,
    churns: int = 3000,
    counts: Sequence[int] = _COUNTS,
) -> None:
    """Every message on a subject of its own, so that nothing that was remembered helps; then subscriptions with
    wildcards that come and go, each beside a message."""
    texts, serial = payloads(_BLOCK), numbers()
    for _ in range(rounds):
        for others in counts:
            for target in targets:
                with ExitStack() as stack:
                    publisher, subscriber = (stack.enter_context(Wire(target.server.port)) for _ in range(2))
                    for first in range(0, others, _SHARE):
                        other = stack.enter_context(Wire(target.server.port))
                        other.sock.sendall(b"".join(map(_other, range(first, min(first + _SHARE, others)))))
                        other.flush()
                    subscriber.subscribe("benchmark.*.here", 2)
                    subscriber.flush()
                    frames = [pub(f"benchmark.{next(serial):09}.here", text) for text in texts]
                    measure(report, "subscriptions", NEW, target, publisher, [subscriber], frames, count, others)
                    _churn(report, target, publisher, subscriber, churns, others)


def _other(number: int) -> bytes:
    pattern = (f"benchmark.{number}.*", f"benchmark.*.not{number}", f"*.{number}.>", f"other.{number}.>")[number % 4]
    return b"SUB %b o%d\r\n" % (pattern.encode(), number)


def _churn(report: Report, target: Target, publisher: Wire, subscriber: Wire, count: int, others: int) -> None:
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
    report.add("subscriptions", CHURN, "msg/s", target.name, count / seconds, others)
