"""The server as a coding agent runs it: a process of its own on stdio, found or started broker included."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from agents import bodies, call, own_address
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.subscriptions import ResourceUpdated
from mcp.types import TextResourceContents
from test_autostart import brokers_of

from e2e.harness import Broker, eventually
from mq9_mcp import autostart
from mq9_mcp.resources import OWN

pytestmark = pytest.mark.anyio

COMMAND = [sys.executable, "-m", "mq9_mcp"]
Open = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """What the servers write to stderr, which is nothing."""
    path = tmp_path / "server.log"
    path.touch()
    yield path
    assert path.read_text() == ""


@pytest.fixture
def agent(era: str, log: Path, tmp_path: Path) -> Open:
    """Opens a session in a new process: `async with agent(session="alice", url=broker.url) as alice`."""

    @asynccontextmanager
    async def open_session(*, session: str = "", url: str = "") -> AsyncIterator[Client]:
        environment = {"MQ9_DATA_DIR": str(tmp_path / "data"), "MQ9_IDLE_EXIT": "60"}
        environment |= {"CLAUDE_CODE_SESSION_ID": session} if session else {}
        environment |= {"MQ9_URL": url} if url else {}
        parameters = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment)
        with log.open("a") as errlog:
            async with Client(stdio_client(parameters, errlog=errlog), mode=era) as client:
                yield client

    return open_session


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Path]:
    """The data directory in which brokers start by themselves; they are ended with the test."""
    folder = tmp_path / "data"
    yield folder
    for pid in brokers_of(folder):
        os.kill(pid, signal.SIGTERM)
    assert eventually(lambda: not brokers_of(folder), within=5)


def hello() -> bytes:
    """The first line of a client of the handshake era."""
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": client}).encode() + b"\n"


async def test_two_processes_write_to_each_other(agent: Open, server: Broker) -> None:
    async with agent(session="alice", url=server.url) as alice, agent(session="bob", url=server.url) as bob:
        to_bob = await own_address(bob)
        async with asyncio.timeout(10):
            waiting = asyncio.create_task(call(bob, "check_inbox", wait_seconds=30))
            await call(alice, "send", to=to_bob, body="über\n\x00 </x>", subject="hi")
            (message,) = (await waiting)["messages"]
        assert (message["body"], message["from"]) == ("über\n\x00 </x>", await own_address(alice))
        assert len((await alice.list_tools()).tools) == 4


async def test_a_killed_session_is_resumed(agent: Open, server: Broker) -> None:
    async with agent(session="alice", url=server.url) as alice, agent(session="bob", url=server.url) as bob:
        to_bob = await own_address(bob)
        await call(alice, "send", to=to_bob, body="x")
        assert bodies(await call(bob, "check_inbox")) == ["x"]
    async with agent(session="bob", url=server.url) as bob:
        assert bodies(await call(bob, "check_inbox")) == ["x"]
        assert await own_address(bob) == to_bob


async def test_a_cancelled_call_loses_nothing(agent: Open, server: Broker) -> None:
    async with agent(session="alice", url=server.url) as alice, agent(session="bob", url=server.url) as bob:
        to_bob = await own_address(bob)
        sent = [str(number) for number in range(10)]
        seen: list[str] = []
        for text in sent:
            waiting = asyncio.create_task(call(bob, "check_inbox", wait_seconds=30))
            await asyncio.sleep(0.01)
            sending = asyncio.create_task(call(alice, "send", to=to_bob, body=text))
            await asyncio.sleep(int(text) * 0.0005)
            waiting.cancel()
            await asyncio.wait((waiting, sending))
            if not waiting.cancelled():
                seen += bodies(waiting.result())
        while more := bodies(await call(bob, "check_inbox")):
            seen += more
        assert [*dict.fromkeys(seen)] == sent


async def test_resources_and_prompts(agent: Open, server: Broker, era: str) -> None:
    async with agent(session="alice", url=server.url) as alice, agent(session="bob", url=server.url) as bob:
        to_bob = await own_address(bob)
        await call(alice, "send", to=to_bob, body="x")
        assert (await bob.list_resources()).resources[0].uri == OWN
        (shown,) = (await bob.read_resource(OWN)).contents
        assert isinstance(shown, TextResourceContents)
        assert bodies(json.loads(shown.text)) == ["x"]
        assert len((await bob.list_prompts()).prompts) == 2
        if era == "auto":
            async with asyncio.timeout(10), bob.listen(resource_subscriptions=[OWN]) as stream:
                await call(alice, "send", to=to_bob, body="y")
                assert await anext(stream) == ResourceUpdated(uri=OWN)
        assert bodies(await call(bob, "check_inbox"))[0] == "x"


async def test_the_first_agents_start_one_broker(agent: Open, local: Path) -> None:
    async def one_call(name: str) -> str:
        async with agent(session=name) as client:
            return await own_address(client)

    addresses = await asyncio.gather(*(one_call(f"agent-{number}") for number in range(3)))
    assert len(set(addresses)) == 3
    assert len(brokers_of(local)) == 1
    async with agent(session="agent-0") as client:
        assert await own_address(client) == addresses[0]


async def test_a_broker_that_was_killed_is_started_again(agent: Open, local: Path) -> None:
    async with agent(session="alice") as alice:
        address = await own_address(alice)
        await call(alice, "send", to=address, body="x")
        (pid,) = brokers_of(local)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not brokers_of(local), within=5)
        async with asyncio.timeout(20):
            assert bodies(await call(alice, "check_inbox")) == ["x"]
        assert autostart.find(local) is not None


async def test_it_ends_with_its_client(agent: Open, server: Broker, tmp_path: Path) -> None:
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(
        COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complaint = process.communicate(b"", timeout=20)
    assert (said, complaint, process.returncode) == (b"", b"", 0)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(server: Broker, tmp_path: Path, signum: signal.Signals) -> None:
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(
        COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(hello())
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signum)
    assert process.wait(5) == -signum
    assert process.communicate()[1] == b""


@pytest.mark.parametrize("signum", [None, signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_its_streams_are_left_as_they_were(server: Broker, tmp_path: Path, signum: signal.Signals | None) -> None:
    """They may be a shell's, which others read and write afterwards."""
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    (stdin, asking), (answers, stdout) = os.pipe(), os.pipe()
    process = subprocess.Popen(COMMAND, env=environment, stdin=stdin, stdout=stdout)
    os.write(asking, hello())
    assert b"protocolVersion" in os.read(answers, 1 << 16)
    assert not os.get_blocking(stdin)
    assert not os.get_blocking(stdout)
    if signum is None:
        os.close(asking)
        assert process.wait(20) == 0
    else:
        process.send_signal(signum)
        assert process.wait(5) == -signum
        os.close(asking)
    assert os.get_blocking(stdin)
    assert os.get_blocking(stdout)
    for descriptor in (stdin, answers, stdout):
        os.close(descriptor)


