"""The server over streamable HTTP: who is who when anyone may send a request."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from agents import bodies, call, own_address, refused
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated
from mcp.types import EmptyResult, ResourceUpdatedNotification, SubscribeRequest, SubscribeRequestParams

from e2e.harness import Broker, Peer, eventually, fresh_name
from mq9_mcp.callers import HANDED
from mq9_mcp.http import Door
from mq9_mcp.resources import OWN, PUBLIC

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


async def test_a_cancelled_call_loses_nothing(guarded: Guarded) -> None:
    """Not even an answer that crosses the cancellation, of which the server hears in the handshake era."""
    async with caller(guarded, ALICE, "legacy") as alice, caller(guarded, BOB, "legacy") as bob:
        to_bob = await own_address(bob)
        sent = [f"old {number}" for number in range(10)]
        seen: list[str] = []
        for number, text in enumerate(sent):
            waiting = asyncio.create_task(call(bob, "check_inbox", wait_seconds=30))
            await asyncio.sleep(0.01)
            sending = asyncio.create_task(call(alice, "send", to=to_bob, body=text))
            await asyncio.sleep(number * 0.001)
            waiting.cancel()
            await asyncio.wait((waiting, sending))
            if not waiting.cancelled():
                seen += bodies(waiting.result())
        while more := bodies(await call(bob, "check_inbox")):
            seen += more
        assert [text for text in dict.fromkeys(seen) if text in sent] == sent


async def test_a_call_that_was_hung_up_on_loses_nothing(guarded: Guarded) -> None:
    """The way to cancel since 2026-07-28."""
    async with caller(guarded, ALICE, "auto") as alice, caller(guarded, BOB, "auto") as bob:
        to_bob = await own_address(bob)
        for text in ("new 0", "new 1"):
            waiting = asyncio.create_task(call(bob, "check_inbox", wait_seconds=30))
            await asyncio.sleep(0.2)
            waiting.cancel()
            await asyncio.wait((waiting,))
            await asyncio.sleep(0.2)
            await call(alice, "send", to=to_bob, body=text)
            assert bodies(await call(bob, "check_inbox", wait_seconds=5)) == [text]


@pytest.mark.parametrize("event", ["answered", "hung up before the answer", "hung up within it", "broken", "cancelled"])
async def test_what_was_handed_is_taken_back_when_nobody_is_there(event: str) -> None:
    taken: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope[HANDED].append(lambda: taken.append("back"))
        if event == "hung up before the answer":
            await receive()
        elif event == "broken":
            raise RuntimeError
        elif event == "cancelled":
            raise asyncio.CancelledError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        if event == "hung up within it":
            await receive()
        await send({"type": "http.response.body", "body": b"2"})
        await receive()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "headers": [(b"host", b"localhost")]}
    with suppress(RuntimeError, asyncio.CancelledError):
        await Door(app, [], "127.0.0.1")(scope, receive, send)
    assert taken == ([] if event == "answered" else ["back"])


async def test_a_long_wait_reports_progress(guarded: Guarded, server: Broker, tmp_path: Path) -> None:
    """Over either transport, in either era."""
    reports: dict[str, tuple[float, float | None, str | None]] = {}

    async def waited(client: Client, name: str) -> None:
        async def progress(done: float, total: float | None, message: str | None) -> None:
            reports.setdefault(name, (round(done), total, message))

        await call(client, "create_mailbox", name=fresh_name("quiet"))
        await client.call_tool("check_inbox", {"wait_seconds": 5.3}, progress_callback=progress)

    environment = {"MQ9_DATA_DIR": str(tmp_path / "data"), "MQ9_URL": server.url}
    process = StdioServerParameters(command=sys.executable, args=["-m", "mq9_mcp"], env=environment)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for era in ("auto", "legacy"):
            over_http = await stack.enter_async_context(caller(guarded, ANYBODY if era == "legacy" else ALICE, era))
            group.create_task(waited(over_http, f"http {era}"))
            over_stdio = await stack.enter_async_context(Client(process, mode=era))
            group.create_task(waited(over_stdio, f"stdio {era}"))
    assert len(reports) == 4
    assert set(reports.values()) == {(5, 5.3, "waiting for mail")}


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
    assert "--host, --port and --token-file go with --http" in said


# who may come in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost.evil.example"}, 403),
        ({"origin": "http://127.0.0.1@evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://\xff"}, 403),
        ({"origin": "http://localhost:6274"}, 200),
        ({"origin": "http://[::1]:80"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:80"}, 421),
        ({"host": "127.0.0.1:80@evil.example"}, 421),
        ({"host": "LOCALHOST:1"}, 200),
    ],
    ids=lambda value: str(value),
)
async def test_pages_of_other_sites_stay_outside(url: str, headers: dict[str, str], status: int) -> None:
    async with httpx2.AsyncClient() as client:
        encoded = {name: value.encode("latin-1") for name, value in (HANDSHAKE_HEADERS | headers).items()}
        assert (await client.post(url, json=HANDSHAKE, headers=encoded)).status_code == status


HANDSHAKE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
HANDSHAKE_HEADERS = {"accept": "application/json, text/event-stream"}
ALICE, BOB, ANYBODY = "alice-" + "a" * 26, "bob-" + "b" * 28, "anybody-" + "c" * 24


class Guarded(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    said: Path


@pytest.fixture(scope="module")
def guarded(server: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that other machines reach, with tokens for alice, bob, and whoever has the third."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "tokens"
    file.touch(0o600)
    file.write_text(f"# who may\nalice {ALICE}\n\nbob\t{BOB}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    environment |= {"MQ9_DATA_DIR": str(folder / "data"), "MQ9_HTTP_TOKEN": ANYBODY}
    command = [sys.executable, "-m", "mq9_mcp", "--http", "--host", "0.0.0.0", "--port", "0", "--url", server.url]
    command += ["--token-file", str(file)]
    with (folder / "stderr").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, text=True)
    with process:
        assert eventually(lambda: "serving MCP" in (folder / "stderr").read_text(), within=20)
        said = (folder / "stderr").read_text()
        assert said.startswith("mq9-mcp: warning: tokens and mail cross the network as they are")
        found = re.search(r"serving MCP at http://0\.0\.0\.0:(\d+)/mcp\n", said)
        assert found, said
        yield Guarded(f"http://127.0.0.1:{found[1]}/mcp", process, folder / "stderr")
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    said = (folder / "stderr").read_text()
    assert "Traceback" not in said
    for secret in (ALICE, BOB, ANYBODY, "m-"):
        assert secret not in said


@asynccontextmanager
async def caller(guarded: Guarded, token: str, mode: str, **options: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(guarded.url, http_client=http), mode=mode, **options) as client,
    ):
        yield client


async def test_who_shows_no_token_is_sent_away(guarded: Guarded) -> None:
    async with httpx2.AsyncClient() as client:
        for shown, challenge in (
            ({}, 'Bearer realm="mq9"'),
            ({"authorization": f"Bearer {ALICE}x"}, 'Bearer realm="mq9", error="invalid_token"'),
            ({"authorization": "Bearer"}, 'Bearer realm="mq9", error="invalid_token"'),
            ({"authorization": f"Basic {ALICE}"}, 'Bearer realm="mq9", error="invalid_token"'),
            ({"authorization": ALICE}, 'Bearer realm="mq9", error="invalid_token"'),
        ):
            for method in ("POST", "GET", "DELETE", "OPTIONS"):
                answer = await client.request(method, guarded.url, json=HANDSHAKE, headers=HANDSHAKE_HEADERS | shown)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
                assert "Authorization: Bearer <token>" in answer.text
        twice = [("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}"), *HANDSHAKE_HEADERS.items()]
        assert (await client.post(guarded.url, json=HANDSHAKE, headers=twice)).status_code == 401
        for good in (f"Bearer {ALICE}", f"bearer  {ALICE}"):
            shown = HANDSHAKE_HEADERS | {"authorization": good, "host": "mail.example"}
            assert (await client.post(guarded.url, json=HANDSHAKE, headers=shown)).status_code == 200
            shown["origin"] = "https://evil.example"
            assert (await client.post(guarded.url, json=HANDSHAKE, headers=shown)).status_code == 403


def test_a_token_is_in_no_process(guarded: Guarded) -> None:
    shown = Path(f"/proc/{guarded.process.pid}/cmdline").read_bytes()
    for secret in (ALICE, BOB, ANYBODY):
        assert secret.encode() not in shown


async def test_a_token_with_a_name_is_an_agent(guarded: Guarded, era: str) -> None:
    """It has its mailbox in every session, and without one."""
    async with caller(guarded, ALICE, "legacy") as alice:
        address = await own_address(alice)
    async with caller(guarded, ALICE, era) as alice, caller(guarded, BOB, era) as bob:
        assert await own_address(alice) == address
        to_bob = await own_address(bob)
        assert to_bob != address
        await call(alice, "send", to=to_bob, body="x")
        (message,) = (await call(bob, "check_inbox"))["messages"]
        assert (message["body"], message["from"]) == ("x", address)
        shown = await bob.read_resource(OWN)
        assert to_bob in shown.model_dump_json()
        assert address not in (await alice.list_resources()).model_dump_json()


async def test_a_token_without_a_name_opens_sessions(guarded: Guarded) -> None:
    async with caller(guarded, ANYBODY, "legacy") as one, caller(guarded, ANYBODY, "legacy") as two:
        assert len({await own_address(one), await own_address(two)}) == 2
    async with caller(guarded, ANYBODY, "auto") as nobody:
        assert "this connection has no session" in await refused(nobody, "check_inbox")
        assert OWN not in (await nobody.list_resources()).model_dump_json()
        with pytest.raises(MCPError, match="this connection has no session"):
            await nobody.read_resource(OWN)


async def test_a_session_is_its_opener_s(guarded: Guarded) -> None:
    async with httpx2.AsyncClient() as client:
        shown = HANDSHAKE_HEADERS | {"authorization": f"Bearer {ANYBODY}"}
        opened = await client.post(guarded.url, json=HANDSHAKE, headers=shown)
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        assert (await client.post(guarded.url, json=asked, headers=shown | session)).status_code == 200
        shown["authorization"] = f"Bearer {BOB}"
        assert (await client.post(guarded.url, json=asked, headers=shown | session)).status_code == 404
        assert (await client.delete(guarded.url, headers=shown | session)).status_code == 404


async def test_changes_are_told_of(guarded: Guarded, peer: Peer) -> None:
    name = fresh_name()
    await peer.create(name=name, public=True)
    news: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            news.put_nowait(message.params.uri)

    async with (
        caller(guarded, ALICE, "legacy", message_handler=hear) as old,
        caller(guarded, BOB, "auto") as new,
        new.listen(resource_subscriptions=[OWN, PUBLIC + name]) as stream,
        asyncio.timeout(10),
    ):
        for uri in (OWN, PUBLIC + name):
            request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
            await old.session.send_request(request, EmptyResult)
        await peer.send(name, "x")
        assert await news.get() == PUBLIC + name
        assert await anext(stream) == ResourceUpdated(uri=PUBLIC + name)
        await call(new, "send", to=await own_address(old), body="x")
        assert await news.get() == OWN
        await call(old, "send", to=await own_address(new), body="x")
        assert await anext(stream) == ResourceUpdated(uri=OWN)


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    code, said = run("--http", "--host", "0.0.0.0", "--port", "0")
    assert code == 2
    assert said.startswith("mq9-mcp: other machines reach 0.0.0.0:0, so callers need a token: write one into a file")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("written", "mode", "complaint"),
    [
        (None, 0, "can't be read (No such file or directory): correct --token-file"),
        ("", 0o600, "holds no token: write one into it"),
        ("# nothing\n", 0o600, "holds no token: write one into it"),
        (ALICE, 0o644, "everybody on this machine can open the token file"),
        ("x" * 15, 0o600, "line 1 of the token file"),
        (f"{ALICE}\nalice two words", 0o600, "line 2 of the token file"),
        (f"A\x1b[31m {ALICE}", 0o600, "is neither `TOKEN` nor `NAME TOKEN`"),
        (f"\x1b[31m{ALICE}", 0o600, "is no token: it needs 16 letters and digits or more"),
        ("\udcff", 0o600, "can't be read (it is no text)"),
    ],
)
def test_tokens_that_cannot_be_used(tmp_path: Path, written: str | None, mode: int, complaint: str) -> None:
    file = tmp_path / "tokens"
    if written is not None:
        file.touch(mode)
        file.write_bytes(written.encode("utf-8", "surrogateescape"))
    code, said = run("--http", "--token-file", str(file))
    assert code == 2
    assert complaint in said
    assert "\x1b" not in said
    assert ALICE not in said
