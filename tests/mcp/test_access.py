"""Clients of brokers that ask who they are: the library, the command line, the MCP server, and autostart."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import certificates
import pytest
from agents import MakeServer, refused
from certificates import Certificates
from mcp import Client

from e2e.harness import Broker, eventually
from mq9_mcp import autostart
from mq9_mcp.client import AsyncMailbox
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.sync import Mailbox

pytestmark = pytest.mark.anyio

# the pair of the NATS documentation
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
USERS = f"""
[[users]]
user = "alice"
password = "hunter2"
[[users]]
nkey = "{NKEY}"
"""
VARIABLES = [
    *("MQ9_URL", "MQ9_TOKEN", "MQ9_NKEY_SEED_FILE", "MQ9_TLS_CA", "MQ9_TLS_CERT", "MQ9_TLS_KEY", "MQ9_MAILBOX"),
    *("MQ9_DATA_DIR", "MQ9_IDLE_EXIT"),
]
MQ9 = [sys.executable, "-c", "import sys; from mq9_mcp.cli import main; sys.exit(main())"]

Start = Callable[..., Broker]


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of our variables, whoever runs the tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a broker: `start(USERS, "--ws-port", "0", token="t")`."""
    started: list[Broker] = []

    def start_one(settings: str = "", *flags: str, token: str = "") -> Broker:
        file = tmp_path / "mq9.toml"
        file.touch(0o600)
        file.write_text(settings)
        broker = Broker(tmp_path / "data", "--config", str(file), *flags, store="memory")
        broker.environ = {"MQ9_TOKEN": token} if token else {}
        started.append(broker)
        return broker.start()

    yield start_one
    for broker in started:
        broker.kill()


async def works() -> str:
    """Sends and fetches by the environment; the URL that is shown."""
    async with await AsyncMailbox.connect(autostart=False) as client:
        made = await client.create()
        await client.send(made.send_only, "hello")
        with Mailbox(autostart=False) as same:  # another kind of event loop
            assert [message.text for message in same.fetch(made.mail_id)] == ["hello"]
            assert same.url == client.url
        return client.url


async def fails() -> str:
    """What a client is told that is not let in, at once and without a secret."""
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable) as told:
        await AsyncMailbox.connect(autostart=False)
    assert time.monotonic() - begun < 5, "as soon as it is known, not after many tries"
    assert "hunter2" not in str(told.value)
    return str(told.value)


