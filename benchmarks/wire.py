"""One raw client connection: blocking, no library, so that what is measured is the server."""

import json
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

CHUNK = 1 << 18
INBOX_LENGTH = len("_INBOX.") + 22
HEADER = b"NATS/1.0\r\nSender: benchmark\r\n\r\n"
_TIMEOUT = 20
CONNECT = json.dumps(
    {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "echo": True,
        "lang": "benchmark",
        "version": "1",
        "protocol": 1,
    },
    separators=(",", ":"),
).encode()


class WireError(Exception):
    """The server answered something else than the benchmark needs, or closed the connection."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A MSG or HMSG as it came; `headers` is the raw block or empty."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes


def pub(subject: str, payload: bytes = b"", reply: str = "") -> bytes:
    """A PUB frame."""
    return b"PUB %s %d\r\n%b\r\n" % (f"{subject} {reply}".strip().encode(), len(payload), payload)


def hpub(subject: str, payload: bytes = b"") -> bytes:
    """An HPUB frame with a header of one line."""
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(HEADER), len(HEADER) + len(payload), HEADER, payload)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Wire:
    """A connection with one inbox subscribed (`<inbox>.*`, sid 1). `sock` may be taken over after `flush()`."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's own timeout would add a poll() to every call.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT, 0))
        self.inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._rest = b""
        if not self._line().startswith(b"INFO "):
            raise WireError(f"no INFO from port {port}")
        self.sock.sendall(b"CONNECT %b\r\nSUB %b.* 1\r\n" % (CONNECT, self.inbox.encode()))
        self.flush()

    def subscribe(self, subject: str, sid: int, queue: str = "") -> None:
        self.sock.sendall(f"SUB {subject} {queue} {sid}\r\n".replace("  ", " ").encode())

    def flush(self) -> None:
        """Returns when the server has handled everything sent before; nothing else may be on its way."""
        self.sock.sendall(b"PING\r\n")
        while (line := self._line()) != b"PONG":
            self._expect_chatter(line)

    def request(self, subject: str, body: Any = None) -> dict[str, Any]:
        """The JSON answer to a JSON request; WireError when it carries an error."""
        self.sock.sendall(pub(subject, b"" if body is None else compact(body), f"{self.inbox}.0"))
        frame = self.message()
        if not frame.payload:
            raise WireError(f"{subject}: {frame.headers!r}")
        answer: dict[str, Any] = json.loads(frame.payload)
        if answer.get("error"):
            raise WireError(f"{subject} {body}: {answer['error']}")
        return answer

    def message(self) -> Frame:
        """The next MSG or HMSG."""
        while True:
            line = self._line()
            words = line.split()
            if words[0] == b"MSG":
                head, size = 0, int(words[-1])
            elif words[0] == b"HMSG":
                head, size = int(words[-2]), int(words[-1])
            else:
                self._expect_chatter(line)
                continue
            while len(self._rest) < size + 2:
                self._more()
            body, self._rest = self._rest[:size], self._rest[size + 2 :]
            reply = words[3].decode() if len(words) == (5 if words[0] == b"MSG" else 6) else ""
            return Frame(words[1].decode(), reply, body[:head], body[head:])

    def until(self, mark: bytes, count: int) -> bytes:
        """Everything up to where `mark` was seen `count` times; the caller makes sure that nothing follows it."""
        pieces, seen, tail = [self._rest], self._rest.count(mark), self._rest[-len(mark) + 1 :]
        self._rest = b""
        while seen < count:
            data = self.receive()
            seen += (tail + data).count(mark)
            tail = (tail + data)[-len(mark) + 1 :]
            pieces.append(data)
        return b"".join(pieces)

    def close(self) -> None:
        self.sock.close()

    def _line(self) -> bytes:
        while (end := self._rest.find(b"\r\n")) < 0:
            self._more()
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line

    def _more(self) -> None:
        self._rest += self.receive()

    def receive(self) -> bytes:
        """Whatever comes next, at least one byte."""
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            raise WireError(f"nothing came for {_TIMEOUT} s") from None
        if not data:
            raise WireError("the server closed the connection")
        return data

    def _expect_chatter(self, line: bytes) -> None:
        if line == b"PING":
            self.sock.sendall(b"PONG\r\n")
        elif not line.startswith((b"INFO ", b"+OK", b"PONG")):
            raise WireError(line.decode(errors="replace"))

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
