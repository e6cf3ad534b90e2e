"""The composition root: builds a broker out of its parts and runs it until a signal."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from mq9_broker import __version__, migration, process
from mq9_broker.auth import Users, warn_if_exposed
from mq9_broker.backup import Backups
from mq9_broker.board import Board
from mq9_broker.clock import Clock, SystemClock
from mq9_broker.commit import Committer
from mq9_broker.config import Config
from mq9_broker.datadir import NOT_USABLE, DataDir
from mq9_broker.deadletters import DeadLetters
from mq9_broker.dialects.native import Native
from mq9_broker.errors import StartError, StoreError
from mq9_broker.groups import Groups
from mq9_broker.hub import Hub
from mq9_broker.jobs import Alarm, Housekeeping, Vigil
from mq9_broker.mailboxes import Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.model import Limits
from mq9_broker.receipts import Receipts
from mq9_broker.server import Server
from mq9_broker.store import Store
from mq9_broker.store.memory import MemoryStore
from mq9_broker.sweep import Sweep
from mq9_broker.tls import Tls

if TYPE_CHECKING:
    from mq9_broker.monitor import Monitor

_log = logging.getLogger(__name__)

_STOP_SECONDS = 1.0
#: When Python looks for garbage (gc.set_threshold): little of what a broker makes is ever part of a cycle. Everybody
#: waits meanwhile: a millisecond for 5,000 new objects, and for those that stay more, so these are not left to gather.
_GARBAGE = (5_000, 2, 4_000)
_KEPT = 8 * 1_048_576
_ADDRESS_IN_USE = 6
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BROKEN = 1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def build(
    disk: Store, memory: Store, limits: Limits, clock: Clock, random: Callable[[int], bytes], loop: Any
) -> tuple[Hub, Committer]:
    """A broker without a listener. `loop` has call_soon and call_later; for stores that return awaitables it is a
    running one."""
    mailboxes = Mailboxes(disk, memory, limits, random)
    messages = Messages(mailboxes)
    receipts = Receipts(mailboxes, messages)
    groups = Groups(mailboxes, messages, receipts, DeadLetters(mailboxes, messages, receipts))
    board = Board(mailboxes)
    hub = Hub(mailboxes, messages, groups, receipts, board, limits, Random())  # noqa: S311  whose turn it is, no secret
    hub.now = clock.now()
    hub.dialect = Native(hub)
    sweep = Sweep(mailboxes, messages, groups, board)
    return hub, Committer(hub, sweep, clock, loop.call_soon, loop.call_later, _watch)


def open_stores(config: Config, folder: DataDir) -> tuple[Store, Store]:
    """(disk, memory): the same one when everything is kept in memory."""
    if config.store == "memory":
        store = MemoryStore()
        return store, store
    from mq9_broker.store.rocks import RocksStore

    try:
        disk = RocksStore(folder.store, sync=config.durability == "fsync")
        if not migration.current(disk, folder.path):
            disk.close()
            disk = RocksStore(folder.store, sync=False)
            migration.migrate(disk, folder.path)
            disk.close()
            disk = RocksStore(folder.store, sync=config.durability == "fsync")
    except StoreError as cause:
        raise StartError(
            f"{cause}; if the folder is not mq9's, name another one with --data-dir", NOT_USABLE
        ) from cause
    return disk, MemoryStore()


def run(config: Config, reload: Callable[[], Config]) -> int:
    """Run a broker until a signal ends it; its exit code. `reload` reads the settings again. Raises StartError."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    os.umask(0o077)  # mail is the user's own
    most = process.allow_connections(config.limits.max_connections)
    config = replace(config, limits=replace(config.limits, max_connections=most))
    with DataDir(config.data_dir) as folder, asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(config, folder, reload))


