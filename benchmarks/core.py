"""Core publish and subscribe: 256 bytes, one publisher, one subscriber on another connection, a deep pipeline."""

import selectors
import time

from benchmarks.load import PAYLOAD, payloads
from benchmarks.report import Report
from benchmarks.targets import Target
from benchmarks.wire import CHUNK, Wire, WireError, pub

_SUBJECT = "benchmark.core"
_BLOCK = 256  # messages per write
_AHEAD = 16_384  # messages sent and not yet received, at most


def run(report: Report, targets: list[Target], *, rounds: int = 4, count: int = 300_000) -> None:
    for _ in range(rounds):
        for target in targets:
            with Wire(target.server.port) as publisher, Wire(target.server.port) as subscriber:
                subscriber.subscribe(_SUBJECT, 2)
                subscriber.flush()
                _pipeline(publisher, subscriber, _AHEAD)
                cpu = target.server.cpu_seconds()
                seconds = _pipeline(publisher, subscriber, count)
                report.add("core", "pub/sub", "msg/s", target.server.name, count / seconds)
                report.add_cpu("core", "pub/sub", target.server, cpu, count)


def _pipeline(publisher: Wire, subscriber: Wire, count: int) -> float:
    """Seconds from the first write until the last of `count` messages has arrived."""
    block = memoryview(b"".join(pub(_SUBJECT, payload) for payload in payloads(_BLOCK)))
    frame_bytes = len(b"MSG %b 2 %d\r\n\r\n" % (_SUBJECT.encode(), PAYLOAD)) + PAYLOAD
    blocks, rest = -(-count // _BLOCK), memoryview(b"")
    expected, received = blocks * _BLOCK * frame_bytes, 0
    buffer = bytearray(CHUNK)
    for wire in (publisher, subscriber):
        wire.sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(publisher.sock, selectors.EVENT_WRITE)
        selector.register(subscriber.sock, selectors.EVENT_READ)
        sending, sent, started = True, 0, time.perf_counter()
        while received < expected:
            ready = selector.select(20.0)
            if not ready:
                raise WireError(f"{received:,} of {expected:,} bytes arrived, then nothing for 20 s")
            for key, _ in ready:
                if key.fileobj is subscriber.sock:
                    if not (size := subscriber.sock.recv_into(buffer)):
                        raise WireError("the server closed the subscriber's connection")
                    received += size
                elif rest or sent < blocks:
                    rest = rest or block
                    written = publisher.sock.send(rest)
                    sent += written == len(rest)
                    rest = rest[written:]
            want = bool(rest) or (sent < blocks and sent * _BLOCK - received // frame_bytes < _AHEAD)
            if want != sending:
                sending = want
                if want:
                    selector.register(publisher.sock, selectors.EVENT_WRITE)
                else:
                    selector.unregister(publisher.sock)
        seconds = time.perf_counter() - started
    for wire in (publisher, subscriber):
        wire.sock.setblocking(True)
    # PINGs came in between if there is more than the messages; then as much of the last one is still to come.
    tail = bytes(buffer[max(0, size - 600) : size])
    while block[-PAYLOAD:].tobytes() not in tail:
        tail += subscriber.receive()
    if (received - expected) % len(b"PING\r\n"):
        raise WireError(f"{received:,} bytes arrived instead of {expected:,}")
    return seconds
