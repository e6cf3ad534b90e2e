"""A broker without sockets: real connections, committer and alarm over a loop, transports and stores that tests drive.

Nothing happens by itself: `settle` runs what is queued, `advance` lets time pass, and a FaultyStore lets commits fail,
wait or be forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any

from mq9_broker import runner
from mq9_broker.auth import Users
from mq9_broker.clock import ManualClock
from mq9_broker.connection import Connection
from mq9_broker.errors import StoreError
from mq9_broker.jobs import Alarm
from mq9_broker.mailboxes import Mailbox
from mq9_broker.model import Limits
from mq9_broker.server import Server
from mq9_broker.store import Batch, Store
from mq9_broker.store.memory import MemoryStore

AI = "$mq9.AI."
NOBODY = "m-" + "a" * 26
NOBODY_SEND_ONLY = "s-" + "a" * 26
#: What a test's clients announce: they take headers and are not told +OK.
OPTIONS = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 0}

Headers = Mapping[str, object] | bytes | None


class Handle:
    """What call_later gives: `cancel` makes it never happen."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Stands in for the event loop, for futures too: `settle` runs what is queued, `advance` what falls due."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self._queue: deque[Callable[[], object]] = deque()
        self._later: list[tuple[int, int, Handle, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: object, context: object = None) -> None:
        self._queue.append(lambda: callback(*args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Handle:
        """`delay` in seconds of the manual clock."""
        handle = Handle()
        due = self.clock.now() + round(delay * 1000)
        heappush(self._later, (due, next(self._numbers), handle, lambda: callback(*args)))
        return handle

    def get_debug(self) -> bool:
        return False

    def settle(self) -> None:
        """Run until nothing is queued."""
        for _ in range(1_000_000):
            if not self._queue:
                return
            self._queue.popleft()()
        raise AssertionError("the broker never comes to rest")

    def turn(self) -> None:
        """Run what is queued now, and not what that queues."""
        for _ in range(len(self._queue)):
            self._queue.popleft()()

    @property
    def resting(self) -> bool:
        """Whether nothing is queued."""
        return not self._queue

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass: whatever falls due meanwhile happens at its time."""
        self.settle()
        until = self.clock.now() + round(seconds * 1000)
        while self._later and self._later[0][0] <= until:
            due, _, handle, action = heappop(self._later)
            if not handle.cancelled:
                self._move(due)
                action()
                self.settle()
        self._move(until)
        self.settle()

    def _move(self, to: int) -> None:
        if to > self.clock.now():
            self.clock.advance((to - self.clock.now()) / 1000)


class Transport:
    """Stands in for a socket. Stalled, it keeps what is written, as for a client that does not read."""

    def __init__(self, loop: Loop, protocol: Connection, deliver: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._protocol = protocol
        self._deliver = deliver
        self._kept = bytearray()
        self._paused = False
        self._high = self._low = 0
        self.stalled = False
        self.reading = True
        self.closing = False
        self.lost = False
        self.writes: list[bytes] = []

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high, self._low = high, low

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return len(self._kept)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closing, "written to a closed transport: uvloop raises"
        assert data
        self.writes.append(data)
        if not self.stalled:
            self._deliver(data)
            return
        self._kept += data
        if len(self._kept) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def drain(self, size: int | None = None) -> None:
        """The client reads `size` bytes of what was kept; without a size all of it, and goes on reading."""
        if size is None:
            self.stalled = False
            size = len(self._kept)
        data = bytes(self._kept[:size])
        del self._kept[:size]
        self._deliver(data)
        if self._paused and len(self._kept) <= self._low:
            self._paused = False
            self._protocol.resume_writing()
        if self.closing and not self._kept:
            self._lose(None)

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self._kept:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self.closing = True
        self._kept.clear()
        self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(error)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame a client got. `text` is what follows the verb of an -ERR; `headers` of an HMSG, `status` included."""

    verb: str
    subject: str = ""
    sid: str = ""
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    payload: bytes = b""
    text: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def body(self) -> str:
        return self.payload.decode()


class Decoder:
    """Cuts what a broker writes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._rest += data
        while (end := self._rest.find(b"\r\n")) >= 0:
            verb, _, args = self._rest[:end].decode("utf-8", "replace").partition(" ")
            end += 2
            if verb not in ("MSG", "HMSG"):
                self._rest = self._rest[end:]
                yield Frame(verb, text=args.strip())
                continue
            *names, size = args.split(" ")
            stop = end + int(size)
            if len(self._rest) < stop + 2:
                return
            assert self._rest[stop : stop + 2] == b"\r\n"
            middle = end + (int(names.pop()) if verb == "HMSG" else 0)
            block, payload = self._rest[end:middle].decode("utf-8", "replace"), self._rest[middle:stop]
            self._rest = self._rest[stop + 2 :]
            first, _, lines = block.partition("\r\n")
            pairs = (line.partition(":") for line in lines.split("\r\n") if line)
            headers = {name: value.strip() for name, _, value in pairs}
            reply = names[2] if len(names) == 3 else ""
            yield Frame(verb, names[0], names[1], reply, headers, first[len("NATS/1.0 ") :], payload)


def pub(subject: str, payload: object = b"", reply: str = "", headers: Headers = None) -> bytes:
    """A PUB or HPUB frame. `subject` stands after the mq9 prefix unless it begins with `=`."""
    full = subject[1:] if subject.startswith("=") else AI + subject
    body = encode(payload)
    target = f"{full} {reply}" if reply else full
    if headers is None:
        return f"PUB {target} {len(body)}\r\n".encode() + body + b"\r\n"
    if isinstance(headers, Mapping):
        headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    block = b"NATS/1.0\r\n" + headers + b"\r\n"
    return f"HPUB {target} {len(block)} {len(block) + len(body)}\r\n".encode() + block + body + b"\r\n"


def encode(payload: object) -> bytes:
    """Bytes as they are, text as UTF-8, None as nothing, anything else as JSON."""
    if isinstance(payload, bytes):
        return payload
    if payload is None:
        return b""
    return payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()


class Client:
    """One connection. Its frames wait in `frames` until they are taken; answers to requests are kept apart."""

    def __init__(self, broker: Broker, number: int, connect: Mapping[str, object] | None, pong: bool) -> None:
        self.broker = broker
        self.pong = pong
        self.raw = bytearray()
        self.frames: list[Frame] = []
        self._decoder = Decoder()
        self._inbox = f"_INBOX.c{number}"
        self._asked = itertools.count(1)
        self._sids = itertools.count(1)
        self.connection = Connection(broker.server, "nats", {})
        self.session = self.connection.session
        self.transport = Transport(broker.loop, self.connection, self._received)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        if connect is not None:
            self.feed(f"CONNECT {json.dumps(connect)}\r\nSUB {self._inbox}.* r\r\n".encode())
        broker.settle()

    def _received(self, data: bytes) -> None:
        self.raw += data
        for frame in self._decoder.feed(data):
            self.frames.append(frame)
            if frame.verb == "PING" and self.pong:
                self.broker.loop.call_soon(self.feed, b"PONG\r\n")

    # what the client sends

    def feed(self, data: bytes) -> None:
        """Bytes arrive; the turn does not end yet."""
        if not self.transport.lost:
            self.connection.data_received(data)

    def send(self, *data: bytes | str) -> list[Frame]:
        """Bytes arrive, the broker comes to rest; what this client got since the last look."""
        self.feed(b"".join(part if isinstance(part, bytes) else part.encode() for part in data))
        self.broker.settle()
        return self.take()

    def ask(self, subject: str, payload: object = None, headers: Headers = None) -> Answer:
        """Feed a request; its answer, which may come later."""
        reply = f"{self._inbox}.{next(self._asked)}"
        self.feed(pub(subject, payload, reply, headers))
        return Answer(self, reply)

    def request(self, subject: str, payload: object = None, headers: Headers = None) -> dict[str, Any]:
        """Ask, come to rest, and give the answer there must be."""
        answer = self.ask(subject, payload, headers)
        self.broker.settle()
        found = answer.now
        assert found is not None, f"no answer to {subject}"
        return found

    def subscribe(self, subject: str, queue: str = "") -> str:
        """Feed a SUB (subjects as in `pub`); its sid."""
        full = subject[1:] if subject.startswith("=") else AI + subject
        sid = f"s{next(self._sids)}"
        self.feed(f"SUB {full} {queue} {sid}\r\n".encode())
        self.broker.settle()
        return sid

    def create(self, **fields: object) -> dict[str, Any]:
        """CREATE, which must succeed."""
        created = self.request("MAILBOX.CREATE", fields)
        assert created["error"] == "", created
        return created

    def mailbox(self, **fields: object) -> str:
        """A new mailbox's address."""
        address = self.create(**fields)["mail_id"]
        assert isinstance(address, str)
        return address

    def put(self, address: str, payload: object = b"", **headers: object) -> int:
        """Send, which must succeed; the msg_id. `ttl=5` is the header mq9-ttl, `id` is Nats-Msg-Id."""
        named = {"Nats-Msg-Id" if name == "id" else f"mq9-{name}": value for name, value in headers.items()}
        sent = self.request(f"MAILBOX.{address}", payload, named or None)
        assert sent["error"] == "", sent
        number = sent["msg_id"]
        assert isinstance(number, int)
        return number

    def query(self, address: str, **fields: object) -> list[tuple[int, str]]:
        """(msg_id, payload) of what is stored."""
        return entries(self.request(f"MAILBOX.QUERY.{address}", fields))

    def fetch(self, address: str, group: str = "", wait: int = 0, limit: int = 100, **fields: object) -> dict[str, Any]:
        """FETCH, answered at once."""
        return self.request(f"MSG.FETCH.{address}", fetching(group, wait, limit, **fields))

    # what the client got

    def take(self, sid: str = "") -> list[Frame]:
        """The frames since the last look, without broker's PINGs and INFOs; of one subscription when it is named."""
        found = [frame for frame in self.frames if (not sid and frame.sid != "r") or (sid and frame.sid == sid)]
        self.frames = [frame for frame in self.frames if frame not in found]
        return [frame for frame in found if frame.verb not in ("PING", "INFO")]

    def bodies(self, sid: str = "") -> list[str]:
        """The payloads of the messages since the last look."""
        return [frame.body for frame in self.take(sid) if frame.verb in ("MSG", "HMSG")]

    def errors(self) -> list[str]:
        """The -ERR texts since the last look; there must be nothing else but messages."""
        return [frame.text.strip("'") for frame in self.take() if frame.verb == "-ERR"]

    # how it goes

    @property
    def gone(self) -> bool:
        return self.transport.lost

    def hang_up(self) -> None:
        """The client goes away without a word."""
        self.transport.abort()
        self.broker.settle()


class Answer:
    """The answer to one request."""

    def __init__(self, client: Client, reply: str) -> None:
        self._client = client
        self.reply = reply

    @property
    def now(self) -> dict[str, Any] | None:
        """What came; None when nothing came yet. Two answers are a mistake of the broker."""
        found = [frame for frame in self._client.frames if frame.sid == "r" and frame.subject == self.reply]
        assert len(found) < 2, found
        if not found:
            return None
        answer = found[0].json
        assert isinstance(answer, dict)
        return answer


def fetching(group: str = "", wait: int = 0, limit: int = 100, **fields: object) -> dict[str, object]:
    """The JSON of a FETCH; `wait` in ms."""
    return {"group_name": group, "config": {"num_msgs": limit, "max_wait_ms": wait}} | fields


def entries(answer: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(msg_id, payload) of the messages of an answer that must not be an error."""
    assert answer["error"] == "", answer
    return [(message["msg_id"], message["payload"]) for message in answer["messages"]]


class Broker:
    """A whole broker in this process. Randomness and time are fixed by `seed` and the manual clock."""

    def __init__(
        self,
        disk: Store | None = None,
        memory: Store | None = None,
        *,
        limits: Limits | None = None,
        clock: ManualClock | None = None,
        users: Users | None = None,
        seed: int = 9,
    ) -> None:
        self.clock = clock or ManualClock()
        self.loop = Loop(self.clock)
        self.disk = disk if disk is not None else MemoryStore()
        self.memory = memory if memory is not None else MemoryStore()
        self.random = Random(seed)
        if isinstance(self.disk, FaultyStore):
            self.disk.loop = self.loop
        self.hub, self.committer = runner.build(
            self.disk, self.memory, limits or Limits(), self.clock, self.random.randbytes, self.loop
        )
        self.hub.router.chance = Random(seed).random
        self.server = Server(self.hub, self.committer, "127.0.0.1", 4222, users or Users(), None)
        self.alarm = Alarm(self.hub, self.committer, self.clock, self.loop)  # type: ignore[arg-type]
        self.alarm.set()
        self._numbers = itertools.count(1)
        self.clients: list[Client] = []
        self.settle()

    def client(self, connect: Mapping[str, object] | None = OPTIONS, *, pong: bool = True, **changes: object) -> Client:
        """A new connection. `connect` None sends no CONNECT; `pong` False leaves the broker's PINGs unanswered."""
        options = None if connect is None else {**connect, **changes}
        self.clients.append(Client(self, next(self._numbers), options, pong))
        return self.clients[-1]

    def settle(self) -> None:
        self.loop.settle()

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def restart(self, disk: Store | None = None) -> Broker:
        """Another process on the same store (or on what is left of it); what was in memory is gone."""
        return Broker(disk if disk is not None else self.disk, clock=self.clock, limits=self.hub.limits, seed=10)

    def find(self, address: str) -> Mailbox | None:
        """The mailbox as the engine has it, by its send-only address or name."""
        return self.hub.mailboxes.find(address, self.clock.now())

    def stored(self) -> dict[bytes, bytes]:
        """Everything both stores hold but what belongs to the broker as a whole."""
        places = [self.disk] if self.disk is self.memory else [self.disk, self.memory]
        return {key: value for place in places for key, value in place.scan(b"", b"\xff" * 64) if key[:1] != b"!"}


class FaultyStore:
    """A MemoryStore with faults that tests inject.

    `failing`: commits raise StoreError with that text and change nothing. `behind` is what it says of itself.
    `by_hand`: commits return futures that `land` completes or fails; the batch is readable at once, and if it fails,
    its writes are undone, as in RocksStore.
    `crash` gives a store of what was kept: batches whose commit returned None, or whose future was completed.
    """

    def __init__(self, kept: MemoryStore | None = None) -> None:
        self._readable = MemoryStore()
        self._kept = kept or MemoryStore()
        self._readable.commit(Batch(dict(self._kept.scan(b"", b"\xff" * 64))))
        self._unsynced: deque[Batch] = deque()
        self.flights: deque[tuple[asyncio.Future[None], Batch]] = deque()
        self.loop: Any = None
        self.failing = ""
        self.behind = False
        self.by_hand = False
        self.commits = 0
        self.attempts = 0

    def get(self, key: bytes) -> bytes | None:
        return self._readable.get(key)

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        return self._readable.scan(start, end, ahead)

    def commit(self, batch: Batch) -> asyncio.Future[None] | None:
        self.attempts += 1
        if self.failing:
            raise StoreError(self.failing)
        self.commits += 1
        self._readable.commit(batch)
        self._unsynced.append(batch)
        if not self.by_hand:
            self._sync(batch)
            return None
        flight: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self.flights.append((flight, batch))
        return flight

    def land(self, failed: str = "") -> None:
        """The oldest commit on its way is done, or fails."""
        flight, batch = self.flights.popleft()
        if failed:
            self._unsynced.remove(batch)
            self._kept.commit(Batch(ranges=batch.ranges))
            self._readable = MemoryStore()
            for left in (Batch(dict(self._kept.scan(b"", b"\xff" * 64))), *self._unsynced):
                self._readable.commit(left)
            flight.set_exception(StoreError(failed))
        else:
            self._sync(batch)
            flight.set_result(None)

    def crash(self) -> FaultyStore:
        """What a new process finds."""
        return FaultyStore(self._kept)

    untidy = False

    def tidy(self) -> float:
        return 0.0

    def checkpoint(self, path: Path) -> Awaitable[None]:
        return self._readable.checkpoint(path)

    def close(self) -> None:
        self._readable.close()

    def _sync(self, upto: Batch) -> None:
        # a log is synced from its beginning
        while self._unsynced:
            batch = self._unsynced.popleft()
            self._kept.commit(batch)
            if batch is upto:
                return


def by_name(changes: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """(event, name) of directory lines."""
    return [(change["event"], change["mail_id"]) for change in changes]
