"""Stored sends: 256 bytes, each answered after it was stored, at several depths."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.load import Frames, Result, keep_in_flight, one_in_flight_each, payloads
from benchmarks.report import Report
from benchmarks.targets import Place, Sendable
from benchmarks.wire import Wire

RING = 1024
_WINDOWS = (1, 64, 1000)
_CONNECTIONS = 64


def run(
    report: Report, targets: Sequence[Sendable], *, workload: str = "sends", rounds: int = 5, seconds: float = 0.5
) -> None:
    """`workload` is the name under which the figures are reported."""
    for _ in range(rounds):
        for window in _WINDOWS:
            for target in targets:
                _one_connection(report, workload, target, window, seconds)
        for target in targets:
            _many_connections(report, workload, target, seconds)


def _one_connection(report: Report, workload: str, target: Sendable, window: int, seconds: float) -> None:
    with Wire(target.server.port) as wire:
        place = target.place(wire)
        frames = Frames(wire.inbox, _requests(place), window)
        keep_in_flight(wire, frames, window, place.ok, count=RING)
        with _measured(report, workload, f"{window:,} in flight", target) as results:
            results.append(keep_in_flight(wire, frames, window, place.ok, seconds=seconds))


def _many_connections(report: Report, workload: str, target: Sendable, seconds: float) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(target.server.port)) for _ in range(_CONNECTIONS)]
        place = target.place(wires[0])
        frames = [Frames(wire.inbox, _requests(place), 1) for wire in wires]
        with _measured(report, workload, f"{_CONNECTIONS} connections x 1", target) as results:
            results.append(one_in_flight_each(wires, frames, place.ok, seconds=seconds))


def _requests(place: Place) -> list[tuple[str, bytes]]:
    return [(place.subject, payload) for payload in payloads(RING)]


@contextmanager
def _measured(report: Report, workload: str, case: str, target: Sendable) -> Iterator[list[Result]]:
    """Reports the one result that the block appends, with the processor time both sides took."""
    results: list[Result] = []
    server_cpu, client_cpu = target.server.cpu_seconds(), time.process_time()
    yield results
    client_cpu, name, result = time.process_time() - client_cpu, target.server.name, results[0]
    report.add(workload, case, "msg/s", name, result.rate)
    report.add(workload, case, "p50 us", name, result.microseconds(50))
    report.add(workload, case, "p99 us", name, result.microseconds(99))
    report.add_cpu(workload, case, target.server, server_cpu, result.replies)
    report.add(workload, case, "client cpu us", name, client_cpu / result.replies * 1e6)
