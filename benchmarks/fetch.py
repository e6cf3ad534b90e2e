"""Pulling work: 100 messages at a time, each acknowledged, the acknowledgement confirmed before the next fetch."""

import time
from itertools import islice, pairwise

from benchmarks.drain import fill
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, WireError

_SIZE = 100


def run(report: Report, targets: list[Target], *, rounds: int = 3, batches: int = 300) -> None:
    case = f"batches of {_SIZE}"
    for _ in range(rounds):
        for target in targets:
            with Wire(target.server.port) as wire:
                place = fill(wire, target, (batches + 1) * _SIZE)
                reader = target.batches(wire, place, _SIZE)
                next(reader)
                cpu, started = target.server.cpu_seconds(), time.perf_counter()
                times = [started]
                for got in islice(reader, batches):
                    if got != _SIZE:
                        raise WireError(f"{target.server.name} gave {got} messages instead of {_SIZE}")
                    times.append(time.perf_counter())
                name = target.server.name
                report.add("fetch", case, "msg/s", name, batches * _SIZE / (times[-1] - started))
                each = sorted(after - before for before, after in pairwise(times))
                report.add("fetch", case, "p50 us/batch", name, each[len(each) // 2] * 1e6)
                report.add("fetch", case, "p99 us/batch", name, each[len(each) * 99 // 100] * 1e6)
                report.add_cpu("fetch", case, target.server, cpu, batches * _SIZE)
