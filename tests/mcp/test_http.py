"""The server over streamable HTTP: who is who when anyone may send a request."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from agents import bodies, call, own_address, refused
from mcp import Client

from e2e.harness import Broker, Peer, fresh_name

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def url(server: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    environment |= {"MQ9_DATA_DIR": str(tmp_path_factory.mktemp("http")), "CLAUDE_CODE_SESSION_ID": "not-the-callers"}
    command = [sys.executable, "-m", "mq9_mcp", "--http", "--port", "0", "--url", server.url]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr:
        line = process.stderr.readline()
        found = re.fullmatch(r"mq9-mcp \S+ serving MCP at (http://127\.0\.0\.1:\d+/mcp)\n", line)
        assert found, line
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(20) == 0


async def test_each_session_has_a_mailbox_of_its_own(url: str) -> None:
    async with Client(url, mode="legacy") as alice, Client(url, mode="legacy") as bob:
        to_bob = await own_address(bob)
        assert to_bob != await own_address(alice)
        async with asyncio.timeout(10):
            waiting = asyncio.create_task(call(bob, "check_inbox", wait_seconds=30))
            await call(alice, "send", to=to_bob, body="x")
            (message,) = (await waiting)["messages"]
        assert (message["body"], message["from"]) == ("x", await own_address(alice))


async def test_a_thread_id_makes_nobody_somebody_else(url: str) -> None:
    async with Client(url, mode="legacy") as alice, Client(url, mode="legacy") as bob:
        mine = await own_address(alice)
        claimed = {"threadId": "alice"}
        assert (await call(alice, "check_inbox", claimed))["address"] == mine
        assert (await call(bob, "check_inbox", claimed))["address"] != mine


async def test_groups_tell_sessions_apart(url: str) -> None:
    name = fresh_name()
    async with Client(url, mode="legacy") as alice, Client(url, mode="legacy") as bob:
        await call(alice, "create_mailbox", name=name, public=True)
        for number in range(2):
            await call(alice, "send", to=name, body=str(number))
        one = bodies(await call(alice, "check_inbox", mailbox=name, group="workers", limit=1))
        two = bodies(await call(bob, "check_inbox", mailbox=name, group="workers", limit=1))
        assert sorted(one + two) == ["0", "1"]


async def test_without_a_session_the_address_says_who_it_is(url: str) -> None:
    async with Client(url) as alice, Client(url, mode="legacy") as bob:
        assert alice.protocol_version == "2026-07-28"
        assert "make one with create_mailbox" in await refused(alice, "check_inbox")
        mine = await call(alice, "create_mailbox")
        await call(alice, "send", to=await own_address(bob), body="x", reply_to=mine["mail_id"])
        (message,) = (await call(bob, "check_inbox"))["messages"]
        assert message["from"] == message["reply_to"] == mine["send_only"]
        await call(bob, "send", to=message["reply_to"], body="y" * 30_000)
        got = await call(alice, "check_inbox", mailbox=mine["mail_id"], wait_seconds=5)
        (answer,) = got["messages"]
        assert got["address"] == mine["send_only"]
        (rest,) = (await call(alice, "check_inbox", mailbox=answer["next"]))["messages"]
        assert answer["body"] + rest["body"] == "y" * 30_000
        assert bodies(await call(alice, "check_inbox", mailbox=mine["mail_id"])) == []


async def test_nothing_in_a_request_makes_it_a_session(url: str, peer: Peer) -> None:
    name = fresh_name()
    await peer.create(name=name, public=True)
    async with Client(url, mode="legacy") as victim:
        await own_address(victim)
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        "threadId": "somebody",
    }
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "check_inbox", "arguments": {}, "_meta": meta},
    }
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "check_inbox",
        "mcp-session-id": "made-up",
    }
    async with httpx2.AsyncClient() as client:
        answer = (await client.post(url, json=request, headers=headers)).json()
        assert answer["result"]["isError"] is True
        assert "this connection has no session" in answer["result"]["content"][0]["text"]
        stranger = await client.post(url, json=request, headers={**headers, "mcp-protocol-version": "2025-11-25"})
        assert stranger.status_code == 404, "a session that was never opened"


async def test_another_host_name_is_refused(url: str) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(url, json={}, headers={"host": "evil.example"})
        assert answer.status_code in (403, 421)


def run(*flags: str, timeout: float = 20) -> tuple[int, str]:
    process = subprocess.run(
        [sys.executable, "-m", "mq9_mcp", *flags],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return process.returncode, process.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, said = run("--http", "--port", str(port))
    assert code == 2
    assert said.startswith(f"mq9-mcp: cannot listen on 127.0.0.1:{port} (Address already in use): choose")


def test_a_port_that_is_none() -> None:
    code, said = run("--http", "--port", "70000")
    assert code == 2
    assert "'70000' is no port" in said


def test_http_options_need_http() -> None:
    code, said = run("--port", "5")
    assert code == 2
    assert "--host and --port go with --http" in said


def test_listening_for_everybody_is_warned_of(server: Broker, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mq9_mcp", "--http", "--host", "0.0.0.0", "--port", "0", "--url", server.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process, process.stderr:
        warning = process.stderr.readline()
        assert "warning: there is no authentication" in warning
        assert "0.0.0.0" in warning
        assert "serving MCP at http://0.0.0.0:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
