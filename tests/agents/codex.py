"""Codex, the real program, with a home of its own and a scripted model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model import Model
from terminal import Terminal

NEEDS = "Codex is not installed: npm i -g @openai/codex, or name its program in MQ9_TEST_CODEX"
BIN = Path(sys.executable).parent  # where `mq9` and `mq9-mcp` are installed


def find() -> str | None:
    """The program to run, or None where there is none."""
    return os.environ.get("MQ9_TEST_CODEX") or shutil.which("codex")


class Codex:
    """A user's Codex: `home` is the user's folder, `project` where the sessions run.

    `environ` is what the mq9 server gets beside what Codex leaves of the user's environment: MQ9_URL, MQ9_DATA_DIR; the
    user's shell has it, too. `arguments` are those of `mq9-mcp`, `hooks` the content of hooks.json.
    """

    def __init__(
        self,
        home: Path,
        model: Model,
        *,
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        hooks: Mapping[str, Any] | None = None,
    ) -> None:
        program = find()
        assert program is not None, NEEDS
        self.program = program
        self.home = home
        self.project = home / "project"
        self.project.mkdir(parents=True, exist_ok=True)
        self.environ = {
            "HOME": str(home),
            "CODEX_HOME": str(home / ".codex"),
            "PATH": os.pathsep.join((str(BIN), str(Path(program).parent), os.environ.get("PATH", os.defpath))),
            **(environ or {}),
        }
        folder = home / ".codex"
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text(_config(model, self.project, environ or {}, arguments))
        if hooks is not None:
            (folder / "hooks.json").write_text(json.dumps(hooks))

    def run(self, prompt: str, *options: str, timeout: float = 60) -> list[dict[str, Any]]:
        """One prompt without a terminal (`codex exec --json`): its events. The first one has `thread_id`.

        `run("go on", "resume", thread_id)` resumes a session.
        """
        done = subprocess.run(
            [self.program, "exec", *options, "--json", "--skip-git-repo-check", prompt],
            env=self.environ,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def command(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of the program, like `mcp list` or `queue --thread ID --message TEXT`."""
        return subprocess.run(
            [self.program, *words],
            env=self.environ,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    @contextmanager
    def session(self, *options: str) -> Iterator[Terminal]:
        """An interactive session in a terminal: `with codex.session() as terminal`.

        Sessions live in a background process that outlasts their windows, and has a copy of the program: both end here.
        """
        try:
            with Terminal([self.program, *options], env=self.environ, cwd=self.project) as terminal:
                yield terminal
        finally:
            self.command("app-server", "daemon", "stop")
            for pid in _left_in(self.home):  # what keeps the daemon up to date
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            shutil.rmtree(self.home / ".codex" / "packages", ignore_errors=True)

    def begin(self, terminal: Terminal, model: Model, prompt: str = "go") -> None:
        """Types a prompt, and the return key until the model is asked: while it loads, Codex takes no prompt."""
        terminal.wait_for("Ask Codex to do anything", within=30)
        count = len(model.requests)
        terminal.press(prompt.encode())
        for _ in range(30):
            time.sleep(1)
            if len(model.requests) > count:
                return
            terminal.press(b"\r")
        raise AssertionError(f"the model was not asked: {terminal.text[-1500:]}")


def _left_in(home: Path) -> list[int]:
    """The processes that live in this home, which is nobody else's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _config(model: Model, project: Path, environ: Mapping[str, str], arguments: tuple[str, ...]) -> str:
    """config.toml. JSON's strings and lists are TOML's, too."""
    quoted = json.dumps
    lines = [
        'model = "scripted"',
        'model_provider = "scripted"',
        'approval_policy = "never"',
        'sandbox_mode = "danger-full-access"',
        "check_for_update_on_startup = false",
        "[model_providers.scripted]",
        'name = "scripted"',
        f"base_url = {quoted(model.url + '/v1')}",
        'wire_api = "responses"',
        f"[projects.{quoted(str(project))}]",
        'trust_level = "trusted"',
        "[mcp_servers.mq9]",
        f"command = {quoted(str(BIN / 'mq9-mcp'))}",
        f"args = {quoted(list(arguments))}",
        'default_tools_approval_mode = "approve"',
        "required = true",  # else the first turn may begin before its tools are there
        "[mcp_servers.mq9.env]",
        *(f"{name} = {quoted(value)}" for name, value in environ.items()),
    ]
    return "\n".join(lines) + "\n"
