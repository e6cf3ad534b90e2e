"""Claude Code, the real program, with a home of its own and a scripted model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import NOT_YET, Model
from terminal import Terminal

NEEDS = "Claude Code is not installed: npm i -g @anthropic-ai/claude-code, or name its program in MQ9_TEST_CLAUDE"
KEY = "sk-ant-scripted-model-key"
BIN = Path(sys.executable).parent  # where `mq9` and `mq9-mcp` are installed


def find() -> str | None:
    """The program to run, or None where there is none."""
    return os.environ.get("MQ9_TEST_CLAUDE") or shutil.which("claude")


class Claude:
    """A user's Claude Code: `home` is the user's folder, `project` where the sessions run.

    `environ` is what the user's shell has beside the necessary: MQ9_URL, MQ9_DATA_DIR. With `plugin` the folder of a
    plugin is loaded; without it the mq9 server is configured by itself. `settings` is the content of settings.json.
    """

    def __init__(
        self,
        home: Path,
        model: Model,
        *,
        environ: Mapping[str, str] | None = None,
        plugin: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        program = find()
        assert program is not None, NEEDS
        self.program = program
        self.home = home
        self.project = home / "project"
        self.project.mkdir(parents=True, exist_ok=True)
        self.environ = {
            "HOME": str(home),
            "PATH": os.pathsep.join((str(BIN), os.defpath, "/usr/local/bin")),
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "MCP_CONNECTION_NONBLOCKING": "false",  # else the first turn may begin before a plugin's tools are there
            "MCP_CONNECT_TIMEOUT_MS": "30000",
            **(environ or {}),
        }
        self._options: list[str] = ["--allowedTools", "mcp__mq9", "mcp__plugin_mq9_mq9"]
        if plugin is not None:
            self._options += ["--plugin-dir", str(plugin)]
        else:
            config = home / "mcp.json"
            server = {"command": str(BIN / "mq9-mcp"), "args": [], "env": dict(environ or {})}
            config.write_text(json.dumps({"mcpServers": {"mq9": server}}))
            self._options += ["--mcp-config", str(config), "--strict-mcp-config"]
        self._welcome(settings or {})

    def run(self, prompt: str, *options: str, timeout: float = 60) -> dict[str, Any]:
        """One prompt without a terminal (`claude -p`): what it reports, with `session_id` and `result`.

        `run("go on", "--resume", session_id)` resumes a session.
        """
        done = subprocess.run(
            [self.program, "-p", prompt, *options, *self._options, "--output-format", "json"],
            env=self.environ,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        report = json.loads(done.stdout)
        return report if isinstance(report, dict) else report[-1]

    def command(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of the program, like `plugin validate DIR` or `mcp list`."""
        return subprocess.run(
            [self.program, *words],
            env=self.environ,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def session(self, *options: str) -> Terminal:
        """An interactive session in a terminal: `with claude.session() as terminal`."""
        return Terminal([self.program, *options, *self._options], env=self.environ, cwd=self.project)

    def begin(self, terminal: Terminal, model: Model, prompt: str = "go") -> None:
        """Types a prompt until the model takes a step of its script. The server starts beside the first turns."""
        terminal.wait_for("for agents", within=30)
        while not model.ask(lambda: terminal.type(prompt), within=30):
            terminal.wait_for(f"{NOT_YET} {model.put_off}", within=30)
            time.sleep(0.5)

    def _welcome(self, settings: Mapping[str, Any]) -> None:
        """What a user has answered when the program was first started."""
        known = {
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
            "projects": {
                str(self.project): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True},
            },
        }
        (self.home / ".claude.json").write_text(json.dumps(known))
        folder = self.home / ".claude"
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings))
