"""Agents with the tools and programs with the client library understand each other without an agreement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from agents import MakeServer, call, own_address
from mcp import Client

from e2e.harness import Broker
from mq9_mcp import AsyncMailbox

pytestmark = pytest.mark.anyio


@pytest.fixture
async def program(anyio_backend: str, server: Broker) -> AsyncIterator[AsyncMailbox]:
    async with AsyncMailbox(server.url) as client:
        yield client


async def test_a_program_answers_an_agent(program: AsyncMailbox, make: MakeServer) -> None:
    box = await program.create(ttl=60)
    async with Client(make("alice")) as alice:
        address = await own_address(alice)
        await call(alice, "send", to=box.send_only, body="2 + 2?", correlation_id="sum")
        (question,) = await program.fetch(box.mail_id, wait=5)
        assert (question.sender, question.reply_to, question.correlation_id) == (address, address, "sum")
        await program.answer(question, "4", sender=box.mail_id)
        (answer,) = (await call(alice, "check_inbox", wait_seconds=5))["messages"]
        assert (answer["body"], answer["correlation_id"], answer["from"]) == ("4", "sum", box.send_only)


async def test_an_agent_answers_a_program(program: AsyncMailbox, make: MakeServer) -> None:
    async with Client(make("alice")) as alice:
        asking = asyncio.create_task(program.ask(await own_address(alice), {"sum": [2, 2]}, timeout=10))
        (question,) = (await call(alice, "check_inbox", wait_seconds=5))["messages"]
        assert question["body"] == '{"sum":[2,2]}'
        back = {"to": question["reply_to"], "correlation_id": question["correlation_id"]}
        await call(alice, "send", body="4", **back)
        answer = await asking
        assert (answer.json()["body"], answer.correlation_id) == ("4", question["correlation_id"])


async def test_what_no_header_can_hold_stays_in_the_letter(program: AsyncMailbox, make: MakeServer) -> None:
    box = await program.create(ttl=60)
    async with Client(make("alice")) as alice:
        await call(alice, "send", to=box.send_only, body="x", correlation_id="two\nlines")
        (message,) = await program.fetch(box.mail_id, wait=5)
        assert (message.correlation_id, message.json()["correlation_id"]) == (None, "two\nlines")
        await program.send(await own_address(alice), "x", correlation_id="c" * 5000)
        (shown,) = (await call(alice, "check_inbox", wait_seconds=5))["messages"]
        assert "correlation_id" not in shown
