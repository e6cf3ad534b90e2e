"""Pulling work: 100 messages at a time, each acknowledged, the acknowledgement confirmed before the next fetch."""

import time
from collections.abc import Sequence
from itertools import islice, pairwise

from benchmarks.drain import fill
from benchmarks.link import WireError
from benchmarks.report import Report
from benchmarks.targets import Target

_SIZE = 100


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, batches: int = 300) -> None:
    case = f"batches of {_SIZE}"
    for _ in range(rounds):
        for target in targets:
            with target.connect() as client:
                reader = client.batches(fill(client, client.place(), (batches + 1) * _SIZE), _SIZE)
                next(reader)
                server_cpu, client_cpu = target.server.cpu_seconds(), time.process_time()
                times = [time.perf_counter()]
                for got in islice(reader, batches):
                    if got != _SIZE:
                        raise WireError(f"{target.name} gave {got} messages instead of {_SIZE}")
                    times.append(time.perf_counter())
                client_cpu, seconds = time.process_time() - client_cpu, times[-1] - times[0]
            report.add("fetch", case, "msg/s", target.name, batches * _SIZE / seconds)
            each = sorted(after - before for before, after in pairwise(times))
            report.add("fetch", case, "p50 us/batch", target.name, each[len(each) // 2] * 1e6)
            report.add("fetch", case, "p99 us/batch", target.name, each[len(each) * 99 // 100] * 1e6)
            report.add_cpu("fetch", case, target.server, server_cpu, batches * _SIZE)
            report.add_busy("fetch", case, target.server, server_cpu, client_cpu, seconds)
