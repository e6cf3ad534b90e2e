"""Subjects: what is valid, what matches what, and the tree compared with looking at every subscription."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9_broker.subjects import SubscriptionTree, is_wildcard, matches, valid_pattern, valid_subject

# ---- single subjects ----


@pytest.mark.parametrize(
    "subject", [b"a", b"a.b", b"a.b.c", b"$mq9.AI.PUBLIC.LIST", b"\xff", b"a*", b"*a", b"a>", b"a.b*", b"a.b>"]
)
def test_a_subject_to_publish_to(subject: bytes) -> None:
    assert valid_subject(subject)
    assert valid_pattern(subject)
    assert not is_wildcard(subject)


@pytest.mark.parametrize("pattern", b"* > a.* *.a a.*.b a.> *.> *.*.* a*.* a.b*.>".split())
def test_a_pattern_to_subscribe_to(pattern: bytes) -> None:
    assert valid_pattern(pattern)
    assert is_wildcard(pattern)
    assert not valid_subject(pattern)


@pytest.mark.parametrize("pattern", [b"", *b". .. .a a. a..b >.a a.>.b >.> *..* a.>.".split()])
def test_what_is_no_subject(pattern: bytes) -> None:
    assert not valid_pattern(pattern)
    assert not valid_subject(pattern)


MATCHES = [
    (b"a", b"a", True),
    (b"a", b"b", False),
    (b"a", b"a.b", False),
    (b"a.b", b"a", False),
    (b"*", b"a", True),
    (b"*", b"a.b", False),
    (b">", b"a", True),
    (b">", b"a.b.c", True),
    (b"a.>", b"a", False),
    (b"a.>", b"a.b", True),
    (b"a.>", b"a.b.c", True),
    (b"a.>", b"b.c", False),
    (b"a.*", b"a.b", True),
    (b"a.*", b"a", False),
    (b"a.*", b"a.b.c", False),
    (b"*.b", b"a.b", True),
    (b"*.b", b"a.c", False),
    (b"a.*.c", b"a.b.c", True),
    (b"a.*.c", b"a.b.d", False),
    (b"a.*.>", b"a.b", False),
    (b"a.*.>", b"a.b.c.d", True),
    (b"a*", b"ab", False),
    (b"a*", b"a*", True),
    (b"a.b>", b"a.bc", False),
]


@pytest.mark.parametrize(("pattern", "subject", "expected"), MATCHES)
def test_matching(pattern: bytes, subject: bytes, expected: bool) -> None:
    assert matches(pattern, subject) is expected
    assert naive(pattern, subject) is expected
    tree: SubscriptionTree[str] = SubscriptionTree()
    tree.insert(pattern, b"", "one")
    assert tree.match(subject) == ((["one"] if expected else []), {})


def naive(pattern: bytes, subject: bytes) -> bool:
    """The definition: `*` is one token, a last `>` is one or more."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if wanted[-1] == b">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(want in (b"*", token) for want, token in zip(wanted, tokens, strict=True))


_token = st.sampled_from([b"a", b"b", b"c", b"a*", b"AI"])
_subject = st.lists(_token, min_size=1, max_size=4).map(b".".join)
_pattern = st.builds(
    lambda tokens, rest: b".".join(tokens + rest) or b">",
    st.lists(_token | st.just(b"*"), max_size=3),
    st.sampled_from([[], [b">"], [b"a"]]),
)


@given(_pattern, _subject)
def test_matches_is_the_definition(pattern: bytes, subject: bytes) -> None:
    assert valid_pattern(pattern)
    assert matches(pattern, subject) is naive(pattern, subject)


# ---- the tree ----

NOBODY: tuple[list[int], dict[bytes, list[int]]] = ([], {})

_entry = st.tuples(_pattern, st.sampled_from([b"", b"", b"q1", b"q2"]))


