"""The guard against agents that answer each other for ever."""

from __future__ import annotations

import pytest

from mq9_mcp.errors import MailboxError
from mq9_mcp.loops import MAX_HOPS, REMEMBERED, REST, SAME_BODY, SAME_WITHIN, LoopGuard, Recent


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def guard(time: Time) -> LoopGuard:
    return LoopGuard(time)


def send(guard: LoopGuard, to: str = "box", body: str = "x") -> None:
    with guard.counting(to, body):
        pass


def test_a_message_out_of_the_blue_answers_nothing(guard: LoopGuard) -> None:
    assert guard.hops("box", "") == 0
    assert guard.hops("box", "c-1") == 0


def test_an_answer_is_one_hop_further(guard: LoopGuard) -> None:
    guard.heard(3, ("s-a", "box"), "c-1")
    assert guard.hops("s-a", "") == 4
    assert guard.hops("box", "") == 4
    assert guard.hops("another", "c-1") == 4
    assert guard.hops("another", "c-2") == 0


def test_the_newest_message_counts(guard: LoopGuard) -> None:
    guard.heard(7, ("s-a",), "")
    guard.heard(0, ("s-a",), "")
    assert guard.hops("s-a", "") == 1


def test_reading_again_changes_nothing_that_is_known(guard: LoopGuard) -> None:
    guard.heard(7, ("s-a", ""), "c-1")
    guard.heard(0, ("s-a", "s-b"), "c-1", again=True)
    assert guard.hops("s-a", "c-1") == 8
    assert guard.hops("s-b", "") == 1


def test_an_exchange_that_is_too_long_is_refused(guard: LoopGuard) -> None:
    guard.heard(MAX_HOPS - 1, ("s-a",), "")
    assert guard.hops("s-a", "") == MAX_HOPS
    guard.heard(MAX_HOPS, ("s-a",), "c-1")
    for address, correlation_id in (("s-a", ""), ("another", "c-1")):
        with pytest.raises(MailboxError, match="not sent: this would be reply number 21 in one exchange, and 20 is"):
            guard.hops(address, correlation_id)


def test_an_exchange_that_rested_begins_anew(guard: LoopGuard, time: Time) -> None:
    guard.heard(MAX_HOPS, ("s-a",), "")
    time.now += REST + 1
    assert guard.hops("s-a", "") == 0


def test_the_same_body_again_and_again(guard: LoopGuard, time: Time) -> None:
    for _ in range(SAME_BODY):
        send(guard)
        time.now += 1
    with pytest.raises(MailboxError, match="the same body went to box 5 times within 60 s"):
        send(guard)
    send(guard, body="y")
    send(guard, to="another")
    time.now += SAME_WITHIN - SAME_BODY + 0.5
    send(guard)
    with pytest.raises(MailboxError):
        send(guard)


def test_what_was_not_sent_is_not_counted(guard: LoopGuard) -> None:
    for _ in range(3 * SAME_BODY):
        with pytest.raises(ZeroDivisionError), guard.counting("box", "x"):
            raise ZeroDivisionError
    send(guard)


def test_memory_has_a_limit(guard: LoopGuard) -> None:
    guard.heard(MAX_HOPS, ("s-a",), "")
    for number in range(2 * REMEMBERED):
        guard.heard(0, (f"s-{number}",), "")
        send(guard, body=str(number))
    assert guard.hops("s-a", "") == 0


def test_recent_keeps_what_was_used_last() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["a"] = 1
    recent["b"] = 2
    assert recent.get("a") == 1
    recent["c"] = 3
    assert recent.get("b") is None
    assert sorted(recent.values()) == [1, 3]
