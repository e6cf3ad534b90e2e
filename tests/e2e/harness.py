"""Real servers in processes of their own, and the two ways the tests speak to them: raw bytes and nats-py."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

AI = "$mq9.AI."
PRIVATE_ID = re.compile(rb"m-[a-z2-7]{26}")
SEND_ONLY = re.compile(r"s-[a-z2-7]{26}")
WORDS = ("critical", "urgent", "high", "normal", "low", "notify")
NOBODY = "m-" + "a" * 26
NOBODY_SEND_ONLY = "s-" + "a" * 26

_names = itertools.count(1)


def fresh_name(prefix: str = "box") -> str:
    """A public name that no other test of this run uses."""
    return f"{prefix}-{next(_names)}.e2e"


def eventually(check: Callable[[], Any], *, within: float, every: float = 0.02) -> Any:
    """The first true value of `check()`; its last value once `within` seconds have passed."""
    deadline = time.monotonic() + within
    while not (value := check()) and time.monotonic() < deadline:
        time.sleep(every)
    return value


class Broker:
    """One broker process on a free port. `log` gathers what it writes to stderr over all its lives."""

    def __init__(self, data_dir: Path, *flags: str, store: str = "rocksdb") -> None:
        self.data_dir = data_dir
        self.log_file = data_dir.with_name(data_dir.name + ".log")
        self.command = [sys.executable, "-m", "mq9_broker", "--port", "0", "--data-dir", str(data_dir)]
        self.command += ["--store", store, *flags]
        self.banner = ""
        self.environ: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.banner.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> bytes:
        return self.log_file.read_bytes()

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the process without waiting for it to listen."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
        with self.log_file.open("ab") as log:
            # (unbuffered: who waits for a line must not find it in a buffer of ours)
            self._process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, env=environment | self.environ, bufsize=0
            )
        return self._process

    def start(self) -> Self:
        process = self.spawn()
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 15)
        self.banner = process.stdout.readline().decode().rstrip("\n") if ready else ""
        if not self.banner:
            self.kill()
            raise AssertionError(f"the broker did not start: {self.log.decode()[-2000:]}")
        return self

    def stop(self) -> int:
        """SIGTERM and its exit code; a process that ends already is only collected."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, signum: signal.Signals) -> int:
        process = self.process
        if process.poll() is None:
            process.send_signal(signum)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def restart(self, *, hard: bool = False) -> Self:
        if hard:
            self.kill()
        else:
            assert self.stop() == 0, self.log.decode()[-2000:]
        return self.start()

    def memory(self, what: str = "VmRSS") -> int:
        """Resident bytes now (`VmRSS`) or at their highest (`VmHWM`)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        assert found is not None, status
        return int(found[1]) * 1024


class Frame(NamedTuple):
    """One thing a server said. `args` is the rest of the control line, of a message its subject, sid and reply."""

    op: str
    args: str = ""
    sid: str = ""
    reply: str = ""
    headers: bytes = b""
    payload: bytes = b""

    def header(self, name: str) -> str | None:
        for line in self.headers.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key == name.encode():
                return value.strip().decode()
        return None

    @property
    def status(self) -> str:
        """The rest of a header block's first line: empty for an ordinary message."""
        return self.headers.split(b"\r\n")[0].removeprefix(b"NATS/1.0").strip().decode()


def dial(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A TCP connection to this machine."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


QUIET: dict[str, Any] = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}


