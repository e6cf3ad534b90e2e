"""Requests in a row: sends to one mailbox, or for new mailboxes, each with its reply or all without one. At once or one
by one, everybody gets the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import NOBODY, OPTIONS, Broker, Client, FaultyStore, pub
from mq9_broker import addresses
from mq9_broker.model import Limits

MAILBOXES: dict[str, dict[str, object]] = {
    "plain": {},
    "latest": {"type": "latest"},
    "memory": {"storage": "memory"},
    "full": {"max_msgs": 3},
    "acked": {"retain": "ack"},
}


Send = tuple[str, str, int, dict[str, str] | None]


def world(store: FaultyStore | None = None, options: dict[str, object] = OPTIONS) -> tuple[Broker, Client, Client]:
    """(broker, who sends and has answers at row.*, who listens to every mailbox)."""
    broker = Broker(store)
    sender, listener = broker.client(), broker.client()
    for name, fields in MAILBOXES.items():
        sender.create(name=name, **fields)
        listener.subscribe(f"INBOX.{name}")
    sender = broker.client(connect=options)
    sender.send("SUB row.* q\r\n")
    listener.raw.clear()
    return broker, sender, listener


def everything(broker: Broker, sender: Client, listener: Client) -> list[object]:
    """What came of it: what both were told, what is stored, what was counted."""
    told = [bytes(sender.raw), bytes(listener.raw)]
    counted = [
        (client.session.in_msgs, client.session.in_bytes, client.session.out_msgs) for client in (sender, listener)
    ]
    counted.append((broker.hub.counters.stored, sender.session.out_bytes, sender.session.owed))
    return [told, counted, [broker.client().query(name) for name in MAILBOXES]]


_target = st.sampled_from([*MAILBOXES, "plain", "plain", "plain.urgent", "missing", NOBODY, "plain.wrong", "bad..name"])
_reply = st.sampled_from(
    [
        "row",
        "row",
        "row",
        "other",
        "row.exact",
        "exact",
        "wild.x.y",
        "_INBOX.nobody.1",
        "$mq9.AI.INBOX.plain",
        "",
        "",
        "",
        "",
    ]
)
_send = st.tuples(_target, _reply, st.integers(0, 3), st.sampled_from([None, {"A": "b"}, {"mq9-ttl": "x"}]))


def frames(sends: list[Send]) -> list[bytes]:
    return [
        pub(f"INBOX.{target}", b"x" * size, f"{reply}.{number}" if reply in ("row", "other") else reply, headers)
        for number, (target, reply, size, headers) in enumerate(sends)
    ]


@settings(max_examples=150)
@given(
    st.lists(_send, max_size=12),
    st.sampled_from([{}, {}, {"verbose": True}, {"pedantic": True}]),
    st.sampled_from(
        [
            "SUB other.* o\r\n",
            "SUB other.* o1\r\nSUB other.* o2\r\nSUB exact e\r\nSUB row.exact x\r\n",
            "SUB wild.> w\r\nSUB row.> w2\r\nUNSUB w2 3\r\n",
            "UNSUB q 4\r\n",
        ]
    ),
)
def test_whether_they_come_at_once_or_one_by_one_makes_no_difference(
    sends: list[Send], changes: dict[str, object], commands: str
) -> None:
    came = []
    for at_once in (True, False):
        broker, sender, listener = world(options={**OPTIONS, **changes})
        sender.send(commands)
        sender.raw.clear()
        stream = frames(sends)
        for chunk in [b"".join(stream)] if at_once else stream:
            sender.feed(chunk)
        broker.settle()
        came.append(everything(broker, sender, listener))
    assert came[0] == came[1]


_wish = st.sampled_from(
    [
        *(b"", b'{"ttl":5}', b'{"ttl":5}', b'{"ttl":5}', b'{"storage":"memory"}', b'{"subscribe":["a.b"]}'),
        *(b'{"dead_letter":"plain"}', b'{"name":"worker"}', b'{"name":"shown","public":true}', b'{"ttl":-1}', b"{"),
    ]
)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(_wish, st.integers(1, 6), _reply), max_size=4),
    st.sampled_from(["SUB other.* o\r\n", "SUB other.* o1\r\nSUB other.* o2\r\nSUB row.exact x\r\n", "UNSUB q 4\r\n"]),
)
def test_new_mailboxes_are_the_same_at_once_or_one_by_one(wishes: list[tuple[bytes, int, str]], commands: str) -> None:
    stream = [
        pub("MAILBOX.CREATE", payload, f"{reply}.{number}" if reply in ("row", "other") else reply)
        for payload, count, reply in wishes
        for number in range(count)
    ]
    came = []
    for at_once in (True, False):
        broker, sender, listener = world()
        sender.send(commands)
        sender.raw.clear()
        for chunk in [b"".join(stream)] if at_once else stream:
            sender.feed(chunk)
        broker.settle()
        secrets = [*dict.fromkeys(re.findall(r"m-[a-z2-7]{26}", sender.raw.decode()))]
        again = broker.restart()
        broker.client().send(*(pub(f"MAILBOX.{secret}", b"x") for secret in secrets))
        came.append(
            [
                numbered(bytes(sender.raw), secrets),
                (sender.session.in_msgs, sender.session.in_bytes, sender.session.out_msgs, sender.session.out_bytes),
                [[client.query(secret) for secret in secrets] for client in (broker.client(), listener)],
                [found and found.settings for found in (again.find(addresses.send_only(secret)) for secret in secrets)],
                len(broker.stored()),
            ]
        )
    assert came[0] == came[1]


def numbered(raw: bytes, secrets: list[str]) -> bytes:
    """What was told, with numbers instead of random addresses."""
    for number, secret in enumerate(secrets):
        for address in (secret, addresses.send_only(secret)):
            raw = raw.replace(address.encode(), address[:2].encode() + b"%026d" % number)
    return raw


def test_new_mailboxes_in_a_row_are_one_commit_and_different() -> None:
    store = FaultyStore()
    broker, sender, _ = world(store)
    before = store.commits
    answers = sender.send(b"".join(pub("MAILBOX.CREATE", {"ttl": 60}, f"row.{number}") for number in range(300)))
    assert [answer.subject for answer in answers] == [f"row.{number}" for number in range(300)]
    assert len({answer.json["mail_id"] for answer in answers}) == 300
    assert store.commits == before + 1
    assert broker.hub.mailboxes.find(answers[-1].json["send_only"], broker.clock.now()) is not None
    store.failing = "disk full"
    answers = sender.send(b"".join(pub("MAILBOX.CREATE", {"ttl": 60}, f"row.{number}") for number in range(100)))
    assert [answer.json["error"] for answer in answers] == ["the store cannot write: disk full"] * 100


def row(count: int, *, answered: bool = True) -> bytes:
    return b"".join(pub("INBOX.plain", b"%d" % number, f"row.{number}" if answered else "") for number in range(count))


def test_each_is_answered_in_order_with_its_id_and_all_are_one_commit() -> None:
    store = FaultyStore()
    broker, sender, listener = world(store)
    before = store.commits
    answers = sender.send(row(500))
    assert [answer.json for answer in answers] == [{"error": "", "msg_id": number} for number in range(1, 501)]
    assert [answer.subject for answer in answers] == [f"row.{number}" for number in range(500)]
    assert store.commits == before + 1
    assert listener.bodies() == [str(number) for number in range(500)]
    assert broker.client().request("MAILBOX.QUERY.plain", {"limit": 1})["unread"] == 500


@pytest.mark.parametrize("at_once", [True, False])
def test_a_commit_that_fails_refuses_all_of_them_and_stores_none(at_once: bool) -> None:
    store = FaultyStore()
    _, sender, listener = world(store)
    if at_once:
        store.failing = "disk full"
        answers = sender.send(row(100))
    else:
        store.by_hand = True
        assert sender.send(row(100)) == []
        store.land("disk full")
        answers = sender.send()
    assert [answer.json["error"] for answer in answers] == ["the store cannot write: disk full"] * 100
    assert [answer.subject for answer in answers] == [f"row.{number}" for number in range(100)]
    # and as long as it is so, each is refused at once
    answers = sender.send(row(3))
    assert [answer.json["error"] for answer in answers] == ["the store cannot write: disk full"] * 3
    assert listener.take() == []


def test_nothing_is_answered_before_it_is_kept() -> None:
    store = FaultyStore()
    _, sender, listener = world(store)
    store.by_hand = True
    assert (sender.send(row(10), "PING\r\n"), listener.take()) == ([], [])
    store.land()
    assert [frame.verb for frame in sender.send()] == ["MSG"] * 10 + ["PONG"]
    assert len(listener.take()) == 10


def test_answers_that_many_subscriptions_hear_are_no_more_than_may_be_pending() -> None:
    limits = Limits(max_pending=50_000)
    broker = Broker(limits=limits)
    broker.client().create(name="plain")
    sender = broker.client(connect=OPTIONS)
    sender.send(b"".join(b"SUB row.* %d\r\n" % number for number in range(1000)))
    sender.feed(row(100))
    assert sender.session.owed < 2 * limits.max_pending
    assert sender.session.closing
    broker.settle()
    assert sender.gone
    assert len(broker.client().query("plain")) < 10


def test_the_same_again_is_answered_as_often_as_it_is_asked() -> None:
    _, sender, _ = world()
    answers = sender.send(pub("INBOX.plain", b"same", "row.same") * 1000)
    assert [answer.json["msg_id"] for answer in answers] == [*range(1, 1001)]


def test_what_nobody_wants_an_answer_to_is_kept_at_once() -> None:
    store = FaultyStore()
    broker, sender, listener = world(store)
    before = store.commits
    assert sender.send(row(1000, answered=False)) == []
    assert store.commits == before + 1
    assert listener.bodies() == [str(number) for number in range(1000)]
    assert sender.session.in_msgs == broker.hub.counters.stored == 1000
    store.by_hand = True
    assert (sender.send(row(10, answered=False), "PING\r\n"), listener.take()) == ([], [])
    store.land()
    assert [frame.verb for frame in sender.send()] == ["PONG"]
    assert len(listener.take()) == 10


@pytest.mark.parametrize("at_once", [True, False])
def test_each_that_is_not_kept_is_an_error_although_nobody_wants_an_answer(at_once: bool) -> None:
    store = FaultyStore()
    broker, sender, listener = world(store)
    sends = row(20, answered=False) + pub("INBOX.plain", b"same") * 20
    if at_once:
        store.failing = "disk full"
        sender.feed(sends)
    else:
        store.by_hand = True
        sender.feed(sends)
        broker.settle()
        store.land("disk full")
    store.failing, store.by_hand = "disk full", False
    broker.settle()
    assert sender.errors() == ['Permissions Violation for Publish to "$mq9.AI.INBOX.plain"'] * 40
    assert listener.take() == []
    # and as long as it is so, each is refused at once
    sender.feed(row(3, answered=False))
    broker.settle()
    assert sender.errors() == ['Permissions Violation for Publish to "$mq9.AI.INBOX.plain"'] * 3


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("options", "each"), [({"verbose": True}, ["+OK"]), ({"pedantic": True}, [])])
def test_who_wants_to_be_told_of_each_is_told(options: dict[str, object], each: list[str], answered: bool) -> None:
    _, sender, listener = world(options=OPTIONS | options)
    sender.take()
    sends = row(20, answered=answered) + pub("INBOX.plain", b"same") * 10
    told = [frame.verb for frame in sender.send(sends) if frame.verb != "MSG"]
    assert told == each * 30
    assert len(listener.take()) == 30