async def test_a_user(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(USERS)
    environ.setenv("MQ9_URL", f"nats://alice:hunter2@127.0.0.1:{broker.port}")
    assert await works() == broker.url
    environ.setenv("MQ9_URL", f"nats://alice:hunter2x@127.0.0.1:{broker.port}")
    assert await fails() == (
        f"the broker at {broker.url} does not accept the password of user 'alice': correct MQ9_URL"
    )
    environ.setenv("MQ9_URL", broker.url)
    assert await fails() == (
        f"the broker at {broker.url} wants credentials: set MQ9_TOKEN, or put user:password into MQ9_URL, like "
        f"nats://user:password@host:4222"
    )


async def test_a_token(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(token="hunter2")
    environ.setenv("MQ9_URL", broker.url)
    environ.setenv("MQ9_TOKEN", "hunter2")
    assert await works() == broker.url
    environ.setenv("MQ9_TOKEN", "hunter2x")
    assert "does not accept the token: correct MQ9_TOKEN" in await fails()


async def test_an_nkey(start: Start, environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broker = start(USERS)
    environ.setenv("MQ9_URL", broker.url)
    environ.setenv("MQ9_NKEY_SEED_FILE", str(tmp_path / "seed"))
    assert "can't be read (No such file or directory): correct MQ9_NKEY_SEED_FILE" in await fails()
    (tmp_path / "seed").write_text(SEED)
    assert await works() == broker.url


async def test_a_unix_socket(start: Start, environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mq9.sock"
    start(USERS, "--socket", str(path))
    environ.setenv("MQ9_URL", f"unix://alice:hunter2@{path}")
    assert await works() == f"unix://{path}"
    environ.setenv("MQ9_URL", f"unix://{path}")
    assert f"the broker at unix://{path} wants credentials" in await fails()


async def test_a_websocket(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(USERS, "--ws-port", "0")
    assert broker.process.stdout is not None
    url = broker.process.stdout.readline().decode().split()[-1]
    environ.setenv("MQ9_URL", url.replace("://", "://alice:hunter2@"))
    assert await works() == url
    environ.setenv("MQ9_URL", url)
    assert f"the broker at {url} wants credentials" in await fails()


@pytest.mark.parametrize("handshake", ["after", "first", "auto"])
async def test_tls(start: Start, environ: pytest.MonkeyPatch, pem: Certificates, handshake: str) -> None:
    flags = ("--tls-cert", str(pem.server), "--tls-key", str(pem.server_key), "--tls-handshake", handshake)
    broker = start(USERS, *flags)
    url = f"tls://127.0.0.1:{broker.port}"
    environ.setenv("MQ9_URL", url.replace("://", "://alice:hunter2@"))
    assert f"the certificate of the broker at {url} is not trusted" in await fails()
    environ.setenv("MQ9_TLS_CA", str(pem.ca))
    assert await works() == url
    environ.setenv("MQ9_URL", url)
    assert f"the broker at {url} wants credentials" in await fails()


@pytest.mark.parametrize("handshake", ["after", "first"])
async def test_the_broker_of_a_folder_may_ask_for_tls(
    start: Start, environ: pytest.MonkeyPatch, pem: Certificates, handshake: str
) -> None:
    flags = ("--tls-cert", str(pem.server), "--tls-key", str(pem.server_key), "--tls-handshake", handshake)
    broker = start("", *flags)
    environ.setenv("MQ9_DATA_DIR", str(broker.data_dir))
    environ.setenv("MQ9_TLS_CA", str(pem.ca))
    assert await works() == f"tls://127.0.0.1:{broker.port}"


async def test_tls_is_not_given_up(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(USERS)
    environ.setenv("MQ9_URL", f"tls://alice:hunter2@127.0.0.1:{broker.port}")
    assert f"the broker at tls://127.0.0.1:{broker.port} does not offer TLS" in await fails()


@pytest.mark.parametrize("handshake", ["after", "first"])
async def test_a_certificate_of_one_s_own(
    start: Start, environ: pytest.MonkeyPatch, pem: Certificates, handshake: str
) -> None:
    flags = ("--tls-cert", str(pem.server), "--tls-key", str(pem.server_key), "--tls-ca", str(pem.ca), "--tls-verify")
    broker = start("", *flags, "--tls-handshake", handshake, "--ws-port", "0")
    assert broker.process.stdout is not None
    urls = [f"tls://127.0.0.1:{broker.port}", broker.process.stdout.readline().decode().split()[-1]]
    environ.setenv("MQ9_TLS_CA", str(pem.ca))
    for url in urls:
        environ.setenv("MQ9_URL", url)
        assert "client's certificate, set MQ9_TLS_CERT and MQ9_TLS_KEY" in (await fails()).replace(": set", ", set")
    environ.setenv("MQ9_TLS_CERT", str(pem.client))
    environ.setenv("MQ9_TLS_KEY", str(pem.client_key))
    for url in urls:
        environ.setenv("MQ9_URL", url)
        assert await works() == url


def mq9(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MQ9, *arguments], env=dict(os.environ) | environ, capture_output=True, text=True, timeout=30
    )


def test_the_command_line(start: Start) -> None:
    broker = start(USERS)
    secret = f"nats://alice:hunter2@127.0.0.1:{broker.port}"
    done = mq9("create", MQ9_URL=secret)
    assert (done.returncode, done.stdout[:2]) == (0, "m-")
    done = mq9("status", MQ9_URL=secret)
    assert done.returncode == 0
    assert f"broker    {broker.url}  mq9 " in done.stdout
    for url, text in (
        (broker.url, "wants credentials: set MQ9_TOKEN"),
        (secret.replace("alice", "hunter"), "does not accept the password of user 'hunter'"),
        (secret.replace("nats", "tls"), "does not offer TLS"),
        (secret.replace("@", "/@"), "is no broker address"),
    ):
        done = mq9("status", "--json", MQ9_URL=url)
        assert text in json.loads(done.stdout)["problem"]
        assert "hunter2" not in done.stdout + done.stderr
        done = mq9("create", MQ9_URL=url)
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
        assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("program", [MQ9, [sys.executable, "-m", "mq9_mcp"]])
def test_a_password_is_not_taken_from_a_command(program: list[str]) -> None:
    command = [*program, "--url", "nats://alice:hunter2@127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == 2
    assert "the URL of nats://127.0.0.1:1 holds credentials, which everybody on this machine can see" in done.stderr
    assert "set MQ9_URL to it instead" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


async def test_an_agent(start: Start, make: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
    broker = start(USERS)
    with caplog.at_level(logging.DEBUG):
        async with Client(make(url=f"nats://alice:hunter2@127.0.0.1:{broker.port}")) as client:
            assert not (await client.call_tool("create_mailbox", {})).is_error
        async with Client(make(url=f"nats://alice:hunter2x@127.0.0.1:{broker.port}")) as client:
            told = await refused(client, "create_mailbox")
    assert f"the broker at {broker.url} does not accept the password of user 'alice': correct MQ9_URL" in told
    assert "hunter2" not in told + caplog.text


async def test_who_is_sent_away_is_told_and_may_come_back(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(USERS)
    file = Path(broker.command[broker.command.index("--config") + 1])
    environ.setenv("MQ9_URL", f"nats://alice:hunter2@127.0.0.1:{broker.port}")

    def users(text: str) -> None:
        before = broker.log.count(b"are reloaded")
        file.write_text(text)
        os.kill(broker.pid, signal.SIGHUP)
        assert eventually(lambda: broker.log.count(b"are reloaded") > before, within=5)

    async with await AsyncMailbox.connect() as client:
        made = await client.create()
        users(USERS.replace("hunter2", "other"))
        with anyio.fail_after(5):
            while client.nats.is_connected:
                await anyio.sleep(0.01)
        with pytest.raises(BrokerUnavailable, match="does not accept the password of user 'alice'"):
            await client.send(made.send_only, "lost")
        users(USERS)
        await client.send(made.send_only, "back")
        assert "back" in [message.text for message in (await client.fetch(made.mail_id)).messages]


async def test_a_broker_that_comes_back_with_other_users(start: Start, environ: pytest.MonkeyPatch) -> None:
    broker = start(USERS)
    environ.setenv("MQ9_URL", f"nats://alice:hunter2@127.0.0.1:{broker.port}")
    async with await AsyncMailbox.connect() as client:
        file = Path(broker.command[broker.command.index("--config") + 1])
        file.write_text(USERS.replace("hunter2", "other"))
        broker.command[broker.command.index("--port") + 1] = str(broker.port)
        broker.restart()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="does not accept the password of user 'alice'"):
            await client.create()
        assert time.monotonic() - begun < 5
        file.write_text(USERS)
        os.kill(broker.pid, signal.SIGHUP)
        assert await eventually_async(client)


async def eventually_async(client: AsyncMailbox) -> bool:
    """Whether the client finds its way back by itself."""
    with anyio.fail_after(10):
        while True:
            try:
                return bool((await client.create()).mail_id)
            except BrokerUnavailable:
                await anyio.sleep(0.1)


async def test_a_broker_that_starts_by_itself_asks_for_the_token(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ.setenv("MQ9_DATA_DIR", str(tmp_path / "data"))
    environ.setenv("MQ9_IDLE_EXIT", "60")
    environ.setenv("MQ9_TOKEN", "hunter2")
    pid = 0
    try:
        async with await AsyncMailbox.connect() as client:
            pid = broker_of(tmp_path / "data")
            made = await client.create()
            assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            environ.delenv("MQ9_TOKEN")
            assert f"the broker at {client.url} wants credentials: set MQ9_TOKEN" in await fails()
            assert autostart.find(tmp_path / "data") == client.url
            environ.setenv("MQ9_TOKEN", "hunter2")
            os.kill(pid, signal.SIGKILL)
            assert (await client.query(made.mail_id)).messages == []
            pid = broker_of(tmp_path / "data")
        assert b"hunter2" not in (tmp_path / "data" / "broker.log").read_bytes()
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)


def broker_of(directory: Path) -> int:
    """The process that was started as the broker of this folder."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"mq9_broker" in command and str(directory).encode() in command:
            return int(entry.name)
    raise AssertionError("there is none")
