"""One request, below the parser: header block, JSON and subjects give an answer, or Mq9Error, and nothing else.

An input is a subject and a reply, header lines and a payload, cut at FIELD as in a message step of `fuzz.broker`.
"""

from __future__ import annotations

import json
from functools import partial

from broker.inprocess import AI, Broker
from fuzz.broker import FIELD, LIMITS, settle_in
from mq9_broker import headers
from mq9_broker.dialects.fields import Fields
from mq9_broker.errors import Mq9Error
from mq9_broker.hub import error_reply

#: The longest input that is worth its time.
LONGEST = 1024
PREFIX = AI.encode()
_MARK = bytes((FIELD,))


def check(data: bytes) -> None:
    target, lines, payload = [*data.split(_MARK, 2), b"", b""][:3]
    block = headers.FIRST_LINE + lines + b"\r\n" if lines else b""
    check_headers(block)
    check_headers(payload)
    check_fields(payload)
    broker = Broker(limits=LIMITS)
    client = broker.client()
    settle_in(client)
    dialect = broker.hub.dialect
    words = target.split()
    subject, reply = PREFIX + (words[0] if words else b"x"), words[1] if len(words) > 1 else b""
    view = dialect.view(subject)
    assert view is None or view[1].startswith(PREFIX)
    broker.committer.begin()
    try:
        answer = dialect.publish(client.session, subject, reply, block, payload)
    except Mq9Error as refused:
        answer = check_error(refused)
    if answer is not None:
        assert isinstance(json.loads(answer)["error"], str)
    broker.settle()
    assert client.request("PUBLIC.LIST")["error"] == ""


def check_headers(block: bytes) -> None:
    """A block is plain lines that every client reads in the same way, or it is refused."""
    try:
        lines = headers.lines_of(block)
        pairs = headers.parse(lines)
    except Mq9Error as refused:
        check_error(refused)
        return
    assert lines.count(b"\r") == lines.count(b"\n") == lines.count(b"\r\n") == len(pairs)
    mapping = headers.as_mapping(pairs)
    values = [value if isinstance(value, list) else [value] for value in (mapping or {}).values()]
    assert sum(map(len, values)) == len(pairs)
    assert json.loads(json.dumps(mapping, ensure_ascii=False).encode()) == mapping


def check_fields(payload: bytes) -> None:
    """Every field is read with its rule, or refused by name."""
    try:
        fields = Fields.parse(payload)
    except Mq9Error as refused:
        check_error(refused)
        return
    for name in [*fields._values][:8]:
        for read in (
            partial(fields.integer, name, 5, 0, 1 << 62),
            partial(fields.boolean, name),
            partial(fields.text, name),
            partial(fields.choice, name, ("a", "b")),
            partial(fields.ids, name),
            partial(fields.texts, name, 4),
            partial(fields.nested, name),
        ):
            try:
                read()
            except Mq9Error as refused:
                check_error(refused)


def check_error(refused: Mq9Error) -> bytes:
    """It says something, and can be said in JSON."""
    answer = error_reply(refused.text)
    assert json.loads(answer)["error"]
    return answer
