"""Core publish and subscribe: 256 bytes, one publisher, one subscriber on another connection, a deep pipeline."""

import random
import selectors
import time
from collections.abc import Sequence

from benchmarks.link import CHUNK, WireError
from benchmarks.load import payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import Wire, hpub, pub

_BLOCK = 256  # messages per write
_AHEAD = 64  # blocks sent and not yet received, at most
_SUBJECTS = 16
_TAIL = 400  # bytes at the end of what a subscriber gets that are looked at


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, count: int = 500_000) -> None:
    texts = payloads(_BLOCK)
    subjects = [f"benchmark.{i}" for i in range(_SUBJECTS)]
    cut = random.Random(2)
    cases = {
        "one subject": [pub("benchmark.0", text) for text in texts],
        "one subject, with a header": [hpub("benchmark.0", text) for text in texts],
        f"{_SUBJECTS} subjects in turn": [pub(subjects[i % _SUBJECTS], text) for i, text in enumerate(texts)],
        "128 to 256 bytes": [pub("benchmark.0", text[cut.randrange(129) :]) for text in texts],
    }
    for _ in range(rounds):
        for case, frames in cases.items():
            for target in targets:
                with Wire(target.server.port) as publisher, Wire(target.server.port) as subscriber:
                    subscriber.subscribe("benchmark.*", 2)
                    subscriber.flush()
                    measure(report, "core", case, target, publisher, [subscriber], frames, count)


def measure(
    report: Report,
    workload: str,
    case: str,
    target: Target,
    publisher: Wire,
    subscribers: Sequence[Wire],
    frames: list[bytes],
    count: int,
    x: float | None = None,
) -> None:
    """Publish `frames` (PUB or HPUB of subjects that each subscriber hears as sid 2) over and over, about `count` in
    all; report what arrived per second, and the processor time of both sides for each delivery."""
    block = b"".join(frames)
    # a delivery has `MSG` for `PUB` and the sid behind the subject
    size = len(block) + len(frames) * len(b" 2")
    blocks = max(1, count // len(frames))
    pipeline(publisher, subscribers, block, size, max(1, blocks // 20))
    server_cpu, client_cpu = target.server.cpu_seconds(), time.process_time()
    seconds = pipeline(publisher, subscribers, block, size, blocks)
    client_cpu = time.process_time() - client_cpu
    deliveries = blocks * len(frames) * len(subscribers)
    report.add(workload, case, "msg/s", target.name, deliveries / seconds, x)
    report.add_cpu(workload, case, target.server, server_cpu, deliveries, x)
    report.add_busy(workload, case, target.server, server_cpu, client_cpu, seconds, x)


def pipeline(publisher: Wire, subscribers: Sequence[Wire], block: bytes, size: int, blocks: int) -> float:
    """Seconds from the first write of `blocks` times `block` until each subscriber has got `size` bytes for each."""
    source, rest = memoryview(block), memoryview(b"")
    expected, slowest, sent = blocks * size, 0, 0
    received = dict.fromkeys(subscribers, 0)
    last = block[-_TAIL // 4 :]
    tails = dict.fromkeys(subscribers, b"")
    buffer = bytearray(CHUNK)
    waiting = set(subscribers)
    for wire in (publisher, *subscribers):
        wire.sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(publisher.sock, selectors.EVENT_WRITE)
        for wire in subscribers:
            selector.register(wire.sock, selectors.EVENT_READ, wire)
        sending, started = True, time.perf_counter()
        while waiting:
            ready = selector.select(20.0)
            if not ready:
                raise WireError(f"{slowest:,} of {expected:,} bytes arrived, then nothing for 20 s")
            for key, _ in ready:
                wire = key.data
                if wire is not None:
                    if not (got := wire.sock.recv_into(buffer)):
                        raise WireError("the server closed a subscriber's connection")
                    received[wire] += got
                    if received[wire] > expected - _TAIL:
                        tails[wire] += bytes(buffer[max(0, got - _TAIL) : got])
                        if received[wire] >= expected:
                            waiting.discard(wire)
                elif rest or sent < blocks:
                    rest = rest or source
                    written = publisher.sock.send(rest)
                    sent += written == len(rest)
                    rest = rest[written:]
            slowest = min(received.values())
            want = bool(rest) or (sent < blocks and sent - slowest // size < _AHEAD)
            if want != sending:
                sending = want
                if want:
                    selector.register(publisher.sock, selectors.EVENT_WRITE)
                else:
                    selector.unregister(publisher.sock)
        seconds = time.perf_counter() - started
    for wire in (publisher, *subscribers):
        wire.sock.setblocking(True)
    for wire in subscribers:
        # PINGs came in between if there is more than the messages; then as much of the last one is still to come
        while last not in tails[wire]:
            data = wire.receive()
            received[wire] += len(data)
            tails[wire] += data
        if (received[wire] - expected) % len(b"PING\r\n"):
            raise WireError(f"{received[wire]:,} bytes arrived instead of {expected:,}")
    return seconds