def test_a_signal_that_is_to_be_ignored_is(server: Broker, tmp_path: Path) -> None:
    command = ["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh", *COMMAND]
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(hello())
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    answer, _ = process.communicate(hello(), timeout=20)
    assert (b"protocolVersion" in answer, process.returncode) == (True, 0)


@pytest.mark.parametrize("noise", [b"\n", b"not json\n", b"\xff\xfe\n", b"[]\n", b'{"jsonrpc":"2.0","id":1}\n'])
def test_noise_on_stdin_is_survived(server: Broker, tmp_path: Path, noise: bytes) -> None:
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        process.stdin.write(noise + hello())
        process.stdin.flush()
        while (answer := json.loads(process.stdout.readline())).get("id") != 7:
            pass
        assert answer["result"]["protocolVersion"] == "2025-06-18"
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_nobody_is_served_without_stdin_or_stdout(closed: str, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND]
    environment = {**os.environ, "MQ9_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(command, env=environment, input=hello(), capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"mq9-mcp: stdin or stdout is closed")


def test_a_client_that_closed_stderr_is_served(server: Broker, tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND]
    environment = {**os.environ, "MQ9_URL": server.url, "MQ9_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(command, env=environment, input=hello(), stdout=subprocess.PIPE, timeout=20)
    assert (json.loads(done.stdout)["id"], done.returncode) == (7, 0)
