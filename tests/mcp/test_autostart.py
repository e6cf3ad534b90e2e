"""Finding a broker, and starting one: alone, ten at a time, after crashes, and when it cannot be."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.harness import Broker, Wire, eventually
from mq9_mcp import autostart, endpoint
from mq9_mcp.client import AsyncMailbox
from mq9_mcp.connection import Connection
from mq9_mcp.endpoint import Endpoint
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.sync import Mailbox

FIND_OR_START = "from mq9_mcp import autostart; print(autostart.find_or_start())"


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def brokers_of(directory: Path) -> list[int]:
    """The processes that were started as brokers of this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mq9_broker" in command and str(directory).encode() in command and running(int(entry.name)):
                found.append(int(entry.name))
    return found


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory for brokers that start by themselves, which are ended with the test."""
    chosen = tmp_path / "data"
    monkeypatch.setenv("MQ9_DATA_DIR", str(chosen))
    monkeypatch.delenv("MQ9_URL", raising=False)
    monkeypatch.setenv("MQ9_IDLE_EXIT", "60")
    yield chosen
    for pid in brokers_of(chosen):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not brokers_of(chosen), within=5)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """The folder as a broker that runs holds it."""
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def listener(greeting: bytes) -> Iterator[int]:
    """Something that listens and says `greeting`; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                connection.sendall(greeting)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in kept:
            connection.close()


