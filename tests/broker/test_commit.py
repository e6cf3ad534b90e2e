"""The end of a turn: nothing is said before it is stored, and what can't be stored is not said to be."""

from __future__ import annotations

from random import Random

import pytest

from broker.inprocess import AI, NOBODY, OPTIONS, Broker, Client, FaultyStore, entries, fetching, pub
from mq9_broker import commit, mailboxes, wire
from mq9_broker.model import Limits

FULL = "No space left on device"
CANNOT = {"error": f"the store cannot write: {FULL}"}


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def broker(store: FaultyStore) -> Broker:
    return Broker(store)


@pytest.fixture
def box(broker: Broker) -> str:
    """A mailbox with two messages, "one" and "two"."""
    client = broker.client()
    address = client.mailbox(name="box")
    client.put("box", "one")
    client.put("box", "two")
    client.hang_up()
    return address


def silent(*clients: Client) -> bool:
    """Whether none of them got a byte since the last look."""
    heard = [bytes(client.raw) for client in clients]
    for client in clients:
        client.raw.clear()
    return not any(heard)


# ---- store first ----


def test_a_turn_is_one_commit(broker: Broker, store: FaultyStore, box: str) -> None:
    """Whatever number of clients and commands: what arrived together is stored together."""
    clients = [broker.client() for _ in range(5)]
    before = store.commits
    for client in clients:
        client.feed(pub("MAILBOX.box", b"x") * 20)
    broker.settle()
    assert store.commits == before + 1
    assert len(clients[0].query("box", limit=1000)) == 102


def test_what_ended_goes_in_steps_while_batches_are_on_their_way(broker: Broker, store: FaultyStore) -> None:
    """Without another event: each step follows the landing of the one before."""
    client = broker.client()
    address = client.mailbox(ttl=0)
    client.send(pub(f"MAILBOX.{address}", b"x") * 900)
    store.by_hand = True
    client.feed(pub(f"MAILBOX.DROP.{address}"))
    broker.settle()
    while store.flights:
        store.land()
        broker.settle()
    assert broker.stored() == {}


