"""The real Claude Code and Codex take what `mq9-mcp install` writes, and are as before when it is taken out.

They need no login and no network for this. Where they are not on the PATH, MQ9_TEST_CLAUDE and MQ9_TEST_CODEX name
them; `npm i -g @anthropic-ai/claude-code` and `npm i -g @openai/codex` install them.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Broker

CLAUDE = os.environ.get("MQ9_TEST_CLAUDE") or shutil.which("claude")
CODEX = os.environ.get("MQ9_TEST_CODEX") or shutil.which("codex")
needs_claude = pytest.mark.skipif(
    CLAUDE is None, reason="Claude Code is not installed: npm i -g @anthropic-ai/claude-code"
)
needs_codex = pytest.mark.skipif(CODEX is None, reason="Codex is not installed: npm i -g @openai/codex")
TOOLS = {"create_mailbox", "send", "check_inbox", "list_public"}


class Person:
    """Somebody with a home folder of their own, in which everything here runs."""

    def __init__(self, home: Path, broker: Broker) -> None:
        self.home = home
        folders = [str(Path(program).parent) for program in (CLAUDE, CODEX) if program]
        node = [str(Path(found).parent) for found in [shutil.which("node")] if found]
        self.environ = {
            "HOME": str(home),
            "PATH": os.pathsep.join([*folders, *node, "/usr/local/bin", "/usr/bin", "/bin"]),
            "ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "MQ9_DATA_DIR": str(broker.data_dir),
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(
            words, env=self.environ, cwd=self.home, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def mq9_mcp(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "mq9_mcp", *words)


@pytest.fixture
def person(tmp_path: Path, broker: Broker) -> Person:
    (tmp_path / "home").mkdir()
    return Person(tmp_path / "home", broker)


def rpc(person: Person, *requests: tuple[str, dict[str, Any]]) -> list[Any]:
    """The answers of Codex's app server to the requests, one after the other."""
    assert CODEX is not None
    hello = ("initialize", {"clientInfo": {"name": "test", "title": "test", "version": "1"}})
    answers: list[Any] = []
    with subprocess.Popen(
        [CODEX, "app-server"],
        env=person.environ,
        cwd=person.home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pending = b""
        try:
            for number, (method, params) in enumerate([hello, *requests]):
                process.stdin.write(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")
                deadline = time.monotonic() + 40
                while len(answers) <= number:
                    assert select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0], method
                    pending += os.read(process.stdout.fileno(), 1 << 20)
                    *lines, pending = pending.split(b"\n")
                    answers += [one for one in map(json.loads, lines) if one.get("id") == number]
        finally:
            process.kill()
    return [answer["result"] for answer in answers[1:]]


@needs_claude
def test_claude_code_loads_the_plugin_and_connects(person: Person) -> None:
    assert CLAUDE is not None
    person.mq9_mcp("install", "claude-code", "--yes")
    for _ in range(2):  # and again in the next session
        (found,) = json.loads(person.run(CLAUDE, "plugin", "list", "--json"))
        assert (found["id"], found["enabled"]) == ("mq9@skills-dir", True)
        listed = person.run(CLAUDE, "mcp", "list")
        assert re.search(r"plugin:mq9:mq9: .*mq9-mcp\s+- ✔ Connected", listed), listed
    checked = person.run(CLAUDE, "plugin", "validate", str(person.home / ".claude/skills/mq9"))
    assert "Validation passed" in checked
    for part in ("hooks: SessionStart", "hooks: Stop", "mcpServers: mq9", "monitors: "):
        assert part in checked
    assert "Claude Code has mq9" in person.mq9_mcp("doctor")
    person.mq9_mcp("uninstall", "claude-code", "--yes")
    assert json.loads(person.run(CLAUDE, "plugin", "list", "--json")) == []
    assert "mq9" not in person.run(CLAUDE, "mcp", "list")


@needs_claude
def test_a_plugin_that_was_disabled_in_claude_code_is_a_problem(person: Person) -> None:
    assert CLAUDE is not None
    person.mq9_mcp("install", "claude-code", "--yes")
    person.run(CLAUDE, "plugin", "disable", "mq9@skills-dir")
    done = subprocess.run(
        [sys.executable, "-m", "mq9_mcp", "doctor"], env=person.environ, cwd=person.home, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "claude plugin enable mq9@skills-dir" in done.stdout


@needs_claude
def test_claude_code_reads_the_settings_of_a_project(person: Person) -> None:
    assert CLAUDE is not None
    person.mq9_mcp("install", "claude-code", "--project", "--yes")
    assert "Project config" in person.run(CLAUDE, "mcp", "get", "mq9")
    person.mq9_mcp("uninstall", "claude-code", "--project", "--yes")
    assert not (person.home / ".mcp.json").exists()


@needs_codex
def test_codex_connects_and_knows_the_hooks(person: Person) -> None:
    assert CODEX is not None
    person.mq9_mcp("install", "codex", "--yes")
    config = person.home / ".codex/config.toml"
    # Codex hands no variable of its user to a server: that it asks this test's broker has to be written down
    written = f'{config.read_text()}\n[mcp_servers.mq9.env]\nMQ9_DATA_DIR = "{person.environ["MQ9_DATA_DIR"]}"\n'
    config.write_text(written)
    known = json.loads(person.run(CODEX, "mcp", "get", "mq9", "--json"))
    assert known["enabled"]
    assert Path(known["transport"]["command"]).name == "mq9-mcp"
    servers, hooks = rpc(person, ("mcpServerStatus/list", {}), ("hooks/list", {}))
    (server,) = [one for one in servers["data"] if one["name"] == "mq9"]
    assert set(server["tools"]) == TOOLS
    (layer,) = hooks["data"]
    assert layer["errors"] == []
    assert {hook["eventName"] for hook in layer["hooks"]} == {"sessionStart", "userPromptSubmit", "postToolUse", "stop"}
    assert all(
        hook["command"].endswith(f"codex {hook['eventName'][0].upper()}{hook['eventName'][1:]}")
        for hook in layer["hooks"]
    )

    # what the user says to Codex's question is where the doctor looks for it
    assert "you have not said that you trust it" in person.mq9_mcp("doctor")
    trusted = [f'[hooks.state."{one["key"]}"]\ntrusted_hash = "{one["currentHash"]}"\n' for one in layer["hooks"]]
    config.write_text(written + "".join(trusted))
    (again,) = rpc(person, ("hooks/list", {}))
    assert {hook["trustStatus"] for hook in again["data"][0]["hooks"]} == {"trusted"}
    assert "trust" not in person.mq9_mcp("doctor")

    person.mq9_mcp("uninstall", "codex", "--yes")
    assert "mq9" not in person.run(CODEX, "mcp", "list")
    assert not (person.home / ".codex/hooks.json").exists()


@needs_codex
def test_what_codex_adds_for_itself_is_taken_for_what_it_is(person: Person) -> None:
    assert CODEX is not None
    person.run(CODEX, "mcp", "add", "mq9", "--", "/opt/theirs")
    done = subprocess.run(
        [sys.executable, "-m", "mq9_mcp", "install", "codex", "--yes"],
        env=person.environ,
        cwd=person.home,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "was not written from here: `/opt/theirs`" in done.stdout) == (1, True)
    person.mq9_mcp("install", "codex", "--yes", "--force")
    assert "mq9-mcp" in person.run(CODEX, "mcp", "list")
