"""Stored sends: 256 bytes, each answered after it was stored, at several depths."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.limit import RawStore
from benchmarks.load import Result, keep_in_flight, one_in_flight_each, payloads
from benchmarks.report import Report
from benchmarks.servers import Server
from benchmarks.targets import Target, alternating

RING = 1024
_CONNECTIONS = 64


def run(
    report: Report,
    targets: Sequence[Target],
    raw: RawStore | None = None,
    *,
    workload: str = "sends",
    windows: Sequence[int] = (1, 64, 1000),
    rounds: int = 5,
    seconds: float = 0.5,
) -> None:
    """`workload` is the name under which the figures are reported; `raw` is the limit line without a socket.

    `raw`, which has the most to write out afterwards, and in the load generator's process, comes when they are done.
    """
    cases = [(window, f"{window:,} in flight") for window in windows]
    for turns in alternating(targets, rounds):
        for window, case in cases:
            for target in turns:
                _one_connection(report, workload, case, target, window, seconds)
        for target in turns:
            _many_connections(report, workload, target, seconds)
    if raw is not None:
        for _ in range(rounds):
            for window, case in cases:
                report.add(workload, case, "msg/s", raw.name, raw.writes(window, seconds))


def _one_connection(report: Report, workload: str, case: str, target: Target, window: int, seconds: float) -> None:
    with target.connect() as client:
        frames = client.sends([client.place()], payloads(RING), window)
        keep_in_flight(client, frames, window, count=RING)
        with measured(report, workload, case, target.server) as results:
            results.append(keep_in_flight(client, frames, window, seconds=seconds))


def _many_connections(report: Report, workload: str, target: Target, seconds: float) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(_CONNECTIONS)]
        place = clients[0].place()
        frames = [client.sends([place], payloads(RING), 1) for client in clients]
        with measured(report, workload, f"{_CONNECTIONS} connections x 1", target.server) as results:
            results.append(one_in_flight_each(clients, frames, seconds=seconds))


@contextmanager
def measured(
    report: Report, workload: str, case: str, server: Server, x: float | None = None
) -> Iterator[list[Result]]:
    """Reports the one result that the block appends, and how busy both sides were."""
    results: list[Result] = []
    server_cpu, client_cpu = server.cpu_seconds(), time.process_time()
    yield results
    client_cpu, result = time.process_time() - client_cpu, results[0]
    report.add(workload, case, "msg/s", server.name, result.rate, x)
    report.add(workload, case, "p50 us", server.name, result.microseconds(50), x)
    report.add(workload, case, "p99 us", server.name, result.microseconds(99), x)
    report.add_cpu(workload, case, server, server_cpu, result.replies, x)
    report.add_busy(workload, case, server, server_cpu, client_cpu, result.seconds, x)
