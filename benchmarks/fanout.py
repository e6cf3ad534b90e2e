"""Fan-out: one publisher, 256 bytes, to a hundred subscribers with connections of their own."""

from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.core import measure
from benchmarks.load import payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, pub

_SUBSCRIBERS = 100
_SUBJECTS = 16


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, count: int = 12_000) -> None:
    texts = payloads(32)
    cases = {
        "one subject": [pub("benchmark.0", text) for text in texts],
        f"{_SUBJECTS} subjects in turn": [pub(f"benchmark.{i % _SUBJECTS}", text) for i, text in enumerate(texts)],
    }
    for _ in range(rounds):
        for case, frames in cases.items():
            for target in targets:
                with ExitStack() as stack:
                    publisher = stack.enter_context(Wire(target.server.port))
                    subscribers = [stack.enter_context(Wire(target.server.port)) for _ in range(_SUBSCRIBERS)]
                    for wire in subscribers:
                        wire.subscribe("benchmark.*", 2)
                        wire.flush()
                    measure(report, "fanout", case, target, publisher, subscribers, frames, count)
