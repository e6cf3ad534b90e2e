"""The listeners, and everybody who came through them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from mq9_broker import __version__
from mq9_broker.auth import Users
from mq9_broker.commit import Committer
from mq9_broker.connection import Connection
from mq9_broker.hub import Hub
from mq9_broker.tls import Tls, begins_tls

#: The nats-server whose client protocol this follows: clients look at it to know what they may use.
NATS_VERSION = "2.11.0"
_BACKLOG = 1024
#: Seconds that a client may take to begin with TLS, where it may (nats-server's figure).
_FIRST_WORD = 0.05
#: Seconds until the next try when no client can be accepted: too many files are open, mostly.
_BREATH = 0.1
#: So many may be at their handshakes at once, and a quarter of the connections: each is an open file that counts for no
#: limit yet, and costs its sender nothing. Others wait, in the system's queue.
_ARRIVING = 1024
_ARRIVING_AT_LEAST = 16
#: Bytes of a WebSocket client's message beyond the largest payload.
_GATHERED = 67_108_864

_log = logging.getLogger(__name__)

#: Bytes that the system keeps for a client that could be sent and are not, beside those on their way.
_UNSENT = 131_072

Welcome = Callable[[socket.socket], Coroutine[Any, Any, object]]


@dataclass(slots=True)
class Totals:
    """What went through connections that are gone, and how many there ever were."""

    connections: int = 0
    in_msgs: int = 0
    in_bytes: int = 0
    out_msgs: int = 0
    out_bytes: int = 0


class Server:
    """Accepts clients. `port` and `ws_port` are known once it listens; `users` may be replaced and `tls` reloaded at
    any time, and count for those who come then."""

    def __init__(self, hub: Hub, committer: Committer, host: str, port: int, users: Users, tls: Tls | None) -> None:
        self.hub = hub
        self.committer = committer
        self.host = host
        self.port = port
        self.users = users
        self.tls = tls
        self.ws_port = 0
        self.client_ids = count(1)
        self.connections: set[Connection] = set()
        #: sockets and WebSockets whose handshakes are not complete
        self.arriving: set[object] = set()
        self.gone = Totals()
        self.started = hub.now
        #: when the last client left, in ms; None while there is one
        self.empty_since: int | None = None
        self.id = "MQ" + secrets.token_hex(16).upper()
        self._listeners: list[asyncio.Server] = []
        self._doors: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._socket: Path | None = None

    async def listen(self) -> None:
        """Bind and accept. Raises OSError when the address can't be had."""
        tls = self.tls
        if tls is None:
            self.port = await self._accept(lambda: Connection(self, "nats", {}), self.host, self.port)
        else:
            shown: dict[str, Any] = {"tls_available" if tls.optional else "tls_required": True}
            if tls.verify:
                shown["tls_verify"] = True

            async def welcome(bare: socket.socket) -> None:
                connection = Connection(self, "nats", shown)
                tls_first = tls.handshake == "first" or (
                    tls.handshake == "auto" and await begins_tls(bare, _FIRST_WORD)
                )
                if not tls_first:
                    greeting = connection.greeting(bare.getpeername())
                    await asyncio.get_running_loop().sock_sendall(bare, greeting)
                if tls.optional and not await begins_tls(bare, tls.seconds):
                    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, bare)
                else:
                    await tls.serve(connection, bare)

            self.port = self._accept_bare(welcome, self.host, self.port)
        self.empty_since = self.committer.begin()

    async def listen_websocket(self, host: str, port: int, origins: tuple[str, ...]) -> None:
        """Bind and accept WebSocket clients, over TLS when there is a certificate. Raises OSError."""
        from mq9_broker.websocket import WebSocket

        # clients gather commands: a message of theirs holds many
        tls, payload = self.tls, self.hub.limits.max_payload
        largest = min(8 * payload, payload + _GATHERED)

        def shell() -> WebSocket:
            shown: dict[str, Any] = {"host": host, "port": self.ws_port}
            if tls is not None:
                shown |= {"tls_required": True, "tls_available": True}
                if tls.verify:
                    shown["tls_verify"] = True
            return WebSocket(Connection(self, "websocket", shown), origins, largest, self.arriving)

        async def welcome(bare: socket.socket) -> None:
            if tls is not None:
                await tls.serve(shell(), bare)
            else:
                await asyncio.get_running_loop().connect_accepted_socket(shell, bare)

        self.ws_port = self._accept_bare(welcome, host, port)

    async def listen_unix(self, path: Path) -> None:
        """Bind a Unix socket that only this user can open. Raises OSError; EADDRINUSE when somebody listens there."""
        bound = _bind(path)
        listener = await asyncio.get_running_loop().create_unix_server(lambda: Connection(self, "unix", {}), sock=bound)
        self._socket = path
        self._listeners.append(listener)

    async def _accept(self, protocol: Callable[[], asyncio.Protocol], host: str, port: int) -> int:
        """Serve who comes to an address; the port that is bound."""
        listener = await asyncio.get_running_loop().create_server(protocol, host, port, backlog=_BACKLOG)
        for bound_socket in listener.sockets:
            _hand_out_little(bound_socket)
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    def _accept_bare(self, welcome: Welcome, host: str, port: int) -> int:
        """The same for who has a handshake to make, of whom only so many are let in at once. What comes first may have
        to be seen to before a transport reads."""
        family = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        listener.setblocking(False)
        _hand_out_little(listener)
        self._doors.append(asyncio.get_running_loop().create_task(self._keep_door(listener, welcome)))
        bound: int = listener.getsockname()[1]
        return bound

    async def _keep_door(self, listener: socket.socket, welcome: Welcome) -> None:
        loop = asyncio.get_running_loop()
        most = max(_ARRIVING_AT_LEAST, min(_ARRIVING, self.hub.limits.max_connections // 4))
        with listener:
            while True:
                while len(self.arriving) >= most:  # noqa: ASYNC110  (of seconds at most, and only under attack)
                    await asyncio.sleep(_BREATH)
                try:
                    bare, _ = await loop.sock_accept(listener)
                except OSError as cause:
                    _log.warning("can't accept a client: %s", cause.strerror or cause)
                    await asyncio.sleep(_BREATH)
                    continue
                self.arriving.add(bare)
                self.run(self._lead_in(bare, welcome))

    async def _lead_in(self, bare: socket.socket, welcome: Welcome) -> None:
        try:
            await welcome(bare)
        except OSError as cause:
            # it speaks no TLS, or none that is taken, or is gone: TLS itself has told it
            _log.debug("a client did not come through TLS: %s", cause)
            bare.close()
        finally:
            self.arriving.discard(bare)

    async def retire(self, grace: float, duration: float) -> None:
        """Lame duck: accept nobody, tell those who listen for it, and after `grace` seconds let go of one client after
        the other, so that they find another server in `duration` seconds and not all at once."""
        self._close_listeners()
        for connection in self.connections:
            connection.warn()
        await asyncio.sleep(grace)
        going = list(self.connections)
        for connection in going:
            self.committer.begin()
            connection.finish(None)
            await asyncio.sleep(min(max(duration - grace, 0) / len(going), 1))

    async def stop(self, patience: float) -> None:
        """Stop accepting, and close when everything is written, or after `patience` seconds."""
        self._close_listeners()
        self.committer.begin()
        for connection in self.connections:
            connection.finish(None)
        deadline = asyncio.get_running_loop().time() + patience
        # sockets drain by themselves, there is no event to wait for
        while (self.connections or self.committer.busy) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        for door in self._doors:
            door.cancel()
        self._listeners, self._doors = [], []
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
            self._socket = None

    def info(self) -> dict[str, Any]:
        """The fields of INFO that are the same for all."""
        return {
            "server_id": self.id,
            "server_name": self.id,
            "version": NATS_VERSION,
            "mq9": __version__,
            "proto": 1,
            "host": self.host,
            "port": self.port,
            "headers": True,
            "max_payload": self.hub.limits.max_payload,
        }

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Go on with something that takes its time."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def joined(self, connection: Connection) -> bool:
        """A client came; False when there are as many as there may be."""
        free = len(self.connections) < self.hub.limits.max_connections
        self.connections.add(connection)
        self.gone.connections += 1
        self.empty_since = None
        return free

    def left(self, connection: Connection) -> None:
        """A client is gone (or never came further than TLS)."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        gone, session = self.gone, connection.session
        gone.in_msgs += session.in_msgs
        gone.in_bytes += session.in_bytes
        gone.out_msgs += session.out_msgs
        gone.out_bytes += session.out_bytes
        if not self.connections:
            self.empty_since = self.hub.now

    def dismiss_strangers(self) -> None:
        """The users have changed: those whose credentials are not good any more have to go."""
        for connection in self.connections:
            if self.users.required and connection.user not in self.users:
                connection.finish("Authorization Violation")


def _hand_out_little(listener: socket.socket) -> None:
    """What is in the system's buffers cannot be overtaken: its megabytes would stand before an urgent message."""
    # (some systems do not know the option, and some sandboxes refuse it)
    with contextlib.suppress(AttributeError, OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)  # its connections inherit it


def _bind(path: Path) -> socket.socket:
    """A Unix socket at `path`, in place of one that a killed broker left. OSError when somebody listens there, or when
    the file is something else."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        if _stale(path):
            path.unlink()
        bound.bind(os.fspath(path))
        path.chmod(0o600)
    except BaseException:
        bound.close()
        raise
    return bound


def _stale(path: Path) -> bool:
    """Whether nobody listens on the socket that is there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is there", str(path))
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # somebody listens, and has more to do than to accept us
    raise OSError(errno.EADDRINUSE, "another program listens there", str(path))
