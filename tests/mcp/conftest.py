"""Fixtures for the MCP suites: servers on the broker that tests share, each test with a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from agents import Clock, MakeServer
from mcp.server import Server

from e2e.harness import Broker
from mq9_mcp.client import AsyncMailbox
from mq9_mcp.server import make_server
from mq9_mcp.service import Service


@pytest.fixture(scope="session")
def mq9_broker(server: Broker) -> Broker:
    """The fixtures that this package gives to others use the broker that all tests share."""
    return server


@pytest.fixture
def mq9(mq9_async_mailbox: AsyncMailbox) -> AsyncMailbox:
    return mq9_async_mailbox


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(server: Broker, tmp_path: Path, clock: Clock) -> MakeServer:
    """Makes MCP servers: `make("alice")` for a Claude Code session of that name, `make()` for a host that says nothing.

    Those with the same name in one test are the same session, before and after a restart.
    """

    def make_one(session: str | None = None, *, url: str | None = None) -> Server[Service]:
        environ = {"CLAUDE_CODE_SESSION_ID": session, "CLAUDE_PROJECT_DIR": "/project"} if session else {}
        return make_server(url or server.url, environ=environ, data_dir=tmp_path / "agents-data", now=clock)

    return make_one


@pytest.fixture(params=["auto", "legacy"])
def era(request: pytest.FixtureRequest) -> str:
    """The protocol's two eras, as the SDK's client names them: requests that stand alone, and a handshake."""
    return str(request.param)
