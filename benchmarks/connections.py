"""Idle connections: the memory of the server for each, with one subscription."""

import resource
import socket
import time

from benchmarks.report import Report
from benchmarks.servers import ServerError
from benchmarks.targets import Target
from benchmarks.wire import CONNECT

CONNECTIONS = 10_000
_SPARE = 200


def allow_files() -> None:
    """Let this process, and the servers it starts, open as many files as it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + _SPARE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ServerError(f"connections needs {wanted:,} open files, this system allows {hard:,}: raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def run(report: Report, targets: list[Target], *, settle: float = 4.0) -> None:
    """Memory `settle` seconds after the last one came: by then each has been asked by PING and has answered."""
    for target in targets:
        name, before = target.server.name, target.server.resident_kib()
        started = time.perf_counter()
        sockets = [_idle(target.server.port, number) for number in range(CONNECTIONS)]
        report.add("connections", "opened", "conn/s", name, CONNECTIONS / (time.perf_counter() - started))
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
            report.add(
                "connections", f"{CONNECTIONS:,} idle", "MiB per 1,000", name, (after - before) / 1.024 / CONNECTIONS
            )
        for each in sockets:
            each.close()


def _idle(port: int, number: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(b"CONNECT %b\r\nSUB _INBOX.idle%d.* 1\r\nPING\r\n" % (CONNECT, number))
    said = b""
    while b"PONG\r\n" not in said:
        said += sock.recv(4096)
    return sock
