"""Real sessions of Claude Code and Codex and a nats-py program share work, and the broker is killed again and again."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import nats
import pytest
from claude import Claude
from codex import Codex
from model import Model, Request, call, say
from nats.aio.client import Client

from e2e.harness import Broker, StartBroker

pytestmark = pytest.mark.anyio

QUEUE = "together.tasks"
TASKS = {"lint": "low", "tests": "normal", "hotfix": "urgent"}  # correlation ids, which are the bodies, and priorities


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    """A broker that comes back where it was: its clients know it by its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return start_broker("--port", str(port))


@dataclass
class Program:
    """A worker that knows nothing but NATS and JSON, over one connection for all its life."""

    nc: Client
    mailbox: dict[str, Any]

    async def ask(self, subject: str, content: dict[str, Any], **headers: str) -> dict[str, Any]:
        message = await self.nc.request(f"$mq9.AI.{subject}", json.dumps(content).encode(), timeout=20, headers=headers)
        reply = json.loads(message.data)
        assert reply["error"] == "", reply
        return reply

    async def send(self, address: str, body: str, correlation_id: str = "") -> None:
        letter = {"body": body, "correlation_id": correlation_id}
        await self.ask(f"INBOX.{address}", letter, **{"mq9-from": self.mailbox["mail_id"]})

    async def work(self) -> str:
        """Does one task: takes it, answers who asked, acknowledges it. What it was."""
        wanted = {"group_name": "workers", "config": {"num_msgs": 1, "max_wait_ms": 5000}}
        (task,) = (await self.ask(f"MSG.FETCH.{QUEUE}", wanted))["messages"]
        letter = json.loads(task["payload"])
        await self.send(letter["reply_to"], f"{letter['body']}: by nats-py", letter["correlation_id"])
        await self.ask(f"MSG.ACK.{QUEUE}", {"group_name": "workers", "msg_ids": [task["msg_id"]]})
        return letter["body"]


@pytest.fixture
async def program(broker: Broker) -> AsyncIterator[Program]:
    async def quiet(_: Exception) -> None:
        """The broker is killed: nats-py would print it."""

    nc = await nats.connect(broker.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=quiet)
    made = Program(nc, {})
    made.mailbox = await made.ask("MAILBOX.CREATE", {"ttl": 600})
    yield made
    await nc.close()


@pytest.fixture
def other_model() -> Iterator[Model]:
    with Model() as made:
        yield made


async def crash(broker: Broker) -> None:
    await anyio.to_thread.run_sync(lambda: broker.restart(hard=True))


async def run(agent: Claude | Codex, prompt: str, *options: str) -> Any:
    """A session of the agent with this prompt: what it reported. Everything its model did was right."""
    return await anyio.to_thread.run_sync(lambda: agent.run(prompt, *options))


def inbox(seen: Request) -> list[dict[str, Any]]:
    """The messages that a model was shown last."""
    messages: list[dict[str, Any]] = seen.results[-1]["messages"]
    return messages


async def test_two_vendors_and_a_program_share_work(
    claude: Callable[..., Claude],
    codex: Callable[..., Codex],
    model: Model,
    other_model: Model,
    broker: Broker,
    program: Program,
) -> None:
    planner, worker = claude(environ={"MQ9_URL": broker.url}), codex(model=other_model, environ={"MQ9_URL": broker.url})

    # Claude Code makes a queue and puts tasks into it. Nobody works yet, and the broker dies.
    asked = [call("send", to=QUEUE, body=task, priority=TASKS[task], correlation_id=task) for task in TASKS]
    model.then(call("create_mailbox", name=QUEUE, public=True, ttl_seconds=600), *asked, say())
    planning = (await run(planner, "have it done"))["session_id"]
    assert [seen.results[-1]["stored"] for seen in model.requests[2:]] == [True] * len(TASKS)
    await crash(broker)

    # The program was connected all the time. It takes the most urgent task.
    assert await program.work() == "hotfix"

    # Codex does the rest. The broker dies under it whenever it has answered and not acknowledged yet.
    take = call("check_inbox", mailbox=QUEUE, group="workers", limit=1)

    def answer(seen: Request) -> dict[str, Any]:
        (task,) = inbox(seen)
        body = f"{task['body']}: by Codex"
        return call("send", to=task["reply_to"], body=body, correlation_id=task["correlation_id"])

    def take_after_a_crash(seen: Request) -> dict[str, Any]:
        assert seen.results[-1]["stored"]
        broker.restart(hard=True)
        return take

    other_model.then(take, answer, take_after_a_crash, answer, take_after_a_crash, say())
    working = (await run(worker, "work the queue"))[0]["thread_id"]
    assert (other_model.faults, inbox(other_model.requests[-1])) == ([], [])
    await crash(broker)

    # Claude Code is resumed. It has every answer once, knows from whom, and has a question to one of them.
    def ask(seen: Request) -> dict[str, Any]:
        (linted,) = (message for message in inbox(seen) if message["body"] == "lint: by Codex")
        return call("send", to=linted["from"], body="which files?", correlation_id="files")

    model.then(call("check_inbox"), ask, call("check_inbox"), say())
    await run(planner, "what came of it?", "--resume", planning)
    assert (model.faults, inbox(model.requests[-1])) == ([], [])
    answers = inbox(model.requests[-3])
    assert sorted(message["body"] for message in answers) == ["hotfix: by nats-py", "lint: by Codex", "tests: by Codex"]
    assert all(message["body"].startswith(message["correlation_id"]) for message in answers)
    senders = {message["body"].partition(": by ")[2]: message["from"] for message in answers}
    assert senders["nats-py"] == program.mailbox["send_only"]
    await crash(broker)

    # Codex is resumed, finds the question in its own mailbox and answers it.
    def tell(seen: Request) -> dict[str, Any]:
        (question,) = inbox(seen)
        return call("send", to=question["reply_to"], body="parser.py", correlation_id=question["correlation_id"])

    other_model.then(call("check_inbox"), tell, say())
    await run(worker, "any questions?", "resume", working)
    assert other_model.faults == []
    await crash(broker)

    model.then(call("check_inbox"), say())
    await run(planner, "and now?", "--resume", planning)
    (told,) = inbox(model.requests[-1])
    assert (told["from"], told["body"], told["correlation_id"]) == (senders["Codex"], "parser.py", "files")


@pytest.mark.parametrize("vendor", ["claude", "codex"])
async def test_a_resumed_session_finds_its_own_mailbox(
    vendor: str, request: pytest.FixtureRequest, model: Model, broker: Broker, program: Program
) -> None:
    agent = request.getfixturevalue(vendor)(environ={"MQ9_URL": broker.url})

    model.then(call("check_inbox"), say())
    reported = await run(agent, "where are you?")
    resume = ("resume", reported[0]["thread_id"]) if vendor == "codex" else ("--resume", reported["session_id"])
    address = model.requests[-1].results[-1]["address"]

    async def resumed(prompt: str) -> list[str]:
        model.then(call("check_inbox"), call("check_inbox"), say())
        await run(agent, prompt, *resume)
        (first, second) = model.requests[-2:]
        assert first.results[-1]["address"] == address
        assert inbox(second) == []
        return [message["body"] for message in inbox(first)]

    await program.send(address, "while you slept")
    await crash(broker)
    assert await resumed("any news?") == ["while you slept"]
    await program.send(address, "and again")
    await crash(broker)
    assert await resumed("and now?") == ["and again"]

    # Another session of the same agent is somebody else.
    model.then(call("check_inbox"), say())
    await run(agent, "who are you?")
    assert model.requests[-1].results[-1]["address"] != address
