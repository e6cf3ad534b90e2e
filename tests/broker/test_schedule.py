"""The index of what falls due, over two places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mq9_broker import keys
from mq9_broker.model import NEVER
from mq9_broker.schedule import Schedule
from mq9_broker.store.memory import MemoryStore
from mq9_broker.store.pending import Pending


def keep(*places: Pending) -> None:
    """Commit what is pending."""
    for place in places:
        place.store.commit(place.take())
        place.landed()


def names(taken: list[tuple[Pending, int, bytes, bytes, bytes]]) -> list[str]:
    return [rest.decode() for _, _, _, rest, _ in taken]


def make() -> tuple[Schedule, Pending, Pending]:
    one, two = Pending(MemoryStore()), Pending(MemoryStore())
    return Schedule((one, two)), one, two


def test_what_is_due_is_taken_in_order_once() -> None:
    schedule, one, two = make()
    schedule.add(one, 30, keys.DUE_MAILBOX, b"c")
    schedule.add(one, 10, keys.DUE_MESSAGE, b"a", b"value")
    schedule.add(two, 20, keys.DUE_MAILBOX, b"b")
    assert names(schedule.take(9, 10)) == []
    assert schedule.next == 10
    assert schedule.take(10, 10) == [(one, 10, keys.DUE_MESSAGE, b"a", b"value")]
    assert schedule.next == 20
    keep(one, two)
    assert names(schedule.take(29, 10)) == ["b"]
    assert names(schedule.take(NEVER, 10)) == ["c"]
    assert schedule.next == NEVER
    keep(one, two)
    for place in (one, two):
        assert list(place.scan(b"", b"\xff")) == []


def test_a_new_one_says_to_look_at_once() -> None:
    """What an earlier process left is found at the first look."""
    schedule, one, two = make()
    schedule.add(one, 10, b"M", b"a")
    keep(one, two)
    later = Schedule((one, two))
    assert later.next == 0
    assert names(later.take(5, 10)) == []
    assert later.next == 10


def test_what_was_removed_does_not_come() -> None:
    schedule, one, _ = make()
    schedule.add(one, 10, b"M", b"a")
    schedule.add(one, 10, b"M", b"b")
    schedule.remove(one, 10, b"M", b"a")
    assert names(schedule.take(10, 10)) == ["b"]


def test_an_earlier_one_moves_the_next_look() -> None:
    schedule, one, _ = make()
    schedule.add(one, 50, b"M", b"late")
    schedule.take(0, 10)
    assert schedule.next == 50
    schedule.add(one, 20, b"M", b"early")
    assert schedule.next == 20
    schedule.add(one, 30, b"M", b"middle")
    assert schedule.next == 20
    assert names(schedule.take(20, 10)) == ["early"]
    assert schedule.next == 30


def test_at_most_so_many_are_taken_and_the_rest_at_once() -> None:
    schedule, one, two = make()
    for number in range(10):
        schedule.add(one, number, b"M", b"one%d" % number)
        schedule.add(two, number, b"M", b"two%d" % number)
    found: list[str] = []
    for _ in range(20):
        taken = schedule.take(100, 4)
        # (one more at most: each place is looked at)
        assert len(taken) <= 5
        found += names(taken)
        if not taken:
            break
        assert schedule.next <= 100 or len(found) == 20
        keep(one, two)
    assert sorted(found) == sorted(f"{place}{number}" for place in ("one", "two") for number in range(10))
    assert schedule.next == NEVER


def test_a_clock_that_goes_backwards_loses_nothing() -> None:
    schedule, one, two = make()
    schedule.add(one, 100, b"M", b"a")
    assert names(schedule.take(100, 10)) == ["a"]
    keep(one, two)
    schedule.add(one, 50, b"M", b"b")
    assert schedule.next == 50
    assert names(schedule.take(60, 10)) == ["b"]


def test_after_a_failed_commit_it_begins_again() -> None:
    schedule, one, two = make()
    schedule.add(one, 10, b"M", b"a")
    keep(one, two)
    assert names(schedule.take(10, 10)) == ["a"]
    one.take()
    one.landed()  # the deletion never came to the store
    assert names(schedule.take(10, 10)) == []
    schedule.restart()
    assert schedule.next == 0
    assert names(schedule.take(10, 10)) == ["a"]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans()), max_size=40),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 6)), max_size=12),
)
def test_everything_is_taken_once_and_never_early(
    entries: list[tuple[int, bool, bool]], looks: list[tuple[int, int]]
) -> None:
    schedule, one, two = make()
    waiting: dict[str, int] = {}
    for number, (when, first, removed) in enumerate(entries):
        place = one if first else two
        schedule.add(place, when, b"M", b"%d" % number)
        if removed:
            schedule.remove(place, when, b"M", b"%d" % number)
        else:
            waiting[str(number)] = when
    before = 0
    for now, limit in [*sorted(looks), *[(80, 6)] * 40]:
        # it says to look in time: when the first is due, or at once when there is more than was taken
        assert schedule.next <= max(min(waiting.values(), default=NEVER), before)
        before = now
        taken = schedule.take(now, limit)
        assert all(waiting.pop(name) <= now for name in names(taken))
        if len(taken) < limit:
            assert all(when > now for when in waiting.values())
        keep(one, two)
    assert waiting == {}
