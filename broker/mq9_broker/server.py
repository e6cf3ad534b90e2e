"""The listener and the shells around sessions: sockets to chunks, frames to sockets, and flow control."""

from __future__ import annotations

import asyncio
import logging
import secrets
from itertools import count
from typing import Any, cast

from mq9_broker import __version__, wire
from mq9_broker.commit import Committer
from mq9_broker.errors import ProtocolError
from mq9_broker.hub import Hub
from mq9_broker.session import Session
from mq9_broker.timers import Timer

_log = logging.getLogger(__name__)

#: The nats-server whose client protocol this follows: clients look at it to know what they may use.
NATS_VERSION = "2.11.0"
#: What may wait in a socket's buffer before a feed stops writing to it.
_HIGH_WATER = 65_536
_FIRST_PING_MS = 2000
_GOODBYE_MS = 1000


class Connection(asyncio.Protocol):
    """One client's socket. It is the session's transport, and never raises at it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._hub = server.hub
        self._begin = server.committer.begin
        self._transport: asyncio.Transport | None = None
        self._ping: Timer | None = None
        self._misses = 0
        limits = server.hub.limits
        self.session = Session(server.hub, self, next(server.client_ids), limits)
        self._parser = wire.Parser(self.session, limits.max_payload, limits.max_control_line)

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER, low=_HIGH_WATER // 4)
        self._server.joined(self)
        peer = transport.get_extra_info("peername")
        self._transport.write(
            wire.info(self._server.info(self.session.client_id) | {"client_ip": peer[0] if peer else ""})
        )
        now = self._begin()
        self._ping = self._hub.timers.at(now + _FIRST_PING_MS, self._check)
        self._hub.wake_up()

    def data_received(self, data: bytes) -> None:
        self._begin()
        session = self.session
        if session.closing:
            return
        session.heard = True
        try:
            self._parser.feed(data)
        except ProtocolError as wrong:
            self.finish(wrong.text)
        except Exception:
            # a defect of ours: this client loses its connection, everybody else goes on
            _log.exception("client %d hit a defect, its connection is closed", session.client_id)
            self.finish(None)
        if self._server.committer.congested and self._transport is not None:
            self._transport.pause_reading()
            self._server.committer.when_landed(self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.session.paused = True

    def resume_writing(self) -> None:
        self.session.paused = False
        self._begin()
        self._hub.resume(self.session)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._ping is not None:
            self._ping.cancel()
        self._begin()
        self._hub.leave(self.session)
        self._server.left(self)

    # what the session calls

    def write(self, data: bytes) -> None:
        transport = self._transport
        # a closed uvloop transport raises, and one dead client must not stop the others' turn
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            # what the client does not take in time it does not get: a socket is not kept for a dead one
            self._hub.timers.at(self._hub.now + _GOODBYE_MS, lambda now: self.abort())

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def finish(self, text: str | None) -> None:
        """Close after what is said so far, and after `-ERR text`."""
        if text is not None:
            self.session.send(wire.error(text))
        self.session.closing = True
        self._hub.touch(self.session)

    def goodbye(self) -> None:
        """The broker stops: say so (clients look for another server or reconnect), then close."""
        self.session.send(wire.info(self._server.info(self.session.client_id) | {"ldm": True}))
        self.finish(None)

    def _check(self, now: int) -> None:
        """Ping a client that is silent; close one that stays so."""
        session = self.session
        limits = self._hub.limits
        if session.heard:
            self._misses = 0
            session.heard = False
        else:
            self._misses += 1
        if self._misses > limits.max_pings_out:
            _log.info("client %d does not answer, closed", session.client_id)
            self.finish("Stale Connection")
            return
        session.send(wire.PING)
        session.pings.append([])
        self._ping = self._hub.timers.at(now + limits.ping_interval * 1000, self._check)


class Server:
    """Accepts clients. `port` is known once it listens."""

    def __init__(self, hub: Hub, committer: Committer, host: str, port: int) -> None:
        self.hub = hub
        self.committer = committer
        self.host = host
        self.port = port
        self.client_ids = count(1)
        self.connections: set[Connection] = set()
        #: when the last client left, in ms; None while there is one
        self.empty_since: int | None = None
        self._id = "MQ" + secrets.token_hex(16).upper()
        self._listener: asyncio.Server | None = None
        hub.describe = self.info

    async def listen(self) -> None:
        """Bind and accept. Raises OSError when the address can't be had."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.empty_since = self.committer.begin()

    async def stop(self, patience: float) -> None:
        """Stop accepting, say goodbye, and wait up to `patience` seconds until everything is written."""
        if self._listener is not None:
            self._listener.close()
        self.committer.begin()
        for connection in self.connections:
            connection.goodbye()
        deadline = asyncio.get_running_loop().time() + patience
        # sockets drain by themselves, there is no event to wait for
        while (self.connections or self.committer.busy) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    def info(self, client_id: int) -> dict[str, Any]:
        """The fields of INFO."""
        return {
            "server_id": self._id,
            "server_name": self._id,
            "version": NATS_VERSION,
            "mq9": __version__,
            "proto": 1,
            "host": self.host,
            "port": self.port,
            "headers": True,
            "max_payload": self.hub.limits.max_payload,
            "client_id": client_id,
        }

    def joined(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.empty_since = None

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.empty_since = self.hub.now
