"""The server side of the NATS client protocol, sans I/O: bytes in, calls out; replies to bytes."""

from __future__ import annotations

import json
from typing import Any, Protocol, TypeVar

from mq9_broker.errors import ProtocolError

OK = b"+OK\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_CRLF = b"\r\n"
_VERBS = (b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"PONG", b"CONNECT", b"INFO", b"+OK", b"-ERR")
_KNOWN = 1024
_LONGEST_KNOWN = 192
_LONGEST_VERB = max(map(len, _VERBS))

V = TypeVar("V")
#: What was read out of control lines without a reply subject (subject, size), and of sizes: most come again.
_lines: dict[bytes, tuple[bytes, int]] = {}
_sizes: dict[bytes, int] = {}


class Receiver(Protocol):
    """What a parser calls, in the order of the bytes. Any of them may raise ProtocolError."""

    def on_publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None: ...
    def on_run(self, subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> None:
        """Publishes with the same control line; each body is a header of `header_size` and a payload."""
        ...

    def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> None: ...
    def on_unsubscribe(self, sid: bytes, max_messages: int) -> None: ...
    def on_connect(self, options: dict[str, Any]) -> None: ...
    def on_ping(self) -> None: ...
    def on_pong(self) -> None: ...


class Parser:
    """Cuts a stream of chunks into commands; what is left of a chunk is kept once.

    `feed` raises ProtocolError for a frame that ends the connection; the parser is of no use after that.
    """

    __slots__ = ("_line_limit", "_missing", "_parts", "_payload_limit", "_receiver", "_rest")

    def __init__(self, receiver: Receiver, max_payload: int, max_control_line: int) -> None:
        self._receiver = receiver
        self._payload_limit = max_payload
        self._line_limit = max_control_line
        self._rest = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> None:
        if self._parts:
            # a payload is still arriving: joined once when it is whole, whatever the number of chunks
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._parts)
            self._parts = []
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        receiver = self._receiver
        publish = receiver.on_publish
        limit = self._line_limit
        find, startswith = data.find, data.startswith
        known_line, known_size = _lines.get, _sizes.get
        end = len(data)
        pos = 0
        before = reply = b""
        while pos < end:
            eol = find(b"\n", pos)
            if eol < 0:
                self._keep_line(data[pos:])
                return
            if eol - pos <= limit:
                # the common frame, when it is whole; everything else goes the long way below
                start = eol + 1
                line = data[pos:start]
                size = -1
                # a line without a reply subject has mostly come before, one with it hardly ever
                if not reply and (known := known_line(line)) is not None:
                    subject, size = known
                else:
                    args = line.split()
                    count = len(args)
                    if 3 <= count <= 4 and line[:4] == b"PUB ":
                        subject = args[1]
                        reply = args[2] if count == 4 else b""
                        size = known_size(args[-1], -1)
                        if size >= 0 and not reply:
                            _remember(_lines, line, (subject, size))
                stop = start + size
                if 0 <= size <= self._payload_limit and data[stop : stop + 2] == _CRLF:
                    if line == before and startswith(line, stop + 2):
                        bodies = _run(data, line, start, stop)
                        receiver.on_run(subject, reply, 0, bodies)
                        pos = stop + 2 + (len(bodies) - 1) * (stop + 2 - pos)
                        continue
                    publish(subject, reply, b"", data[start:stop])
                    before = line
                    pos = stop + 2
                    continue
            head = data[pos : pos + 5]
            headed = head == b"HPUB "
            if headed or head[:4] == b"PUB ":
                start = pos + (5 if headed else 4)
            else:
                # another letter case, a tab, or another verb
                headed = head[:4].upper() == b"HPUB"
                if not headed and head[:3].upper() != b"PUB":
                    self._command(data[pos:eol])
                    pos = eol + 1
                    continue
                start = pos + (5 if headed else 4)
                if data[start - 1 : start] not in (b" ", b"\t"):
                    raise ProtocolError("Unknown Protocol Operation")
            if eol - start > limit:
                self._check_length(data[start:eol])
            args = data[start:eol].split()
            count = len(args)
            middle = start = eol + 1
            reply = b""
            if headed:
                if not 3 <= count <= 4 or not args[-2].isdigit():
                    raise ProtocolError(None)
                middle += int(args[-2])
                if count == 4:
                    reply = args[1]
            elif count == 3:
                reply = args[1]
            elif count != 2:
                raise ProtocolError(None)
            if not args[-1].isdigit():
                raise ProtocolError(None)
            size = int(args[-1])
            stop = start + size
            if middle > stop:
                raise ProtocolError(None)
            if size > self._payload_limit:
                raise ProtocolError("Maximum Payload Violation")
            _remember(_sizes, args[-1], size)
            if stop + 2 > end:
                self._parts = [data[pos:]]
                self._missing = stop + 2 - end
                return
            if data[stop : stop + 2] != _CRLF:
                raise ProtocolError("Unknown Protocol Operation")
            line = data[pos:start]
            if line == before and startswith(line, stop + 2):
                bodies = _run(data, line, start, stop)
                receiver.on_run(args[0], reply, middle - start, bodies)
                pos = stop + 2 + (len(bodies) - 1) * (stop + 2 - pos)
                continue
            publish(args[0], reply, data[start:middle], data[middle:stop])
            before = line
            pos = stop + 2

    def _keep_line(self, rest: bytes) -> None:
        """Keep a line that has not ended, unless it can't become a command or is too long already."""
        verb = _verb(rest)
        whole = len(verb) < len(rest)
        if not verb or not any(known == verb if whole else known.startswith(verb) for known in _VERBS):
            raise ProtocolError("Unknown Protocol Operation")
        if len(rest) > self._line_limit:
            self._check_length(rest[len(verb) + 1 :])
        self._rest = rest

    def _check_length(self, args: bytes) -> None:
        if len(args.removesuffix(b"\r")) > self._line_limit:
            raise ProtocolError("maximum control line exceeded")

    def _command(self, line: bytes) -> None:
        verb = _verb(line)
        rest = line[len(verb) + 1 :]
        if len(rest) > self._line_limit and verb in _VERBS:
            self._check_length(rest)
        if verb == b"PING":
            self._receiver.on_ping()
        elif verb == b"PONG":
            self._receiver.on_pong()
        elif verb == b"SUB":
            args = rest.split()
            if len(args) not in (2, 3):
                raise ProtocolError(None)
            self._receiver.on_subscribe(args[0], args[1] if len(args) == 3 else b"", args[-1])
        elif verb == b"UNSUB":
            args = rest.split()
            if len(args) not in (1, 2) or (len(args) == 2 and not args[1].removeprefix(b"-").isdigit()):
                raise ProtocolError(None)
            self._receiver.on_unsubscribe(args[0], max(0, int(args[1])) if len(args) == 2 else 0)
        elif verb == b"CONNECT":
            try:
                options = json.loads(rest)
            except (ValueError, RecursionError):
                raise ProtocolError(None) from None
            if not isinstance(options, dict):
                raise ProtocolError(None)
            self._receiver.on_connect(options)
        elif verb in (b"INFO", b"+OK"):
            return
        elif verb == b"-ERR":
            raise ProtocolError(None)
        else:
            raise ProtocolError("Unknown Protocol Operation")


