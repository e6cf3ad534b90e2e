"""One raw connection of a NATS client."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks.link import Link, WireError
from benchmarks.load import Frames

INBOX_LENGTH = len("_INBOX.") + 22
HEADER = b"NATS/1.0\r\nSender: benchmark\r\n\r\n"
_DIGITS = 4
_FIRST_WORD = b"MSG _INBOX."
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


class Wire(Link):
    """A connection with one inbox subscribed (`<inbox>.*`, sid 1)."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.sids = count(2)
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

    def frames(self, requests: Sequence[tuple[str, bytes]], window: int, ok: bytes, *, ordered: bool = True) -> Frames:
        """A load of requests (subject and payload). `ok` is what every successful reply contains and no other; that
        replies come in the order of the requests is checked when `ordered`."""
        frames = [
            pub(subject, payload, f"{self.inbox}.{i % 10**_DIGITS:0{_DIGITS}}")
            for i, (subject, payload) in enumerate(requests)
        ]
        token_at = len(_FIRST_WORD) - len("_INBOX.") + len(self.inbox) + 1
        return Frames(frames, window, lambda: _Answers(ok, len(frames) if ordered else 0, token_at))

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

    def _line(self) -> bytes:
        while (end := self._rest.find(b"\r\n")) < 0:
            self._more()
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line

    def _more(self) -> None:
        self._rest += self.receive()

    def _expect_chatter(self, line: bytes) -> None:
        if line == b"PING":
            self.sock.sendall(b"PONG\r\n")
        elif not line.startswith((b"INFO ", b"+OK", b"PONG")):
            raise WireError(line.decode(errors="replace"))


class _Answers:
    """The replies to one connection's requests: request number i is answered on `<inbox>.<i, four digits>`."""

    def __init__(self, ok: bytes, ring: int, token_at: int) -> None:
        """`ring`: after how many requests the first one follows again; 0 if their order does not matter."""
        self._ok, self._ring, self._token_at = ok, ring, token_at
        self._rest = b""
        self._answered = 0

    def take(self, data: bytes) -> int:
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not data.endswith(b"\r\n"):
            cut = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
            data, self._rest = data[:cut], data[cut:]
        good = data.count(self._ok)
        if good != data.count(_FIRST_WORD) or not good:
            data, self._rest = self._whole(data + self._rest)
            good = data.count(self._ok)
        self._answered += good
        if good and self._ring:
            self._check_order(data)
        return good

    def _check_order(self, lines: bytes) -> None:
        """The last reply in `lines` must belong to the last request that was answered."""
        at = lines.rfind(_FIRST_WORD) + self._token_at
        token = lines[at : at + _DIGITS]
        if int(token) != (self._answered - 1) % self._ring % 10**_DIGITS:
            raise WireError(f"replies out of order: {token!r} came as number {self._answered}")

    def _whole(self, data: bytes) -> tuple[bytes, bytes]:
        """Splits behind the last whole reply; raises WireError when one is not good."""
        done = at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            at = end + 2
            if line.startswith((b"MSG ", b"HMSG ")):
                size = int(line.rsplit(b" ", 1)[1])
                if len(data) < at + size + 2:
                    break
                payload = data[at : at + size]
                at += size + 2
                if self._ok not in payload:
                    raise WireError(f"not a success: {line.decode()}: {payload.decode(errors='replace')}")
            elif line.startswith(b"-ERR"):
                raise WireError(line.decode())
            done = at
        return data[:done], data[done:]
