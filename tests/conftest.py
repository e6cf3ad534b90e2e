"""Fixtures every test may use: the event loop's backend, brokers in processes of their own, and clients for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from e2e.harness import Broker, Connect, HasPort, Peer, StartBroker, Wire


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Starts brokers: `start_broker("--log-level", "debug", store="memory", folder="a")`; stops what still runs."""
    started: list[Broker] = []

    def start(*flags: str, store: str = "rocksdb", folder: str = "data") -> Broker:
        broker = Broker(tmp_path / folder, *flags, store=store)
        started.append(broker.start())
        return broker

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    """A broker of this test's own, to restart and to kill."""
    return start_broker()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker shared by the tests that leave it running: they use private mailboxes or names of their own."""
    broker = Broker(tmp_path_factory.mktemp("shared") / "data").start()
    yield broker
    try:
        assert broker.stop() == 0
        assert b"Traceback" not in broker.log, broker.log.decode()
    finally:
        broker.kill()


@pytest.fixture
async def connect(anyio_backend: str) -> AsyncIterator[Connect]:
    """Connects nats-py clients: `peer = await connect(broker, no_echo=True)`; closes them."""
    peers: list[Peer] = []

    async def open_peer(to: HasPort, **options: Any) -> Peer:
        errors: list[str] = []

        async def on_error(error: Exception) -> None:
            errors.append(str(error).removeprefix("nats: "))

        url = f"nats://127.0.0.1:{to.port}"
        peers.append(Peer(await nats.connect(url, error_cb=on_error, allow_reconnect=False, **options), errors))
        return peers[-1]

    yield open_peer
    for peer in peers:
        await peer.nc.close()


@pytest.fixture
async def peer(connect: Connect, server: Broker) -> Peer:
    """A nats-py client of the shared broker."""
    return await connect(server)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """Opens raw connections: `wire(broker, connect={"verbose": True})`; closes them."""
    opened: list[Wire] = []

    def open_wire(to: HasPort, **options: Any) -> Wire:
        opened.append(Wire(to.port, **options))
        return opened[-1]

    yield open_wire
    for connection in opened:
        connection.close()