class Wire:
    """A blocking client that sends exact bytes, over TCP or a given `stream`. It answers a server's PING unless told
    not to."""

    def __init__(
        self,
        port: int,
        *,
        connect: dict[str, Any] | None = QUIET,
        pongs: bool = True,
        receive_buffer: int | None = None,
        timeout: float = 10,
        stream: socket.socket | None = None,
    ) -> None:
        self.socket = stream if stream is not None else dial(port, receive_buffer=receive_buffer)
        self.socket.settimeout(timeout)
        self.pongs = pongs
        self.unanswered = 0
        self._buffer = b""
        self._at = 0
        self.info = json.loads(self.line().removeprefix(b"INFO "))
        if connect is not None:
            self.send(b"CONNECT " + json.dumps(connect).encode() + b"\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closes with a TCP reset, as the kernel does for a process that dies with unread input."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def ready(self, within: float) -> bool:
        """Whether there is something to read within so many seconds."""
        return self._at < len(self._buffer) or bool(select.select([self.socket], [], [], within)[0])

    def receive(self, limit: int = 65536) -> bytes:
        """What is there, waiting for at least a byte; nothing once the server has closed the connection."""
        try:
            return self.socket.recv(limit)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def _more(self) -> bool:
        data = self.receive()
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return bool(data)

    def line(self) -> bytes:
        """The next line without its end; empty once the server has closed the connection."""
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            if not self._more():
                return b""
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size:
            if not self._more():
                raise EOFError(f"the server closed the connection {size} bytes before the end of a message")
        self._at += size
        return self._buffer[self._at - size : self._at]

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which the server must close."""
        while self._more():
            pass
        return self._buffer

    def frame(self) -> Frame | None:
        """The next thing the server says, None once it has closed; a PING is answered and reported."""
        line = self.line().decode()
        if not line:
            return None
        op, _, args = line.partition(" ")
        if op == "PING":
            self.unanswered += 1
            if self.pongs:
                self.pong()
        if op not in ("MSG", "HMSG"):
            return Frame(op, args)
        words = args.split(" ")
        sizes = 2 if op == "HMSG" else 1
        reply = words[2] if len(words) == 3 + sizes else ""
        total = int(words[-1])
        head = int(words[-2]) if op == "HMSG" else 0
        body = self.exactly(total + 2)
        return Frame(op, words[0], words[1], reply, body[:head], body[head:total])

    def pong(self) -> None:
        """Answers every PING that was not answered yet."""
        self.send(b"PONG\r\n" * self.unanswered)
        self.unanswered = 0

    def messages(self, count: int) -> list[Frame]:
        """The next `count` messages; anything else in between is skipped, an error or an end is a failure."""
        found: list[Frame] = []
        while len(found) < count:
            frame = self.frame()
            assert frame is not None, f"the server closed the connection after {len(found)} of {count} messages"
            assert frame.op != "-ERR", frame.args
            if frame.op in ("MSG", "HMSG"):
                found.append(frame)
        return found

    def settle(self, data: bytes | str = b"") -> list[Frame]:
        """Sends `data` and a PING: everything the server says before its PONG, or before it closes."""
        try:
            self.send((data.encode() if isinstance(data, str) else data) + b"PING\r\n")
        except (ConnectionResetError, BrokenPipeError):
            pass
        said: list[Frame] = []
        while (frame := self.frame()) is not None and frame.op != "PONG":
            if frame.op not in ("PING", "INFO"):
                said.append(frame)
        return said

    def raw(self, data: bytes) -> bytes:
        """Sends `data` and returns the bytes up to a PONG that ends them, or up to the end of the connection."""
        self.send(data)
        while not self._buffer.endswith(b"PONG\r\n") and self._more():
            pass
        said, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return said

    def publish(self, subject: str, payload: bytes = b"", *, reply: str = "", headers: bytes = b"") -> None:
        self.send(pub(subject, payload, reply=reply, headers=headers))

    def ask(self, verb: str, body: object = None, *, headers: bytes = b"") -> dict[str, Any]:
        """The broker's answer to a request under `$mq9.AI.`; other messages that come before it are dropped."""
        inbox = f"_INBOX.raw.{next(_names)}"
        self.send(f"SUB {inbox} {inbox}\r\nUNSUB {inbox} 1\r\n".encode() + pub(AI + verb, encode(body), inbox, headers))
        while True:
            (message,) = self.messages(1)
            if message.sid == inbox:
                assert not message.status, message.status
                return json.loads(message.payload)


def pub(subject: str, payload: bytes = b"", reply: str = "", headers: bytes = b"") -> bytes:
    """A PUB frame, or an HPUB frame when there are header lines (`b"A: b\\r\\n"`)."""
    target = f"{subject} {reply}" if reply else subject
    if not headers:
        return f"PUB {target} {len(payload)}\r\n".encode() + payload + b"\r\n"
    block = b"NATS/1.0\r\n" + headers + b"\r\n"
    return f"HPUB {target} {len(block)} {len(block) + len(payload)}\r\n".encode() + block + payload + b"\r\n"


def encode(body: object) -> bytes:
    """A request's payload: bytes and text as they are, nothing for None, JSON for everything else."""
    if body is None:
        return b""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def body_of(message: dict[str, Any]) -> bytes:
    """The payload bytes of a message in a QUERY or FETCH reply."""
    if message.get("encoding") == "base64":
        return base64.b64decode(message["payload"], validate=True)
    return message["payload"].encode()


def bodies(reply: dict[str, Any]) -> list[str]:
    return [message["payload"] for message in reply["messages"]]


def ids(reply: dict[str, Any]) -> list[int]:
    return [message["msg_id"] for message in reply["messages"]]


@dataclass
class Peer:
    """A nats-py client. `errors` are the texts its error callback got (nats-py lowers their case)."""

    nc: Client
    errors: list[str] = field(default_factory=list)

    async def ask(
        self, verb: str, body: object = None, *, headers: dict[str, str] | None = None, timeout: float = 10
    ) -> dict[str, Any]:
        message = await self.nc.request(AI + verb, encode(body), timeout=timeout, headers=headers)
        return json.loads(message.data)

    async def create(self, **fields: Any) -> dict[str, Any]:
        reply = await self.ask("MAILBOX.CREATE", fields)
        assert reply["error"] == "", reply
        return reply

    async def send(self, to: str, payload: bytes | str = b"x", **headers: str) -> dict[str, Any]:
        """Sends to an address; `mq9_ttl="5"` is the header `mq9-ttl: 5`. The reply, which must not be an error."""
        reply = await self.ask(f"MAILBOX.{to}", payload, headers=dashed(headers))
        assert reply["error"] == "", reply
        return reply

    async def query(self, address: str, **fields: Any) -> dict[str, Any]:
        reply = await self.ask(f"MAILBOX.QUERY.{address}", fields)
        assert reply["error"] == "", reply
        return reply

    async def fetch(
        self, address: str, group: str | None = None, *, n: int = 100, wait_ms: int = 0, **fields: Any
    ) -> dict[str, Any]:
        config = {"num_msgs": n, "max_wait_ms": wait_ms}
        body = {"group_name": group, "config": config, **fields}
        reply = await self.ask(f"MSG.FETCH.{address}", body, timeout=wait_ms / 1000 + 10)
        assert reply["error"] == "", reply
        return reply

    async def listen(self, subject: str, queue: str = "") -> Subscription:
        """A subscription that the server has seen, backlog sent, when this returns."""
        subscription = await self.nc.subscribe(subject, queue=queue)
        await self.flush()
        return subscription

    async def flush(self) -> None:
        """A round trip after everything written so far.

        nats-py writes a flush's PING to the socket ahead of the commands it still holds, so that the first one may
        overtake them; once it is answered they are written, and the second one comes after them.
        """
        await self.nc.flush()
        await self.nc.flush()

    async def refused(self, action: str) -> str:
        """The one error since the last look, after a round trip; `action` is what was tried, for the failure."""
        await self.flush()
        found, self.errors[:] = list(self.errors), []
        assert len(found) == 1, f"{action}: {found or 'no error'}"
        return found[0]


def dashed(headers: dict[str, str]) -> dict[str, str] | None:
    return {name.replace("_", "-"): value for name, value in headers.items()} or None


async def take(subscription: Subscription, count: int, *, timeout: float = 10) -> list[Msg]:
    """The next `count` messages of a subscription."""
    async with asyncio.timeout(timeout):
        return [await subscription.next_msg(timeout=timeout) for _ in range(count)]


async def waiting(peer: Peer, subscription: Subscription) -> list[Msg]:
    """What a subscription holds after a round trip to the server: the test of what must not have come."""
    await peer.flush()
    return [await subscription.next_msg() for _ in range(subscription.pending_msgs)]


def payloads(messages: Iterable[Msg]) -> list[str]:
    return [message.data.decode() for message in messages]


class HasPort(Protocol):
    @property
    def port(self) -> int: ...


Connect = Callable[..., Awaitable[Peer]]
StartBroker = Callable[..., Broker]
