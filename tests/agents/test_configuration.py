"""The files in examples/ for owners of agents: the real programs take them as they are."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claude import Claude
from codex import Codex
from model import Model, call, say

from e2e.harness import Broker, Wire
from mq9_mcp.hooks import hooks_of

EXAMPLES = Path(__file__).parents[2] / "examples"
HOOKS = {
    "claude-code": EXAMPLES / "claude_code" / ".claude" / "settings.json",
    "codex": EXAMPLES / "codex" / "hooks.json",
}


def send(broker: Broker, address: str) -> None:
    with Wire(broker.port) as wire:
        assert wire.ask(f"INBOX.{address}", "the tests are green")["error"] == ""


@pytest.mark.parametrize("agent", HOOKS)
def test_the_hooks_are_those_that_there_are(agent: str) -> None:
    assert json.loads(HOOKS[agent].read_text())["hooks"] == hooks_of(agent)


def test_claude_code_takes_the_files_of_a_project(claude: Callable[..., Claude], model: Model, broker: Broker) -> None:
    agent = claude()
    shutil.copytree(EXAMPLES / "claude_code", agent.project, dirs_exist_ok=True)

    def run(prompt: str, *options: str) -> dict[str, Any]:
        command = [agent.program, "-p", prompt, *options, "--output-format", "json"]
        done = subprocess.run(
            command, env=agent.environ, cwd=agent.project, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        report = json.loads(done.stdout)
        found: dict[str, Any] = report if isinstance(report, dict) else report[-1]
        return found

    model.then(call("check_inbox"), say(), say())
    session = run("where are you?")["session_id"]
    send(broker, model.requests[1].results[0]["address"])
    run("go on", "--resume", session)
    assert "1 unread message" in model.requests[2].text


def test_codex_takes_the_files_of_a_user(codex: Callable[..., Codex], model: Model, broker: Broker) -> None:
    agent = codex(hooks=json.loads(HOOKS["codex"].read_text()))
    file = agent.home / ".codex" / "config.toml"
    before, _, _ = file.read_text().partition("[mcp_servers.mq9]")
    # (the broker of a test is elsewhere than a user's, and Codex hands its environment on to no server)
    here = f"[mcp_servers.mq9.env]\nMQ9_DATA_DIR = {json.dumps(str(broker.data_dir))}\n"
    file.write_text(before + (EXAMPLES / "codex" / "config.toml").read_text() + here)

    model.then(call("check_inbox"), say(), say())
    options = ("--dangerously-bypass-hook-trust",)
    thread = agent.run("where are you?", *options)[0]["thread_id"]
    send(broker, model.requests[1].results[0]["address"])
    agent.run("go on", *options, "resume", thread)
    assert "1 unread message" in model.requests[2].text
