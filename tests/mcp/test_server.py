"""The server around the tools: what a client is told, which session is which, and what a log must not hold."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path

import pytest
from agents import MakeServer, bodies, call, free_port, own_address, refused
from mcp import Client
from mcp.types import CancelledNotification, CancelledNotificationParams

from e2e.harness import NOBODY, Peer, fresh_name
from mq9_mcp.server import INSTRUCTIONS

pytestmark = pytest.mark.anyio

ARGUMENTS = {
    "create_mailbox": ["name", "public", "ttl_seconds", "description", "subscribe"],
    "send": [
        "to",
        "body",
        "subject",
        "priority",
        "reply_to",
        "correlation_id",
        "ttl_seconds",
        "delay_seconds",
        "receipt",
    ],
    "check_inbox": ["mailbox", "wait_seconds", "limit", "group", "include_read"],
    "list_public": ["prefix"],
}


async def test_the_definitions_are_small_and_complete(make: MakeServer, era: str) -> None:
    async with Client(make(), mode=era) as client:
        listed = await client.list_tools()
        assert client.instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS) <= 1500
    assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) < 6000
    assert {tool.name: [*tool.input_schema["properties"]] for tool in listed.tools} == ARGUMENTS
    for tool in listed.tools:
        assert tool.title
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert "unread" in tool.output_schema["properties"]
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name == "list_public")
        written = json.dumps([tool.input_schema, tool.output_schema])
        assert '"title"' not in written
        assert "$" not in written  # nothing that a client has to look up for each result
    at_once = [tool.name for tool in listed.tools if (tool.meta or {}).get("anthropic/alwaysLoad")]
    assert sorted(at_once) == ["check_inbox", "send"]


@pytest.mark.parametrize(("era", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")], indirect=["era"])
async def test_both_eras_are_served(make: MakeServer, era: str, version: str) -> None:
    async with Client(make(), mode=era) as client:
        assert client.protocol_version == version
        assert client.server_info is not None
        assert client.server_info.name == "mq9"
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", client.server_info.version)


async def test_it_is_served_before_there_is_a_broker(make: MakeServer, era: str) -> None:
    async with asyncio.timeout(5), Client(make(url=f"nats://127.0.0.1:{free_port()}"), mode=era) as client:
        assert len((await client.list_tools()).tools) == 4
        for tool, arguments in (("check_inbox", {}), ("send", {"to": "box", "body": "x"}), ("list_public", {})):
            text = await refused(client, tool, **arguments)
            assert text.startswith("no broker answers at nats://127.0.0.1:")
            assert "start one with `mq9 broker`" in text


async def test_a_session_has_its_mailbox_after_a_restart(make: MakeServer, era: str) -> None:
    async with Client(make("alice"), mode=era) as client:
        alice = await own_address(client)
    async with Client(make("bob"), mode=era) as client:
        assert await own_address(client) != alice
    async with Client(make("alice"), mode=era) as client:
        assert await own_address(client) == alice
    async with Client(make(), mode=era) as client:
        nameless = await own_address(client)
        assert await own_address(client) == nameless
    async with Client(make(), mode=era) as client:
        assert await own_address(client) not in (alice, nameless)


async def test_threads_in_one_process_are_agents_of_their_own(make: MakeServer, era: str) -> None:
    def thread(name: str) -> dict[str, object]:
        return {"threadId": name}

    async with Client(make(), mode=era) as client:
        one = (await call(client, "check_inbox", thread("one")))["address"]
        two = (await call(client, "check_inbox", thread("two")))["address"]
        assert one != two
        await call(client, "send", thread("one"), to=two, body="x")
        assert (await call(client, "list_public", thread("two")))["unread"] == 1
        assert "unread" not in await call(client, "list_public", thread("one"))
    async with Client(make(), mode=era) as client:
        (message,) = (await call(client, "check_inbox", thread("two")))["messages"]
        assert (message["body"], message["from"]) == ("x", one)
        for odd in (5, None, {"a": 1}, ""):
            address = (await call(client, "check_inbox", {"threadId": odd}))["address"]
            assert address == await own_address(client), "nothing that names a thread"


async def test_a_result_that_its_client_no_longer_wanted_comes_again(make: MakeServer) -> None:
    async with Client(make("bob"), mode="legacy") as bob:
        await call(bob, "send", to=await own_address(bob), body="x")
        assert bodies(await call(bob, "check_inbox")) == ["x"]
        for request_id in range(10):  # whichever it was
            cancelled = CancelledNotificationParams(request_id=request_id)
            await bob.session.send_notification(CancelledNotification(params=cancelled))
        assert bodies(await call(bob, "check_inbox")) == ["x"]
        assert bodies(await call(bob, "check_inbox")) == []


async def test_a_call_that_is_cancelled_loses_nothing(make: MakeServer, era: str) -> None:
    async with Client(make("alice"), mode=era) as alice, Client(make("bob"), mode=era) as bob:
        to_bob = await own_address(bob)
        waiting = asyncio.create_task(bob.call_tool("check_inbox", {"wait_seconds": 30}))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait((waiting,))
        await call(alice, "send", to=to_bob, body="x")
        assert bodies(await call(bob, "check_inbox")) == ["x"]


async def test_no_log_holds_a_secret_or_a_message(
    make: MakeServer, era: str, peer: Peer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.WARNING)
    name = fresh_name()
    async with Client(make("alice"), mode=era) as alice:
        made = await call(alice, "create_mailbox", name=name, public=True)
        private = await call(alice, "create_mailbox")
        await call(alice, "send", to=private["mail_id"], body="CONFIDENTIAL", reply_to=made["owner"])
        await call(alice, "check_inbox", mailbox=private["mail_id"])
        for arguments in ({"to": NOBODY, "body": "CONFIDENTIAL"}, {"to": 5, "body": "CONFIDENTIAL", NOBODY: 1}):
            await refused(alice, "send", **arguments)
        await refused(alice, "check_inbox", mailbox=NOBODY)
    own = json.loads((tmp_path / "agents-data" / "agents" / "sessions.json").read_bytes())
    secrets = re.findall(r"m-[a-z2-7]{26}", json.dumps([own, made, private]))
    assert len(secrets) == 3
    for secret in (*secrets, NOBODY, "CONFIDENTIAL"):
        assert secret not in caplog.text


async def test_what_nobody_expected_is_not_shown_to_a_model(
    make: MakeServer, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a detail of the inside")

    monkeypatch.setattr("mq9_mcp.service.Agent.list_public", broken)
    async with Client(make(), mode=era) as client:
        assert await refused(client, "list_public") == "Error executing tool list_public"
