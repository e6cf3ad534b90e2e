"""What fits into a result, and where reading goes on."""

from __future__ import annotations

import json

import pytest

from mq9_mcp.excerpt import FRAME, HEAD, RESULT, Place, cost, cut, fitting, place


@pytest.mark.parametrize(
    "where", [Place("", 1, 0), Place("box.a", 17, 18_000), Place("", cursor="x"), Place("box", cursor="~#+ a/=")]
)
def test_a_place_is_read_as_it_was_written(where: Place) -> None:
    assert place(str(where)) == where


@pytest.mark.parametrize(
    "text", ["", "box", "box#", "#", "#1", "#1+", "#+1", "#-1+2", "#1+2x", "#~", "#" + "9" * 19 + "+1"]
)
def test_anything_else_is_no_place(text: str) -> None:
    assert place(text) is None


@pytest.mark.parametrize("text", ["", "x" * 500, "\x00" * 500, "é😀" * 200, '"\\' * 300, "x" * 400 + "\x00" * 100])
@pytest.mark.parametrize("room", [10, 100, 499, 500, 502, 10_000])
def test_what_is_cut_fits(text: str, room: int) -> None:
    part = cut(text, room)
    assert text.startswith(part)
    assert cost(part) <= room
    assert cost(text) > room or part == text
    assert part or not text, "at least one character, so that reading always goes on"


def test_base64_is_cut_between_groups() -> None:
    assert len(cut("QUJD" * 100, 102, step=4)) == 100


def test_short_bodies_leave_their_room_to_long_ones() -> None:
    count, room = fitting([(0, 10), (0, 1_000_000), (0, 10)])
    assert count == 3
    assert RESULT - 1500 < room < RESULT


@pytest.mark.parametrize(
    "messages",
    [
        [(0, 5)],
        [(0, 10_000_000)],
        [(10_000_000, 10)],
        [(0, 100)] * 50,
        [(0, 1_000_000)] * 50,
        [(1200, 1_000_000)] * 50,
        [(0, 1_000_000)] + [(0, 5)] * 49,
    ],
)
def test_a_result_has_a_limit(messages: list[tuple[int, int]]) -> None:
    count, room = fitting(messages)
    assert 1 <= count <= len(messages)
    used = sum(FRAME + rest + min(body, room) for rest, body in messages[:count])
    assert used <= RESULT or count == 1
    assert room >= min(HEAD, max(body for _, body in messages[:count]))
    assert json.dumps(count)
