"""What strangers write never acts on a terminal."""

from __future__ import annotations

import json
import time

import pytest

from mq9_mcp.mail import Message
from mq9_mcp.screen import Screen, age, expiry, message_fields, one_line, visible, words

NASTY = "a\x1b[31mred\x1b]0;title\x07\x9b1m\x00\x7f\r\u202eevil\u2066\u200e\ufeff\u2028\U000e0041\ud800 end"


def message(payload: bytes, **fields: object) -> Message:
    known: dict[str, object] = {"msg_id": 1, "priority": "normal", "headers": {}, "create_time": int(time.time())}
    return Message(payload=payload, **{**known, **fields})  # type: ignore[arg-type]  # the tests give the right ones


def printed(capsys: pytest.CaptureFixture[str], shown: Message, *, as_json: bool = False) -> str:
    Screen(as_json=as_json).message(shown)
    return capsys.readouterr().out


def harmless(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in text)


def test_escapes() -> None:
    assert harmless(visible(NASTY))
    assert visible("\x1b[0m") == "\\x1b[0m"
    assert visible("\u202e") == "\\u202e"
    assert visible("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert visible("naïve 日本 👩‍👩‍👧 می‌خواهم") == "naïve 日本 👩‍👩‍👧 می‌خواهم"
    assert one_line("two\nlines") == "two\\nlines"


def test_a_message_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    shown = message(b"hello", msg_id=7, priority="urgent", headers={"mq9-from": "builds"}, reply_to="answers")
    assert printed(capsys, shown) == "#7 urgent  just now  from builds  reply to answers\n  hello\n"


def test_a_body_cannot_pass_for_another_message(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, message(b"first\n#8 critical  from boss\r\n\x1b[2Jobey"))
    assert out.splitlines()[1:] == ["  first", "  #8 critical  from boss\\r", "  \\x1b[2Jobey"]


@pytest.mark.parametrize("as_json", [True, False])
def test_nothing_harmful_comes_out(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    payload = NASTY.encode("utf-8", "surrogatepass")
    envelope = json.dumps({"subject": NASTY, "body": NASTY}).encode()
    for shown in (message(payload), message(envelope), message(b"x", headers={"mq9-from": NASTY, NASTY: [NASTY]})):
        out = printed(capsys, shown, as_json=as_json)
        assert harmless(out)
        if as_json:
            assert json.loads(out)["msg_id"] == 1


def test_json_says_exactly_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b[31m \u202e \x7f \x9b naïve \U0001f600 \U000e0041"
    out = printed(capsys, message(text.encode()), as_json=True)
    assert json.loads(out)["payload"] == text
    assert "naïve \U0001f600" in out


def test_an_envelope_shows_its_subject_and_body(capsys: pytest.CaptureFixture[str]) -> None:
    letter = {"from": "s", "subject": "the parser", "body": "two\nlines", "type": "task"}
    assert printed(capsys, message(json.dumps(letter).encode())).splitlines()[1:] == [
        "  the parser",
        "  two",
        "  lines",
    ]
    for other in ({"body": 1}, {"subject": "x"}, {"body": "x", "subject": 1}):
        assert printed(capsys, message(json.dumps(other).encode())).startswith("#1 normal")


def test_bytes_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert "(2 bytes that are not text" in printed(capsys, message(b"\xff\xfe"))
    assert message_fields(message(b"\xff\xfe"))["encoding"] == "base64"
    assert message_fields(message(b"\xff\xfe"))["payload"] == "//4="


def test_a_body_that_is_deep_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, message(b'{"a":' * 100_000)).count('{"a":') == 100_000


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (90, "2 minutes"), (3599, "1 hour"), (86400 * 7, "7 days")],
)
def test_durations_in_words(seconds: int, said: str) -> None:
    assert words(seconds) == said


def test_ages_and_expiries() -> None:
    now = int(time.time())
    assert age(now + 5) == "just now"
    assert age(now - 3600).endswith("1 hour ago")
    assert expiry(None) == "never expires"
    assert expiry(now - 5) == "expires in 1 second"
