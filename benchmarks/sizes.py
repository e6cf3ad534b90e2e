"""Stored sends of messages of 0 bytes to 1 MiB, a few in flight."""

from collections.abc import Sequence

from benchmarks.load import keep_in_flight, payloads
from benchmarks.report import Report
from benchmarks.sends import measured
from benchmarks.targets import Target, alternating

CASE = "8 in flight"
_WINDOW = 8
_SIZES = (0, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
_PREPARED = 1 << 24  # bytes of different messages
_WRITTEN = 1 << 26  # bytes at most at a time: not more than what a disk takes while nobody waits for it


def run(
    report: Report, targets: Sequence[Target], *, rounds: int = 5, seconds: float = 0.4, sizes: Sequence[int] = _SIZES
) -> None:
    for turns in alternating(targets, rounds):
        for size in sizes:
            texts = payloads(max(_WINDOW, min(256, _PREPARED // (size or 1))), 1, size)
            for target in turns:
                with target.connect() as client:
                    frames = client.sends([client.place()], texts, _WINDOW)
                    keep_in_flight(client, frames, _WINDOW, count=_WINDOW)
                    with measured(report, "sizes", CASE, target.server, size) as results:
                        most = max(_WINDOW, _WRITTEN // (size or 1))
                        results.append(keep_in_flight(client, frames, _WINDOW, seconds=seconds, count=most))
                report.add("sizes", CASE, "MB/s", target.name, results[0].rate * size / 1e6, size)
