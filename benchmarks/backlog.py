"""One mailbox (stream, key) in which very much waits: what a send to it costs, and reading from it."""

import socket
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.load import keep_in_flight, payloads
from benchmarks.report import Report
from benchmarks.sends import RING, measured
from benchmarks.targets import Target

_COUNTS = (1000, 10_000, 100_000, 1_000_000)
_READERS = 5
_BATCHES = 5
_SIZE = 100


def run(report: Report, targets: Sequence[Target], *, most: int = 1_000_000, counts: Sequence[int] = _COUNTS) -> None:
    """`most` beyond the last of `counts` makes one more of it."""
    counts = [*(count for count in counts if count <= most), *([most] if most > counts[-1] else [])]
    for target in targets:
        with target.connect() as client:
            place, waiting = client.place(), 0
            before = target.server.resident_kib()
            for count in counts:
                frames = client.sends([place], payloads(RING), 1000)
                with measured(report, "backlog", "filling, 1,000 in flight", target.server, count) as results:
                    results.append(keep_in_flight(client, frames, 1000, count=count - waiting))
                frames = client.sends([place], payloads(RING), 64)
                some = max(500, min(20_000, count // 20))
                with measured(report, "backlog", "sends, 64 in flight", target.server, count) as results:
                    results.append(keep_in_flight(client, frames, 64, count=some))
                waiting = count + some
                memory = target.server.resident_kib()
                if before is not None and memory is not None:
                    report.add("backlog", "memory more than empty", "MiB", target.name, (memory - before) / 1024, count)
                report.add("backlog", "a new reader's first bytes", "ms", target.name, _first(target, place), count)
                batch = _batch(target, place)
                report.add("backlog", f"fetching and acknowledging {_SIZE}", "ms", target.name, batch, count)


def _first(target: Target, place: str) -> float:
    """Milliseconds from subscribing to the first bytes."""
    times = []
    for _ in range(_READERS):
        with target.connect() as client:
            started = time.perf_counter()
            client.reader(place).ask()
            client.sock.recv(1, socket.MSG_PEEK)
            times.append(time.perf_counter() - started)
    return median(times) * 1e3


def _batch(target: Target, place: str) -> float:
    """Milliseconds for one batch."""
    with target.connect() as client:
        reader, times = client.batches(place, _SIZE), []
        next(reader)
        for _ in range(_BATCHES):
            started = time.perf_counter()
            next(reader)
            times.append(time.perf_counter() - started)
    return median(times) * 1e3