def starts(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Makes `code` run in place of the broker."""
    monkeypatch.setattr(autostart, "_command", lambda directory: [sys.executable, "-c", code, str(directory)])


def test_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MQ9_DATA_DIR", str(tmp_path))
    assert autostart.data_dir() == tmp_path
    monkeypatch.setenv("MQ9_DATA_DIR", "~/x")
    assert autostart.data_dir() == Path.home() / "x"
    monkeypatch.delenv("MQ9_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert autostart.data_dir() == tmp_path / "mq9"


def test_looking_imports_nothing_heavy() -> None:
    code = (
        "import sys, mq9_mcp.autostart; print([m for m in ('nats', 'asyncio', 'pydantic', 'rich') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_finding_the_running_broker(broker: Broker) -> None:
    assert autostart.find(broker.data_dir) == broker.url
    assert Endpoint.at(broker.url).version()
    broker.stop()
    assert autostart.find(broker.data_dir) is None


@pytest.mark.parametrize("content", ["", "x", "99999999", "-1", "\n", "nats://127.0.0.1:4222", "\x00", "1"])
def test_a_port_file_that_is_none(directory: Path, content: str) -> None:
    with held(directory):
        (directory / "port").write_text(content)
        assert autostart.find(directory) is None


def test_no_folder(directory: Path) -> None:
    assert autostart.find(directory) is None
    assert not directory.exists()


@pytest.mark.parametrize(
    "greeting", [b'INFO {"server_id":"x"}\r\n', b"SSH-2.0-x\r\n", b"INFO nonsense\r\n", b"INFO []\r\n"]
)
def test_a_port_that_somebody_else_has_now(directory: Path, greeting: bytes) -> None:
    with held(directory), listener(greeting) as port:
        (directory / "port").write_text(f"{port}\n")
        assert autostart.find(directory) is None


def test_a_port_that_another_broker_has_now(directory: Path, server: Broker) -> None:
    directory.mkdir()
    (directory / "port").write_text(f"{server.port}\n")
    assert autostart.find(directory) is None
    (directory / "lock").touch()
    assert autostart.find(directory) is None
    with held(directory):
        assert autostart.find(directory) == server.url


def test_those_who_look_do_not_take_each_other_for_a_broker(directory: Path) -> None:
    directory.mkdir()
    (directory / "lock").touch()
    with (directory / "lock").open("r+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not autostart._held(directory / "lock")
    with held(directory):
        assert autostart._held(directory / "lock")


def test_a_port_whose_owner_says_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "INFO_WITHIN", 0.1)
    with held(directory), listener(b"") as port:
        (directory / "port").write_text(f"{port}\n")
        assert autostart.find(directory) is None


def test_a_port_file_with_a_host(directory: Path) -> None:
    with held(directory), listener(b'INFO {"mq9":"0.1.0"}\r\n') as port:
        (directory / "port").write_text(f"localhost:{port}\n")
        assert autostart.find(directory) == f"nats://localhost:{port}"


def test_starting_one(directory: Path) -> None:
    url = autostart.find_or_start()
    assert autostart.find_or_start() == url
    (pid,) = brokers_of(directory)
    assert os.getsid(pid) == pid != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == str(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("broker.log", "start.lock"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_it_outlives_who_started_it(directory: Path) -> None:
    started = subprocess.run([sys.executable, "-c", FIND_OR_START], capture_output=True, text=True, check=True, cwd="/")
    assert autostart.find(directory) == started.stdout.strip()
    assert started.stderr == ""
    (pid,) = brokers_of(directory)
    assert os.getppid() != pid
    assert running(pid)


def test_ten_processes_start_one_broker(directory: Path) -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", FIND_OR_START], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(10)
    ]
    said = [program.communicate(timeout=60) for program in programs]
    assert [program.returncode for program in programs] == [0] * 10, said
    assert {out.strip() for out, _ in said} == {autostart.find(directory)}
    assert len(brokers_of(directory)) == 1
    assert (directory / "broker.log").read_text().count("listening on") == 1


def test_ten_threads_start_one_broker(directory: Path) -> None:
    with ThreadPoolExecutor(10) as pool:
        urls = {future.result() for future in [pool.submit(autostart.find_or_start) for _ in range(10)]}
    assert urls == {autostart.find(directory)}
    assert len(brokers_of(directory)) == 1


def test_a_killed_broker_is_replaced(directory: Path) -> None:
    url = autostart.find_or_start()
    (pid,) = brokers_of(directory)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not running(pid), within=5)
    assert (directory / "port").exists()
    again = autostart.find_or_start()
    assert autostart.find() == again
    assert brokers_of(directory) != [pid]
    assert url.startswith("nats://127.0.0.1:")
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), within=5), "a zombie stayed"


def test_a_broker_that_somebody_is_starting_at_this_moment(directory: Path) -> None:
    by_hand = Broker(directory)
    process = by_hand.spawn()
    try:
        url = autostart.find_or_start()
        assert autostart.find(directory) == url
        assert eventually(lambda: len(brokers_of(directory)) == 1, within=5)
        if process.poll() is not None:
            assert process.returncode == 3
    finally:
        by_hand.kill()


def test_it_goes_away_when_nobody_uses_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_IDLE_EXIT", "1")
    autostart.find_or_start()
    assert eventually(lambda: not brokers_of(directory), within=10)
    assert autostart.find(directory) is None
    assert not (directory / "port").exists()


def test_a_taken_port_does_not_matter(directory: Path, tmp_path: Path) -> None:
    urls = {autostart.find_or_start(), autostart.find_or_start(tmp_path / "other")}
    try:
        assert len(urls) == 2
    finally:
        for pid in brokers_of(tmp_path / "other"):
            os.kill(pid, signal.SIGKILL)


def test_a_broker_that_fails(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts(monkeypatch, "import sys; print('one', flush=True); sys.exit('it is broken: mend it')")
    begun = time.monotonic()
    with pytest.raises(
        BrokerUnavailable, match=r"ended with code 1: .*it is broken: mend it \(all of it in .*broker.log\)"
    ):
        autostart.find_or_start()
    assert time.monotonic() - begun < 5
    with pytest.raises(BrokerUnavailable) as caught:
        autostart.find_or_start()
    assert str(caught.value).count("it is broken") == 1, "what an earlier start said is not what this one said"
    assert "\n" not in str(caught.value)


def test_a_broker_that_never_answers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "START_WITHIN", 0.3)
    starts(monkeypatch, "import time; time.sleep(2)")
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        autostart.find_or_start()


def test_a_folder_in_use_that_nobody_serves(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "START_WITHIN", 0.3)
    starts(monkeypatch, "import sys; print('the folder is in use', flush=True); sys.exit(3)")
    with pytest.raises(BrokerUnavailable, match="the folder is in use"):
        autostart.find_or_start()


def test_a_starter_that_was_killed_leaves_no_lock(directory: Path) -> None:
    directory.mkdir()
    code = (
        "import os, sys, time; from pathlib import Path; from mq9_mcp import autostart\n"
        "with autostart._start_lock(Path(sys.argv[1]), time.monotonic() + 5) as locked:\n"
        "    print(locked, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(directory / "start.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "True\n"
        with autostart._start_lock(directory / "start.lock", time.monotonic()) as locked:
            assert not locked
        starter.kill()
    assert autostart.find_or_start()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerUnavailable, match=r"none can be started in .*MQ9_DATA_DIR"):
        autostart.find_or_start(tmp_path / "file" / "data")


@pytest.mark.parametrize("value", ["soon", "-1", "1.5"])
def test_an_idle_time_that_is_none(directory: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MQ9_IDLE_EXIT", value)
    with pytest.raises(BrokerUnavailable, match="MQ9_IDLE_EXIT"):
        autostart.find_or_start()


def test_a_long_log_is_begun_anew(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autostart, "LOG_LIMIT", 100)
    directory.mkdir()
    (directory / "broker.log").write_text("x" * 101)
    starts(monkeypatch, "import sys; sys.exit('new')")
    with pytest.raises(BrokerUnavailable, match="new"):
        autostart.find_or_start()
    assert (directory / "broker.log").read_text() == "new\n"


@pytest.mark.anyio
@pytest.mark.parametrize("port_is_free", [True, False])
async def test_a_client_finds_its_broker_again(directory: Path, port_is_free: bool) -> None:
    async with await AsyncMailbox.connect() as client:
        made = await client.create()
        await client.send(made.send_only, "kept")
        for pid in brokers_of(directory):
            os.kill(pid, signal.SIGKILL)
        port = int(client.url.rpartition(":")[2])
        taken = None if port_is_free else await asyncio.to_thread(take_port, port)
        try:
            got = await client.fetch(made.mail_id, wait=1)
        finally:
            if taken is not None:
                taken.close()
        assert [message.text for message in got.messages] == ["kept"]
        assert len(brokers_of(directory)) == 1


def test_a_worker_goes_on_with_the_broker_that_follows(directory: Path) -> None:
    """The connection that it reads over finds it as the one does that sends."""
    done: list[str] = []
    with Mailbox() as client:
        box = client.create()
        with client.receive(box, lambda message: done.append(message.text), resume="workers"):
            client.send(box, "before")
            assert eventually(lambda: done == ["before"], within=10)
            for pid in brokers_of(directory):
                os.kill(pid, signal.SIGKILL)
            client.send(box, "after")
            assert eventually(lambda: "after" in done, within=20)
            assert len(brokers_of(directory)) == 1


@pytest.mark.anyio
async def test_another_broker_on_the_old_port_sees_nothing(directory: Path, tmp_path: Path) -> None:
    seen = b""

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        writer.write(b'INFO {"mq9":"0.1.0","headers":true,"max_payload":1048576}\r\n')
        while line := await reader.readline():
            seen += line
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await AsyncMailbox.connect() as client:
        made = await client.create()
        await client.send(made.send_only, "1")
        messages = client.messages(made.mail_id)
        assert (await anext(messages)).text == "1"
        coming = asyncio.create_task(anext(messages))
        port = int(client.url.rpartition(":")[2])
        for pid in brokers_of(directory):
            os.kill(pid, signal.SIGKILL)
        async with await asyncio.start_server(pretend, sock=await asyncio.to_thread(take_port, port)):
            await client.send(made.send_only, "2")
            async with asyncio.timeout(10):
                assert (await coming).text == "2"
            assert int(client.url.rpartition(":")[2]) != port
        await messages.aclose()
    assert made.mail_id.encode() not in seen
    assert made.send_only.encode() not in seen


@pytest.mark.anyio
async def test_a_broker_that_went_away_while_we_came(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Connection(broker.url, home=broker.data_dir, name="test")
    await link.open()
    located, asked = autostart.located, []

    def gone_when_asked_again(home: Path) -> str | None:
        asked.append(home)
        return None if len(asked) == 2 else located(home)

    monkeypatch.setattr(autostart, "located", gone_when_asked_again)
    await link.nats.force_reconnect()
    assert (await link.request("$mq9.AI.MAILBOX.CREATE", b"{}"))["error"] == ""
    assert link.nats.stats["reconnects"] == 2
    await link.close()


def take_port(port: int) -> socket.socket:
    """Takes a port as soon as its owner is gone."""

    def bind() -> socket.socket | None:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            return None

    taken = eventually(bind, within=5)
    assert isinstance(taken, socket.socket)
    return taken


@pytest.mark.anyio
async def test_a_live_reader_brings_its_broker_back(directory: Path) -> None:
    async with await AsyncMailbox.connect() as client, await AsyncMailbox.connect() as other:
        made = await client.create()
        await client.send(made.send_only, "1")
        messages = client.messages(made.mail_id)
        assert (await anext(messages)).text == "1"
        coming = asyncio.create_task(anext(messages))
        for pid in brokers_of(directory):
            os.kill(pid, signal.SIGKILL)
        await other.send(made.send_only, "2")
        async with asyncio.timeout(10):
            assert (await coming).text == "2"
        await messages.aclose()


@pytest.mark.anyio
async def test_without_autostart_nothing_is_started(directory: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no broker is running in .* `mq9 broker`"):
        await AsyncMailbox.connect(autostart=False)
    assert not directory.exists()


def test_the_info_says_mq9(broker: Broker, wire: Callable[..., Wire]) -> None:
    assert wire(broker).info["mq9"] == Endpoint.at(broker.url).version()
    json.dumps(wire(broker).info)


def test_a_broker_that_is_ending_at_this_moment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = Broker(directory).start()
    os.kill(by_hand.pid, signal.SIGSTOP)  # holds its folder, answers nobody
    monkeypatch.setattr(endpoint, "INFO_WITHIN", 0.1)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(autostart.find_or_start)
        log = directory / "broker.log"
        assert eventually(lambda: log.exists() and log.stat().st_size, within=5)
        by_hand.kill()
        url = starting.result(10)
    assert autostart.find(directory) == url != by_hand.url
