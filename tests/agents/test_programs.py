"""The real programs with the mq9 server: what their models are shown of mail."""

from __future__ import annotations

from collections.abc import Callable

from claude import Claude
from codex import Codex
from model import Model, Request, call, say

from e2e.harness import Broker, Wire
from mq9_mcp.envelope import Letter, seal


def own_address(seen: Request) -> str:
    (result,) = seen.results
    return result["address"]


def test_claude_code_reads_what_was_sent_to_its_session(
    model: Model, claude: Callable[..., Claude], broker: Broker
) -> None:
    model.then(call("check_inbox"), say(), call("check_inbox"), say("read"))
    agent = claude()
    session = agent.run("where are you?")["session_id"]
    send(broker, own_address(model.requests[1]))
    assert agent.run("any news?", "--resume", session)["result"] == "read"
    assert [message["body"] for message in model.requests[3].results[0]["messages"]] == ["the tests are green"]


def test_codex_reads_what_was_sent_to_its_thread(model: Model, codex: Callable[..., Codex], broker: Broker) -> None:
    model.then(call("check_inbox"), say(), call("check_inbox"), say("read"))
    agent = codex()
    thread = agent.run("where are you?")[0]["thread_id"]
    send(broker, own_address(model.requests[1]))
    agent.run("any news?", "resume", thread)
    assert [message["body"] for message in model.requests[3].results[0]["messages"]] == ["the tests are green"]


def send(broker: Broker, address: str) -> None:
    with Wire(broker.port) as wire:
        assert wire.ask(f"MAILBOX.{address}", seal(Letter("the tests are green")))["error"] == ""
