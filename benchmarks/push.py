"""From a stored send on one connection to its delivery on another that waits for it, one at a time."""

import time

from benchmarks.load import PAYLOAD_END, Result, payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, WireError, pub


def run(report: Report, targets: list[Target], *, rounds: int = 3, count: int = 2_000) -> None:
    for _ in range(rounds):
        for target in targets:
            with Wire(target.server.port) as sender, Wire(target.server.port) as reader:
                place = target.place(sender)
                target.push(reader, place)
                frames = [pub(place.subject, payload, f"{sender.inbox}.1") for payload in payloads(count + 100)]
                for frame in frames[:100]:
                    _one(sender, reader, frame)
                result = Result(latencies=[(_one(sender, reader, frame), 1) for frame in frames[100:]])
            name = target.server.name
            report.add("push", "send to delivery", "p50 us", name, result.microseconds(50))
            report.add("push", "send to delivery", "p99 us", name, result.microseconds(99))


def _one(sender: Wire, reader: Wire, frame: bytes) -> float:
    """Seconds from the send to the last byte of the delivery; the send's own reply is taken afterwards."""
    started = time.perf_counter()
    sender.sock.sendall(frame)
    data = reader.receive()
    while not data.endswith(PAYLOAD_END):
        data += reader.receive()
    seconds = time.perf_counter() - started
    if frame[-128:] != data[-128:]:
        raise WireError(f"another message was delivered than was sent: {data[-300:]!r}")
    if not sender.message().payload:
        raise WireError("the send was not answered with a success")
    return seconds