async def _serve(config: Config, folder: DataDir, reload: Callable[[], Config]) -> int:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    users, tls = Users(config.token, config.users), _tls(config)
    disk, memory = open_stores(config, folder)
    # what is there by now stays, and what comes is connections: looking for garbage among them holds everybody up
    gc.freeze()
    gc.set_threshold(*_GARBAGE)
    # once a block of this size was freed, glibc keeps what large messages need, and does not ask the system for
    # it again and again, page by page, which takes 0.8 ms for each MiB
    bytes(_KEPT)
    hub, committer = build(disk, memory, config.limits, clock, os.urandom, loop)
    hub.back_up = Backups(disk, committer, folder.path).begin
    server = Server(hub, committer, config.host, config.port, users, tls)
    monitor: Monitor | None = None
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    def broken(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket" in context and getattr(context.get("exception"), "errno", None) in _EXHAUSTED:
            # (asyncio's own loop tells of it, and tries again in a second; uvloop says nothing)
            _log.warning("can't accept a client: %s", context["exception"].strerror)
            return
        # outside of a single client's data nothing may fail: going on could lose what was promised
        _log.critical("the broker stops: %s", context["message"], exc_info=context.get("exception"))
        stop(_BROKEN)

    async def retire() -> None:
        _log.info("accepting nobody, letting go of %d clients", len(server.connections))
        await server.retire(config.lame_duck_grace, config.lame_duck_duration)
        stop(0)

    loop.set_exception_handler(broken)
    _on_signal(loop, "SIGTERM", lambda: stop(0))
    _on_signal(loop, "SIGINT", lambda: stop(0))
    _on_signal(loop, "SIGUSR2", lambda: server.run(retire()))
    _on_signal(loop, "SIGHUP", lambda: _reload(server, reload))
    try:
        await _listen(server, config)
        alarm = Alarm(hub, committer, clock, loop)
        alarm.set()
        housekeeping = Housekeeping(disk, committer, loop)
        housekeeping.look()
        if process.processors() > 1:
            # (on a single one, or with no more of its time, the clients could not run meanwhile)
            Vigil(committer, clock, loop)
        if config.monitor_port is not None:
            monitor = await _monitor(server, config, clock)
        folder.announce(config.host, server.port, tls=tls is not None and not tls.optional)
        _announce(config, server, folder, monitor)
        idle = asyncio.create_task(_stop_when_idle(server, config.idle_exit, clock, stop)) if config.idle_exit else None
        code = await stopped
        if idle is not None:
            idle.cancel()
        ending = [server.stop(_STOP_SECONDS)]
        if monitor is not None:
            ending.append(monitor.stop())
        await asyncio.gather(*ending)
        alarm.stop()
        housekeeping.stop()
        _log.info("stopped")
        return code
    finally:
        disk.close()


def _on_signal(loop: asyncio.AbstractEventLoop, name: str, action: Callable[[], object]) -> None:
    """Do `action` in the loop when the signal comes, where the system has it."""
    number = getattr(signal, name, None)
    if number is None:
        return
    try:
        loop.add_signal_handler(number, action)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(action))


def _reload(server: Server, reload: Callable[[], Config]) -> None:
    """Take over users and certificates from the settings as they are now; all or nothing."""
    try:
        config = reload()
        users = Users(config.token, config.users)
        if server.tls is not None:
            server.tls.reload()
    except StartError as wrong:
        _log.error("nothing is reloaded: %s", wrong)
        return
    if server.users.required and not users.required:
        _log.warning("the settings name no token and no users any more: everybody who reaches the broker may connect")
    server.users = users
    server.dismiss_strangers()
    _log.info("users and certificates are reloaded; other settings need a restart")


def _tls(config: Config) -> Tls | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Tls(
        config.tls_cert,
        config.tls_key,
        config.tls_ca,
        verify=config.tls_verify,
        handshake=config.tls_handshake,
        optional=config.tls_optional,
        seconds=config.limits.auth_timeout,
    )


