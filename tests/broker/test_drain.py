"""What waits in a mailbox when somebody subscribes: together or one by one, everybody gets the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import AI, OPTIONS, Broker, Client, pub
from mq9_broker import feeds
from mq9_broker.clock import ManualClock
from mq9_broker.model import WORDS, Limits
from mq9_broker.session import LARGEST_SLICE, SLICE

#: (priority, size, headers, ms until the next)
Sent = tuple[str, int, dict[str, str] | None, int]

_word = st.sampled_from([*WORDS, "normal", "normal", "normal", "normal"])
_size = st.sampled_from([0, 1, 1, 1, 2, 300, 40_000])
_headers = st.sampled_from([None, None, None, None, {"A": "b"}, {"mq9-ttl": "1"}, {"mq9-key": "k"}, {"mq9-hops": "2"}])
_sent = st.tuples(_word, _size, _headers, st.sampled_from([0, 0, 0, 1, 300]))
_subject = st.sampled_from(["INBOX.{}", "INBOX.{}", "INBOX.{}.normal", "MAILBOX.{}", "MAILBOX.{}.*"])


def waiting(sent: list[Sent], deleted: set[int], max_pending: int = 5_000_000) -> tuple[Broker, str]:
    """(broker, mailbox); ids and times get one more digit on the way."""
    broker = Broker(clock=ManualClock(9_999_999_999_500), limits=Limits(max_pending=max_pending))
    sender = broker.client()
    box = sender.mailbox(ttl=0)
    for word, size, headers, ms in sent:
        sender.send(pub(f"INBOX.{box}.{word}", b"%" * size, headers=headers))
        broker.clock.advance(ms / 1000)
    for msg_id in deleted:
        sender.request(f"MAILBOX.DELETE.{box}.{msg_id}")
    return broker, box


def drained(client: Client, subject: str, limit: str = "") -> tuple[bytes, int, int, int]:
    """(bytes, messages, their bytes, those since the last write) that a client gets of a subscription."""
    client.raw.clear()
    client.send(f"SUB {AI}{subject} %d\r\n{limit}")
    return bytes(client.raw), client.session.out_msgs, client.session.out_bytes, client.session.owed


@settings(max_examples=150)
@given(
    st.lists(_sent, max_size=24),
    st.sets(st.integers(1, 24), max_size=3),
    _subject,
    st.sampled_from([True, True, False]),
    st.sampled_from([256, 5]),
)
def test_who_has_a_limit_gets_each_message_as_who_has_none(
    sent: list[Sent], deleted: set[int], subject: str, headers: bool, row: int
) -> None:
    broker, box = waiting(sent, deleted)
    one, other = [broker.client(connect={**OPTIONS, "headers": headers, "no_responders": False}) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feeds, "_ROW", row)
        patch.setattr(feeds, "_MUCH", row // 2)
        # (up to a limit they are counted one by one)
        assert drained(one, subject.format(box)) == drained(other, subject.format(box), "UNSUB %d 1000000\r\n")


@pytest.mark.parametrize("deleted", [set(), {500}])
@pytest.mark.parametrize("together", [2, 70, 1000])
def test_each_has_its_id_time_and_payload(deleted: set[int], together: int) -> None:
    sent: list[Sent] = [("normal", number % 7, None, number % together == together - 1) for number in range(1200)]
    broker, box = waiting(sent, deleted)
    client = broker.client()
    client.subscribe(f"INBOX.{box}")
    assert [
        (frame.subject, int(frame.headers["mq9-msg-id"]), int(frame.headers["mq9-time"]), len(frame.payload))
        for frame in client.take()
    ] == [
        (f"{AI}INBOX.{box}.normal", number + 1, 9_999_999_999_500 + number // together, number % 7)
        for number in range(1200)
        if number + 1 not in deleted
    ]


def writes_of(client: Client) -> list[int]:
    """The bytes of each write since this was asked last."""
    sizes = [*map(len, client.transport.writes)]
    client.transport.writes.clear()
    return sizes


def test_who_takes_what_is_written_is_given_more_at_once_and_who_makes_us_wait_little() -> None:
    """(what is written can't be overtaken by an urgent message)"""
    broker, box = waiting([("normal", 1000, None, 0)] * 5000, set())
    client = broker.client()
    writes_of(client)
    client.feed(f"SUB {AI}INBOX.{box} all\r\n".encode())
    for _ in range(15):
        broker.loop.turn()
    grown = writes_of(client)
    assert max(grown[:4]) <= SLICE
    assert grown == sorted(grown)
    assert LARGEST_SLICE * 0.8 < grown[-1] <= LARGEST_SLICE
    client.transport.stalled = True
    broker.settle()
    assert len(writes_of(client)) == 1
    for _ in range(3):
        client.transport.drain(10**6)
        broker.settle()
        assert max(writes_of(client)) <= SLICE
    client.transport.drain()
    broker.settle()
    grown = writes_of(client)
    assert max(grown[:4]) <= SLICE
    assert max(grown) > 2 * SLICE
    assert client.raw.count(b"HMSG") == 5000


def test_those_who_read_at_the_same_time_share_the_largest_slice() -> None:
    """(others wait meanwhile)"""
    broker, box = waiting([("normal", 1000, None, 0)] * 2000, set())
    readers = [broker.client() for _ in range(4)]
    for reader in readers:
        writes_of(reader)
        reader.feed(f"SUB {AI}INBOX.{box} all\r\n".encode())
    broker.settle()
    for reader in readers:
        assert max(writes_of(reader)) <= SLICE
        assert reader.raw.count(b"HMSG") == 2000


def test_who_always_leaves_something_is_given_little_at_once() -> None:
    broker, box = waiting([("normal", 1000, None, 0)] * 300, set())
    sender, reader = broker.client(), broker.client()
    reader.subscribe("=a")
    reader.transport.stalled = True
    for _ in range(100):
        sender.send(pub("=a", b"x" * 20_000))
        reader.transport.drain(reader.transport.get_write_buffer_size() - 10_000)
    writes_of(reader)
    reader.subscribe(f"INBOX.{box}")
    assert 0 < max(writes_of(reader)) <= SLICE


@given(st.lists(_sent, max_size=24))
def test_nobody_is_closed_for_what_waits(sent: list[Sent]) -> None:
    gets = []
    for max_pending in (5_000_000, 50_000):
        broker, box = waiting(sent, set(), max_pending)
        gets.append(drained(broker.client(), f"INBOX.{box}"))
    assert gets[0] == gets[1]


@pytest.mark.parametrize("subject", ["INBOX.{}", "PUBLIC.LIST"])
@pytest.mark.parametrize("headers", [None, {"mq9-ttl": "1000", "mq9-hops": "60000"}])
@pytest.mark.parametrize("max_pending", [10_000, 100_000, 1_000_000])
def test_no_more_is_written_than_may_be_pending(max_pending: int, headers: dict[str, str] | None, subject: str) -> None:
    """However small the messages, and whether or not the client reads at once."""
    broker = Broker(limits=Limits(max_pending=max_pending))
    client, reader = broker.client(), broker.client()
    client.create(name="box", ttl=0)
    for number in range(500):
        client.create(name=f"b{number}", ttl=0, public=True, desc="x" * 50)
        client.send(pub("MAILBOX.box", b"", headers=headers) * 10)
    reader.transport.stalled = True
    reader.raw.clear()
    reader.subscribe(subject.format("box"))
    while reader.transport.get_write_buffer_size():
        reader.transport.drain(3000)
        broker.settle()
    assert not reader.gone
    assert reader.raw.count(b"MSG ") == (500 if subject == "PUBLIC.LIST" else 5000)


@pytest.mark.parametrize("max_pending", [1, 1000])
@pytest.mark.parametrize("subject", ["MAILBOX.box", "PUBLIC.LIST"])
def test_what_is_more_than_may_be_pending_by_itself_closes_its_reader(max_pending: int, subject: str) -> None:
    broker = Broker(limits=Limits(max_pending=max_pending))
    sender, reader = broker.client(), broker.client()
    sender.send(pub("MAILBOX.CREATE", {"name": "box", "ttl": 0, "public": True, "desc": "x" * 1000}))
    sender.send(pub("MAILBOX.box", b"x" * 1000))
    reader.subscribe(subject)
    assert reader.gone
    assert not sender.gone


@pytest.mark.parametrize(("answers", "first"), [(0, 38_000), (120, 25_000), (170, 17_000)])
def test_a_large_message_waits_for_what_is_before_it(answers: int, first: int) -> None:
    """Together they are more than may be pending."""
    broker = Broker(limits=Limits(max_pending=40_000))
    client, reader = broker.client(), broker.client()
    client.create(name="box", ttl=0)
    sizes = [first, *[10] * 50, 38_000, 38_000, 10]
    for size in sizes:
        client.put("box", b"x" * size)
    reader.send("SUB long.* long\r\n")
    reader.feed(pub("MAILBOX.box", b"", reply="long." + "x" * 100) * answers + f"SUB {AI}MAILBOX.box all\r\n".encode())
    broker.settle()
    assert not reader.gone
    assert [len(body) for body in reader.bodies("all")] == sizes + [0] * answers
