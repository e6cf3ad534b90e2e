"""Subscriptions: what a send to one mailbox costs, and its delivery, beside many mailboxes that are subscribed to.

The peer has as many core subscriptions: so many streams with consumers are nothing for it.
"""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.load import Result, keep_in_flight, payloads
from benchmarks.push import one
from benchmarks.report import Report
from benchmarks.targets import Target

CASE = "send to delivery"
MEMORY = "memory"
_COUNTS = (10, 100, 1000, 10_000, 100_000)
_SHARE = 25_000  # subscriptions of one connection, at most


def run(report: Report, targets: Sequence[Target], *, counts: Sequence[int] = _COUNTS, samples: int = 2000) -> None:
    chance = random.Random(3)
    for target in targets:
        with ExitStack() as stack:
            sender: Any = stack.enter_context(target.connect())
            places: list[str] = []
            listeners: dict[str, Any] = {}
            before = target.server.resident_kib()
            for count in counts:
                more = _places(sender, target, count - len(places))
                places += more
                started = time.perf_counter()
                for first in range(0, len(more), _SHARE):
                    listener: Any = stack.enter_context(target.connect())
                    listener.listen(more[first : first + _SHARE])
                    listeners |= dict.fromkeys(more[first : first + _SHARE], listener)
                if more:
                    rate = len(more) / (time.perf_counter() - started)
                    report.add("listeners", "subscribing", "subscriptions/s", target.name, rate, count)
                after = target.server.resident_kib()
                if before is not None and after is not None:
                    report.add("listeners", MEMORY, "MiB", target.name, (after - before) / 1024, count)
                chosen = chance.choices(places, k=samples)
                frames = sender.sends(chosen, payloads(samples), 1)
                answered = frames.answers().take if target.answers else None
                times = [(one(sender, answered, listeners[place], frames, i), 1) for i, place in enumerate(chosen)]
                result = Result(latencies=times)
                report.add("listeners", CASE, "p50 us", target.name, result.microseconds(50), count)
                report.add("listeners", CASE, "p99 us", target.name, result.microseconds(99), count)


def _places(client: Any, target: Target, count: int) -> list[str]:
    if not target.answers:
        return [client.place() for _ in range(count)]
    kept: list[bytes] = []
    keep_in_flight(client, client.creations(count, 64), 64, count=count, kept=kept)
    return list(client.created(b"".join(kept)))
