"""Agents to which nothing was done but `mq9-mcp install` have the tools and notice their mail."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import claude as programs
import pytest
from claude import Claude
from codex import Codex
from model import Model, Request, call, say

from e2e.harness import Broker, Wire
from mq9_mcp.envelope import Letter, seal

ONE = "1 unread message in your mq9 mailbox, which check_inbox reads"


class Installed(Claude):
    """Started as its user starts it, without a word of mq9."""

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self._options = ["--allowedTools", "mcp__plugin_mq9_mq9"]


def install(agent: Claude | Codex, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mq9_mcp", "install", name, "--yes"],
        env=agent.environ,
        cwd=agent.project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def send(broker: Broker, to: Request) -> float:
    """Sends to the agent whose check_inbox this request shows; when it was sent."""
    with Wire(broker.port) as wire:
        assert wire.ask(f"MAILBOX.{to.results[0]['address']}", seal(Letter("hello")))["error"] == ""
        return time.monotonic()


def test_an_idle_claude_code_wakes(
    model: Model, claude: Callable[..., Claude], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "Claude", Installed)
    agent = claude()
    install(agent, "claude-code")
    model.then(call("check_inbox"), say("I read nothing"))
    with agent.session() as terminal:
        agent.begin(terminal, model)
        terminal.wait_for("I read nothing", within=30)
    model.then(call("check_inbox"), say("I am idle now"), call("check_inbox"), say("read"))
    with agent.session() as terminal:
        agent.begin(terminal, model)
        terminal.wait_for("1 monitor still running", after="I am idle now", within=30)
        time.sleep(1)
        sent = send(broker, model.requests[3])
        told, read = model.wait(6, within=30)[4:]
        print(f"claude-code woke after {told.time - sent:.2f} s")
        assert told.text.count(ONE) == 1
        assert [message["body"] for message in read.results[0]["messages"]] == ["hello"]


def test_codex_does_not_stop_before_it_was_told(model: Model, codex: Callable[..., Codex], broker: Broker) -> None:
    agent = codex()
    install(agent, "codex")

    def answer(seen: Request) -> dict[str, Any]:
        send(broker, seen)
        return say("nothing to do")

    model.then(call("check_inbox"), answer, call("check_inbox"), say("read"))
    agent.run("go", "--dangerously-bypass-hook-trust")
    told, read = model.wait(4, within=1)[2:]
    assert ONE in told.news
    assert [message["body"] for message in read.results[0]["messages"]] == ["hello"]
