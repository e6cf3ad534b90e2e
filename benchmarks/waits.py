"""How long clients wait while the server has something else to do: one request in flight for each of a few clients."""

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.link import WireError
from benchmarks.servers import Server
from benchmarks.wire import Wire, pub

_PAUSE = 0.004
_LOST = 60.0


@dataclass(slots=True)
class Longest:
    """The longest wait of one kind of request, in ms: as its client saw it, and without the time in which the server
    and the client were ready and had no processor."""

    requests: int = 0
    seen: float = 0.0
    own: float = 0.0


@dataclass(slots=True)
class _Client:
    kind: str
    wire: Wire
    frame: Callable[[], bytes]
    end: bytes
    pid: int
    got: bytes = b""
    asked: float = 0.0
    queued: float = 0.0
    again: float = 0.0
    longest: Longest = field(default_factory=Longest)


class Waits:
    """Clients of `server` that PING, send, and fetch, from `addresses` in turn, and one that pings a `witness` that has
    nothing else to do: what that one waits is the machine's doing."""

    def __init__(self, server: Server, witness: Server, addresses: Callable[[], str], payload: bytes) -> None:
        self._wires = [Wire(each.port) for each in (server, server, server, witness)]
        ping, send, fetch, idle = self._wires

        def sending() -> bytes:
            return pub(f"$mq9.AI.INBOX.{addresses()}", payload, f"{send.inbox}.0")

        def fetching() -> bytes:
            return pub(f"$mq9.AI.MSG.FETCH.{addresses()}", b'{"config":{"max_wait_ms":0}}', f"{fetch.inbox}.0")

        self._clients = [
            _Client("PING", ping, lambda: b"PING\r\n", b"PONG\r\n", server.pid),
            _Client("send", send, sending, b"}\r\n", server.pid),
            _Client("fetch", fetch, fetching, b"}\r\n", server.pid),
            _Client("PING of an idle nats-server", idle, lambda: b"PING\r\n", b"PONG\r\n", witness.pid),
        ]

    def measure(self, seconds: float, done: Callable[[], bool]) -> dict[str, Longest]:
        """Until `done` (asked ten times a second) or for so many seconds; the longest waits by kind."""
        for client in self._clients:
            client.longest = Longest()
        until, look = time.perf_counter() + seconds, 0.0
        with selectors.DefaultSelector() as selector:
            for client in self._clients:
                selector.register(client.wire.sock, selectors.EVENT_READ, client)
            while (now := time.perf_counter()) < until or any(client.asked for client in self._clients):
                if now >= look and now < until:
                    look = now + 0.1
                    if done():
                        until = now
                for client in self._clients:
                    if not client.asked and client.again <= now < until:
                        client.queued = _queued(client.pid)
                        client.asked = time.perf_counter()
                        client.wire.sock.sendall(client.frame())
                    elif client.asked and now - client.asked > _LOST:
                        raise WireError(f"a {client.kind} was not answered within {_LOST:.0f} s")
                for key, _ in selector.select(_PAUSE / 4):
                    self._receive(key.data)
        return {client.kind: client.longest for client in self._clients}

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    @staticmethod
    def _receive(client: _Client) -> None:
        client.got += client.wire.receive()
        if b"-ERR" in client.got or (b'{"error":"' in client.got and b'{"error":""' not in client.got):
            raise WireError(client.got.decode(errors="replace")[:300])
        if b"PING\r\n" in client.got:
            client.wire.sock.sendall(b"PONG\r\n")
            client.got = client.got.replace(b"PING\r\n", b"")
        if not client.got.endswith(client.end):
            return
        now = time.perf_counter()
        waited = (now - client.asked) * 1e3
        longest = client.longest
        longest.requests += 1
        longest.seen = max(longest.seen, waited)
        longest.own = max(longest.own, waited - _queued(client.pid) + client.queued)
        client.got, client.asked, client.again = b"", 0.0, now + _PAUSE


def _queued(pid: int) -> float:
    """For how many ms the main thread of a process, and this one, were ready and had to wait for a processor; 0 where
    the system does not say."""
    try:
        texts = [Path(f"/proc/{name}/schedstat").read_text() for name in (f"{pid}/task/{pid}", "thread-self")]
    except OSError:
        return 0.0
    return sum(int(text.split()[1]) for text in texts) / 1e6
