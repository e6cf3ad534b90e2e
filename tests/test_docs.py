"""Every code block of the README, docs/, examples/ and llms.txt is run here, in the order in which a reader meets them.

    sh          bash -e, in an empty HOME, with the installed commands on the PATH
    python      a script, with the address of the broker in the place of nats://127.0.0.1:4222; `python test`: by pytest
    mq9         requests, answers and deliveries, as docs/protocol.md explains them
    toml, json  parsed (a toml block that names settings of the broker is also loaded by it)
    text        output or a picture, not code

A block whose first word after the language is `needs=PROGRAM` runs where that program is installed and is reported as
skipped, by name, where it is not. `install` blocks set up an environment: here only their syntax is checked, and the
gate runs the first two, word for word (.ci/run).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e.harness import Broker, Wire

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "examples" / "README.md", ROOT / "llms.txt"]
FENCE = re.compile(r"^```([a-z0-9]*)([^\n]*)\n(.*?)^```$", re.M | re.S)
LANGUAGES = {"sh", "python", "mq9", "toml", "json", "text"}


SET_UP = "install"


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    note: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(page, line, match[1], match[2].strip(), match[3]))
    return found


BLOCKS = blocks()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Broker]:
    """The broker that a reader of the page would have running; a page's commands find it by its port file."""
    broker = Broker(home / "mq9").start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def environment(home: Path, running: Broker) -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return {
        "HOME": str(home),
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "MQ9_DATA_DIR": str(home / "mq9"),
        "MQ9_IDLE_EXIT": "5",
    }


@pytest.fixture(scope="module")
def conversation(home: Path) -> Iterator[Conversation]:
    broker = Broker(home / "conversation", store="memory").start()
    with Wire(broker.port) as wire:
        yield Conversation(wire)
    broker.kill()


def test_every_block_says_what_it_is() -> None:
    assert BLOCKS
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_shell(block: Block, environment: dict[str, str], home: Path) -> None:
    if block.note == SET_UP:
        subprocess.run(["bash", "-n", "-c", block.code], check=True)
        return
    needed = block.note.removeprefix("needs=") if block.note.startswith("needs=") else ""
    if needed and not shutil.which(needed):
        pytest.skip(f"{needed} is not installed here")
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block.code],
        env=environment,
        cwd=block.page.parent if block.page.parent.name == "examples" else home,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python(block: Block, environment: dict[str, str], home: Path, running: Broker) -> None:
    script = home / "example.py"
    script.write_text(block.code.replace("nats://127.0.0.1:4222", running.url))
    by = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if block.note == "test" else []
    done = subprocess.run(
        [sys.executable, *by, script], env=environment, cwd=home, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "mq9"], ids=str)
def test_conversation(block: Block, conversation: Conversation) -> None:
    for line in block.code.splitlines():
        conversation.follow(line)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("json", "toml")], ids=str)
def test_data(block: Block, tmp_path: Path) -> None:
    if block.language == "json":
        json.loads(block.code)
        return
    values = tomllib.loads(block.code)
    if "max_payload" in values or "port" in values:
        from mq9_broker.config import load

        (tmp_path / "mq9.toml").write_text(block.code)
        load(tmp_path / "mq9.toml", {}, {})


class Conversation:
    """Plays the lines of an `mq9` block against a broker."""

    LINE = re.compile(r"(?P<subject>\S+)(?P<headers>(?: \[[^\]]*\])*)(?: (?P<payload>.*))?")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.known = {"m-…": "", "s-…": ""}
        self.asked: str | None = None
        self.subscriptions = 0
        self.deliveries: deque[str] = deque()

    def follow(self, line: str) -> None:
        if line.startswith("→ "):
            assert self.asked is not None, f"nothing was asked before {line}"
            self._expect(line[2:], self.asked)
            answer = json.loads(self.asked)
            if "send_only" in answer:
                self.known["s-…"] = answer["send_only"]
                self.known["m-…"] = answer.get("owner", answer["mail_id"])
            self.asked = None
        elif line.startswith("← "):
            self._expect(line[2:], self.deliveries.popleft() if self.deliveries else self._next())
        elif line.startswith("SUB "):
            self.subscriptions += 1
            self.wire.send(f"SUB {self._filled(line[4:])} doc{self.subscriptions}\r\n")
        else:
            match = self.LINE.fullmatch(line)
            assert match is not None, line
            headers = "".join(
                f"{line}\r\n" for line in re.findall(r"\[([^\]]*)\]", self._filled(match["headers"]))
            ).encode()
            subject, payload = self._filled(match["subject"]), (match["payload"] or "").encode()
            if "BROADCAST" in subject:
                self.wire.publish(subject, payload)
                return
            self.subscriptions += 1
            inbox = f"_INBOX.docs.{self.subscriptions}"
            self.wire.send(f"SUB {inbox} {inbox}\r\nUNSUB {inbox} 1\r\n")
            self.wire.publish(subject, payload, reply=inbox, headers=headers)
            while not (said := self._next()).startswith(inbox):
                self.deliveries.append(said)
            self.asked = said.partition(" ")[2]

    def _next(self) -> str:
        (message,) = self.wire.messages(1)
        return f"{message.args} {message.payload.decode()}"

    def _filled(self, text: str) -> str:
        for placeholder, value in self.known.items():
            text = text.replace(placeholder, value)
        return text

    @staticmethod
    def _expect(pattern: str, said: str) -> None:
        assert re.fullmatch(re.escape(pattern).replace("…", ".*"), said, re.S), f"{said!r} is not like {pattern!r}"
