"""Creating mailboxes and streams: requests in flight at 64, and what one more costs in memory."""

from benchmarks.load import Frames, keep_in_flight
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire

_WINDOW = 64


def run(report: Report, targets: list[Target], *, rounds: int = 3, seconds: float = 0.8) -> None:
    for _ in range(rounds):
        for target in targets:
            with Wire(target.server.port) as wire:
                requests = list(target.creations(target.creations_per_round))
                frames = Frames(wire.inbox, requests, _WINDOW)
                memory, cpu = target.server.resident_kib(), target.server.cpu_seconds()
                result = keep_in_flight(
                    wire, frames, _WINDOW, target.created, seconds=seconds, count=len(requests), ordered=False
                )
                name = target.server.name
                report.add("create", f"{_WINDOW} in flight", "created/s", name, result.rate)
                report.add_cpu("create", f"{_WINDOW} in flight", target.server, cpu, result.replies)
                after = target.server.resident_kib()
                if memory is not None and after is not None:
                    report.add("create", "memory", "KiB each", name, max(0.0, (after - memory) / result.replies))