def _verb(line: bytes) -> bytes:
    """The verb of a line, or of the beginning of one, in upper case: it ends at a blank, at a tab, or with the line."""
    verb = line[: _LONGEST_VERB + 2].replace(b"\t", b" ").split(b" ", 1)[0]
    return (verb.removesuffix(b"\r") if len(verb) == len(line) else verb).upper()


def _remember(known: dict[bytes, V], text: bytes, meaning: V) -> None:
    if len(text) <= _LONGEST_KNOWN:
        if len(known) >= _KNOWN:
            known.clear()
        known[text] = meaning


def _run(data: bytes, line: bytes, start: int, stop: int) -> list[bytes]:
    """The body data[start:stop] and those that follow it, whole, each behind the same control line."""
    startswith, between = data.startswith, _CRLF + line
    step = stop - start + len(between)
    last = stop
    while startswith(between, last):
        last += step
    if data[last : last + 2] != _CRLF:
        last -= step
    size = stop - start
    return [data[at : at + size] for at in range(start, last + 1, step)]


def info(fields: dict[str, Any]) -> bytes:
    """The INFO line."""
    return b"INFO " + json.dumps(fields, separators=(",", ":")).encode() + b" \r\n"


def error(text: str) -> bytes:
    """The -ERR line. The text is one line and has no quote that ends it early."""
    return b"-ERR '" + text.replace("\r", " ").replace("\n", " ").encode() + b"'\r\n"


def message(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> bytes:
    """A MSG frame. An empty `reply` is none."""
    if reply:
        return b"MSG %b %b %b %d\r\n%b\r\n" % (subject, sid, reply, len(payload), payload)
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(payload), payload)


def headed_message(subject: bytes, sid: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes:
    """An HMSG frame. `header` is a whole block, its first line and closing empty line included."""
    size = len(header)
    if reply:
        return b"HMSG %b %b %b %d %d\r\n%b%b\r\n" % (subject, sid, reply, size, size + len(payload), header, payload)
    return b"HMSG %b %b %d %d\r\n%b%b\r\n" % (subject, sid, size, size + len(payload), header, payload)


def messages(subject: bytes, sid: bytes, reply: bytes, bodies: list[bytes]) -> bytes:
    """The MSG frames of several payloads of one length, back to back."""
    reply = reply and reply + b" "
    return _joined(b"MSG %b %b %b%d\r\n" % (subject, sid, reply, len(bodies[0])), bodies)


def headed_messages(subject: bytes, sid: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> bytes:
    """The HMSG frames of several bodies of one length, each a header of `header_size` and a payload, back to back."""
    reply = reply and reply + b" "
    return _joined(b"HMSG %b %b %b%d %d\r\n" % (subject, sid, reply, header_size, len(bodies[0])), bodies)


def _joined(line: bytes, bodies: list[bytes]) -> bytes:
    if len(bodies) == 1:
        return line + bodies[0] + _CRLF
    # one copy of everything, not one for each end
    return (_CRLF + line).join([line + bodies[0], *bodies[1:-1], bodies[-1] + _CRLF])
