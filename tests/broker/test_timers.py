"""Appointments: in order, once, and without keeping what was cancelled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mq9_broker.timers import Timer, Timers


def test_what_is_due_happens_in_the_order_of_time_and_then_of_making() -> None:
    timers = Timers()
    done: list[tuple[str, int]] = []

    def at(when: int, name: str) -> Timer:
        return timers.at(when, lambda now: done.append((name, now)))

    assert timers.next is None
    at(30, "c")
    at(10, "a")
    at(20, "b1")
    at(20, "b2")
    assert timers.next == 10
    timers.run(9)
    assert done == []
    timers.run(10)
    assert done == [("a", 10)]
    assert timers.next == 20
    timers.run(100)
    assert done == [("a", 10), ("b1", 100), ("b2", 100), ("c", 100)]
    assert timers.next is None
    timers.run(1000)
    assert len(done) == 4


def test_what_is_cancelled_never_happens() -> None:
    timers = Timers()
    done: list[int] = []
    first = timers.at(10, done.append)
    timers.at(20, done.append)
    first.cancel()
    first.cancel()
    timers.run(30)
    assert done == [30]
    first.cancel()


def test_an_action_makes_and_cancels_others() -> None:
    timers = Timers()
    done: list[str] = []
    victim = timers.at(20, lambda now: done.append("victim"))

    def first(now: int) -> None:
        done.append("first")
        victim.cancel()
        timers.at(now, lambda now: done.append("at once"))
        timers.at(now + 1, lambda now: done.append("later"))

    timers.at(10, first)
    timers.run(30)
    assert done == ["first", "at once"]
    assert timers.next == 31
    timers.run(31)
    assert done == ["first", "at once", "later"]


def test_what_was_done_is_not_counted_as_cancelled() -> None:
    timers = Timers()
    kept = [timers.at(when, lambda now: None) for when in range(10)]
    timers.run(100)
    for timer in kept:
        timer.cancel()
    assert timers._cancelled == 0


def test_cancelled_ones_do_not_pile_up() -> None:
    """As long polls do that are answered long before their time is over."""
    timers = Timers()
    last = timers.at(1 << 40, lambda now: None)
    for number in range(50_000):
        timers.at((1 << 40) + number, lambda now: None).cancel()
        assert len(timers._heap) <= 2100
    last.cancel()
    done: list[int] = []
    timers.at(5, done.append)
    timers.run(5)
    assert done == [5]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_timers_are_a_sorted_list(entries: list[tuple[int, bool]], looks: list[int]) -> None:
    timers = Timers()
    done: list[int] = []
    expected = []
    for number, (when, cancelled) in enumerate(entries):
        timer = timers.at(when, lambda now, number=number: done.append(number))  # type: ignore[misc]
        if cancelled:
            timer.cancel()
        else:
            expected.append((when, number))
    for now in sorted(looks):
        timers.run(now)
        assert done == [number for when, number in sorted(expected) if when <= now]