@given(
    st.lists(_entry, max_size=20),
    st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=30),
    st.lists(_subject),
)
def test_the_tree_finds_what_looking_at_all_finds(
    entries: list[tuple[bytes, bytes]], steps: list[tuple[bool, int]], subjects: list[bytes]
) -> None:
    """Subscriptions come and go, and after every step each subject finds exactly those that match."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    present: dict[int, tuple[bytes, bytes]] = {}
    subjects = [*subjects, b"a", b"a.b", b"a.b.c"]
    for number, entry in enumerate(entries):
        tree.insert(*entry, number)
        present[number] = entry
    for insert, index in [(True, -1), *steps]:
        number = index if index < len(entries) else -1
        if number >= 0 and insert and number not in present:
            present[number] = entries[number]
            tree.insert(*entries[number], number)
        elif number >= 0 and not insert and number in present:
            tree.remove(present.pop(number)[0], number)
        for subject in subjects:
            found_plain, found_queues = tree.match(subject)
            plain = sorted(n for n, (pattern, queue) in present.items() if not queue and naive(pattern, subject))
            queues: dict[bytes, list[int]] = {}
            for n, (pattern, queue) in sorted(present.items()):
                if queue and naive(pattern, subject):
                    queues.setdefault(queue, []).append(n)
            assert sorted(found_plain) == plain
            assert {queue: sorted(members) for queue, members in found_queues.items()} == queues


def test_what_is_emptied_leaves_nothing_behind() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    entries = [(b"a.b", b""), (b"a.*", b"q"), (b"a.*.c.>", b""), (b">", b""), (b"a.*.c", b"q")]
    for number, (pattern, queue) in enumerate(entries):
        tree.insert(pattern, queue, number)
    for number, (pattern, _) in enumerate(entries):
        tree.remove(pattern, number)
    assert tree._literal == {}
    assert tree._root.children == {}
    assert tree.match(b"a.b") == NOBODY
    for number, (pattern, queue) in enumerate(entries):
        # a subject that was looked up and is not any more
        tree.insert(pattern, queue, number)
        tree.match(b"a.b")
        tree.remove(pattern, number)
    tree.insert(b"*", b"", 1)
    assert (tree._cache, tree._cached, tree._weight) == ({}, {}, 0)


def test_subjects_may_be_deeper_than_the_stack() -> None:
    tree: SubscriptionTree[str] = SubscriptionTree()
    for pattern in (b".".join([b"*"] * 2000), b".".join([b"a"] * 1999) + b".>", b"a.>"):
        tree.insert(pattern, b"", pattern.decode())
    plain, _ = tree.match(b".".join([b"a"] * 2000))
    assert len(plain) == 3


def test_a_subject_of_wildcards_is_matched_once() -> None:
    """Going two ways at each of its tokens would take for ever."""
    tree: SubscriptionTree[str] = SubscriptionTree()
    pattern = b".".join([b"*"] * 200)
    tree.insert(pattern, b"", "plain")
    tree.insert(pattern, b"q", "member")
    assert tree.match(pattern) == (["plain"], {b"q": ["member"]})


def test_what_is_not_a_subject_matches_no_wildcard() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.insert(b">", b"", 1)
    tree.insert(b"a.*", b"", 2)
    for subject in (b"", b".", b"a.", b".a", b"a..b"):
        assert tree.match(subject) == NOBODY, subject


def test_what_is_remembered_is_bounded() -> None:
    """A publisher of ever new subjects does not fill the memory."""
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.insert(b"a.*", b"", 1)
    for number in range(10_000):
        assert tree.match(b"a.%d" % number)[0] == [1]
    assert len(tree._cache) <= 4096
    for number in range(10_000):
        tree.insert(b"b.>", b"", number)
    for number in range(100):
        assert len(tree.match(b"b.%d" % number)[0]) == 10_000
    assert len(tree._cache) <= 26


def test_what_is_remembered_of_subjects_that_come_and_go_is_bounded() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    for number in range(100):
        tree.insert(b"a.%d" % number, b"", 1)
        tree.match(b"a.%d" % number)
        tree.remove(b"a.%d" % number, 1)
    assert (tree._cache, tree._cached, tree._weight) == ({}, {}, 0)


@pytest.mark.parametrize("pattern", [b"a.b", b"a.*", b"*.b", b">"])
@pytest.mark.parametrize("queue", [b"", b"q"])
def test_who_comes_and_goes_is_found_and_not_found(pattern: bytes, queue: bytes) -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    for _ in range(2):
        assert tree.match(b"a.b") == NOBODY
        tree.insert(pattern, queue, 1)
        assert tree.match(b"a.b") == (([], {b"q": [1]}) if queue else ([1], {}))
        tree.remove(pattern, 1)


def test_a_wildcard_that_comes_or_goes_leaves_what_it_does_not_concern() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.insert(b"hot.*", b"", 1)
    hot = tree.match(b"hot.a")
    for number in range(3):
        tree.insert(b"_INBOX.%d.*" % number, b"", number)
        tree.insert(b"hot.b", b"", number)
        tree.remove(b"_INBOX.%d.*" % number, number)
    assert tree.match(b"hot.a") is hot
    tree.insert(b"*.a", b"", 2)
    assert tree.match(b"hot.a") == ([1, 2], {})
    assert hot == ([1], {})


def test_a_storm_of_members_that_leave_costs_what_it_removes() -> None:
    """In the order in which they came and the other way round."""

    class Counting(int):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counting.compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    tree: SubscriptionTree[int] = SubscriptionTree()
    members = [Counting(number) for number in range(2000)]
    for member in members:
        tree.insert(b"jobs", b"q", member)
    for member in members[:1000] + members[:999:-1]:
        tree.remove(b"jobs", member)
    assert tree.match(b"jobs") == NOBODY
    assert Counting.compared < 2000


def test_removing_what_was_never_there_is_a_mistake() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    tree.insert(b"a", b"", 1)
    with pytest.raises(KeyError):
        tree.remove(b"b", 1)
    with pytest.raises(KeyError):
        tree.remove(b"a.*", 1)


def test_a_subject_of_more_tokens_than_python_has_frames() -> None:
    tree: SubscriptionTree[int] = SubscriptionTree()
    deep = b"a." * 5000
    for number, pattern in enumerate((b"*." * 5000 + b"z", deep + b"*", deep + b">", b"a.>")):
        tree.insert(pattern, b"", number)
    assert sorted(tree.match(deep + b"z")[0]) == [0, 1, 2, 3]
    assert sorted(tree.match(deep + b"y")[0]) == [1, 2, 3]