async def _listen(server: Server, config: Config) -> None:
    try:
        await server.listen()
    except OSError as cause:
        if cause.errno != errno.EADDRINUSE or config.idle_exit is None:
            raise _not_listening(cause, config.host, config.port, "--port") from cause
        # started by a program, for programs on this machine: the port file tells them where
        server.port = 0
        await server.listen()
    if config.ws_port is not None:
        try:
            await server.listen_websocket(config.ws_host, config.ws_port, config.ws_origins)
        except OSError as cause:
            raise _not_listening(cause, config.ws_host, config.ws_port, "--ws-port") from cause
    if config.socket is not None:
        try:
            await server.listen_unix(config.socket)
        except OSError as cause:
            reason = "the path is too long" if cause.errno is None else cause.strerror
            raise StartError(
                f"can't listen on {config.socket}: {reason}; name another path with --socket", _ADDRESS_IN_USE
            ) from cause


async def _monitor(server: Server, config: Config, clock: Clock) -> Monitor:
    from mq9_broker.monitor import Monitor

    monitor = Monitor(server, server.committer, config, clock)
    try:
        await monitor.start()
    except OSError as cause:
        port = config.monitor_port or 0
        raise _not_listening(cause, config.monitor_host, port, "--monitor-port") from cause
    return monitor


def _not_listening(cause: OSError, host: str, port: int, flag: str) -> StartError:
    reason = cause.strerror or str(cause)
    if cause.errno == errno.EADDRINUSE:
        reason = f"{_occupant(host, port)} listens there; use it, or {flag} 0 for any free port"
    return StartError(f"can't listen on {host}:{port}: {reason}", _ADDRESS_IN_USE)


def _occupant(host: str, port: int) -> str:
    """What holds a port: its INFO tells."""
    try:
        with socket.create_connection((host, port), timeout=0.5) as peer:
            line = peer.recv(4096)
        info = json.loads(line.split(b" ", 1)[1].split(b"\r\n", 1)[0]) if line.startswith(b"INFO ") else None
    except (OSError, ValueError, IndexError):
        return "another program"
    if info is None:
        return "another program"
    return f"mq9 broker {info['mq9']}" if "mq9" in info else "a NATS server"


def _announce(config: Config, server: Server, folder: DataDir, monitor: Monitor | None) -> None:
    secured = server.tls is not None
    places = [f"listening on {'tls' if secured else 'nats'}://{_shown(config.host)}:{server.port}"]
    if config.ws_port is not None:
        places.append(f"listening on {'wss' if secured else 'ws'}://{_shown(config.ws_host)}:{server.ws_port}")
    if config.socket is not None:
        places.append(f"listening on unix://{config.socket.absolute()}")
    if monitor is not None:
        places.append(f"monitoring on http://{_shown(config.monitor_host)}:{monitor.port}")
    print("".join(f"mq9 broker {__version__} {place}\n" for place in places), end="", flush=True)
    _log.info("data folder %s, store %s, durability %s", folder.path, config.store, config.durability)
    for file in (config.secret_file, config.tls_key):
        if file is not None:
            warn_if_exposed(file)
    for host, port in [(config.host, server.port), *([(config.ws_host, server.ws_port)] if server.ws_port else [])]:
        if host not in _LOOPBACK and not server.users.required:
            _log.warning(
                "listening on %s without authentication: whoever reaches port %d can read public mailboxes, broadcasts "
                "and core subjects, and send to any address; set a token or users, or bind 127.0.0.1 unless the "
                "network is yours alone",
                host,
                port,
            )
        if host not in _LOOPBACK and not secured:
            _log.warning("listening on %s without TLS: what goes through port %d can be read on its way", host, port)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _stop_when_idle(server: Server, seconds: int, clock: Clock, stop: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(min(seconds, 5))
        if server.empty_since is not None and clock.now() - server.empty_since >= seconds * 1000:
            _log.info("no client for %d seconds", seconds)
            stop(0)
            return


def _watch(flight: Awaitable[None], done: Callable[[BaseException | None], None]) -> None:
    def landed(future: asyncio.Future[None]) -> None:
        if not future.cancelled():  # (by the end of the loop)
            done(future.exception())

    asyncio.ensure_future(flight).add_done_callback(landed)
