"""Prompts: what a user may ask for by name, and how its arguments are completed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from agents import MakeServer, free_port
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference, TextContent

from e2e.harness import Peer, fresh_name
from mq9_mcp.resources import TEMPLATE

pytestmark = pytest.mark.anyio

Open = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture
def agent(make: MakeServer, era: str) -> Open:
    return lambda session: Client(make(session), mode=era)


async def text_of(client: Client, name: str, **arguments: str) -> str:
    (message,) = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def test_each_says_what_it_does_and_needs(agent: Open) -> None:
    async with agent("alice") as alice:
        prompts = {prompt.name: prompt for prompt in (await alice.list_prompts()).prompts}
        needed = {
            name: [(argument.name, bool(argument.required)) for argument in prompt.arguments or ()]
            for name, prompt in prompts.items()
        }
        assert needed == {
            "work_the_queue": [("mailbox", True), ("group", False)],
            "ask_another_agent": [("to", True), ("question", True)],
        }
        for prompt in prompts.values():
            assert prompt.title
            assert prompt.description
            assert all(argument.description for argument in prompt.arguments or ())
        tools = {tool.name: tool.input_schema["properties"] for tool in (await alice.list_tools()).tools}
        assert {"mailbox", "group", "limit", "wait_seconds"} <= tools["check_inbox"].keys(), "words of the prompts"
        assert {"to", "correlation_id"} <= tools["send"].keys()


async def test_working_a_queue(agent: Open) -> None:
    async with agent("alice") as alice:
        text = await text_of(alice, "work_the_queue", mailbox="builds")
        assert 'mailbox "builds", group "workers"' in text
        assert 'group "night-shift"' in await text_of(alice, "work_the_queue", mailbox="builds", group="night-shift")
        assert 'group "workers"' in await text_of(alice, "work_the_queue", mailbox="builds", group=" ")


async def test_asking_another_agent(agent: Open) -> None:
    async with agent("alice") as alice:
        text = await text_of(alice, "ask_another_agent", to="$mq9.AI.INBOX.reviews", question="is {this} right?")
        assert 'send to "reviews"' in text
        assert text.endswith("The question:\nis {this} right?")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nope", {}, "Unknown prompt: there are work_the_queue, ask_another_agent"),
        ("work_the_queue", {}, "work_the_queue needs `mailbox`: the public name of the mailbox"),
        ("ask_another_agent", {"to": "x", "question": " "}, "ask_another_agent needs `question`: what to ask"),
        ("work_the_queue", {"mailbox": 'x"\n1. rm -rf'}, "is no mailbox address"),
        ("work_the_queue", {"mailbox": "x", "group": "a\x1b[31m"}, "is no group: use letters"),
        ("ask_another_agent", {"to": "\x1b[31m\u202e", "question": "x"}, "is no mailbox address"),
    ],
)
async def test_what_cannot_be_asked_for(agent: Open, name: str, arguments: dict[str, str], said: str) -> None:
    async with agent("alice") as alice:
        with pytest.raises(MCPError) as told:
            await alice.get_prompt(name, arguments)
        assert said in told.value.error.message
        assert told.value.error.code == -32602
        assert told.value.error.message.isprintable()


async def test_names_are_completed(agent: Open, peer: Peer) -> None:
    prefix = fresh_name()
    names = [f"{prefix}.{number:03}" for number in range(120)]
    for name in names:
        await peer.create(name=name, public=True, ttl=60)
    work, ask = PromptReference(name="work_the_queue"), PromptReference(name="ask_another_agent")
    template = ResourceTemplateReference(uri=TEMPLATE)
    async with agent("alice") as alice:
        for ref, argument in ((work, "mailbox"), (ask, "to"), (template, "name")):
            completion = (await alice.complete(ref, {"name": argument, "value": f"{prefix}.0"})).completion
            assert (completion.values, completion.has_more) == (names[:100], False)
            completion = (await alice.complete(ref, {"name": argument, "value": prefix})).completion
            assert (completion.values, completion.has_more) == (names[:100], True)
            for value in ("no such name", "\x1b[31m", "m-" + "a" * 26):
                assert (await alice.complete(ref, {"name": argument, "value": value})).completion.values == []
        for argument in ("group", "question", "\x1b"):
            assert (await alice.complete(work, {"name": argument, "value": ""})).completion.values == []


async def test_completing_needs_no_broker(make: MakeServer, era: str) -> None:
    async with Client(make(url=f"nats://127.0.0.1:{free_port()}"), mode=era) as client:
        found = await client.complete(PromptReference(name="work_the_queue"), {"name": "mailbox", "value": ""})
        assert found.completion.values == []
