"""A server that gets more than it can do: connections send as fast as TCP lets them, each to a place of its own. Now
and then a message goes to a place that is idle otherwise: how long until its subscriber has it?

The flood is a process of its own. Its messages are not answered (Redis answers all; it gets a block at a time).
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.link import WireError
from benchmarks.load import Frames, Result, payloads
from benchmarks.push import one
from benchmarks.report import Report
from benchmarks.targets import Start, Target

CASE = "send to delivery in an idle place"
SHARE = "slowest connection, share of the mean"
_COUNTS = (0, 1, 10, 100)
_PAUSE = 0.005
_RING = 256


def run(
    report: Report, starts: Sequence[Start], *, rounds: int = 2, counts: Sequence[int] = _COUNTS, seconds: float = 3.0
) -> None:
    """Every time with a server of its own: what a flood leaves in buffers would be the next one's."""
    for _ in range(rounds):
        for count in counts:
            for start in starts:
                with start() as target:
                    _one(report, target, count, seconds)


def _one(report: Report, target: Target, count: int, seconds: float) -> None:
    before = target.server.resident_kib()
    with target.connect() as sender, target.connect() as receiver:
        place = sender.place()
        reader = receiver.reader(place)
        reader.ready()
        frames = sender.sends([place], payloads(_RING), 1)
        flood = _start(target, count, seconds) if count else None
        cpu, started = target.server.cpu_seconds(), time.perf_counter()
        result, most = _probe(target, sender, reader, frames, seconds)
        after = target.server.cpu_seconds()
        if cpu is not None and after is not None:
            busy = (after - cpu) / (time.perf_counter() - started) * 100
            report.add("saturation", "server busy", "%", target.name, busy, count)
        sent = _end(flood) if flood is not None else []
    report.add("saturation", CASE, "p50 ms", target.name, result.microseconds(50) / 1e3, count)
    report.add("saturation", CASE, "p99 ms", target.name, result.microseconds(99) / 1e3, count)
    report.add("saturation", CASE, "longest ms", target.name, result.microseconds(100) / 1e3, count)
    if before is not None and most is not None:
        report.add("saturation", "memory more than before", "MiB", target.name, (most - before) / 1024, count)
    if sent:
        report.add("saturation", "flooding", "msg/s", target.name, sum(sent) / seconds, count)
        report.add("saturation", SHARE, "%", target.name, min(sent) / (sum(sent) / count) * 100, count)


def _start(target: Target, count: int, seconds: float) -> "subprocess.Popen[bytes]":
    words = [target.name, str(target.server.port), str(count), str(seconds)]
    flood = subprocess.Popen([sys.executable, "-m", "benchmarks.flood", *words], stdout=subprocess.PIPE)
    assert flood.stdout is not None
    if not flood.stdout.readline():
        raise WireError(f"the flood of {target.name} did not begin")
    return flood


def _end(flood: "subprocess.Popen[bytes]") -> list[float]:
    out, _ = flood.communicate()
    if flood.returncode:
        raise WireError(f"the flood ended with {flood.returncode}")
    counts: list[float] = json.loads(out)
    return counts


def _probe(target: Target, sender: Any, reader: Any, frames: Frames, seconds: float) -> tuple[Result, float | None]:
    """Latencies, and the most memory in KiB that was seen meanwhile."""
    answered, result, memory = frames.answers().take, Result(), list[float]()
    number, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        result.latencies.append((one(sender, answered, reader, frames, number), 1))
        number += 1
        if (now := target.server.resident_kib()) is not None:
            memory.append(now)
        time.sleep(_PAUSE)
    return result, max(memory, default=None)
