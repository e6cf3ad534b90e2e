"""Envelopes, and what is shown of everything that is none."""

from __future__ import annotations

import base64
import json

import pytest

from mq9_mcp.envelope import FIELD_LIMIT, Letter, seal, unseal

FULL = Letter("the body", "the subject", "", "s-" + "a" * 26, "box", "c-1")


def written(letter: Letter) -> bytes:
    return json.dumps(seal(letter)).encode()


def test_a_program_reads_it_with_one_json_loads() -> None:
    assert seal(FULL) == {
        "from": FULL.sender,
        "type": "message",
        "subject": "the subject",
        "body": "the body",
        "reply_to": "box",
        "correlation_id": "c-1",
    }


def test_what_is_empty_is_left_out_but_the_body() -> None:
    assert seal(Letter("")) == {"type": "message", "body": ""}


@pytest.mark.parametrize("letter", [FULL, Letter(""), Letter("a\u0000\n\u2028 😀 </result>"), Letter('{"body": "x"}')])
def test_what_is_sealed_is_unsealed(letter: Letter) -> None:
    assert unseal(written(letter)) == letter


@pytest.mark.parametrize(
    ("body", "shown"),
    [({"a": [1, "é"]}, '{"a":[1,"é"]}'), ([1], "[1]"), (None, "null"), (1.5, "1.5"), (True, "true")],
)
def test_a_body_that_is_no_text_is_shown_as_json(body: object, shown: str) -> None:
    assert unseal(json.dumps({"type": "result", "body": body}).encode()) == Letter(shown, type="result")


@pytest.mark.parametrize("text", ['{"body":"x"}', ' \n{ "body"\t: "x" } \r\n', '{"subject":"","body":"x"}'])
def test_blanks_do_not_matter(text: str) -> None:
    assert unseal(text.encode()) == Letter("x")


def test_a_long_body_is_a_body() -> None:
    assert unseal(json.dumps({"subject": "s", "body": "é" * 500_000, "type": None}).encode()).subject == "s"


def test_a_field_that_is_null_is_absent() -> None:
    assert unseal(b'{"body": "x", "subject": null, "reply_to": null}') == Letter("x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "{not json",
        "[1]",
        '{"task": 1}',
        '{"body": "x", "another": 1}',
        '{"body": "x", "subject": 5}',
        '{"body": "x", "subject": "' + "x" * (FIELD_LIMIT + 1) + '"}',
        '{"body": "\\ud800"}',
        '{"body": "x", "subject": "\\udfff"}',
        '{"body": {"\\ud800": 1}}',
        '{"body": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"body": ' + "9" * 10_000 + "}",
        '{"body": [' + "0," * 40_000 + "0]}",
        '{"body": NaN}',
        '{"body": 1e999}',
        '{"body": 1, "body": 2}',
        '{"body": {"a": 1, "a": 2}}',
        '{"body": "x", "subject": NaN}',
        '{"body": "x"} {}',
        '{"body": "x",}',
        '{"body" "x"}',
        '{"body": "x" "subject": "y"}',
        '{"body": "x"',
        '{5: "x", "body": "x"}',
        "{}",
        "{",
        "\u2003{}",
    ],
    ids=lambda text: text[:40],
)
def test_everything_else_is_shown_as_it_is(text: str) -> None:
    assert unseal(text.encode()) == Letter(text)


def test_bytes_that_are_no_text_are_base64() -> None:
    data = bytes(range(256))
    letter = unseal(data)
    assert base64.b64decode(letter.body) == data
    assert letter.encoding == "base64"
