"""Connections: what the server does for many that send one message at a time, and its memory for each."""

import resource
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.load import one_in_flight_each, payloads
from benchmarks.report import Report
from benchmarks.sends import measured
from benchmarks.servers import ServerError
from benchmarks.targets import Target
from benchmarks.wire import CONNECT

CASE = "one send in flight each"
_IDLE = 10_000
_SPARE = 200
_COUNTS = (1, 10, 100, 1000, 5000)
_RING = 4  # (every connection has frames of its own)


def allow_files(connections: int = _IDLE) -> None:
    """Let this process, and the servers it starts, open as many files as it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ServerError(f"{wanted:,} open files are needed, this system allows {hard:,}: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def run(
    report: Report,
    targets: Sequence[Target],
    *,
    rounds: int = 2,
    counts: Sequence[int] = _COUNTS,
    seconds: float = 1.0,
) -> None:
    for _ in range(rounds):
        for count in counts:
            for target in targets:
                with ExitStack() as stack:
                    clients = [stack.enter_context(target.connect()) for _ in range(count)]
                    place = clients[0].place()
                    frames = [client.sends([place], payloads(_RING), 1) for client in clients]
                    with measured(report, "connections", CASE, target.server, count) as results:
                        results.append(one_in_flight_each(clients, frames, seconds=seconds))


def idle(report: Report, targets: Sequence[Target], *, count: int = _IDLE, settle: float = 4.0) -> None:
    """Connections of NATS clients with one subscription: memory `settle` seconds after the last one came; by then each
    has been asked by PING and has answered."""
    for target in targets:
        before = target.server.resident_kib()
        started = time.perf_counter()
        sockets = [_idle(target.server.port, number) for number in range(count)]
        report.add("idle", "opened", "conn/s", target.name, count / (time.perf_counter() - started))
        until = time.monotonic() + settle
        while time.monotonic() < until:
            for each in sockets:
                each.setblocking(False)
                try:
                    if b"PING" in each.recv(4096):
                        each.send(b"PONG\r\n")
                except BlockingIOError:
                    pass
        after = target.server.resident_kib()
        if before is not None and after is not None:
            report.add("idle", f"{count:,} connections", "KiB each", target.name, (after - before) / count)
        for each in sockets:
            each.close()


def _idle(port: int, number: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b"CONNECT %b\r\nSUB _INBOX.idle%d.* 1\r\nPING\r\n" % (CONNECT, number))
    said = b""
    while b"PONG\r\n" not in said:
        said += sock.recv(4096)
    return sock
