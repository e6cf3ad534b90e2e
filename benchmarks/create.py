"""Creating mailboxes and streams: requests in flight at 64."""

from collections.abc import Sequence

from benchmarks.load import keep_in_flight
from benchmarks.report import Report
from benchmarks.sends import measured
from benchmarks.targets import Target, alternating

_WINDOW = 64


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, seconds: float = 0.8, most: int = 10**6) -> None:
    for turns in alternating(targets, rounds):
        for target in turns:
            with target.connect() as client:
                count = min(target.creations, most)
                frames = client.creations(count, _WINDOW)
                with measured(report, "create", f"{_WINDOW} in flight", target.server) as results:
                    results.append(keep_in_flight(client, frames, _WINDOW, seconds=seconds, count=count))
