"""The fixtures for other people's tests, used as they would be: by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.harness import eventually
from mq9_mcp.testing import Broker

TESTS = """
import os
import subprocess
import sys

import pytest

from mq9_mcp import BrokerUnavailable, Mailbox


def test_a_mailbox(mq9_mailbox):
    inbox = mq9_mailbox.create()
    mq9_mailbox.send(inbox.send_only, {"task": 7}, priority="urgent")
    (message,) = mq9_mailbox.fetch(inbox.mail_id, wait=5)
    assert message.json() == {"task": 7}


@pytest.mark.anyio
async def test_an_agent_and_a_program(mq9_agent, mq9_async_mailbox):
    address = (await mq9_agent.call_tool("check_inbox", {})).structured_content["address"]
    await mq9_async_mailbox.send(address, "hello")
    inbox = (await mq9_agent.call_tool("check_inbox", {"wait_seconds": 5})).structured_content
    assert [message["body"] for message in inbox["messages"]] == ["hello"]
    assert len((await mq9_agent.list_tools()).tools) == 4


def test_a_broker_of_its_own(mq9_own_broker, mq9_broker):
    assert mq9_own_broker.url != mq9_broker.url
    mq9 = Mailbox(mq9_own_broker.url)
    inbox = mq9.create()
    mq9.send(inbox.send_only, "kept")
    mq9_own_broker.kill()
    mq9_own_broker.start()
    assert [message.text for message in mq9.fetch(inbox.mail_id)] == ["kept"]
    mq9.close()


CREDENTIALS = {"MQ9_TOKEN", "MQ9_NKEY_SEED_FILE", "MQ9_TLS_CA", "MQ9_TLS_CERT", "MQ9_TLS_KEY"}
OF_WHO_RUNS_IT = CREDENTIALS | {"MQ9_MAILBOX", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PROJECT_DIR", "CLAUDE_PID"}


@pytest.fixture
def somebody(monkeypatch):
    for name in OF_WHO_RUNS_IT:
        monkeypatch.setenv(name, "somebody's")


def test_what_finds_its_broker(somebody, mq9_environment, mq9_broker):
    assert not OF_WHO_RUNS_IT & os.environ.keys()
    with Mailbox() as mq9:
        assert mq9.url == mq9_broker.url
    subprocess.run([sys.executable, "-m", "mq9_mcp.cli", "--version"], check=True)
"""


def run(folder: Path, *options: str, tests: str = TESTS) -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(tests)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MQ9_", "PYTEST_"))}
    without = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *without, *options, "test_theirs.py"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_fixtures_without_a_word_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    done = run(tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_who_does_not_use_them_pays_nothing(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        tests="""
import sys

def test_nothing_heavy_is_there():
    heavy = {"nats", "mcp", "pydantic", "uvloop", "mq9_broker", "mq9_mcp.client"}
    assert "mq9_mcp.testing" in sys.modules
    assert not heavy & sys.modules.keys()
""",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="--no-such-option"):
        Broker(tmp_path / "broker", "--no-such-option").start()


def test_a_broker_leaves_no_process(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker").start()
    process = broker._process
    assert process is not None
    broker.stop()
    broker.stop()
    assert process.returncode == 0
    assert eventually(lambda: not (tmp_path / "broker" / "port").exists(), within=5)
