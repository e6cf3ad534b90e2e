"""Subscriptions: what a send to one mailbox costs, and its delivery, beside many mailboxes that are subscribed to.

The peer has as many core subscriptions: so many streams with consumers are nothing for it.
"""

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.link import WireError
from benchmarks.load import Result, keep_in_flight, payloads
from benchmarks.push import one
from benchmarks.report import Report
from benchmarks.targets import Target

CASE = "send to delivery"
MEMORY = "memory"
_COUNTS = (10, 100, 1000, 10_000, 100_000)
_SHARE = 25_000  # subscriptions of one connection, at most
_AT_ONCE = 500
_PATIENCE = 60.0  # seconds for those of one step


def run(report: Report, targets: Sequence[Target], *, counts: Sequence[int] = _COUNTS, samples: int = 2000) -> None:
    for target in targets:
        with ExitStack() as stack:
            sender: Any = stack.enter_context(target.connect())
            listeners: dict[str, Any] = {}
            before = target.server.resident_kib()
            for count in counts:
                more = _places(sender, target, count - len(listeners))
                started = time.perf_counter()
                for first in range(0, len(more), _SHARE):
                    listener = stack.enter_context(target.connect())
                    listeners |= _listen(target, listener, more[first : first + _SHARE], started + _PATIENCE)
                rate = len(more) / (time.perf_counter() - started)
                report.add("listeners", "subscribing", "subscriptions/s", target.name, rate, count)
                after = target.server.resident_kib()
                if before is not None and after is not None:
                    report.add("listeners", MEMORY, "MiB", target.name, (after - before) / 1024, count)
                _send(report, target, sender, listeners, samples)


def _listen(target: Target, listener: Any, places: Sequence[str], until: float) -> dict[str, Any]:
    """Subscribes to all of them; who listens to which."""
    for first in range(0, len(places), _AT_ONCE):
        if time.perf_counter() > until:
            raise WireError(f"{target.name} takes more than {_PATIENCE:.0f} s for its next subscriptions")
        listener.listen(places[first : first + _AT_ONCE])
    return dict.fromkeys(places, listener)


def _send(report: Report, target: Target, sender: Any, listeners: dict[str, Any], samples: int) -> None:
    """One at a time, each to any of them."""
    chosen = random.Random(3).choices([*listeners], k=samples)
    frames = sender.sends(chosen, payloads(samples), 1)
    answered = frames.answers().take if target.answers else None
    times = [(one(sender, answered, listeners[place], frames, i), 1) for i, place in enumerate(chosen)]
    result = Result(latencies=times)
    for name, percentile in (("p50 us", 50), ("p99 us", 99)):
        report.add("listeners", CASE, name, target.name, result.microseconds(percentile), len(listeners))


def _places(client: Any, target: Target, count: int) -> list[str]:
    if not target.answers:
        return [client.place() for _ in range(count)]
    kept: list[bytes] = []
    keep_in_flight(client, client.creations(count, 64), 64, count=count, kept=kept)
    return list(client.created(b"".join(kept)))
