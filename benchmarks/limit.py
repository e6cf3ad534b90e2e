"""What the load generator can do at most: the loads of `sends` against a process that only counts and answers."""

from benchmarks import sends
from benchmarks.report import Report
from benchmarks.sink import sink


def run(report: Report, *, rounds: int = 2, seconds: float = 0.5) -> None:
    with sink(sends.RING) as target:
        sends.run(report, [target], workload="limit", rounds=rounds, seconds=seconds)
