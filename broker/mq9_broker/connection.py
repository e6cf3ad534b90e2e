"""The shell around one session: a socket's chunks to the parser, frames to the socket, pings, and flow control."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn, cast

from mq9_broker import wire
from mq9_broker.auth import User, new_nonce
from mq9_broker.errors import ProtocolError
from mq9_broker.session import Session
from mq9_broker.timers import Timer

if TYPE_CHECKING:
    from mq9_broker.server import Server

_log = logging.getLogger(__name__)

#: What may wait in a socket's buffer before a feed stops writing to it.
HIGH_WATER = 65_536
#: Bytes of a chunk behind which there is probably more.
_PLENTY = 65_536
#: Seconds that a client may take for a chunk where to pause its transport may lose what it sends: ten times what a
#: chunk full of messages takes.
_SHARE_OF_TLS = 0.1
_FIRST_PING_MS = 2000
#: How long the time that a round trip takes is good for.
_MEASURED_SECONDS = 3600
#: Blanks that a client may send before it says who it is.
_LONGEST_BLANK = 1024
_GOODBYE_MS = 1000


class Connection(asyncio.Protocol):
    """One client's socket. It is the session's transport, and never raises at it. `kind` is how it came: "nats",
    "websocket" or "unix"; times are in ms."""

    __slots__ = (
        "_begin",
        "_greeted",
        "_hub",
        "_known",
        "_more",
        "_options",
        "_parser",
        "_pausable",
        "_resting",
        "_server",
        "_shown",
        "_timer",
        "_transport",
        "_turn",
        "_unknown",
        "_until",
        "kind",
        "last_activity",
        "nonce",
        "peer",
        "session",
        "since",
        "user",
    )

    def __init__(self, server: Server, kind: str, shown: dict[str, Any]) -> None:
        """`shown`: what INFO says of the way the client came."""
        self._server = server
        self._hub = server.hub
        self._begin = server.committer.begin
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._shown = shown
        self._timer: Timer | None = None
        self.kind = kind
        self.peer: tuple[str, int] = ("", 0)
        self.nonce = ""
        self.user: User | None = None
        self.since = self.last_activity = 0
        limits = server.hub.limits
        self.session = Session(server.hub, self, next(server.client_ids), limits)
        self._parser = wire.Parser(self.session, limits.max_payload, limits.max_control_line)
        # until the client has said who it is: what it has sent
        self._unknown: bytes | None = None
        self._options: dict[str, Any] | None = None
        self._known = False
        # whether it is not read from for now, and whether the parser has kept commands meanwhile
        self._resting = self._more = False
        self._pausable = True
        # the turn in which it was served last, and until when it may be in that
        self._turn, self._until = -1, 0.0

    # what asyncio calls

    def greeting(self, peer: object) -> bytes:
        """INFO, the first word of all, perhaps before TLS. `peer` is the other end's address."""
        self._greeted = True
        if self._server.users.challenges:
            self.nonce = new_nonce()
        if isinstance(peer, tuple):
            self.peer = peer[0], peer[1]
        return wire.info(self.info())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        high = min(HIGH_WATER, self._hub.limits.max_pending // 2)
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
        # (uvloop's TLS reads on while it is paused, and forgets what it has when the client goes: it rests rarely)
        self._pausable = transport.get_extra_info("ssl_object") is None
        if not self._greeted:
            self._transport.write(self.greeting(transport.get_extra_info("peername")))
        self.since = self.last_activity = now = self._begin()
        # (asked now: there may have been no users yet when its TLS or WebSocket handshake began)
        if self._server.users.required:
            self._unknown = b""
        if not self._server.joined(self):
            self.finish("maximum connections exceeded")
        elif self._unknown is not None:
            self._timer = self._hub.timers.at(now + self._hub.limits.auth_timeout * 1000, self._give_up)
        else:
            self._timer = self._hub.timers.at(now + self._first_ping, self._check)
        self._hub.wake_up()

    def data_received(self, data: bytes) -> None:
        self.last_activity = self._begin()
        if self.session.closing:
            return
        if self._unknown is not None:
            self._knock(data)
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        """Do what the client says, as much as its share of the time allows."""
        hub, committer = self._hub, self._server.committer
        hub.taken += len(data)
        if self._turn != hub.turn or not self._pausable:
            share = committer.share if self._pausable else max(hub.share, _SHARE_OF_TLS)
            self._turn, self._until = hub.turn, hub.elapsed() + share
        hub.until = self._until
        self._more = False
        try:
            self._more = self._parser.feed(data)
        except ProtocolError as wrong:
            self.finish(wrong.text)
        except Exception:
            # a defect of ours: this client loses its connection, everybody else goes on
            _log.exception("client %d hit a defect, its connection is closed", self.session.client_id)
            self.finish(None)
        self._until = hub.until  # (what it stored has been taken off)
        # (of what fills the socket as fast as it is read, the loop would read megabytes before it did anything else)
        much = len(data) >= _PLENTY and self._pausable
        enough = self._more or committer.congested or (much and (hub.late or committer.behind))
        if enough and not self._resting:
            self._resting = True
            if self._transport is not None:
                self._transport.pause_reading()
            (committer.when_caught_up if much and committer.behind else committer.when_ready)(self._go_on)

    def _go_on(self) -> None:
        """The others have had their share, and what was sent before has found its place."""
        self._resting = False
        if self._more and not self.session.closing:
            self._begin()
            self._take(b"")
        if self._transport is not None:
            self._read_on()
        elif not self._resting and not self.session.closed:
            self._leave()

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._resting:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.session.pause()

    def resume_writing(self) -> None:
        self.session.paused = False
        self._begin()
        self._hub.resume(self.session)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._begin()
        # what it sent before it went still counts, and takes its turns; it is given nothing any more
        self.session.paused = self.session.gone = True
        if not self._more:
            self._leave()

    def _leave(self) -> None:
        self._hub.leave(self.session)
        self._server.left(self)
        # (session and connection refer to one another: they would stay until Python looks for garbage, hours later)
        self.session.transport = _GONE

    # who it is

    def _knock(self, data: bytes) -> None:
        """A client that has to say who it is says so first, by CONNECT; the rest of what it sent waits."""
        self._unknown = early = (self._unknown or b"") + data
        limits = self._hub.limits
        first = _First()
        try:
            if early[:1] not in (b"C", b"c"):
                raise ProtocolError("Authorization Violation")
            wire.Parser(first, limits.max_payload, limits.max_control_line).feed(early)
            if len(early) > limits.max_control_line + _LONGEST_BLANK:
                raise ProtocolError("maximum control line exceeded")
        except ProtocolError as wrong:
            if first.options is None:
                self.finish(wrong.text)
                return
            if self._timer is not None:
                self._timer.cancel()  # the client was in time, however long a look at its credentials takes
            if self._transport is not None:
                self._transport.pause_reading()
            self._server.run(self._admit(first.options))

    async def _admit(self, options: dict[str, Any]) -> None:
        if await self._examine(options):
            self._timer = self._hub.timers.at(self._hub.now + self._first_ping, self._check)
            self._let_in()
            self._read_on()

    async def _examine(self, options: dict[str, Any]) -> bool:
        """Look at the credentials; whether they are good. Who has none that are has to go."""
        self._options = (self._options or {}) | options  # what a CONNECT does not say again is as before
        found = await self._server.users.admits(self._options, self.nonce)
        self.user = found if found in self._server.users else None  # they may have changed meanwhile
        self._begin()
        if self.session.closing or self._transport is None:
            return False
        if self.user is None:
            _log.warning("client %d from %s has wrong credentials, closed", self.session.client_id, self.peer[0])
            self.finish("Authorization Violation")
        return self.user is not None

    def _let_in(self) -> None:
        early, self._unknown = self._unknown, None
        self.data_received(early or b"")

    def _give_up(self, now: int) -> None:
        self.finish("Authentication Timeout")

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

    def info(self) -> dict[str, Any]:
        """The fields of INFO, as they are for this client."""
        fields = self._server.info() | {"client_id": self.session.client_id, "client_ip": self.peer[0]} | self._shown
        if self._server.users.required:
            fields["auth_required"] = True
        if self.nonce:
            fields["nonce"] = self.nonce
        return fields

    def announced(self, options: dict[str, Any]) -> None:
        """The client said CONNECT. Who says it again has to be as good as the first time."""
        if self._known:
            self._server.run(self._examine(options))
        self._known = self.user is not None

    def finish(self, text: str | None) -> None:
        """Close after what is said so far, and after `-ERR text`."""
        if text is not None:
            self.session.send(wire.error(text))
        self.session.closing = True
        self._hub.touch(self.session)

    def warn(self) -> None:
        """The broker is about to stop: clients that listen for it look for another server."""
        if self.session.informed:
            self.session.send(wire.info(self.info() | {"ldm": True}))

    def tls(self) -> tuple[str, str]:
        """Version and cipher suite, such as ("TLSv1.3", "TLS_AES_256_GCM_SHA384"); empty texts when the connection is
        not encrypted."""
        secured = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        # (a connection that is ending has its TLS object still, which knows neither any more)
        version, cipher = (secured.version(), secured.cipher()) if secured is not None else (None, None)
        return version or "", cipher[0] if cipher else ""

    @property
    def _first_ping(self) -> int:
        return min(_FIRST_PING_MS, self._hub.limits.ping_interval * 1000)

    def _check(self, now: int) -> None:
        """Ping a client that is silent, and any from time to time; close one that does not answer."""
        session = self.session
        limits = self._hub.limits
        asked = session.pinged
        if not session.stirred() or asked is None or self._hub.elapsed() - asked > _MEASURED_SECONDS:
            if session.pings_out >= limits.max_pings_out:
                _log.info("client %d does not answer, closed", session.client_id)
                self._hub.counters.stale_connections += 1
                self.finish("Stale Connection")
                return
            session.ping()
        self._timer = self._hub.timers.at(now + limits.ping_interval * 1000, self._check)


class _Gone:
    """The transport of a client that is not there any more."""

    def write(self, data: bytes) -> None:
        return

    def buffered(self) -> int:
        return 0

    def close(self) -> None:
        return

    def abort(self) -> None:
        return

    def info(self) -> dict[str, Any]:
        return {}

    def announced(self, options: dict[str, Any]) -> None:
        return


_GONE = _Gone()


class _First:
    """Hears what a client says first: CONNECT, or it is not let in."""

    headers = False
    options: dict[str, Any] | None = None

    def on_connect(self, options: dict[str, Any]) -> None:
        self.options = options
        raise ProtocolError(None)

    def refuse(self, *_: object) -> NoReturn:
        raise ProtocolError("Authorization Violation")

    on_publish = on_run = on_requests = on_signals = on_subscribe = on_unsubscribe = on_ping = on_pong = refuse
