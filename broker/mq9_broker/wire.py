"""The server side of the NATS client protocol, sans I/O: bytes in, calls out; replies to bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, TypeVar

from mq9_broker.errors import ProtocolError
from mq9_broker.options import read_options, read_pairs

OK = b"+OK\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_CRLF = b"\r\n"
_TAB, _VT, _FF, _CR = 9, 11, 12, 13
_VERBS = (b"PUB", b"HPUB", b"SUB", b"UNSUB", b"PING", b"PONG", b"CONNECT", b"INFO", b"+OK", b"-ERR")
#: A verb and the blanks behind it: those that need one, those that don't, and those behind which nothing counts.
_VERB = re.compile(rb"(PUB|HPUB|SUB|UNSUB|-ERR)[ \t]+|(CONNECT|INFO)[ \t]*|(PING|PONG|\+OK)", re.IGNORECASE)
_BARE = 3
#: Verbs as they mostly come: so written, with a blank behind them.
_COMMON = frozenset((b"PUB", b"HPUB", b"SUB", b"UNSUB"))
_BLANKS = (b" ", b"\t", b"")
_words = re.compile(rb"[^ \t]+").findall
_KNOWN = 1024
_LONGEST_KNOWN = 192
_LONGEST_VERB = max(map(len, _VERBS))
#: Requests that are handled at once: between rows it is seen whether that is enough for now, and what was read of a row
#: that is not handled whole is read again.
LONGEST_ROW = 256
#: Where the arguments of a PUB begin.
_ARGUMENTS = len(b"PUB ")
#: What is sent to subjects that begin so is mostly stored or answered, not passed on.
_SERVICE = b"$"
#: A publish without a reply subject of nothing or a word of four letters: so clients acknowledge.
_WORD = 4
_SIGNAL = re.compile(rb"PUB ([^ \t\r\n]+)  ?[04]\r\n([^\r\n]*)\r\n")

V = TypeVar("V")
#: (subject, reply, header size, size) of a control line.
Publish = tuple[bytes, bytes, int, int]
#: What was read out of control lines without a reply subject (subject, size), and of sizes: most come again.
_lines: dict[bytes, tuple[bytes, int]] = {}
_sizes: dict[bytes, int] = {}
_known_line, _known_size = _lines.get, _sizes.get


class Receiver(Protocol):
    """What a parser calls, in the order of the bytes. Any of them may raise ProtocolError.

    Those that give a bool say whether that is enough for now: then the parser keeps what follows. `headers`: whether
    HPUB is understood.
    """

    headers: bool

    def on_publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bool: ...
    def on_run(self, subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> int:
        """Publishes with the same control line; each body is a header of `header_size` and a payload. Gives how many
        were handled: when these are not all, that is enough for now."""
        ...

    def on_requests(self, subject: bytes, replies: list[bytes], bodies: list[bytes]) -> int:
        """Publishes to one subject without headers, each with its reply subject, or all without one: then there are no
        `replies`. Gives what `on_run` does."""
        ...

    def on_signals(self, signals: list[tuple[bytes, bytes]]) -> int:
        """Publishes of (subject, payload) without a header or a reply subject, the payload of no or four bytes. Gives
        what `on_run` does."""
        ...

    def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> bool: ...
    def on_unsubscribe(self, sid: bytes, max_messages: int) -> bool: ...
    def on_connect(self, options: dict[str, Any]) -> None: ...
    def on_ping(self) -> None: ...
    def on_pong(self) -> None: ...


class Parser:
    """Cuts a stream of chunks into commands; what is left of a chunk is kept once.

    `feed` raises ProtocolError for a frame that ends the connection; the parser is of no use after that.
    """

    __slots__ = (
        "_arriving",
        "_enough",
        "_line_limit",
        "_missing",
        "_parts",
        "_payload_limit",
        "_receiver",
        "_rest",
        "_signals",
    )

    def __init__(self, receiver: Receiver, max_payload: int, max_control_line: int) -> None:
        self._receiver = receiver
        self._payload_limit = max_payload
        self._line_limit = max_control_line
        self._rest = b""
        # a publish whose end has not come: its subject, reply and header size, what came of its body, and how many
        # bytes are missing, the CRLF included
        self._arriving = b"", b"", 0
        self._parts: list[bytes] = []
        self._missing = 0
        self._enough = False
        self._signals = _signals(max_payload, max_control_line)

    def feed(self, data: bytes) -> bool:
        """Parse a chunk; whether the receiver had enough before its end. Then the rest goes on with the next chunk,
        which may be empty."""
        receiver = self._receiver
        publish = receiver.on_publish
        pos = 0
        if self._parts:
            body = self._rest_of_body(data)
            if body is None:
                return False
            pos = self._missing
            subject, reply, header_size = self._arriving
            if publish(subject, reply, body[:header_size], body[header_size:]) and pos < len(data):
                return self._stop(data, pos)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        limit, most = self._line_limit, self._payload_limit
        find, startswith = data.find, data.startswith
        end = len(data)
        before = reply = b""
        while pos < end:
            eol = find(b"\n", pos)
            size = -1
            if pos < eol <= pos + limit:
                # what is written in the common way; everything else goes the long way below
                start = eol + 1
                line = data[pos:start]
                # a line without a reply subject has mostly come before, one with it hardly ever
                if not reply and (known := _known_line(line)) is not None:
                    subject, size = known
                    header_size = 0
                else:
                    words = line.split(b" ")
                    count = len(words)
                    verb = words[0]
                    if verb == b"PUB":
                        # (some write a second blank where no reply subject is)
                        if 3 <= count <= 4 and words[1] and _TAB not in line:
                            subject = words[1]
                            reply = words[2] if count == 4 else b""
                            size = _known_size(words[-1], -1)
                            header_size = 0
                            if size >= 0 and not reply:
                                _remember(_lines, line, (subject, size))
                    elif verb == b"HPUB":
                        if 4 <= count <= 5 and words[1] and _TAB not in line and receiver.headers:
                            subject = words[1]
                            reply = words[2] if count == 5 else b""
                            size = _known_size(words[-1], -1)
                            header_size = _known_size(words[-2], -1)
                            if not 0 <= header_size <= size:
                                size = -1
                    elif verb == PING:
                        receiver.on_ping()
                        pos = start
                        continue
            if size < 0:
                start, head = self._read(data, pos, eol)
                if head is None:
                    pos = start
                    if self._enough and pos < end:
                        return self._stop(data, pos)
                    continue
                subject, reply, header_size, size = head
                line = data[pos:start]
            if size > most:
                raise ProtocolError("Maximum Payload Violation")
            stop = start + size
            if data[stop : stop + 2] != _CRLF:
                if stop + 2 <= end or (stop < end and data[stop] != _CR):
                    raise ProtocolError("Unknown Protocol Operation")
                self._arriving = subject, reply, header_size
                self._parts = [data[start:stop]]
                self._missing = stop + 2 - end
                return False
            if line == before and startswith(line, stop + 2):
                bodies = _run(data, line, start, stop)
                handled = receiver.on_run(subject, reply, header_size, bodies)
                pos = stop + 2 + (handled - 1) * (stop + 2 - pos)
                if handled < len(bodies):
                    return self._stop(data, pos)
                continue
            if header_size:
                middle = start + header_size
                enough = publish(subject, reply, data[start:middle], data[middle:stop])
            else:
                enough = publish(subject, reply, b"", data[start:stop])
            before = line
            pos = stop + 2
            if enough and pos < end:
                return self._stop(data, pos)
            if header_size or pos >= end:
                continue
            # (who asks for an answer to each mostly asks the same again, and who asks for none sends; what is the same
            # in all is a run)
            if (reply or subject[:1] == _SERVICE) and startswith(subject, pos + _ARGUMENTS):
                if not reply and startswith(line, pos):
                    continue
                replies, bodies, ends = _requests(data, subject, bool(reply), pos, limit, most)
                if bodies:
                    handled = receiver.on_requests(subject, replies, bodies)
                    pos = ends[handled - 1]
                    if handled < len(bodies):
                        return self._stop(data, pos)
            elif size in (0, _WORD) and not (reply or startswith(line, pos)) and (row := self._signals(data, pos)):
                found = _SIGNAL.findall(row[0])
                handled = receiver.on_signals(found)
                pos = row.end()
                if handled < len(found):
                    ends = [signal.end() for signal in _SIGNAL.finditer(data, row.start(), pos)]
                    return self._stop(data, ends[handled - 1])
        return False

    def _rest_of_body(self, data: bytes) -> bytes | None:
        """The body that is arriving, when it ends in this chunk, `_missing` bytes behind its beginning; else None. Its
        parts are joined once, whatever their number: what is large is copied no more often than it must."""
        missing = self._missing
        size = max(missing - 2, 0)
        self._parts.append(data[:size])
        if len(data) < missing:
            self._missing -= len(data)
            if self._missing == 1 and data[-1:] != b"\r":
                raise ProtocolError("Unknown Protocol Operation")
            return None
        if not data.startswith(_CRLF[-missing:], size):
            raise ProtocolError("Unknown Protocol Operation")
        body = b"".join(self._parts)
        self._parts = []
        return body

    def _stop(self, data: bytes, pos: int) -> bool:
        self._rest = data[pos:]
        self._enough = False
        return True

    def _read(self, data: bytes, pos: int, eol: int) -> tuple[int, Publish | None]:
        """The command at `pos`, however it is written; `eol` is the next line feed there, -1 for none.

        (where its body begins, what it publishes), or (where the next command begins, None). What has not ended is
        kept: then the next command begins behind the data.
        """
        start = data.find(b" ", pos, pos + _LONGEST_VERB + 1) + 1
        verb = data[pos : start - 1] if start else b""
        if verb not in _COMMON or data[start : start + 1] in _BLANKS:
            # another letter case, a tab, more blanks or none, or another verb
            found = _VERB.match(data, pos)
            if found is None:
                return self._keep(data, _verb_begun(data[pos : pos + _LONGEST_VERB + 1]))
            start = found.end()
            if found.lastindex == _BARE:
                if eol < 0:
                    return self._keep(data, found[0])
                verb = found[0].upper()
                if verb == b"PING":
                    self._receiver.on_ping()
                elif verb == b"PONG":
                    self._receiver.on_pong()
                return eol + 1, None
            verb = (found[1] or found[2]).upper()
        if eol <= start:
            # blanks before the arguments do not count, and the first byte of the arguments never ends them
            eol = data.find(b"\n", start + 1)
        args = data[start:] if eol < 0 else data[start:eol]
        if len(args.removesuffix(b"\r")) > self._line_limit:
            raise ProtocolError("maximum control line exceeded")
        if eol < 0:
            return self._keep(data, verb + b" " + args)
        if verb == b"PUB" or verb == b"HPUB":
            return eol + 1, self._publish(verb == b"HPUB", args)
        self._command(verb, args)
        return eol + 1, None

    def _keep(self, data: bytes, rest: bytes) -> tuple[int, None]:
        self._rest = rest
        return len(data), None

    def _publish(self, headed: bool, args: bytes) -> Publish:
        if headed and not self._receiver.headers:
            raise ProtocolError(None)
        words = _words(args.removesuffix(b"\r"))
        count = len(words) - headed
        if not 2 <= count <= 3:
            raise ProtocolError(None)
        size = _learn(words[-1])
        header_size = _learn(words[-2]) if headed else 0
        if not 0 <= header_size <= size:
            raise ProtocolError(None)
        return words[0], words[1] if count == 3 else b"", header_size, size

    def _command(self, verb: bytes, args: bytes) -> None:
        if verb == b"SUB":
            words = _split(args)
            if not 2 <= len(words) <= 3:
                raise ProtocolError(None)
            self._enough = self._receiver.on_subscribe(words[0], words[1] if len(words) == 3 else b"", words[-1])
        elif verb == b"UNSUB":
            words = _split(args)
            if not 1 <= len(words) <= 2:
                raise ProtocolError(None)
            # a maximum that is no number is none
            most = max(0, _size(words[1])) if len(words) == 2 else 0
            self._enough = self._receiver.on_unsubscribe(words[0], most)
        elif verb == b"CONNECT":
            self._receiver.on_connect(read_options(args))
        elif verb == b"INFO":
            read_pairs(args)
        else:
            raise ProtocolError(None)


def _split(args: bytes) -> list[bytes]:
    """The words of SUB and UNSUB: a CR or LF inside is a blank too, a vertical tab or form feed is a letter."""
    if _VT in args or _FF in args:
        args = args.replace(b"\r", b" ").replace(b"\n", b" ")
        return _words(args)
    return args.split()


def _learn(word: bytes) -> int:
    """The size a word is, remembered as it stands alone and at the end of a line."""
    size = _size(word)
    if size >= 0:
        _remember(_sizes, word, size)
        _remember(_sizes, word + _CRLF, size)
    return size


def _size(word: bytes) -> int:
    """The number a word is, of at most nine digits; -1 when it is none."""
    return int(word) if len(word) <= 9 and word.isdigit() else -1


def _verb_begun(beginning: bytes) -> bytes:
    """What may still become a verb."""
    if not any(verb.startswith(beginning.upper()) for verb in _VERBS):
        raise ProtocolError("Unknown Protocol Operation")
    return beginning


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


def _requests(
    data: bytes, subject: bytes, asked: bool, pos: int, limit: int, most: int
) -> tuple[list[bytes], list[bytes], list[int]]:
    """(reply subjects, bodies, where each frame ends) of the PUBs that follow at `pos`, whole, written in the common
    way, to `subject`, without headers, with a reply subject each or (not `asked`) without; LONGEST_ROW at the most."""
    startswith, find = data.startswith, data.find
    begin = b"PUB %b " % subject
    if not asked and startswith(b" ", pos + len(begin)):
        begin += b" "
    skip = len(begin)
    replies: list[bytes] = []
    bodies: list[bytes] = []
    ends: list[int] = []
    for _ in range(LONGEST_ROW):
        if not startswith(begin, pos):
            break
        eol = find(b"\n", pos + skip, pos + limit)
        length = data[pos + skip : eol + 1]
        if asked:
            reply, _, length = length.partition(b" ")
            if not reply or _TAB in reply:
                break
        size = _known_size(length, most + 1)
        stop = eol + 1 + size
        if size > most or data[stop : stop + 2] != _CRLF:
            break
        if asked:
            replies.append(reply)
        bodies.append(data[eol + 1 : stop])
        pos = stop + 2
        ends.append(pos)
    return replies, bodies, ends


@cache
def _signals(most: int, limit: int) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """What finds publishes of nothing or a word that follow at a place, whole, written in the common way;
    LONGEST_ROW at the most."""
    word = rb"|4\r\n[^\r\n]{4}" if most >= _WORD else b""
    longest = max(limit - len(b"PUB   4\r"), 1)
    return re.compile(rb"(?:PUB [^ \t\r\n]{1,%d}  ?(?:0\r\n%b)\r\n){1,%d}" % (longest, word, LONGEST_ROW)).match


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
