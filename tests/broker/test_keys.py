"""Keys and values: what goes in comes out, and the order of bytes is the order asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9_broker import keys
from mq9_broker.model import NEVER, Message, Settings

u64 = st.integers(0, (1 << 64) - 1)
moment = st.integers(0, NEVER)
incarnation = st.integers(1, 1 << 40)
tier = st.integers(0, 3)
msg_id = st.integers(1, (1 << 62) - 1)


@given(u64, u64)
def test_numbers_are_ordered_as_bytes(one: int, other: int) -> None:
    assert keys.number(keys.u64(one)) == one
    assert len(keys.u64(one)) == 8
    assert (keys.u64(one) < keys.u64(other)) == (one < other)


def test_an_empty_number_is_zero() -> None:
    assert keys.number(b"") == 0


# ---- keys ----


@given(incarnation, tier, msg_id, tier, msg_id)
def test_messages_are_ordered_by_tier_and_id(box: int, tier: int, first: int, other_tier: int, other: int) -> None:
    one = keys.messages(box, tier) + keys.u64(first)
    two = keys.messages(box, other_tier) + keys.u64(other)
    assert (one < two) == ((tier, first) < (other_tier, other))


@given(incarnation, incarnation, msg_id, st.text(max_size=20), st.binary(max_size=20))
def test_a_mailbox_has_a_space_of_its_own(box: int, other: int, number: int, name: str, data: bytes) -> None:
    records = [
        keys.counters(box),
        keys.latest(box),
        keys.dedup(box, keys.digest(data)),
        keys.delayed(box, number),
        keys.group(box, name),
        keys.keyed(box, data),
        keys.asked(box, number % 4, number),
        *(keys.messages(box, tier) + keys.u64(number) for tier in range(4)),
    ]
    first, last = keys.space(box)
    assert all(first <= record < last for record in records)
    assert len(set(records)) == len(records)
    if other != box:
        assert not any(keys.space(other)[0] <= record < keys.space(other)[1] for record in records)


def test_kinds_of_keys_do_not_mix() -> None:
    """Each kind starts with a letter of its own, the broker's own with one before all of them."""
    kinds = [
        keys.FORMAT_KEY,
        keys.INCARNATION_KEY,
        keys.mailbox("a"),
        keys.owner("s-a"),
        keys.public("a"),
        keys.due(1, keys.DUE_MAILBOX, b""),
        keys.purge(1),
        keys.capability(b"x"),
        keys.broadcasts("a.*", "a"),
        keys.counters(1),
    ]
    assert [key[:1] for key in kinds] == [b"!", b"!", b"M", b"A", b"P", b"E", b"X", b"C", b"B", b"I"]


@given(moment, st.sampled_from([b"M", b"m", b"w", b"Z", b"D", b"G", b"C"]), st.binary(max_size=40))
def test_what_is_due_comes_apart_again(when: int, kind: bytes, rest: bytes) -> None:
    assert keys.split_due(keys.due(when, kind, rest)) == (when, kind, rest)


@given(st.lists(st.tuples(moment, st.binary(max_size=5)), min_size=2, max_size=9, unique=True))
def test_what_is_due_is_ordered_by_time(entries: list[tuple[int, bytes]]) -> None:
    ordered = sorted(keys.due(when, b"M", rest) for when, rest in entries)
    assert [keys.split_due(key)[0] for key in ordered] == sorted(when for when, _ in entries)


def test_the_directory_is_ordered_by_name() -> None:
    names = ["a", "a-b", "a.b", "a.b.c", "a_b", "aa", "b", "zz"]
    ordered = sorted(names, key=keys.public)
    assert ordered == sorted(names)
    assert all(keys.public(one) < keys.public(other) for one, other in pairwise(ordered))


def test_a_digest_stands_for_any_length() -> None:
    assert {len(keys.digest(data)) for data in (b"", b"x", b"x" * 100_000)} == {16}
    assert keys.digest(b"a") != keys.digest(b"b")


# ---- values ----


