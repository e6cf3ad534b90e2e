"""A broker that holds very much: its memory, its speed beside one that holds little, restarts, and a mass expiry.

Every mailbox holds ten messages of 256 bytes, five of which expire, all within one second. They come in two rounds,
those that stay first. The small broker has 20,000 such mailboxes, or a hundredth where that is more.
"""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from benchmarks.drain import fill
from benchmarks.link import WireError
from benchmarks.load import Frames, keep_in_flight, payloads
from benchmarks.mq9 import STORED, Mq9Client
from benchmarks.report import Report
from benchmarks.servers import Server, mq9_broker, nats_server
from benchmarks.waits import Waits
from benchmarks.wire import Wire, compact, pub

HALF = 5
_DAY = 86400
_RING = 1024
_BLOCK = 400
_SPREAD = 10_000
_FETCHED = b'{"error":"","messages":[{'


def run(report: Report, folder: Path, mailboxes: int) -> None:
    with ExitStack() as stack:
        witness = stack.enter_context(nats_server(folder / "nats"))
        small = _Holding(report, folder / "small", "small", max(mailboxes // 100, 2 * _SPREAD))
        full = _Holding(report, folder / "full", "mq9", mailboxes)
        with full.broker() as server:
            full.memory(server, "before")
            full.fill(server)
        _restarts(small, full)
        with full.broker() as server:
            full.touch(server)
            with small.broker() as other:
                small.fill(other)
                _speed([(small, other), (full, server)])
            full.memory(server, "after sends and fetches")
            full.expire(server, witness)
        full.add("restart after the expiry", "s", _first_answer(full, lambda server: None))


class _Holding:
    """A data folder, and what is in it."""

    def __init__(self, report: Report, folder: Path, name: str, mailboxes: int) -> None:
        self.report = report
        self.folder = folder
        self.name = name
        self.mailboxes = mailboxes
        self.addresses: list[bytes] = []
        self.expiry = 0.0
        self.random = random.Random(1)

    @contextmanager
    def broker(self) -> Iterator[Server]:
        with mq9_broker(self.folder) as server:
            server.name = self.name
            yield server

    def add(self, case: str, unit: str, value: float) -> None:
        self.report.add("flat", case, unit, self.name, value)
        _say(f"{self.name}: {case}: {value:,.4g} {unit}")

    def memory(self, server: Server, when: str) -> None:
        """The most that it ever was, by now."""
        peak = server.peak_kib()
        if peak is not None:
            self.add(f"memory at most, {when}", "MiB", peak / 1024)

    def some(self, count: int) -> list[str]:
        return [address.decode() for address in self.random.sample(self.addresses, count)]

    # filling

    def fill(self, server: Server) -> None:
        cpu, started = server.cpu_seconds(), time.perf_counter()
        self._create(server)
        self.add("mailboxes created", "mailboxes/s", self.mailboxes / (time.perf_counter() - started))
        self.memory(server, "after creating")
        began = time.perf_counter()
        self._send(server, lambda: b"", "those that stay")
        self.memory(server, "after half of the messages")
        # (what is measured before the expiry takes that long)
        meanwhile = 90 + self.mailboxes / 10_000
        self.expiry = time.time() + 1.5 * (time.perf_counter() - began) + meanwhile
        self._send(server, lambda: b"mq9-ttl: %d\r\n" % (self.expiry - time.time()), "those that expire")
        self.memory(server, "after all of them")
        self.report.add_cpu("flat", "loading, a message", server, cpu, self.mailboxes * 2 * HALF)
        if time.time() > self.expiry - meanwhile / 2:
            raise WireError("loading took too long: the first messages expire already")
        self.add("folder, filled", "MB", self.size())

    def _create(self, server: Server) -> None:
        with Wire(server.port) as wire:
            request = pub("$mq9.AI.MAILBOX.CREATE", compact({"ttl": _DAY}), f"{wire.inbox}.0")
            for first in range(0, self.mailboxes, _BLOCK):
                count = min(_BLOCK, self.mailboxes - first)
                wire.sock.sendall(request * count)
                answers = wire.until(b"}\r\n", count)
                self.addresses += re.findall(rb'"mail_id":"(m-[a-z2-7]+)"', answers)
        if len(self.addresses) != self.mailboxes:
            raise WireError(f"{len(self.addresses):,} mailboxes were created instead of {self.mailboxes:,}")

    def _send(self, server: Server, header: Callable[[], bytes], what: str) -> None:
        """Five messages to every mailbox, in the order of their creation."""
        # (not the same in neighbours: that would be compressed)
        texts, started, cpu = payloads(_RING, len(what)), time.perf_counter(), server.cpu_seconds()
        with Wire(server.port) as wire:
            for first in range(0, self.mailboxes, _BLOCK):
                head = b"NATS/1.0\r\n%b\r\n" % line if (line := header()) else b""
                verb = b"HPUB $mq9.AI.INBOX.%%b %d %d\r\n%b" % (len(head), len(head) + 256, head.replace(b"%", b"%%"))
                verb = verb if head else b"PUB $mq9.AI.INBOX.%b 256\r\n"
                parts: list[bytes] = []
                for number, address in enumerate(self.addresses[first : first + _BLOCK], first):
                    line = verb % address
                    for i in range(HALF):
                        parts += line, texts[(number * HALF + i) % _RING], b"\r\n"
                wire.sock.sendall(b"".join(parts))
                wire.flush()
        count = self.mailboxes * HALF
        self.add(f"{what}, sent", "msg/s", count / (time.perf_counter() - started))
        self.report.add_cpu("flat", f"{what}, sent", server, cpu, count)

    def size(self) -> float:
        """MB of the data folder on disk."""
        total = 0
        for path in (self.folder / "data").rglob("*"):
            try:
                total += path.stat().st_blocks * 512
            except FileNotFoundError:
                pass
        return total / 1e6

    # with everything in it

    def touch(self, server: Server) -> None:
        """A send to and a fetch from many different mailboxes, none twice."""
        count = min(self.mailboxes // 10, 20_000)
        with Wire(server.port) as wire:
            for case, ok, subject, body in (
                ("sends to mailboxes in random order", STORED, "INBOX", payloads(1)[0]),
                ("fetches of ten from mailboxes in random order", _FETCHED, "MSG.FETCH", b""),
            ):
                requests = [(f"$mq9.AI.{subject}.{address}", body) for address in self.some(count)]
                result = keep_in_flight(wire, wire.frames(requests, 16, ok, ordered=False), 16, count=count)
                self.add(f"{count:,} {case}, each once", "/s", result.rate)
        self.memory(server, "after those")

    def expire(self, server: Server, witness: Server) -> None:
        """Waits for the moment, and for the space to come back; how long clients wait meanwhile."""
        if time.time() > self.expiry - 5:
            raise WireError("what comes before the expiry took too long: the messages expired already")
        waits = Waits(server, witness, lambda: self.random.choice(self.addresses).decode(), payloads(1)[0])
        with Wire(server.port) as wire:
            own = wire.request("$mq9.AI.MAILBOX.CREATE")["mail_id"]
            wire.subscribe(f"$mq9.AI.INBOX.{own}.notify", 2)
            # the schedule is worked off in its order: when this one is gone, the others are
            lines = (
                f"mq9-ttl: {max(self.expiry - time.time(), 0) + 2:.0f}\r\nmq9-from: {own}\r\nmq9-receipt: expired\r\n"
            )
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            wire.sock.sendall(b"HPUB $mq9.AI.INBOX.%b %d %d\r\n%b\r\n" % (own.encode(), len(head), len(head), head))
            wire.flush()
            wire.sock.setblocking(False)
            self._waits(waits, "before", max(self.expiry - 1 - time.time(), 5), lambda: False)
            started, cpu, before = time.perf_counter(), server.cpu_seconds(), self.size()
            self._waits(waits, "while half of it expires", 1800, lambda: _came(wire))
            seconds = time.perf_counter() - started
            self.add("expiry of half, sweep", "s", seconds)
            self.add("expiries", "msg/s", self.mailboxes * HALF / seconds)
            self.report.add_cpu("flat", "expiry, a message", server, cpu, self.mailboxes * HALF)
        self.memory(server, "after the expiry")
        self.add("folder before the expiry", "MB", before)
        self.add("folder after the sweep", "MB", self.size())
        began = time.perf_counter()
        shrinking = _Shrinking(self)
        self._waits(waits, "while space comes back", 240, shrinking.over)
        self.add("time until the folder was smallest", "s", shrinking.last - began)
        self.add("folder at the end", "MB", self.size())
        self.memory(server, "in the end")
        waits.close()

    def _waits(self, waits: Waits, when: str, seconds: float, done: Callable[[], bool]) -> None:
        for kind, longest in waits.measure(seconds, done).items():
            self.add(f"longest {kind}, {when}", "ms", longest.seen)
            self.add(f"longest {kind}, {when}, on a processor", "ms", longest.own)
            _say(f"({longest.requests} requests)")


class _Shrinking:
    """Whether a folder still becomes smaller: not any more after 30 seconds without."""

    def __init__(self, holding: _Holding) -> None:
        self._holding = holding
        self._smallest = holding.size()
        self._looked = self.last = time.perf_counter()

    def over(self) -> bool:
        now = time.perf_counter()
        if now - self._looked < 1:
            return False
        self._looked = now
        size = self._holding.size()
        if size < self._smallest * 0.99:
            self._smallest, self.last = size, now
            _say(f"folder: {size:,.0f} MB")
        return now - self.last > 30


def _restarts(small: _Holding, full: _Holding, rounds: int = 3) -> None:
    """Seconds from the start of the process to its first answer about a mailbox."""
    for _ in range(rounds):
        for holding in (small, full):
            holding.add("restart after a stop", "s", _first_answer(holding, lambda server: None))
    for _ in range(rounds):
        for holding in (small, full):
            holding.add("restart after kill -9 while it stores", "s", _first_answer(holding, _kill))


def _first_answer(holding: _Holding, end: Callable[[Server], None]) -> float:
    with holding.broker() as server:
        end(server)
    logs = sum(path.stat().st_size for path in (holding.folder / "data").rglob("*.log"))
    started = time.perf_counter()
    with holding.broker() as server, Wire(server.port) as wire:
        address = holding.some(1)[0] if holding.addresses else wire.request("$mq9.AI.MAILBOX.CREATE")["mail_id"]
        wire.request(f"$mq9.AI.MAILBOX.QUERY.{address}")
        seconds = time.perf_counter() - started
    _say(f"({logs / 1e6:,.0f} MB in logs)")
    return seconds


def _kill(server: Server) -> None:
    """Kill it while it stores messages as fast as it can."""
    with Mq9Client(server.port) as client:
        keep_in_flight(client, client.sends([client.place()], payloads(_RING), 1000), 1000, count=150_000)
        os.kill(server.pid, signal.SIGKILL)


def _speed(brokers: list[tuple[_Holding, Server]], rounds: int = 3) -> None:
    """One after the other, round by round."""
    for _ in range(rounds):
        for holding, server in brokers:
            with Mq9Client(server.port) as client:
                place = client.place()
                for window in (1, 64, 1000):
                    case = f"sends to one mailbox, {window:,} in flight"
                    _rate(holding, server, client, case, client.sends([place], payloads(_RING), window), window)
                frames = client.sends(holding.some(_SPREAD), payloads(1) * _SPREAD, 64)
                _rate(holding, server, client, "first sends to 10,000 mailboxes, 64 in flight", frames, 64, _SPREAD)
                _rate(holding, server, client, "sends to 10,000 mailboxes, 64 in flight", frames, 64)
                frames = client.fetches(holding.some(_SPREAD), 16)
                _rate(holding, server, client, "first fetches of ten from 10,000 mailboxes", frames, 16, _SPREAD)
                _rate(holding, server, client, "fetches of ten from 10,000 mailboxes", frames, 16)
            _batches(holding, server)


def _rate(
    holding: _Holding, server: Server, client: Mq9Client, case: str, frames: Frames, window: int, count: int = 0
) -> None:
    cpu = server.cpu_seconds()
    result = keep_in_flight(client, frames, window, seconds=600 if count else 0.7, count=count or None)
    holding.report.add("flat", case, "/s", holding.name, result.rate)
    holding.report.add_cpu("flat", case, server, cpu, result.replies)


def _batches(holding: _Holding, server: Server, count: int = 200, size: int = 100) -> None:
    with Mq9Client(server.port) as client:
        reader = client.batches(fill(client, client.place(), count * size), size)
        cpu, started = server.cpu_seconds(), time.perf_counter()
        got = sum(islice(reader, count))
        case = f"FETCH and ACK of {size}, one mailbox"
        holding.report.add("flat", case, "msg/s", holding.name, got / (time.perf_counter() - started))
        holding.report.add_cpu("flat", case, server, cpu, got)


def _came(wire: Wire) -> bool:
    """Whether anything arrived."""
    try:
        data = wire.sock.recv(65536)
    except BlockingIOError:
        return False
    if b"PING\r\n" in data:
        wire.sock.sendall(b"PONG\r\n")
    return b"MSG " in data


def _say(line: str) -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{time.strftime('%H:%M:%S')} load {load:4.1f}  {line}", file=sys.stderr, flush=True)
