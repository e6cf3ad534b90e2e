"""Fixtures of pytest for programs that use mq9, there as soon as this package is installed:

    def test_a_worker_answers(mq9_mailbox):
        inbox = mq9_mailbox.create()
        mq9_mailbox.send(inbox.send_only, {"task": 7}, priority="urgent")
        (message,) = mq9_mailbox.fetch(inbox.mail_id, wait=5)
        assert message.json() == {"task": 7}

    mq9_broker          a broker of this test run, in a temporary folder, on a free port: `mq9_broker.url`
    mq9_own_broker      one of this test's own, to `kill()`, `start()` again, …
    mq9_mailbox         a Mailbox at `mq9_broker`
    mq9_async_mailbox   an AsyncMailbox there, for tests that run in an event loop
    mq9_agent           an MCP client of the four tools there, as a coding agent has it, in an event loop
    mq9_environment     what finds its broker by itself (`Mailbox()`, `mq9 send`, `mq9-mcp`) finds `mq9_broker`

Mail is shared by the tests of a run, so give public mailboxes names of their own, or leave names out. Tests in an event
loop need anyio's plugin (`@pytest.mark.anyio`), or pytest-asyncio with `asyncio_mode = auto`.

Importing this costs nothing to speak of, because pytest does it in every run: what is heavy is imported by who uses it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from mcp import Client

    from mq9_mcp.client import AsyncMailbox
    from mq9_mcp.sync import Mailbox

# what somebody else's broker is shown, and what tells whose session and mailbox a program has
_OF_OTHERS = (
    "MQ9_TOKEN",
    "MQ9_NKEY_SEED_FILE",
    "MQ9_TLS_CA",
    "MQ9_TLS_CERT",
    "MQ9_TLS_KEY",
    "MQ9_MAILBOX",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_PROJECT_DIR",
    "CLAUDE_PID",
)
START_WITHIN = 30.0  # seconds until it listens
END_WITHIN = 10.0  # seconds until it has ended when it was asked to


class Broker:
    """A broker in a process of its own, on a free port, with its mail in `folder`: what it has stored survives a `kill`
    and a `start`. `settings` are further arguments of `mq9 broker`, like `--store memory`."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self._settings = settings
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens: the same after `start` as before `kill`."""
        return f"nats://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Returns when it listens. Raises RuntimeError, with what it said, when it does not."""
        from mq9_mcp.autostart import find

        command = [sys.executable, "-m", "mq9_broker", "--port", str(self._port), "--data-dir", str(self.folder)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*command, *self._settings], stdout=log, stderr=log, env=environ)
        deadline = time.monotonic() + START_WITHIN
        while (url := find(self.folder)) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not start: {self.log.read_text('utf-8', 'replace')[-2000:]}")
            time.sleep(0.01)
        self._port = int(url.rpartition(":")[2])
        return self

    def stop(self) -> None:
        """Ends it as an operator does. Does nothing when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def mq9_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for all tests of this run."""
    broker = Broker(tmp_path_factory.mktemp("mq9") / "broker")
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def mq9_own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of this test's own."""
    broker = Broker(tmp_path_factory.mktemp("mq9") / "broker")
    try:
        yield broker.start()
    finally:
        broker.kill()


@pytest.fixture
def mq9_mailbox(mq9_broker: Broker) -> Iterator[Mailbox]:
    """A Mailbox at `mq9_broker`."""
    from mq9_mcp.sync import Mailbox

    with Mailbox(mq9_broker.url) as mailbox:
        yield mailbox


@pytest.fixture
async def mq9_async_mailbox(mq9_broker: Broker) -> AsyncIterator[AsyncMailbox]:
    """An AsyncMailbox at `mq9_broker`."""
    from mq9_mcp.client import AsyncMailbox

    _needs_asyncio()
    async with AsyncMailbox(mq9_broker.url) as mailbox:
        yield mailbox


@pytest.fixture
async def mq9_agent(mq9_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """An MCP client of the tools `create_mailbox`, `send`, `check_inbox` and `list_public`, with a mailbox of its own.

    The server runs in this process: `await mq9_agent.call_tool("check_inbox", {})` asks it without a transport.
    """
    import asyncio

    from mcp import Client

    from mq9_mcp.server import make_server

    _needs_asyncio()
    server = make_server(mq9_broker.url, environ={}, data_dir=tmp_path_factory.mktemp("mq9-agent"))
    opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
    enough = asyncio.Event()

    async def serve() -> None:  # in a task of its own: not every plugin ends a fixture in the task that began it
        try:
            async with Client(server) as client:
                opened.set_result(client)
                await enough.wait()
        except BaseException as error:
            if not opened.done():
                opened.set_exception(error)
            raise

    serving = asyncio.create_task(serve())
    try:
        yield await opened
    finally:
        enough.set()
        await serving


@pytest.fixture
def mq9_environment(mq9_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets $MQ9_URL and $MQ9_DATA_DIR for this test, and takes away what a broker is shown and what tells an agent's
    session, so that nothing reaches the mail of who runs it."""
    monkeypatch.setenv("MQ9_URL", mq9_broker.url)
    monkeypatch.setenv("MQ9_DATA_DIR", str(mq9_broker.folder.with_name("data")))
    for name in _OF_OTHERS:
        monkeypatch.delenv(name, raising=False)


def _needs_asyncio() -> None:
    """Skips the variant of a test that anyio's plugin runs in another event loop, where trio is installed."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pytest.skip("mq9 needs asyncio: give anyio_backend as 'asyncio'")
