"""The shell tools of the older NATS package for JavaScript and our own command line, on the same mailboxes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.servers import Servers
from clients.suites import PROGRAMS, node_missing

TOOLS = PROGRAMS / "node" / "node_modules" / "nats" / "examples"
AI = "$mq9.AI."

Run = Callable[..., str]


@pytest.fixture
def url(servers: Callable[[str], Servers]) -> str:
    if why := node_missing("nats", "minimist"):
        pytest.skip(f"the shell tools did not run: {why}")
    return servers("mq9").environment("plain", websocket=False)["PLAIN_URL"]


@pytest.fixture
def mq9(url: str, tmp_path: Path) -> Run:
    environment = os.environ | {"HOME": str(tmp_path), "MQ9_DATA_DIR": str(tmp_path / "mq9"), "MQ9_URL": url}
    return lambda *words: _said([str(Path(sys.executable).with_name("mq9")), *words], environment)


@pytest.fixture
def tool(url: str) -> Run:
    return lambda name, *words: _said(["node", str(TOOLS / f"{name}.js"), "-s", url, *words], None)


@pytest.fixture
def listening(url: str) -> Iterator[Callable[..., Iterator[str]]]:
    """Starts one of the tools that run on, and gives its lines; it is subscribed when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *words: str) -> Iterator[str]:
        command = ["node", str(TOOLS / f"{name}.js"), "-s", url, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        # a line that does not come is the end of the lines
        limit = threading.Timer(20, process.kill)
        limit.daemon = True
        limit.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("listening" in line for line in lines), f"{name} ended"
        return lines

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=10)


def _said(command: list[str], environment: dict[str, str] | None) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.fixture
def public() -> str:
    return f"shell-{uuid.uuid4().hex[:8]}"


def test_a_request_makes_a_mailbox_for_the_command_line(tool: Run, mq9: Run, public: str) -> None:
    made = tool("nats-req", f"{AI}MAILBOX.CREATE", json.dumps({"name": public, "public": True, "desc": "from a shell"}))
    assert '"is_new":true' in made
    assert public in mq9("list")


def test_mail_from_a_tool_reaches_the_command_line(tool: Run, mq9: Run, public: str) -> None:
    mq9("create", "--public", public)
    tool("nats-pub", f"{AI}INBOX.{public}", "later")
    tool("nats-pub", "--headers=mq9-priority=urgent;topic=db", f"{AI}INBOX.{public}", "first")
    found = [json.loads(line) for line in mq9("inbox", public, "--json").splitlines()]
    assert [(message["payload"], message["priority"]) for message in found] == [
        ("first", "urgent"),
        ("later", "normal"),
    ]
    assert found[0]["headers"]["topic"] == "db"


def test_mail_from_the_command_line_reaches_a_tool(
    listening: Callable[..., Iterator[str]], mq9: Run, public: str
) -> None:
    mq9("create", "--public", public)
    mq9("send", public, "--priority", "critical", "it waits")
    lines = listening("nats-sub", f"{AI}INBOX.{public}")
    assert next(lines, "") == f"[1]: {AI}INBOX.{public}.critical: it waits\n"
    mq9("send", public, "it arrives")
    assert next(lines, "") == f"[2]: {AI}INBOX.{public}.normal: it arrives\n"


def test_a_tool_asks_and_a_tool_answers(listening: Callable[..., Iterator[str]], tool: Run, public: str) -> None:
    listening("nats-rep", public, "pong")
    assert "[1]: pong" in tool("nats-req", public, "ping")
