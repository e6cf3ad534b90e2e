"""From a send on one connection to its delivery on another that waits for it, one at a time."""

import time
from collections.abc import Callable, Sequence

from benchmarks.link import WireError
from benchmarks.load import PAYLOAD_END, Frames, Result, payloads
from benchmarks.report import Report
from benchmarks.targets import Client, Reader, Target

_CASE = "send to delivery"
_WARM = 100


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, count: int = 2_000) -> None:
    for _ in range(rounds):
        for target in targets:
            with target.connect() as sender, target.connect() as receiver:
                place = sender.place()
                reader = receiver.reader(place)
                reader.ready()
                frames = sender.sends([place], payloads(_WARM + count), 1)
                answered = frames.answers().take if target.answers else None
                times = [(one(sender, answered, reader, frames, i), 1) for i in range(frames.count)]
            result = Result(latencies=times[_WARM:])
            report.add("push", _CASE, "p50 us", target.name, result.microseconds(50))
            report.add("push", _CASE, "p99 us", target.name, result.microseconds(99))


def one(sender: Client, answered: Callable[[bytes], int] | None, reader: Reader, frames: Frames, number: int) -> float:
    """Seconds from the send to the last byte of the delivery; the send's own reply is taken afterwards."""
    frame = frames.slice(number, 1)
    reader.ask()
    started = time.perf_counter()
    sender.sock.sendall(frame)
    data = reader.receive()
    while not data.endswith(PAYLOAD_END):
        data += reader.receive()
    seconds = time.perf_counter() - started
    if frame[-128:] != data[-128:]:
        raise WireError(f"another message was delivered than was sent: {data[-300:]!r}")
    while answered is not None and not answered(sender.receive()):
        pass
    return seconds
