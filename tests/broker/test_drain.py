"""What waits in a mailbox when somebody subscribes: together or one by one, everybody gets the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import AI, OPTIONS, Broker, Client, pub
from mq9_broker.clock import ManualClock
from mq9_broker.model import WORDS

#: (priority, size, headers, ms until the next)
Sent = tuple[str, int, dict[str, str] | None, int]

_word = st.sampled_from([*WORDS, "normal", "normal", "normal", "normal"])
_size = st.sampled_from([0, 1, 1, 1, 2, 300, 40_000])
_headers = st.sampled_from([None, None, None, None, {"A": "b"}, {"mq9-ttl": "1"}, {"mq9-key": "k"}, {"mq9-hops": "2"}])
_sent = st.tuples(_word, _size, _headers, st.sampled_from([0, 0, 0, 1, 300]))
_subject = st.sampled_from(["INBOX.{}", "INBOX.{}", "INBOX.{}.normal", "MAILBOX.{}", "MAILBOX.{}.*"])


def waiting(sent: list[Sent], deleted: set[int]) -> tuple[Broker, str]:
    """(broker, mailbox); ids and times get one more digit on the way."""
    broker = Broker(clock=ManualClock(9_999_999_999_500))
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
)
def test_who_has_a_limit_gets_each_message_as_who_has_none(
    sent: list[Sent], deleted: set[int], subject: str, headers: bool
) -> None:
    broker, box = waiting(sent, deleted)
    one, other = [broker.client(connect={**OPTIONS, "headers": headers, "no_responders": False}) for _ in range(2)]
    # (up to a limit they are counted one by one)
    assert drained(one, subject.format(box)) == drained(other, subject.format(box), "UNSUB %d 1000000\r\n")


@pytest.mark.parametrize("deleted", [set(), {500}])
def test_each_has_its_id_time_and_payload(deleted: set[int]) -> None:
    broker, box = waiting([("normal", number % 7, None, number % 2) for number in range(1200)], deleted)
    client = broker.client()
    client.subscribe(f"INBOX.{box}")
    assert [
        (frame.subject, int(frame.headers["mq9-msg-id"]), int(frame.headers["mq9-time"]), len(frame.payload))
        for frame in client.take()
    ] == [
        (f"{AI}INBOX.{box}.normal", number + 1, 9_999_999_999_500 + number // 2, number % 7)
        for number in range(1200)
        if number + 1 not in deleted
    ]


def test_no_more_is_written_at_once_than_a_slice() -> None:
    """(else an urgent message could not overtake what waits)"""
    broker, box = waiting([("normal", 1000, None, 0)] * 300, set())
    client = broker.client()
    client.transport.writes.clear()
    client.subscribe(f"INBOX.{box}")
    sizes = [write.count(b"HMSG") for write in client.transport.writes]
    assert sizes == [64, 64, 64, 64, 44]