@given(
    incarnation,
    moment,
    moment,
    st.text(max_size=30),
    moment,
    st.builds(
        Settings,
        ttl=st.integers(0, 1 << 40),
        public=st.booleans(),
        desc=st.text(max_size=30),
        latest=st.booleans(),
        memory=st.booleans(),
        ack_wait=st.integers(1, 86_400),
        explicit=st.booleans(),
        retain_ack=st.booleans(),
        max_deliver=st.integers(0, 100),
        dead_letter=st.sampled_from(["", "graveyard"]),
        max_msgs=st.integers(0, 100),
        subscribe=st.lists(st.sampled_from(["a.*", "b.>"])).map(tuple),
    ),
)
def test_a_mailbox_round_trip(
    number: int, expires: int, created: int, owner: str, renewed: int, settings: Settings
) -> None:
    value = keys.encode_mailbox(number, expires, created, owner, renewed, settings)
    assert keys.decode_mailbox(value) == (number, expires, created, owner, renewed, settings)


def test_a_mailbox_of_an_older_version() -> None:
    value = (
        b'{"i":7,"x":1,"c":2,"o":"","r":3,"ttl":5,"public":true,"desc":"d","latest":false,"memory":false,"ack_wait":9}'
    )
    assert keys.decode_mailbox(value) == (7, 1, 2, "", 3, Settings(ttl=5, public=True, desc="d", ack_wait=9))


def test_what_is_usual_is_not_written() -> None:
    assert keys.encode_mailbox(1, 2, 3, "", 4, Settings()) == b'{"i":1,"x":2,"c":3,"o":"","r":4}'


_message = st.builds(
    Message,
    code=st.integers(0, 5),
    created=moment,
    expires=moment,
    hops=st.none() | st.integers(0, 65_534),
    reply=st.binary(max_size=30),
    sender=st.binary(max_size=30),
    lines=st.binary(max_size=60),
    payload=st.binary(max_size=60),
)


@given(_message)
def test_a_message_round_trip(message: Message) -> None:
    value = keys.encode_message(*message)
    assert keys.decode_message(value) == message
    assert keys.expires_of(value) == message.expires
    assert keys.created_of(value) == message.created
    assert value[0] == message.code


@given(_message, st.integers(1, 31))
def test_receipts_stand_above_the_priority(message: Message, flags: int) -> None:
    value = keys.encode_message(message.code | flags << 3, *message[1:])
    assert keys.decode_message(value) == message
    assert value[0] >> 3 == flags


def test_a_field_of_a_message() -> None:
    value = keys.encode_message(3, 1, 0, None, b"r", b"s", b"a-mq9-key: no\r\nmq9-key: k: 1\r\nmq9-tags: a,b\r\n", b"x")
    assert keys.field_of(value, b"mq9-key") == b"k: 1"
    assert keys.field_of(value, b"mq9-tags") == b"a,b"
    assert keys.field_of(value, b"mq9-dead-from") == b""
    plain = keys.encode_plain(3, 1, b"\r\nmq9-key: payload\r\n")
    assert keys.field_of(plain, b"mq9-key") == b""


@given(st.integers(0, 5), moment, st.binary(max_size=60))
def test_a_plain_message_is_one_without_anything_else(code: int, created: int, payload: bytes) -> None:
    plain = keys.encode_plain(code, created, payload)
    assert plain == keys.encode_message(code, created, 0, None, b"", b"", b"", payload)


def test_the_largest_message() -> None:
    message = Message(5, 1, 2, 65_534, b"r" * 65_535, b"s" * 65_535, b"h" * 70_000, b"p" * 1_048_576)
    assert keys.decode_message(keys.encode_message(*message)) == message


@given(tier, msg_id, _message)
def test_the_latest_message_round_trip(tier: int, msg_id: int, message: Message) -> None:
    value = keys.encode_message(*message)
    assert keys.decode_latest(keys.encode_latest(tier, msg_id, value)) == (tier, msg_id, value)


@given(st.lists(u64, min_size=16, max_size=16))
def test_counters_round_trip(values: list[int]) -> None:
    assert keys.decode_counters(keys.encode_counters(tuple(values))) == tuple(values)


def test_counters_have_a_fixed_number() -> None:
    with pytest.raises(Exception, match="pack expected 16 items"):
        keys.encode_counters((1, 2, 3))


def test_older_counters_lack_the_last() -> None:
    older = keys.encode_counters(tuple(range(1, 17)))[:-8]
    assert keys.decode_counters(older) == (*range(1, 16), 0)
    assert keys.decode_counters(b"") == (0,) * 16


_ids = st.lists(msg_id, max_size=6)


@given(moment, st.lists(st.tuples(msg_id, _ids, _ids), min_size=4, max_size=4))
def test_a_position_round_trip(used: int, tiers: list[tuple[int, list[int], list[int]]]) -> None:
    assert keys.decode_position(keys.encode_position(used, tiers)) == (used, tiers)
