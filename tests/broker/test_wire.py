"""The parser: every case whole, byte by byte and with more behind it; and the frames that are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mq9_broker import wire
from mq9_broker.errors import ProtocolError

Call = tuple[Any, ...]
UNKNOWN = "Unknown Protocol Operation"
TOO_LONG = "maximum control line exceeded"
TOO_LARGE = "Maximum Payload Violation"
SILENT = None
LINE, PAYLOAD = 4096, 1000
PING: Call = ("ping",)


class Recorder:
    """A receiver that notes what it is called with, and has enough after every so many calls (0: never)."""

    def __init__(self, every: int = 0) -> None:
        self.calls: list[Call] = []
        self.headers = True
        self._every = every

    def _note(self, *call: Any) -> bool:
        self.calls.append(call)
        return bool(self._every) and not len(self.calls) % self._every

    def on_publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bool:
        return self._note("publish", subject, reply, header, payload)

    def on_run(self, subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> int:
        assert len(set(map(len, bodies))) == 1
        for number, body in enumerate(bodies, 1):
            if self.on_publish(subject, reply, body[:header_size], body[header_size:]):
                return number
        return len(bodies)

    def on_requests(self, subject: bytes, replies: list[bytes], bodies: list[bytes]) -> int:
        for number, (reply, body) in enumerate(zip(replies or [b""] * len(bodies), bodies, strict=True), 1):
            if self.on_publish(subject, reply, b"", body):
                return number
        return len(bodies)

    def on_signals(self, signals: list[tuple[bytes, bytes]]) -> int:
        for number, (subject, payload) in enumerate(signals, 1):
            if self.on_publish(subject, b"", b"", payload):
                return number
        return len(signals)

    def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> bool:
        return self._note("subscribe", subject, queue, sid)

    def on_unsubscribe(self, sid: bytes, max_messages: int) -> bool:
        return self._note("unsubscribe", sid, max_messages)

    def on_connect(self, options: dict[str, Any]) -> None:
        self.calls.append(("connect", options))

    def on_ping(self) -> None:
        self.calls.append(PING)

    def on_pong(self) -> None:
        self.calls.append(("pong",))


def parse(chunks: Iterable[bytes], every: int = 0, most: int = PAYLOAD, limit: int = LINE) -> tuple[list[Call], object]:
    """(the calls, how it ended: "" or the text of the ProtocolError). The receiver has enough after `every` calls."""
    recorder = Recorder(every)
    parser = wire.Parser(recorder, most, limit)
    try:
        for chunk in chunks:
            more = parser.feed(chunk)
            while more:
                assert not len(recorder.calls) % every
                more = parser.feed(b"")
    except ProtocolError as wrong:
        return recorder.calls, wrong.text
    return recorder.calls, ""


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def publish(subject: bytes, payload: bytes = b"", reply: bytes = b"", header: bytes = b"") -> Call:
    return ("publish", subject, reply, header, payload)


# ---- what is understood ----

HEADER = b"NATS/1.0\r\nA: b\r\n\r\n"
LONG = b"x" * (LINE - 2)
GOOD: dict[str, tuple[bytes, Call | None]] = {
    "PING": (b"PING\r\n", PING),
    "PING and anything": (b"PINGS " + b"x" * LINE + b"\r\n", PING),
    "PING in any letter case": (b"pInG\r\n", PING),
    "a lone line feed ends a line": (b"PING\n", PING),
    "PONG": (b"PONG\r\n", ("pong",)),
    "PONG with blanks behind it": (b"pong \t \r\n", ("pong",)),
    "+OK is nothing": (b"+OK\r\n", None),
    "INFO from a client is nothing": (b"INFO {}\r\n", None),
    "CONNECT": (b'CONNECT {"verbose":false}\r\n', ("connect", {"verbose": False})),
    "CONNECT with a tab": (b'connect\t{"name":"\xc3\xa9"} \r\n', ("connect", {"name": "é"})),
    "CONNECT without a blank": (b'CONNECT{"echo":false}\r\n', ("connect", {"echo": False})),
    "CONNECT of nothing": (b"CONNECT null\r\n", ("connect", {})),
    "CONNECT with names in any letter case": (b'CONNECT {"Echo":false}\r\n', ("connect", {"echo": False})),
    "CONNECT that is not UTF-8": (b'CONNECT {"name":"\xff"}\r\n', ("connect", {"name": "\ufffd"})),
    "SUB behind many blanks": (b"SUB" + b" " * 2 * LINE + b"a 1\r\n", ("subscribe", b"a", b"", b"1")),
    "SUB whose line feed comes too early": (b"SUB \na 1\r\n", ("subscribe", b"a", b"", b"1")),
    "SUB": (b"SUB a.b 1\r\n", ("subscribe", b"a.b", b"", b"1")),
    "SUB with a queue": (b"SUB a.b q 1\r\n", ("subscribe", b"a.b", b"q", b"1")),
    "SUB with tabs and repeated blanks": (b"sUb \t a.*   q\t\tsid-x \t\r\n", ("subscribe", b"a.*", b"q", b"sid-x")),
    "UNSUB": (b"UNSUB 1\r\n", ("unsubscribe", b"1", 0)),
    "UNSUB with a maximum": (b"unsub  1\t5\r\n", ("unsubscribe", b"1", 5)),
    "UNSUB with a negative maximum is one without": (b"UNSUB 1 -5\r\n", ("unsubscribe", b"1", 0)),
    "UNSUB with a maximum that is no number is one without": (b"UNSUB 1 x\r\n", ("unsubscribe", b"1", 0)),
    "UNSUB with a maximum of ten digits is one without": (b"UNSUB 1 1000000000\r\n", ("unsubscribe", b"1", 0)),
    "PUB": (b"PUB a.b 5\r\nhello\r\n", publish(b"a.b", b"hello")),
    "PUB of nothing": (b"PUB a 0\r\n\r\n", publish(b"a")),
    "PUB with a reply": (b"PUB a r 2\r\nhi\r\n", publish(b"a", b"hi", b"r")),
    "PUB with line ends in the payload": (b"PUB a 8\r\n\r\nPING\r\n\r\n", publish(b"a", b"\r\nPING\r\n")),
    "PUB in lower case": (b"pub a 2\r\nhi\r\n", publish(b"a", b"hi")),
    "PUB in mixed case with tabs": (b"Pub\ta\t r   2 \r\nhi\r\n", publish(b"a", b"hi", b"r")),
    "PUB with repeated blanks": (b"PUB   a   r   2\r\nhi\r\n", publish(b"a", b"hi", b"r")),
    "PUB with a lone line feed": (b"PUB a 2\nhi\r\n", publish(b"a", b"hi")),
    "PUB with leading zeros": (b"PUB a 002\r\nhi\r\n", publish(b"a", b"hi")),
    "PUB of bytes": (b"PUB a 3\r\n\x00\xff\n\r\n", publish(b"a", b"\x00\xff\n")),
    "PUB to a subject with blanks that are none": (b"PUB a\x0bb\x0c 0\r\n\r\n", publish(b"a\x0bb\x0c")),
    "PUB to a subject that is not UTF-8": (b"PUB \xff\xfe 0\r\n\r\n", publish(b"\xff\xfe")),
    "PUB of the most there may be": (b"PUB a 1000\r\n" + b"p" * 1000 + b"\r\n", publish(b"a", b"p" * 1000)),
    "PUB whose arguments are as long as they may be": (b"PUB " + LONG + b" 0\r\n\r\n", publish(LONG)),
    "pub in lower case, as long as it may be": (b"pub " + LONG + b" 0\r\n\r\n", publish(LONG)),
    "SUB whose arguments are as long as they may be": (b"SUB " + LONG + b" 1\r\n", ("subscribe", LONG, b"", b"1")),
    "CONNECT whose arguments are as long as they may be": (
        b'CONNECT {"name":"' + b"n" * (LINE - 11) + b'"}\r\n',
        ("connect", {"name": "n" * (LINE - 11)}),
    ),
    "HPUB": (b"HPUB a 18 20\r\n" + HEADER + b"hi\r\n", publish(b"a", b"hi", b"", HEADER)),
    "HPUB with a reply": (b"HPUB a r 18 20\r\n" + HEADER + b"hi\r\n", publish(b"a", b"hi", b"r", HEADER)),
    "HPUB without a payload": (b"HPUB a 18 18\r\n" + HEADER + b"\r\n", publish(b"a", b"", b"", HEADER)),
    "HPUB without a header": (b"HPUB a 0 2\r\nhi\r\n", publish(b"a", b"hi")),
    "HPUB in lower case with tabs": (
        b"hpub\ta\tr\t18\t20\r\n" + HEADER + b"hi\r\n",
        publish(b"a", b"hi", b"r", HEADER),
    ),
    "HPUB whose header is not one": (b"HPUB a 3 5\r\nabchi\r\n", publish(b"a", b"hi", b"", b"abc")),
}


@pytest.mark.parametrize(("data", "call"), GOOD.values(), ids=GOOD.keys())
def test_a_frame_is_understood(data: bytes, call: Call | None) -> None:
    calls = [] if call is None else [call]
    assert parse([data]) == (calls, "")
    assert parse(single(data)) == (calls, "")
    assert parse([data + b"PING\r\n" + data + b"PI"]) == ([*calls, PING, *calls], "")


@pytest.mark.parametrize(("data", "call"), GOOD.values(), ids=GOOD.keys())
def test_a_frame_is_not_understood_before_it_is_whole(data: bytes, call: Call | None) -> None:
    """Cut anywhere, nothing is called; what is missing completes it."""
    calls = [] if call is None else [call]
    for cut in range(1, len(data), max(1, len(data) // 50)):
        assert parse([data[:cut]]) == ([], ""), data[:cut]
        assert parse([data[:cut], data[cut:]]) == (calls, "")


# ---- what is refused ----

BAD: dict[str, tuple[bytes, object]] = {
    "an unknown verb": (b"FOO bar\r\n", UNKNOWN),
    "the beginning of a verb": (b"PIN\r\n", UNKNOWN),
    "a verb that goes on": (b"SUBS a 1\r\n", UNKNOWN),
    "PUB that goes on": (b"PUBLISH a 0\r\n\r\n", UNKNOWN),
    "HPUB that goes on": (b"HPUBS a 0 0\r\n\r\n", UNKNOWN),
    "an HTTP request": (b"GET / HTTP/1.1\r\n", UNKNOWN),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", UNKNOWN),
    "an empty line": (b"\r\n", UNKNOWN),
    "a line of blanks": (b"   \t \r\n", UNKNOWN),
    "a verb behind a blank": (b" PING\r\n", UNKNOWN),
    "a verb behind many blanks": (b" " * 40 + b"PING\r\n", UNKNOWN),
    "a verb of the server": (b"MSG a 1 0\r\n", UNKNOWN),
    "NUL": (b"\x00PING\r\n", UNKNOWN),
    "a verb that ends in a carriage return": (b"PUB\ra 0\r\n\r\n", UNKNOWN),
    "SUB that ends in a carriage return": (b"SUB\ra 1\r\n", UNKNOWN),
    "a verb that ends in a vertical tab": (b"PUB\x0ba 0\r\n\r\n", UNKNOWN),
    "SUB that ends in a vertical tab": (b"SUB\x0ba 1\r\n", UNKNOWN),
    "an unknown verb with too long arguments": (b"FOO " + LONG * 2 + b"\r\n", UNKNOWN),
    "-ERR from a client": (b"-ERR 'x'\r\n", SILENT),
    "PUB without arguments": (b"PUB\r\n", UNKNOWN),
    "PUB with blanks only": (b"PUB   \r\n", SILENT),
    "pub without arguments": (b"pub\r\n", UNKNOWN),
    "PUB without a size": (b"PUB a\r\n", SILENT),
    "PUB with too many arguments": (b"PUB a b c 2\r\nhi\r\n", SILENT),
    "PUB with a negative size": (b"PUB a -1\r\n", SILENT),
    "PUB with a signed size": (b"PUB a +1\r\n1\r\n", SILENT),
    "PUB with a size that is none": (b"PUB a 1x\r\n", SILENT),
    "PUB with a fraction": (b"PUB a 1.0\r\n", SILENT),
    "PUB with digits of another script": ("PUB a ١\r\n".encode(), SILENT),
    "PUB of more than there may be": (b"PUB a 1001\r\n" + b"p" * 1001 + b"\r\n", TOO_LARGE),
    "PUB with a size of nine digits": (b"PUB a 999999999\r\n", TOO_LARGE),
    "PUB with a size of ten digits": (b"PUB a 0000000001\r\n", SILENT),
    "PUB with a size beyond 32 bits": (b"PUB a 4294967297\r\n", SILENT),
    "PUB with a size beyond 64 bits": (b"PUB a 18446744073709551617\r\n", SILENT),
    "PUB with a size of a thousand digits": (b"PUB a " + b"9" * 1000 + b"\r\n", SILENT),
    "PUB shorter than its payload": (b"PUB a 1\r\nhi\r\n", UNKNOWN),
    "PUB longer than its payload": (b"PUB a 3\r\nhi\r\nPING\r\n", UNKNOWN),
    "PUB whose payload ends in a lone line feed": (b"PUB a 2\r\nhi\nPING\r\n", UNKNOWN),
    "PUB with too long arguments": (b"PUB " + LONG + b"x 0\r\n\r\n", TOO_LONG),
    "pub in lower case with too long arguments": (b"pub " + LONG + b"x 0\r\n\r\n", TOO_LONG),
    "PUB with too many blanks": (b"PUB a" + b" " * LINE + b"0\r\n\r\n", TOO_LONG),
    "SUB with too long arguments": (b"SUB " + LONG + b"x 1\r\n", TOO_LONG),
    "SUB with too many blanks between its arguments": (b"SUB a" + b" " * LINE + b"1\r\n", TOO_LONG),
    "CONNECT with too long arguments": (b'CONNECT {"name":"' + b"n" * (LINE - 10) + b'"}\r\n', TOO_LONG),
    "HPUB without arguments": (b"HPUB\r\n", UNKNOWN),
    "HPUB without sizes": (b"HPUB a\r\n", SILENT),
    "HPUB with one size": (b"HPUB a 2\r\nhi\r\n", SILENT),
    "HPUB with too many arguments": (b"HPUB a b c 1 2\r\nhi\r\n", SILENT),
    "HPUB whose header is longer than all": (b"HPUB a 3 2\r\nhi\r\n", SILENT),
    "HPUB with a negative header size": (b"HPUB a -1 2\r\nhi\r\n", SILENT),
    "HPUB with a negative size": (b"HPUB a 0 -2\r\nhi\r\n", SILENT),
    "HPUB of more than there may be": (b"HPUB a 18 1001\r\n", TOO_LARGE),
    "SUB without arguments": (b"SUB\r\n", UNKNOWN),
    "SUB without a sid": (b"SUB a\r\n", SILENT),
    "SUB with too many arguments": (b"SUB a b c d\r\n", SILENT),
    "UNSUB without a sid": (b"UNSUB\r\n", UNKNOWN),
    "UNSUB with too many arguments": (b"UNSUB 1 2 3\r\n", SILENT),
    "CONNECT without JSON": (b"CONNECT\r\n", SILENT),
    "CONNECT with broken JSON": (b"CONNECT {\r\n", SILENT),
    "CONNECT with a list": (b"CONNECT []\r\n", SILENT),
    "CONNECT nested without end": (b"CONNECT " + b'{"a":' * 800 + b"\r\n", SILENT),
    "CONNECT with lists nested deeper than Python's stack": (b'CONNECT {"a":' + b"[" * 4000 + b"\r\n", SILENT),
}


@pytest.mark.parametrize(("data", "text"), BAD.values(), ids=BAD.keys())
def test_a_frame_is_refused(data: bytes, text: object) -> None:
    assert parse([data]) == ([], text)
    assert parse(single(data)) == ([], text)
    assert parse([b"PING\r\n" + data + b"PING\r\n"]) == ([PING], text)


@pytest.mark.parametrize("end", [b"\rx", b"x\n", b"\n\n", b"\r\r", b"xx"])
def test_a_payload_that_does_not_end_is_refused_wherever_it_is_cut(end: bytes) -> None:
    data = b"PUB a 4\r\nsome" + end + b"PING\r\n"
    for first in range(len(data)):
        for second in range(first, len(data)):
            assert parse([data[:first], data[first:second], data[second:]]) == ([], UNKNOWN)


@pytest.mark.parametrize(
    "noise",
    [b"x", b"PUB", b"SUB ", b"PUB " + b"a" * 5000, b"PUB a" + b"\r" * 100_000, b"CONNECT {", b"\x00", b" "],
)
def test_a_line_that_never_ends_is_refused_early(noise: bytes) -> None:
    """100 kB without a line feed: refused as soon as it is no verb, or longer than a line may be."""
    data = (noise * (100_000 // len(noise) + 1))[:100_000]
    recorder = Recorder()
    parser = wire.Parser(recorder, PAYLOAD, LINE)
    taken = 0
    text: object = ""
    for at in range(0, len(data), 100):
        try:
            parser.feed(data[at : at + 100])
        except ProtocolError as wrong:
            text = wrong.text
            break
        taken += 100
    assert text in (UNKNOWN, TOO_LONG)
    assert taken <= LINE + 100
    assert parse([data]) == ([], text)


def test_a_verb_that_can_still_become_one_is_waited_for() -> None:
    for verb in ("PUB", "HPUB", "SUB", "UNSUB", "PING", "PONG", "CONNECT", "INFO", "+OK", "-ERR"):
        for cut in range(1, len(verb) + 1):
            assert parse([verb[:cut].lower().encode()]) == ([], "")
    for verb in ("PUB", "HPUB", "SUB", "UNSUB", "-ERR"):
        assert parse([verb.encode() + b"!"]) == ([], UNKNOWN)


def test_what_a_receiver_refuses_ends_the_parsing() -> None:
    class Full(Recorder):
        def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> None:
            raise ProtocolError("maximum subscriptions exceeded")

    recorder = Full()
    with pytest.raises(ProtocolError, match="maximum subscriptions exceeded"):
        wire.Parser(recorder, PAYLOAD, LINE).feed(b"PING\r\nSUB a 1\r\nPING\r\n")
    assert recorder.calls == [PING]


def test_many_frames_of_a_chunk_cost_the_same_in_every_letter_case() -> None:
    """No frame may copy what is behind it: a chunk of small frames would cost its square."""

    class Counting(bytes):
        """Counts the bytes that are copied when it is cut or joined."""

        copied = 0

        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            return self._count(found) if isinstance(found, bytes) else found

        def __add__(self, other: Any) -> Any:
            return self._count(bytes(self) + other)

        def __radd__(self, other: Any) -> Any:
            return self._count(other + bytes(self))

        @classmethod
        def _count(cls, found: bytes) -> Counting:
            cls.copied += len(found)
            return cls(found)

    costs = []
    for line in (b"PUB a 1", b"pub a 1", b"Pub\ta 1", b"HPUB a 0 1", b"hpub a 0 1"):
        frame = line + b"\r\nx\r\n"
        Counting.copied = 0
        recorder = Recorder()
        wire.Parser(recorder, PAYLOAD, LINE).feed(Counting(frame * 1000))
        assert len(recorder.calls) == 1000
        costs.append(Counting.copied / 1000)
    assert max(costs) < 100, costs


def test_who_has_enough_gets_the_rest_later() -> None:
    run = [b"PUB a 1\r\n%d\r\n" % number for number in range(5)]
    commands = [b"PUB b 1\r\nx\r\n", b"HPUB b 0 1\r\nx\r\n", b"SUB a 1\r\n", b"unsub 1 2\r\n", *run, b"PUB b 0\r\n\r\n"]
    for every in range(1, len(commands)):
        recorder = Recorder(every)
        parser = wire.Parser(recorder, PAYLOAD, LINE)
        done = []
        more = parser.feed(b"".join(commands) + b"PUB b 1\r\n")
        while more:
            done.append(len(recorder.calls))
            more = parser.feed(b"")
        # (at the end of a run of equal ones it may be one more)
        assert [count for count in done if count < 9] == [*range(every, 9, every)]
        # what had begun goes on
        parser.feed(b"x\r\n")
        assert recorder.calls == parse([*commands, b"PUB b 1\r\nx\r\n"])[0]


def test_who_has_enough_of_a_payload_in_parts_gets_the_rest_later() -> None:
    recorder = Recorder(every=1)
    parser = wire.Parser(recorder, PAYLOAD, LINE)
    payload = publish(b"a", b"some")
    for part, more, calls in (
        (b"PUB a 4\r\nso", False, []),
        (b"me\r\nPING\r\n", True, [payload]),
        (b"PUB b 0\r\n", False, [payload, PING]),
        (b"\r\n", False, [payload, PING, publish(b"b")]),
    ):
        assert parser.feed(part) == more
        assert recorder.calls == calls


# ---- random streams ----

_blanks = st.sampled_from([b" ", b"\t", b"  ", b" \t "])
_token = st.binary(min_size=1, max_size=12).filter(lambda token: len(token.split()) == 1 and token.strip() == token)
_payload = st.binary(max_size=40)
_end = st.sampled_from([b"\r\n", b"\n"])


def _cased(verb: bytes) -> st.SearchStrategy[bytes]:
    letters = st.lists(st.booleans(), min_size=len(verb), max_size=len(verb))
    return letters.map(
        lambda upper: b"".join(
            verb[at : at + 1].upper() if up else verb[at : at + 1].lower() for at, up in enumerate(upper)
        )
    )


@st.composite
def _frame(draw: Callable[..., Any]) -> tuple[bytes, Call | None]:
    kind = draw(st.sampled_from(["pub", "signal", "hpub", "sub", "unsub", "ping", "pong", "connect", "+ok"]))
    verb, blank, end = draw(_cased(kind.encode())), draw(_blanks), draw(_end)
    if kind == "pub":
        subject, reply, payload = draw(_token), draw(st.just(b"") | _token), draw(_payload)
        args = [subject, reply, b"%d" % len(payload)] if reply else [subject, b"%d" % len(payload)]
        return verb + blank + blank.join(args) + end + payload + b"\r\n", publish(subject, payload, reply)
    if kind == "signal":
        subject, payload = draw(_token), draw(st.sampled_from([b"", b"+ACK", b"\r\n\r\n", b"PUB ", b"+TERM", b"0"]))
        blanks = draw(st.sampled_from([b" ", b"  ", b"   "]))
        return b"PUB %b%b%d\r\n%b\r\n" % (subject, blanks, len(payload), payload), publish(subject, payload)
    if kind == "hpub":
        subject, reply, header, payload = draw(_token), draw(st.just(b"") | _token), draw(_payload), draw(_payload)
        sizes = [b"%d" % len(header), b"%d" % (len(header) + len(payload))]
        args = [subject, reply, *sizes] if reply else [subject, *sizes]
        data = verb + blank + blank.join(args) + end + header + payload + b"\r\n"
        return data, publish(subject, payload, reply, header)
    if kind == "sub":
        subject, queue, sid = draw(_token), draw(st.just(b"") | _token), draw(_token)
        args = [subject, queue, sid] if queue else [subject, sid]
        return verb + blank + blank.join(args) + end, ("subscribe", subject, queue, sid)
    if kind == "unsub":
        sid, most = draw(_token), draw(st.integers(0, 1000))
        return verb + blank + sid + blank + b"%d" % most + end, ("unsubscribe", sid, most)
    if kind == "connect":
        options = draw(st.dictionaries(st.sampled_from(["verbose", "echo", "headers"]), st.booleans()))
        others = draw(st.dictionaries(st.sampled_from(["x", "y"]), st.booleans() | st.text(max_size=5)))
        return verb + blank + json.dumps(others | options).encode() + end, ("connect", options)
    return verb + end, {"ping": PING, "pong": ("pong",)}.get(kind)


@given(st.lists(st.tuples(_frame(), st.integers(1, 4)), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_means_the_same_wherever_it_is_cut_or_left(
    several: list[tuple[tuple[bytes, Call | None], int]], cuts: list[int]
) -> None:
    frames = [frame for frame, times in several for _ in range(times)]
    stream = b"".join(data for data, _ in frames)
    calls = [call for _, call in frames if call is not None]
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    chunks = [stream[start:stop] for start, stop in pairwise(places)]
    assert parse([stream]) == (calls, "")
    assert parse(chunks) == (calls, "")
    assert parse(single(stream)) == (calls, "")
    for every in (1, 2, 3):
        assert parse([stream], every) == (calls, "")
        assert parse(chunks, every) == (calls, "")


_shard = st.sampled_from(
    [
        *(b"PUB ", b"HPUB ", b"pub", b"SUB ", b"UNSUB ", b"CONNECT ", b"PING", b"+OK", b"NATS/1.0\r\n"),
        *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"-", b"a", b"5", b"0", b"99999999999", b"x" * 5000),
        *(b"{", b"}", b"[", b'"', b"\x00", b"\xff"),
    ]
)


@given(st.lists(_shard | st.binary(max_size=6), max_size=25), st.integers(1, 9))
def test_random_bytes_raise_nothing_but_protocol_errors(shards: list[bytes], step: int) -> None:
    stream = b"".join(shards)
    calls, end = parse([stream])
    assert end in ("", UNKNOWN, TOO_LONG, TOO_LARGE, SILENT)
    assert parse([stream], every=1) == (calls, end)
    # cut, the same is understood before the error, and the error comes too (a little earlier perhaps)
    cut_calls, cut_end = parse(stream[at : at + step] for at in range(0, len(stream), step))
    assert cut_calls == calls
    assert (cut_end == "") == (end == "")


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([b"", b"word"])), max_size=600), st.integers(10, 50))
def test_publishes_of_a_word_in_a_row_keep_to_the_limits(signals: list[tuple[int, bytes]], limit: int) -> None:
    stream = b"".join(b"PUB %b %d\r\n%b\r\n" % (b"s" * size, len(word), word) for size, word in signals)
    for most in (1000, 3):
        expected: list[Call] = []
        for size, word in signals:
            if size + 2 > limit or len(word) > most:
                expected.append(("refused", TOO_LONG if size + 2 > limit else TOO_LARGE))
                break
            expected.append(publish(b"s" * size, word))
        for chunks in ([stream], single(stream)):
            recorder = Recorder()
            parser = wire.Parser(recorder, most, limit)
            try:
                for chunk in chunks:
                    assert not parser.feed(chunk)
            except ProtocolError as wrong:
                recorder.calls.append(("refused", wrong.text))
            assert recorder.calls == expected


_line = st.tuples(
    st.sampled_from([b"$s", b"$s", b"$s", b"$s.t", b"s"]),
    st.sampled_from([b"", b"", b"", b"r", b"r", b"rr", b"r\tr"]),
    st.sampled_from([*[b"PUB %b %b"] * 4, b"PUB %b  %b", b"PUB %b  %b", b"pub %b %b", b"PUB %b\t%b", b"PUB %b %b "]),
    st.sampled_from([0, 4, 5, 6, 10, 10, 11]),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(_line, st.integers(1, 4)), max_size=12), st.sampled_from([4, 1000, 1000]))
def test_publishes_in_a_row_are_what_they_are_one_by_one(several: list[tuple[Any, int]], limit: int) -> None:
    """With a reply subject and without, written in many ways, within the limits or beyond them."""
    stream, calls = b"", []
    for (subject, reply, form, size), times in several:
        body = b"x" * size
        arguments = b"%b %d" % (reply, size) if reply else b"%d" % size
        stream += (form % (subject, arguments) + b"\r\n" + body + b"\r\n") * times
        calls += [publish(subject, body, reply)] * times
    expected, end = parse(single(stream), most=10, limit=limit)
    assert expected == (calls if end == "" else calls[: len(expected)])
    for every in (0, 1, 3):
        assert parse([stream], every, most=10, limit=limit) == (expected, end)


# ---- what is written ----


def test_frames_for_the_client() -> None:
    assert wire.message(b"a.b", b"7", b"", b"hi") == b"MSG a.b 7 2\r\nhi\r\n"
    assert wire.message(b"a.b", b"7", b"r", b"") == b"MSG a.b 7 r 0\r\n\r\n"
    assert wire.headed_message(b"a", b"7", b"", HEADER, b"hi") == b"HMSG a 7 18 20\r\n" + HEADER + b"hi\r\n"
    assert wire.headed_message(b"a", b"7", b"r", HEADER, b"") == b"HMSG a 7 r 18 18\r\n" + HEADER + b"\r\n"
    assert wire.info({"a": 1, "b": "x"}) == b'INFO {"a":1,"b":"x"} \r\n'
    assert wire.error("Stale Connection") == b"-ERR 'Stale Connection'\r\n"


def test_an_error_is_one_line_whatever_is_in_it() -> None:
    assert wire.error("a\r\nPING\nb") == b"-ERR 'a  PING b'\r\n"
