"""The NATS/1.0 header block."""

from __future__ import annotations

import re

import pytest

from mq9_broker import headers
from mq9_broker.errors import Mq9Error

NO_BLOCK = re.escape("the header block must be NATS/1.0, lines of 'Name: value', and an empty line")


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


GOOD: list[tuple[tuple[bytes, ...], list[tuple[str, str]]]] = [
    ((), []),
    ((b"A: b",), [("A", "b")]),
    ((b"A:b",), [("A", "b")]),
    ((b"A:",), [("A", "")]),
    ((b"A:   b c  ",), [("A", "b c")]),
    ((b"A: b: c",), [("A", "b: c")]),
    ((b" A : b",), [("A", "b")]),
    ((b"A: 1", b"B: 2", b"A: 3"), [("A", "1"), ("B", "2"), ("A", "3")]),
    (("Grüße: äöü".encode(),), [("Grüße", "äöü")]),
    ((b"A: \xff",), [("A", "�")]),
]


@pytest.mark.parametrize(("lines", "pairs"), GOOD)
def test_a_block_is_understood(lines: tuple[bytes, ...], pairs: list[tuple[str, str]]) -> None:
    found = headers.lines_of(block(*lines))
    assert found == b"".join(line + b"\r\n" for line in lines)
    assert headers.parse(found) == pairs


def test_no_block_is_no_headers() -> None:
    assert headers.lines_of(b"") == b""
    assert headers.parse(b"") == []


@pytest.mark.parametrize(
    "data",
    [
        b"A: b\r\n\r\n",
        b"NATS/1.0\r\n",
        b"NATS/1.0\r\nA: b\r\n",
        b"NATS/1.0\r\nA: b",
        b"NATS/1.1\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"nats/1.0\r\n\r\n",
        b"\r\n\r\n",
        b"NATS/1.0\n\n",
    ],
)
def test_what_is_no_block(data: bytes) -> None:
    with pytest.raises(Mq9Error, match=NO_BLOCK):
        headers.lines_of(data)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"no colon", "'no colon'"),
        (b": no name", "': no name'"),
        (b"  : blank name", "'  : blank name'"),
        (b"\xff", "'�'"),
        (b"x" * 200, repr("x" * 80)),
    ],
)
def test_a_line_that_is_no_header_is_named(line: bytes, shown: str) -> None:
    """At the door: what is stored must be readable, whoever sent it."""
    with pytest.raises(Mq9Error) as refused:
        headers.parse(headers.lines_of(block(b"A: b", line, b"C: d")))
    assert refused.value.text == f"header line {shown} is not of the form 'Name: value'"


@pytest.mark.parametrize(
    "line", [b"A: b\nmq9-from: somebody", b"A: b\rmq9-from: somebody", b"A\n: b", b"A: b\n", b"\nA: b"]
)
def test_a_line_end_within_a_line_is_refused(line: bytes) -> None:
    """Clients that end lines at a lone line feed would see a header that the broker did not."""
    with pytest.raises(Mq9Error, match=NO_BLOCK):
        headers.lines_of(block(line))


def test_an_empty_line_within_the_block_is_refused() -> None:
    """A client would take what is behind it for the payload."""
    with pytest.raises(Mq9Error, match=NO_BLOCK):
        headers.lines_of(block(b"A: b", b"", b"C: d"))


def test_pairs_as_a_mapping() -> None:
    assert headers.as_mapping([]) is None
    assert headers.as_mapping([("A", "1")]) == {"A": "1"}
    assert headers.as_mapping([("A", "1"), ("B", ""), ("A", "2"), ("A", "3")]) == {"A": ["1", "2", "3"], "B": ""}
    assert headers.as_mapping([("A", "1"), ("a", "2")]) == {"A": "1", "a": "2"}
