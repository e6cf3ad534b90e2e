"""How a server goes: at once on TERM and INT, bit by bit on USR2."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import pytest

from e2e.harness import Wire, eventually, pub
from fidelity.servers import StartServer

OpenWire = Callable[..., Wire]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_stops(start: StartServer, wire: OpenWire, signum: signal.Signals) -> None:
    server = start()
    modern = wire(server, connect={"verbose": False, "protocol": 1})
    older = wire(server, connect={"verbose": False, "protocol": 0})
    sender = wire(server)
    for client in (modern, older):
        client.settle("SUB last 1\r\n")
    sender.settle(pub("last", b"x"))
    server.process.send_signal(signum)
    for client in (modern, older):
        assert client.messages(1)[0].payload == b"x"
        assert client.rest() == b""
    assert server.process.wait(10) is not None


def test_lame_duck(start: StartServer, wire: OpenWire) -> None:
    """USR2: no new clients, an INFO for those that understand it, and the others are served until they are closed."""
    server = start(lame_duck_grace=1, lame_duck_duration=30)
    modern = wire(server, connect={"verbose": False, "protocol": 1})
    older = wire(server, connect={"verbose": False, "protocol": 0})
    for client in (modern, older):
        client.settle("SUB last 1\r\n")
        client.settle()
    server.process.send_signal(signal.SIGUSR2)
    info = modern.frame()
    assert info is not None
    assert (info.op, '"ldm":true' in info.args) == ("INFO", True)
    with pytest.raises(ConnectionRefusedError), socket.socket() as late:
        late.connect(("127.0.0.1", server.port))
    assert [message.payload for message in older.settle(pub("last", b"still served"))] == [b"still served"]
    assert modern.messages(1)[0].payload == b"still served"
    for client in (modern, older):
        assert client.rest().replace(b"PING\r\n", b"") == b""
    assert eventually(lambda: server.process.poll() is not None, within=10)