def test_a_turn_without_writes_is_no_commit(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    before = store.commits
    client.send(b"PING\r\n", pub("=core.subject", b"x"))
    client.query("box")
    client.request(f"MAILBOX.QUERY.{NOBODY}")
    broker.advance(100)
    assert store.commits == before


def test_everything_a_turn_causes_is_one_write_per_client(broker: Broker, box: str) -> None:
    client, watcher = broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    watcher.take()
    client.transport.writes.clear()
    watcher.transport.writes.clear()
    client.send(*(pub("MAILBOX.box", b"x", reply=f"_INBOX.c1.{n}") for n in range(50)), b"PING\r\n")
    assert len(client.transport.writes) == len(watcher.transport.writes) == 1


def test_a_push_ends_with_the_turn_that_causes_it(broker: Broker, box: str) -> None:
    """No further turn comes for it: the next event is looked for at once."""
    client, watcher = broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    client.subscribe("INBOX.box")
    watcher.take()
    for send in (lambda: client.feed(pub("MAILBOX.box", b"x")), lambda: client.ask("MAILBOX.box", b"x")):
        send()
        broker.loop.turn()
        assert [frame.body for frame in watcher.take()] == ["x"]
        assert broker.loop.resting


def test_a_defect_while_others_are_told_takes_nobodys_answer(
    broker: Broker, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, watcher = broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    with monkeypatch.context() as broken:
        broken.setattr("mq9_broker.feeds.MailboxFeed.push", lambda feed, fresh: 1 // 0)
        asked = client.ask("MAILBOX.box", b"x")
        with pytest.raises(ZeroDivisionError):
            broker.settle()
    watcher.query("box")
    assert asked.now is not None


def test_who_reads_is_written_to_before_who_sent(
    broker: Broker, store: FaultyStore, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, watcher = broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    order: list[str] = []
    monkeypatch.setattr(client.transport, "write", lambda data: order.append("answer"))
    monkeypatch.setattr(watcher.transport, "write", lambda data: order.append("push"))
    client.ask("MAILBOX.box", b"x")
    broker.settle()
    store.by_hand = True
    client.ask("MAILBOX.box", b"x")
    broker.settle()
    store.land()
    broker.settle()
    assert order == ["push", "answer"] * 2


def test_nothing_is_said_before_it_is_stored(broker: Broker, store: FaultyStore, box: str) -> None:
    """No reply, no push, no PONG, no event of the directory; then all of it, in order."""
    client, watcher, other = broker.client(), broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    watcher.subscribe("PUBLIC.LIST")
    long_poll = other.ask("MSG.FETCH.box", fetching(wait=10_000, deliver="latest"))
    broker.settle()
    assert silent(client, watcher, other) is False
    store.by_hand = True
    sent = client.ask("MAILBOX.box", b"three")
    client.feed(b"PING\r\n")
    created = client.ask("MAILBOX.CREATE", {"name": "shown", "public": True})
    missing = client.ask("MAILBOX.nothing.there", b"x")
    broker.settle()
    assert silent(client, watcher, other)
    assert [sent.now, created.now, missing.now, long_poll.now] == [None] * 4
    store.land()
    broker.settle()
    assert sent.now == {"error": "", "msg_id": 3}
    assert created.now is not None
    assert created.now["is_new"] is True
    assert missing.now == {"error": "mailbox nothing.there does not exist"}
    assert long_poll.now is not None
    assert entries(long_poll.now) == [(3, "three")]
    assert [frame.verb for frame in client.frames[-4:]] == ["MSG", "MSG", "MSG", "PONG"]
    assert [frame.body for frame in watcher.take() if frame.sid == "s1"] == ["one", "two", "three"]


def test_what_a_client_sent_before_its_ping_is_stored_before_its_pong(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    """In the same chunk and in another, with and without a reply subject, asked once and often."""
    client = broker.client()
    store.by_hand = True
    for publish in (pub("MAILBOX.box", b"x"), pub("MAILBOX.box", b"x", reply="_INBOX.c1.none")):
        for parts in (
            [publish + b"PING\r\n"],
            [publish, b"PING\r\n"],
            [publish + b"PING\r\nPING\r\n"],
            [publish, b"PING\r\n", b"PING\r\n"],
            [publish + b"PING\r\n", b"PING\r\n" + publish + b"PING\r\n"],
        ):
            client.raw.clear()
            for part in parts:
                client.feed(part)
                broker.settle()
            assert client.raw.count(b"PONG") == 0, parts
            while store.flights:
                store.land()
                broker.settle()
            assert client.raw.count(b"PONG") == b"".join(parts).count(b"PING"), parts


def test_replies_and_pongs_of_a_turn_that_is_on_its_way_all_come(broker: Broker, store: FaultyStore, box: str) -> None:
    """However often the client was noted as having something to be told."""
    client = broker.client()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x") + b"PING\r\n")
    first = client.ask("MAILBOX.box", b"y")
    client.feed(b"PING\r\n")
    broker.settle()
    client.feed(pub("MAILBOX.box", b"x") + b"PING\r\n")
    second = client.ask("MAILBOX.box", b"z")
    client.feed(b"PING\r\n")
    broker.settle()
    assert silent(client) is False  # (what came before)
    store.land()
    broker.settle()
    assert first.now == {"error": "", "msg_id": 4}
    assert second.now is None
    assert client.raw.count(b"PONG\r\n") == 2
    store.land()
    broker.settle()
    assert second.now == {"error": "", "msg_id": 6}
    assert client.raw.count(b"PONG\r\n") == 4
    assert not store.flights


def test_while_one_batch_is_on_its_way_the_next_gathers(broker: Broker, store: FaultyStore, box: str) -> None:
    clients = [broker.client() for _ in range(4)]
    store.by_hand = True
    answers = []
    for client in clients:
        answers.append(client.ask("MAILBOX.box", b"x"))
        broker.settle()
    assert len(store.flights) == 1
    store.land()
    broker.settle()
    assert [answer.now is not None for answer in answers] == [True, False, False, False]
    assert len(store.flights) == 1  # the other three together
    store.land()
    broker.settle()
    assert [answer.now for answer in answers] == [{"error": "", "msg_id": number} for number in (3, 4, 5, 6)]


def test_who_has_nothing_to_do_with_a_batch_does_not_wait_for_it(broker: Broker, store: FaultyStore, box: str) -> None:
    writer, talker, listener = broker.client(), broker.client(), broker.client()
    listener.subscribe("=chat")
    store.by_hand = True
    writer.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    assert [frame.verb for frame in talker.send(b"PING\r\n", pub("=chat", b"hi"))] == ["PONG"]
    assert listener.bodies() == ["hi"]
    assert silent(writer) is False
    store.land()
    broker.settle()


def test_reads_see_what_is_on_its_way_and_are_answered_after_it(broker: Broker, store: FaultyStore, box: str) -> None:
    """A reader never reports a message that a crash could take back."""
    writer, reader = broker.client(), broker.client()
    store.by_hand = True
    writer.feed(pub("MAILBOX.box", b"three"))
    broker.settle()
    query = reader.ask("MAILBOX.QUERY.box")
    broker.settle()
    assert query.now is None
    store.land()
    broker.settle()
    assert query.now is not None
    assert entries(query.now) == [(1, "one"), (2, "two"), (3, "three")]


def test_a_subscription_gets_no_more_than_what_is_stored(broker: Broker, store: FaultyStore, box: str) -> None:
    writer, watcher, group = broker.client(), broker.client(), broker.client()
    store.by_hand = True
    writer.feed(pub("MAILBOX.box", b"three"))
    broker.settle()
    writer.feed(pub("MAILBOX.box", b"four"))
    broker.settle()
    watcher.subscribe("INBOX.box")
    group.subscribe("INBOX.box", "workers")
    assert watcher.bodies() == []
    store.land()
    broker.settle()
    assert watcher.bodies() == ["one", "two", "three"]
    seen = group.bodies()
    assert "four" not in seen
    store.land()
    broker.settle()
    store.by_hand = False
    while store.flights:
        store.land()
        broker.settle()
    assert watcher.bodies() == ["four"]
    assert seen + group.bodies() == ["one", "two", "three", "four"]
    assert writer.query("box") == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]


def test_the_directory_shows_nothing_that_is_not_stored(broker: Broker, store: FaultyStore, box: str) -> None:
    """Not even to one whose subscription falls between two batches."""
    writer, watcher = broker.client(), broker.client()
    store.by_hand = True
    writer.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    watcher.subscribe("PUBLIC.LIST")
    writer.feed(pub("MAILBOX.CREATE", {"name": "ghost", "public": True}))
    broker.settle()
    store.land()
    broker.settle()
    assert watcher.bodies() == []
    store.land(failed=FULL)
    broker.settle()
    assert len(store.flights) == 0


def test_order_per_connection(broker: Broker, store: FaultyStore, box: str) -> None:
    """Answers and PONGs come in the order of what they answer, over any number of batches."""
    client = broker.client()
    store.by_hand = True
    for number in range(6):
        client.feed(pub("MAILBOX.box", b"x", reply=f"_INBOX.c2.a{number}") + b"PING\r\n")
        broker.settle()
        if number % 2:
            store.land()
            broker.settle()
    while store.flights:
        store.land()
        broker.settle()
    seen = [frame.subject or frame.verb for frame in client.frames if frame.verb in ("MSG", "PONG")]
    assert [name for name in seen if name != "PONG"] == [f"_INBOX.c2.a{number}" for number in range(6)]
    assert seen.count("PONG") == 6
    assert seen[-1] == "PONG"


def test_what_gathers_behind_a_batch_is_bounded(
    broker: Broker, store: FaultyStore, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends more is not read until it has landed; others are."""
    monkeypatch.setattr(commit, "MAX_GATHERING", 10_000)
    greedy, modest = broker.client(), broker.client()
    store.by_hand = True
    modest.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    for _ in range(10):
        assert greedy.transport.reading
        greedy.feed(pub("MAILBOX.box", b"x" * 1000))
        broker.settle()
    greedy.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    assert not greedy.transport.reading
    assert modest.transport.reading
    store.land()
    broker.settle()
    assert greedy.transport.reading
    store.by_hand = False
    store.land()
    broker.settle()
    assert len(modest.query("box", limit=1000)) == 14


def test_core_messages_that_gather_behind_a_batch_are_bounded(
    broker: Broker, store: FaultyStore, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribers that read must not become slow ones because the disk is, nor fill the memory."""
    monkeypatch.setattr(commit, "MAX_GATHERING", 10_000)
    speaker, listener, sender = broker.client(), broker.client(), broker.client()
    listener.subscribe("=core")
    store.by_hand = True
    sender.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    for _ in range(20):
        speaker.send(pub("=core", b"x" * 1000))
    assert speaker.transport.reading, "nothing gathers: nobody's message rests on that batch"
    assert len(listener.take()) == 20

    sender.feed(pub("MAILBOX.box", b"x"))
    for _ in range(10):
        assert speaker.transport.reading
        speaker.send(pub("=core", b"x" * 1000))
    assert not speaker.transport.reading
    assert listener.take() == []
    store.land()
    broker.settle()
    assert speaker.transport.reading


# ---- a commit that fails ----


def test_every_waiting_answer_becomes_the_reason(broker: Broker, store: FaultyStore, box: str) -> None:
    client, other = broker.client(), broker.client()
    store.failing = FULL
    answers = [
        client.ask("MAILBOX.box", b"three"),
        client.ask("MAILBOX.box", b"four", headers={"Nats-Msg-Id": "a"}),
        other.ask("MAILBOX.CREATE", {"name": "other"}),
        other.ask("MAILBOX.CREATE"),
        other.ask("MAILBOX.box", b"late", headers={"mq9-delay": 5}),
        other.ask("MSG.FETCH.box", fetching("g")),
        other.ask("MAILBOX.QUERY.box"),
    ]
    broker.settle()
    assert [answer.now for answer in answers] == [CANNOT] * len(answers)


def test_a_publish_without_a_reply_is_told_by_err(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.failing = FULL
    client.feed(pub("MAILBOX.box", b"x") + pub("INBOX.box.high", b"x", reply=f"{AI}INBOX.box") + b"PING\r\n")
    broker.settle()
    assert [(frame.verb, frame.text) for frame in client.take()] == [
        ("-ERR", f"'Permissions Violation for Publish to \"{AI}MAILBOX.box\"'"),
        ("-ERR", f"'Permissions Violation for Publish to \"{AI}INBOX.box.high\"'"),
        ("PONG", ""),
    ]


def test_what_was_refused_anyway_keeps_its_own_reason(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.failing = FULL
    sent = client.ask("MAILBOX.box", b"x")
    missing = client.ask("MAILBOX.not.there", b"x")
    broker.settle()
    assert sent.now == CANNOT
    assert missing.now == {"error": "mailbox not.there does not exist"}


def test_an_answer_that_ended_its_subscription_becomes_the_reason_too(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    """As client libraries ask that make a subscription for one answer."""
    client = broker.client()
    store.failing = FULL
    (answer,) = client.send(b"SUB one.answer 7\r\nUNSUB 7 1\r\n", pub("MAILBOX.box", b"x", reply="one.answer"))
    assert answer.json == CANNOT
    assert not client.gone


def test_an_answer_to_several_subscriptions_is_the_reason_in_each(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    subscribe = b"SUB my.inbox 7\r\nSUB my.* 8\r\nSUB my.inbox 9\r\nUNSUB 9 1\r\n"
    store.failing = FULL
    ask = pub("MAILBOX.box", b"x", reply="my.inbox")
    answers = client.send(subscribe, ask, ask)
    assert sorted((answer.sid, answer.json["error"]) for answer in answers) == sorted(
        (sid, CANNOT["error"]) for sid in ("7", "8", "9", "7", "8")
    )


def test_an_answer_to_nobody_does_no_harm(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.failing = FULL
    assert client.send(pub("MAILBOX.box", b"x", reply="nobody.listens")) == []
    assert [frame.verb for frame in client.send(b"PING\r\n")] == ["PONG"]
    assert not client.gone


def test_nothing_is_pushed(broker: Broker, store: FaultyStore, box: str) -> None:
    """Not to subscriptions, groups, long polls or those who watch the directory."""
    watcher, client = broker.client(), broker.client()
    watcher.subscribe("INBOX.box")
    watcher.subscribe("INBOX.box", "workers")
    watcher.subscribe("PUBLIC.LIST")
    waiting = watcher.ask("MSG.FETCH.box", fetching(wait=60_000, deliver="latest"))
    broker.settle()
    watcher.take()
    store.failing = FULL
    client.feed(pub("MAILBOX.box", b"three") + pub("MAILBOX.CREATE", {"name": "ghost", "public": True}))
    broker.settle()
    assert watcher.take() == []
    assert waiting.now is None


def test_readers_go_on(broker: Broker, store: FaultyStore, box: str) -> None:
    client, watcher = broker.client(), broker.client()
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    assert client.query("box") == [(1, "one"), (2, "two")]
    assert client.request("MAILBOX.QUERY.box", {"group_name": "g"})["waiting"]["normal"] == 2
    assert entries(client.fetch("box")) == [(1, "one"), (2, "two")]
    assert client.request("PUBLIC.LIST")["error"] == ""
    sid = watcher.subscribe("INBOX.box")
    assert watcher.bodies(sid) == ["one", "two"]
    listener = broker.client()
    listener.subscribe("=core")
    client.feed(pub("=core", b"hi"))
    broker.settle()
    assert listener.bodies() == ["hi"]


def test_a_subscription_of_the_failing_turn_goes_on(broker: Broker, store: FaultyStore, box: str) -> None:
    watcher, client = broker.client(), broker.client()
    store.failing = FULL
    client.feed(pub("MAILBOX.box", b"lost"))
    sid = watcher.subscribe("INBOX.box")
    assert watcher.bodies(sid) == ["one", "two"]


def test_later_writes_are_refused_with_the_reason(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    owner = client.create(name="mine", public=True)["owner"]
    private = client.mailbox()
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    store.failing = ""  # but nobody has tried yet
    for subject, payload in (
        ("MAILBOX.box", b"x"),
        ("MAILBOX.CREATE", b""),
        (f"MAILBOX.RENEW.{owner}", b""),
        (f"MAILBOX.DROP.{owner}", b""),
        (f"MAILBOX.DELETE.{owner}.1", b""),
        (f"MAILBOX.DROP.{private}", b""),
    ):
        assert client.request(subject, payload) == CANNOT, subject
    assert client.fetch("box", "g") == CANNOT
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == CANNOT
    client.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    assert client.errors() == [f'Permissions Violation for Publish to "{AI}MAILBOX.box"']


def test_it_is_tried_every_second_and_then_all_works_again(
    broker: Broker, store: FaultyStore, box: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    store.failing = FULL
    assert client.request("MAILBOX.box", b"lost") == CANNOT
    attempts = store.attempts
    broker.advance(10)
    assert store.attempts == attempts + 10
    assert client.request("MAILBOX.box", b"lost") == CANNOT
    store.failing = ""
    broker.advance(1)
    assert client.request("MAILBOX.box", b"kept") == {"error": "", "msg_id": 3}
    assert client.query("box") == [(1, "one"), (2, "two"), (3, "kept")]
    said = [record.getMessage() for record in caplog.records if record.name == "mq9_broker.commit"]
    assert said == [
        f"the store does not take writes, they are refused until it does: {FULL}",
        "the store takes writes again",
    ]


def test_the_reason_is_always_the_newest(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    store.failing = "Input/output error"
    broker.advance(2)
    assert client.request("MAILBOX.box", b"lost") == {"error": "the store cannot write: Input/output error"}


def test_what_failed_never_happened(broker: Broker, store: FaultyStore, box: str) -> None:
    """No ghost of a message, a mailbox, a name, a renewal, a deletion, a duplicate or a group."""
    client = broker.client()
    owner = client.create(name="old", public=True, ttl=100)["owner"]
    client.put("old", "kept", id="a")
    before = broker.stored()
    store.failing = FULL
    answers = [
        client.ask("MAILBOX.old", b"lost"),
        client.ask("MAILBOX.old", b"lost", headers={"Nats-Msg-Id": "b"}),
        client.ask("MAILBOX.old", b"lost", headers={"mq9-delay": 3}),
        client.ask("MAILBOX.old", b"lost", headers={"mq9-ttl": 3}),
        client.ask(f"MAILBOX.DELETE.{owner}.1"),
        client.ask(f"MAILBOX.RENEW.{owner}", {"ttl": 9000}),
        client.ask("MAILBOX.CREATE", {"name": "new", "public": True}),
        client.ask("MSG.FETCH.old", fetching("g")),
        client.ask(f"MAILBOX.DROP.{owner}"),
    ]
    broker.settle()
    assert [answer.now for answer in answers] == [CANNOT] * len(answers)
    store.failing = ""
    broker.advance(2)
    client.put("box", "probe")
    assert {key: value for key, value in broker.stored().items() if key in before} == before | {
        key: value for key, value in broker.stored().items() if key in before and key[:1] == b"I"
    }
    assert client.query("old") == [(1, "kept")]
    assert client.request("MAILBOX.new", b"x") == {"error": "mailbox new does not exist"}
    (listed,) = client.request("PUBLIC.LIST", {"prefix": ""})["mailboxes"]
    assert (listed["mail_id"], listed["expires_at"]) == ("old", 1_800_000_100)
    assert client.put("old", "again", id="b") == 2
    assert client.request("MAILBOX.old", b"again", {"Nats-Msg-Id": "a"})["duplicate"] is True
    assert entries(client.fetch("old", "g")) == [(1, "kept"), (2, "again")]
    broker.advance(10)
    assert client.query("old") == [(1, "kept"), (2, "again")]
    broker.advance(100)
    assert client.request("MAILBOX.old", b"x") == {"error": "mailbox old does not exist"}


def test_groups_keep_their_promise(broker: Broker, store: FaultyStore, box: str) -> None:
    """What was acknowledged and answered stays acknowledged; what was not is given out again."""
    client = broker.client()
    for number in range(3, 7):
        client.put("box", str(number))
    assert entries(client.fetch("box", "g", limit=3)) == [(1, "one"), (2, "two"), (3, "3")]
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1, 3]}) == {"error": ""}
    store.failing = FULL
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [2]}) == CANNOT
    store.failing = ""
    broker.advance(2)
    assert entries(client.fetch("box", "g")) == [(2, "two"), (4, "4"), (5, "5"), (6, "6")]


def test_a_queue_goes_on_where_the_store_stands(broker: Broker, store: FaultyStore, box: str) -> None:
    member, client = broker.client(), broker.client()
    sid = member.subscribe("INBOX.box", "workers")
    assert member.bodies(sid) == ["one", "two"]
    broker.settle()
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    broker.advance(3)
    assert member.bodies(sid) == []
    store.failing = ""
    broker.advance(2)
    client.put("box", "three")
    assert member.bodies(sid) == ["three"]
    again = broker.restart().client()
    again.subscribe("INBOX.box", "workers")
    assert again.bodies() == []


def test_a_queue_that_was_not_confirmed_gets_it_again(broker: Broker, store: FaultyStore, box: str) -> None:
    member, client = broker.client(pong=False), broker.client()
    sid = member.subscribe("INBOX.box", "workers")
    assert member.bodies(sid) == ["one", "two"]
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    member.send(b"PONG\r\n" * 3)
    store.failing = ""
    broker.advance(2)
    assert member.bodies(sid) == ["one", "two"]


def test_a_long_poll_of_the_failing_turn_is_answered_once(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.failing = FULL
    sent = client.ask("MAILBOX.box", b"lost")
    waiting = client.ask("MSG.FETCH.box", fetching(wait=5000, deliver="latest"))
    in_group = client.ask("MSG.FETCH.box", fetching("g", wait=5000, deliver="latest"))
    broker.settle()
    store.failing = ""
    broker.advance(2)
    client.put("box", "three")
    broker.advance(10)
    assert sent.now == CANNOT
    # (`now` finds no second answer, or complains)
    assert waiting.now is not None
    assert in_group.now is not None
    assert client.query("box")[-1] == (3, "three")


def test_a_mailbox_of_the_failing_turn_leaves_no_half_dead_subscription(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    """Created, subscribed and filled in one turn which failed: the subscription is over, and the name is free."""
    client = broker.client()
    store.failing = FULL
    created = client.ask("MAILBOX.CREATE", {"name": "new"})
    sid = client.subscribe("INBOX.new")
    waiting = client.ask("MSG.FETCH.new", fetching(wait=5000))
    broker.settle()
    assert created.now == CANNOT
    store.failing = ""
    broker.advance(2)
    other = broker.client()
    other.create(name="new")
    other.put("new", "hello")
    broker.advance(10)
    assert [frame.status for frame in client.take(sid)] == ["410 Mailbox Expired"]
    assert waiting.now is not None
    assert waiting.now["error"] != ""


def test_a_name_that_could_not_begin_anew_still_ends(broker: Broker, store: FaultyStore, box: str) -> None:
    """Expired, created again in a turn that failed: the old one's subscribers are told when it can be done."""
    client, watcher = broker.client(), broker.client()
    client.create(name="short", ttl=5)
    client.put("short", "old")
    sid = watcher.subscribe("INBOX.short")
    store.failing = FULL
    broker.clock.advance(6)
    assert client.request("MAILBOX.CREATE", {"name": "short"}) == CANNOT
    store.failing = ""
    broker.advance(3)
    assert [frame.status or frame.body for frame in watcher.take(sid)] == ["old", "410 Mailbox Expired"]
    assert client.create(name="short")["is_new"] is True
    assert client.query("short") == []


def test_what_falls_due_while_the_store_is_full_happens_afterwards(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    client, watcher = broker.client(), broker.client()
    client.create(name="short", public=True, ttl=5)
    client.put("short", "x")
    client.put("box", "late", delay=4)
    client.put("box", "brief", ttl=4)
    sid = watcher.subscribe("PUBLIC.LIST")
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    broker.advance(20)
    assert client.query("box") == [(1, "one"), (2, "two")]
    assert client.request("MAILBOX.QUERY.short") == {"error": "mailbox short does not exist"}
    store.failing = ""
    broker.advance(2)
    assert client.query("box") == [(1, "one"), (2, "two"), (4, "late")]
    assert [frame.json["event"] for frame in watcher.take(sid)] == ["created", "expired"]
    assert not any(b"short" in key for key in broker.stored())


def test_memory_mailboxes_are_refused_and_undone_alike(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    client.create(name="quick", storage="memory")
    client.put("quick", "kept")
    store.failing = FULL
    answers = [client.ask("MAILBOX.quick", b"lost"), client.ask("MAILBOX.box", b"lost")]
    broker.settle()
    assert [answer.now for answer in answers] == [CANNOT, CANNOT]
    assert client.query("quick") == [(1, "kept")]
    store.failing = ""
    broker.advance(2)
    assert client.put("quick", "next") == 2


# ---- a commit that fails later ----


def test_a_failed_flight_is_told_to_everybody_who_waited(broker: Broker, store: FaultyStore, box: str) -> None:
    """Those of the batch, and those of the batch that gathered behind it."""
    client, other, watcher = broker.client(), broker.client(), broker.client()
    sid = watcher.subscribe("INBOX.box")
    watcher.take()
    store.by_hand = True
    first = client.ask("MAILBOX.box", b"x")
    client.feed(pub("MAILBOX.box", b"y") + b"PING\r\n")
    broker.settle()
    second = other.ask("MAILBOX.box", b"z")
    other.feed(pub("INBOX.box", b"w") + b"PING\r\n")
    broker.settle()
    store.by_hand, store.failing = False, FULL
    store.land(failed=FULL)
    broker.settle()
    assert first.now == CANNOT
    assert second.now == CANNOT
    assert [(frame.verb, frame.text) for frame in client.take()] == [
        ("-ERR", f"'Permissions Violation for Publish to \"{AI}MAILBOX.box\"'"),
        ("PONG", ""),
    ]
    assert [frame.verb for frame in other.take()] == ["-ERR", "PONG"]
    assert client.request("MAILBOX.box", b"x") == CANNOT
    store.failing = ""
    broker.advance(2)
    assert client.request("MAILBOX.box", b"kept")["error"] == ""
    watched = [(int(frame.headers["mq9-msg-id"]), frame.body) for frame in watcher.take(sid)]
    # what a synced log may have kept of the failed batch is stored, and then everybody sees the same
    assert [(1, "one"), (2, "two"), *watched] == client.query("box")


def test_whoever_publishes_while_a_batch_is_on_its_way_hears_when_its_own_fails(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    """Without an answer to wait for: the error must not get lost between the two batches."""
    client = broker.client()
    store.by_hand = True
    for number in range(3):
        client.feed(pub("MAILBOX.box", b"%d" % number))
        broker.settle()
    store.land()
    broker.settle()
    assert client.take() == []
    store.land(failed=FULL)
    broker.settle()
    assert [frame.verb for frame in client.take()] == ["-ERR", "-ERR"]
    store.by_hand = False
    broker.advance(2)
    assert client.query("box") == [(1, "one"), (2, "two"), (3, "0")]


def test_a_pong_never_overtakes_the_error_of_what_was_published_before_it(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    """Though a batch landed in between: who flushes hears of the error first."""
    client = broker.client()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"kept"))
    broker.settle()
    client.feed(pub("MAILBOX.box", b"lost"))
    store.land()
    broker.loop.turn()
    client.feed(b"PING\r\n")
    broker.settle()
    store.land(failed=FULL)
    broker.settle()
    assert [frame.verb for frame in client.take()] == ["-ERR", "PONG"]


def test_who_found_a_mailbox_anew_while_its_writes_were_on_their_way_to_failing_gets_what_comes(
    broker: Broker, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "_IN_USE", 16)
    client, listener = broker.client(), broker.client()
    owner = client.create(name="box", ttl=100)["owner"]
    others = [client.mailbox(ttl=0) for _ in range(40)]
    store.by_hand = True
    renewed = client.ask(f"MAILBOX.RENEW.{owner}", {"ttl": 5000})
    broker.settle()
    for other in others:
        client.ask(f"MAILBOX.QUERY.{other}")
    broker.settle()
    sid = listener.subscribe("INBOX.box")
    store.land(FULL)
    store.by_hand = False
    broker.advance(50)
    assert renewed.now == CANNOT
    client.put("box", "new")
    assert listener.bodies(sid) == ["new"]
    broker.advance(60)
    assert "Expired" in listener.take(sid)[0].status


def test_what_expired_on_its_way_to_the_store_is_shown_to_nobody(broker: Broker, store: FaultyStore, box: str) -> None:
    client, reader, member = broker.client(), broker.client(), broker.client()
    plain, queue = reader.subscribe("INBOX.box"), member.subscribe("INBOX.box", "workers")
    reader.take(plain)
    member.take(queue)
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"short", headers={"mq9-ttl": 1}) + pub("MAILBOX.box", b"long"))
    broker.settle()
    broker.clock.advance(2)
    while store.flights:
        store.land()
        broker.settle()
    assert (reader.bodies(plain), member.bodies(queue)) == (["long"], ["long"])


def test_a_long_poll_that_ends_while_its_turn_is_on_its_way_is_answered_once(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    client = broker.client()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x"))
    waiting = client.ask("MSG.FETCH.box", fetching("g", wait=1000, deliver="from_id", from_id=9))
    broker.advance(2)
    store.land(failed=FULL)
    broker.advance(2)
    assert waiting.now is not None  # (a second answer is a mistake)


def test_what_a_new_group_gave_out_before_it_was_stored_is_not_given_twice(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    client, member = broker.client(), broker.client()
    client.create(name="jobs", ack="explicit", ttl=0)
    client.put("jobs", "one")
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    sid = member.subscribe("INBOX.jobs", "g")
    store.land()
    broker.settle()
    assert member.bodies(sid) == ["one"]
    store.land(failed=FULL)
    store.by_hand = False
    broker.advance(2)
    assert client.fetch("jobs", "g")["messages"] == []
    assert member.bodies(sid) == []


def test_a_fetch_that_waits_does_not_say_what_the_same_member_was_given_and_is_not_stored(
    broker: Broker, store: FaultyStore
) -> None:
    sender, member = broker.client(), broker.client()
    sender.create(name="box", ttl=0)
    store.by_hand = True
    waiting = member.ask("MSG.FETCH.box", fetching("g", 1000, 1, member="m"))
    broker.settle()
    sent = sender.ask("INBOX.box", "new")
    second = member.ask("MSG.FETCH.box", fetching("g", 1000, 1, member="m"))
    # what is on its way is the group; the message and its lease are in the turn behind it
    store.land()
    broker.settle()
    assert (waiting.now, sent.now, second.now) == (None, None, None)
    store.land()
    broker.settle()
    assert sent.now == {"error": "", "msg_id": 1}
    assert [entries(answer.now or {"error": "none"}) for answer in (waiting, second)] == [[(1, "new")]] * 2


def test_what_a_fetch_had_no_place_for_is_not_pushed_before_it_is_stored(
    broker: Broker, store: FaultyStore, box: str
) -> None:
    client, member = broker.client(), broker.client(pong=False)
    client.create(name="jobs", ttl=0)
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    client.feed(pub("MAILBOX.jobs", b"one") + pub("MAILBOX.jobs", b"two"))
    client.ask("MSG.FETCH.jobs", fetching("g", limit=1))
    sid = member.subscribe("INBOX.jobs", "g")
    store.land()
    broker.settle()
    assert member.bodies(sid) == []
    store.land()
    broker.settle()
    assert member.bodies(sid) == ["two"]


def test_what_could_not_be_kept_is_nowhere(broker: Broker, store: FaultyStore, box: str) -> None:
    """Neither on disk nor in memory, though both could be read while the disk was at it."""
    client = broker.client()
    client.create(name="quick", storage="memory")
    client.put("quick", "one")
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x") + pub("MAILBOX.quick", b"x"))
    broker.settle()
    store.land(failed=FULL)
    broker.settle()
    client.take()
    assert client.query("quick") == [(1, "one")]
    assert client.query("box") == [(1, "one"), (2, "two")]
    store.by_hand = False
    broker.advance(2)
    assert (client.put("quick", "two"), client.put("box", "three")) == (2, 3)


def test_a_large_mailbox_whose_drop_failed_has_all_its_mail(broker: Broker, store: FaultyStore) -> None:
    client = broker.client()
    address = client.mailbox(ttl=0)
    client.send(pub(f"MAILBOX.{address}", b"x") * 1500)
    store.by_hand = True
    dropped = client.ask(f"MAILBOX.DROP.{address}")
    broker.settle()
    store.land(failed=FULL)
    broker.settle()
    assert dropped.now == CANNOT
    store.by_hand = False
    broker.advance(2)
    assert len(client.query(address, limit=1000)) == 1000
    assert client.request(f"MAILBOX.QUERY.{address}")["unread"] == 1500


def test_after_a_failed_flight_a_probe_must_be_kept_too(broker: Broker, store: FaultyStore, box: str) -> None:
    """Being asked is not being written: as long as the probe's own batch is on its way, writes are refused."""
    client = broker.client()
    store.by_hand = True
    sent = client.ask("MAILBOX.box", b"x")
    broker.settle()
    store.land(failed=FULL)
    broker.settle()
    assert sent.now == CANNOT
    broker.advance(1)
    assert len(store.flights) == 1
    assert client.request("MAILBOX.box", b"x") == CANNOT
    store.land(failed=FULL)
    broker.settle()
    assert client.request("MAILBOX.box", b"x") == CANNOT
    broker.advance(1)
    assert len(store.flights) == 1
    store.land()
    broker.settle()
    sent = client.ask("MAILBOX.box", b"x")
    broker.settle()
    store.land()
    broker.settle()
    assert sent.now is not None
    assert sent.now["error"] == ""


def test_what_is_known_is_what_is_stored_after_any_failure(store: FaultyStore) -> None:
    """Seeded: sends, deletions, groups and failures of both kinds; then a new process knows the same."""
    random = Random(4)
    broker = Broker(store)
    client = broker.client()
    owners = {name: client.create(name=name, public=True)["owner"] for name in ("a", "b", "c")}
    for round_ in range(120):
        store.by_hand = random.random() < 0.5
        if random.random() < 0.15:
            store.failing = FULL
        for _ in range(random.randint(1, 6)):
            name = random.choice("abc")
            client.feed(
                random.choice(
                    [
                        pub(f"MAILBOX.{name}", f"{round_}"),
                        pub(f"MAILBOX.{name}.urgent", f"{round_}", headers={"mq9-ttl": random.randint(1, 20)}),
                        pub(f"MAILBOX.{name}", f"{round_}", headers={"mq9-delay": random.randint(1, 9)}),
                        pub(f"MSG.DELETE.{owners[name]}.{random.randint(1, 40)}"),
                        pub(f"MSG.FETCH.{name}", fetching("g", limit=3), reply="_INBOX.c1.x"),
                        pub(f"MSG.ACK.{name}", {"group_name": "g", "msg_ids": [random.randint(1, 40)]}),
                        pub(f"MAILBOX.RENEW.{owners[name]}", {"ttl": random.randint(1000, 2000)}),
                    ]
                )
            )
            if random.random() < 0.4:
                broker.settle()
        broker.settle()
        while store.flights:
            store.land(failed=FULL if random.random() < 0.3 else "")
            broker.settle()
        store.failing = ""
        store.by_hand = False
        broker.advance(random.choice([0, 1.5, 3]))
        client.take()
    broker.advance(3)
    reader = broker.client()
    fresh = broker.restart().client()
    for name in "abc":
        assert reader.query(name, limit=1000) == fresh.query(name, limit=1000)
        assert reader.put(name, "next") == fresh.request(f"MAILBOX.{name}", b"next")["msg_id"]
    assert reader.request("PUBLIC.LIST") == fresh.request("PUBLIC.LIST")


# ---- closing with a turn pending ----


def test_a_client_that_leaves_does_not_take_its_messages_along(broker: Broker, store: FaultyStore, box: str) -> None:
    client = broker.client()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"three"))
    broker.settle()
    client.feed(pub("MAILBOX.box", b"four"))
    client.hang_up()
    while store.flights:
        store.land()
        broker.settle()
    assert [body for _, body in broker.client().query("box")] == ["one", "two", "three", "four"]
    assert client.gone


def test_a_client_that_leaves_during_a_failing_flight(broker: Broker, store: FaultyStore, box: str) -> None:
    client, other = broker.client(), broker.client()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x", reply="_INBOX.c1.1"))
    sent = other.ask("MAILBOX.box", b"y")
    broker.settle()
    client.hang_up()
    store.land(failed=FULL)
    broker.settle()
    assert sent.now == CANNOT


@pytest.mark.parametrize(("frame", "text"), [(b"NONSENSE\r\n", "Unknown Protocol Operation"), (b"PUB \r\n", None)])
def test_a_frame_that_ends_the_connection_ends_it_after_what_was_before(
    broker: Broker, store: FaultyStore, box: str, frame: bytes, text: str | None
) -> None:
    """What was asked is answered when it is stored; then the -ERR, if there is one, and the end."""
    client = broker.client()
    store.by_hand = True
    sent = client.ask("MAILBOX.box", b"three")
    client.feed(pub("MAILBOX.box", b"four") + b"PING\r\n")
    broker.settle()
    client.feed(frame + pub("MAILBOX.box", b"not this one"))
    broker.settle()
    while store.flights:
        store.land()
        broker.settle()
    assert sent.now == {"error": "", "msg_id": 3}
    assert bytes(client.raw).endswith(b"PONG\r\n" + (wire.error(text) if text else b""))
    assert client.gone
    assert [body for _, body in broker.client().query("box")] == ["one", "two", "three", "four"]


def test_a_frame_that_ends_the_connection_at_once(broker: Broker, box: str) -> None:
    for frame, text in ((b"NONSENSE\r\n", "Unknown Protocol Operation"), (b"PUB \r\n", None)):
        client = broker.client()
        client.raw.clear()
        sent = client.ask("MAILBOX.box", b"x")
        client.send(pub("MAILBOX.box", b"y") + b"PING\r\n" + frame + b"PING\r\n")
        assert client.gone
        assert sent.now is not None
        assert bytes(client.raw).count(b"PONG") == 1
        assert bytes(client.raw).count(b"-ERR") == (text is not None)
        assert (wire.error(text) if text else b"") in bytes(client.raw)


# ---- crashes ----


@pytest.mark.parametrize("seed", range(12))
def test_a_crash_loses_nothing_that_was_answered(seed: int) -> None:
    """A store that forgets what was not synced, crashes at random moments, and clients that believe their answers."""
    random = Random(seed)
    store = FaultyStore()
    broker = Broker(store)
    setup = broker.client()
    names = ["a", "b", "c"]
    for name in names:
        setup.create(name=name, ttl=0)
    promised: dict[str, dict[int, str]] = {name: {} for name in names}
    acknowledged: dict[str, set[int]] = {name: set() for name in names}
    serial = 0
    for _ in range(15):
        store.by_hand = True
        clients = [broker.client() for _ in range(3)]
        asked = []
        for _ in range(random.randint(5, 40)):
            client, name = random.choice(clients), random.choice(names)
            kind = random.random()
            if kind < 0.7:
                serial += 1
                asked.append((name, f"m{serial}", client.ask(f"MAILBOX.{name}", f"m{serial}")))
            elif kind < 0.9 and promised[name]:
                done = random.choice(sorted(promised[name]))
                answer = client.ask(f"MSG.FETCH.{name}", fetching("g", limit=1, ack=[done]))
                asked.append((name, done, answer))
            if random.random() < 0.3:
                broker.settle()
            if store.flights and random.random() < 0.3:
                store.land()
                broker.settle()
        for name, what, answer in asked:
            if answer.now is None or answer.now["error"]:
                continue
            if isinstance(what, str):
                promised[name][answer.now["msg_id"]] = what
            else:
                acknowledged[name].add(what)
        store = store.crash()
        broker = broker.restart(store)
        reader = broker.client()
        for name in names:
            stored = dict(reader.query(name, limit=1000))
            assert promised[name].items() <= stored.items()
            assert len(set(stored.values())) == len(stored)
    for name in names:
        reader = broker.client()
        given = {msg_id for msg_id, _ in entries(reader.fetch(name, "g", limit=1000))}
        assert given == set(dict(reader.query(name, limit=1000))) - acknowledged[name]


def test_a_crash_forgets_what_was_not_answered(broker: Broker, store: FaultyStore, box: str) -> None:
    """So that the test above can fail."""
    client = broker.client()
    store.by_hand = True
    sent = client.ask("MAILBOX.box", b"three")
    broker.settle()
    assert sent.now is None
    after = broker.restart(store.crash())
    assert after.client().query("box") == [(1, "one"), (2, "two")]


# ---- a client that does not read ----


def test_a_slow_consumer_is_closed_and_loses_nothing_stored(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(limits=Limits(max_pending=100_000))
    sender, slow = broker.client(), broker.client()
    address = sender.mailbox()
    slow.subscribe("=core")
    slow.transport.stalled = True
    for _ in range(120):
        sender.send(pub("=core", b"x" * 1000))
        sender.put(address, "kept")
    assert slow.gone
    assert not sender.gone
    assert "slow consumer, closed" in caplog.text
    assert len(sender.query(address, limit=1000)) == 120


def test_a_slow_subscriber_to_a_mailbox_is_not_closed(box: str, broker: Broker) -> None:
    """It has a cursor, not a queue: it gets everything, once, in order, however late."""
    sender, slow = broker.client(), broker.client()
    sid = slow.subscribe("INBOX.box")
    slow.transport.stalled = True
    for number in range(300):
        sender.put("box", f"{number:04}" + "x" * 1000)
    assert slow.transport.get_write_buffer_size() < 200_000
    before = len(slow.bodies(sid))
    sender.put("box", "at last", priority="critical")
    slow.transport.drain(10_000)
    broker.settle()
    slow.transport.drain()
    broker.settle()
    bodies = slow.bodies(sid)
    assert not slow.gone
    assert len(bodies) + before == 303
    assert [body[:4] for body in bodies if body != "at last"] == [f"{number:04}" for number in range(300)]
    assert bodies.index("at last") < 200


@pytest.mark.parametrize("subscribe", ["many", "queue"])
def test_what_feeds_write_in_a_turn_is_bounded(subscribe: str) -> None:
    """A thousand subscriptions that are behind, or a queue with a large backlog, are no slow consumer."""
    broker = Broker(limits=Limits(max_pending=300_000))
    sender, reader = broker.client(), broker.client()
    address = sender.mailbox()
    for _ in range(20):
        sender.put(address, b"x" * 20_000)
    if subscribe == "many":
        reader.send(*(f"SUB {AI}INBOX.{address} {sid}\r\n" for sid in range(100)))
        expected = 2000
    else:
        reader.subscribe(f"INBOX.{address}", "workers")
        expected = 20
    assert not reader.gone
    assert reader.raw.count(b"x" * 20_000) == expected
    assert max(map(len, reader.transport.writes)) < 200_000


def test_a_client_without_connect_hears_the_same(broker: Broker, store: FaultyStore, box: str) -> None:
    """Verbose is on until CONNECT: each +OK waits for the store too."""
    client = broker.client(connect=None)
    client.raw.clear()
    store.by_hand = True
    client.feed(pub("MAILBOX.box", b"x"))
    broker.settle()
    assert client.raw == b""
    store.land()
    broker.settle()
    assert client.raw == b"+OK\r\n"


def test_a_defect_costs_one_connection(
    broker: Broker, box: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    victim, other = broker.client(), broker.client()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(victim.session.hub.dialect, "publish", broken)
        victim.send(pub("MAILBOX.box", b"x"))
    assert victim.gone
    assert other.put("box", "three") == 3
    assert "hit a defect, its connection is closed" in caplog.text


def test_a_defect_in_what_is_due_keeps_nothing_else_from_happening(
    broker: Broker, box: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    client.create(name="first", ttl=5)
    for number in range(3):
        client.put("box", f"later {number}", delay=5)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(broker.hub.mailboxes, "expired", broken)
    broker.advance(10)
    assert [body for _, body in client.query("box")] == ["one", "two", "later 0", "later 1", "later 2"]
    assert "hit a defect and is left out" in caplog.text


def test_options_are_the_defaults_of_the_protocol(broker: Broker) -> None:
    """The clients of these tests announce what libraries announce."""
    assert OPTIONS["verbose"] is False
    session = broker.client().session
    assert (session.verbose, session.pedantic, session.headers, session.no_responders) == (False, False, True, True)
