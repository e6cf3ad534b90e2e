"""The parser alone: whole, byte by byte and in pieces, any bytes are the same calls and the same end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from zlib import crc32

from broker.test_wire import Call, Recorder
from mq9_broker import wire
from mq9_broker.errors import ProtocolError

#: The longest input that is worth its time.
LONGEST = 200
# small, so that short inputs go beyond them
LINE, PAYLOAD = 64, 48
#: The most that a parser may keep of a line that has not ended.
_KEPT = LINE + len(b"CONNECT \r")
#: More than a parser may wait for.
_FILLERS = [bytes((byte,)) * (2 * LINE + PAYLOAD) for byte in b"x \r\t0"]


def check(data: bytes) -> None:
    lot = crc32(data)
    whole = outcome([data])
    cut = outcome(pieces(data, lot), _FILLERS[lot % len(_FILLERS)])
    assert cut == whole, f"{data!r}: whole {whole}, cut {cut}"
    if len(data) <= 32 or not lot & 7:
        cut = outcome([data[at : at + 1] for at in range(len(data))])
        assert cut == whole, f"{data!r}: whole {whole}, cut into bytes {cut}"


def outcome(chunks: Iterable[bytes], filler: bytes = b"") -> tuple[list[Call], str | None]:
    """(the calls, how it ended: "" or the text of the ProtocolError). A parser that took the chunks must not keep
    `filler` as well: it waits for no more than a line and a payload, or for the end of what does not count."""
    recorder = Recorder()
    parser = wire.Parser(recorder, PAYLOAD, LINE)
    try:
        for chunk in chunks:
            parser.feed(chunk)
    except ProtocolError as wrong:
        return recorder.calls, wrong.text
    if filler:
        calls = list(recorder.calls)
        try:
            parser.feed(filler)
        except ProtocolError:
            return calls, ""
        if len(parser._rest) > _KEPT:
            raise AssertionError(f"{len(filler)} times {filler[:1]!r} and no line end, and the parser waits for more")
        return calls, ""
    return recorder.calls, ""


def pieces(data: bytes, lot: int) -> list[bytes]:
    """The data, cut at up to four places which `lot` says."""
    size = len(data) + 1
    places = sorted({0, lot % size, (lot >> 8) % size, (lot >> 12) % size, (lot >> 20) % size, len(data)})
    return [data[start:stop] for start, stop in pairwise(places)]
