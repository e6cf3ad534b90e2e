"""One client does not keep the others waiting, nor fill the memory: how much of what it sent is done in a turn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.inprocess import AI, OPTIONS, Broker, Client, FaultyStore, by_name, entries, fetching, pub
from mq9_broker import commit, feeds, messages, router, session
from mq9_broker.auth import Users
from mq9_broker.clock import ManualClock
from mq9_broker.model import Limits
from mq9_broker.store.memory import MemoryStore
from mq9_broker.sweep import Sweep

QUERIES = 20


@pytest.fixture
def broker() -> Broker:
    """One in which a client's share is a single command."""
    broker = Broker()
    broker.hub.share = 0
    return broker


@pytest.fixture
def box(broker: Broker) -> str:
    broker.client().create(name="box", public=True, ttl=0)
    return "box"


def queries(number: int = QUERIES, inbox: str = "_INBOX.c2") -> bytes:
    return b"".join(pub("MAILBOX.QUERY.box", b"{}", reply=f"{inbox}.q{each}") for each in range(number))


def answered(client: Client) -> list[str]:
    """What was answered so far: the last words of the reply subjects, PONG and -ERR."""
    return [
        frame.subject.rpartition(".")[2] or frame.verb for frame in client.frames if frame.verb not in ("INFO", "PING")
    ]


def turns(broker: Broker, most: int = 10_000) -> Iterator[int]:
    """Turn by turn until nothing is queued."""
    for number in range(most):
        if broker.loop.resting:
            return
        yield number
        broker.loop.turn()
    raise AssertionError("the broker never comes to rest")


# ---- what is sent ----


def test_others_are_served_between_the_commands_of_one_client(broker: Broker, box: str) -> None:
    greedy, modest = broker.client(), broker.client()
    greedy.feed(queries() + b"PING\r\n")
    said = []
    for number in turns(broker):
        modest.feed(b"PING\r\n")
        broker.loop.turn()
        said.append((len(answered(greedy)), len(answered(modest)), number))
        if len(answered(greedy)) > QUERIES:
            break
    # nobody waited for more than two commands of the other's
    assert all(others <= 2 for others in (after[0] - before[0] for before, after in pairwise(said)))
    assert all(mine >= number for _, mine, number in said)
    broker.settle()
    assert answered(greedy) == [*(f"q{number}" for number in range(QUERIES)), "PONG"]


def test_nobody_is_read_from_while_commands_wait(broker: Broker, box: str) -> None:
    client = broker.client()
    client.feed(queries(3))
    reading = [client.transport.reading]
    reading += [client.transport.reading for _ in turns(broker)]
    assert not any(reading[:3])
    assert client.transport.reading
    # what arrives nevertheless finds its place behind what waits
    client.feed(queries(3))
    client.feed(pub("MAILBOX.box", b"x", reply="_INBOX.c2.sent"))
    broker.settle()
    assert answered(client)[3:] == ["q0", "q1", "q2", "sent"]


def test_those_who_wait_take_turns(broker: Broker, box: str) -> None:
    first, second = broker.client(), broker.client()
    first.feed(queries())
    second.feed(queries(inbox="_INBOX.c3"))
    apart = 0
    for _ in turns(broker):
        apart = max(apart, abs(len(answered(first)) - len(answered(second))))
    assert apart <= 1
    assert answered(first) == answered(second) == [f"q{number}" for number in range(QUERIES)]


def test_who_sends_plenty_is_read_from_again_after_the_turn_and_few_of_them_at_once(broker: Broker, box: str) -> None:
    clients = [broker.client() for _ in range(10)]
    for client in clients:
        client.feed(pub("MAILBOX.box", b"x" * 65_536))
    reading = [sum(client.transport.reading for client in clients)]
    reading += [sum(client.transport.reading for client in clients) for _ in turns(broker)]
    assert reading[0] == 0
    assert max(after - before for before, after in pairwise(reading)) <= 4
    assert all(client.transport.reading for client in clients)
    assert len(broker.client().query("box", limit=1000)) == 10


class Stopwatch(ManualClock):
    """With each look at its stopwatch a millisecond passes."""

    looks = 0

    def elapsed(self) -> float:
        self.looks += 1
        return self.looks / 1000


@pytest.mark.parametrize(("reply", "text"), [("_INBOX.c1.{}", "x"), ("", "{}"), ("", "{:04}"), ("", "{:05}")])
def test_a_row_of_sends_is_no_longer_than_a_share(reply: str, text: str) -> None:
    broker = Broker(clock=Stopwatch())
    sender, other = broker.client(), broker.client()
    sender.create(name="box")
    sends = [pub("MAILBOX.box", text.format(number), reply.format(number)) for number in range(5000)]
    sender.feed(b"".join(sends))
    assert sender.session.in_msgs < 2500
    assert not sender.transport.reading
    answer = other.ask("MAILBOX.QUERY.box", {"limit": 0})
    broker.settle()
    assert answer.now is not None
    assert answer.now["unread"] < 2500
    assert sender.session.in_msgs >= 5000
    assert len(answered(sender)) >= 5000 or not reply


@pytest.mark.parametrize("reply", ["", "_INBOX.c1.{}"])
def test_what_a_row_takes_to_be_committed_is_of_its_share(reply: str) -> None:
    """It is taken in no time here."""
    broker = Broker()
    sender = broker.client()
    sender.create(name="box")
    for _ in range(2):
        sender.feed(b"".join(pub("MAILBOX.box", b"x" * (number % 9), reply.format(number)) for number in range(4000)))
    assert 5000 <= sender.session.in_msgs < 5600
    assert not sender.transport.reading
    broker.settle()
    assert sender.session.in_msgs >= 8000
    assert sender.transport.reading


def test_who_sends_plenty_in_little_time_is_read_on() -> None:
    broker = Broker()
    client = broker.client()
    for _ in range(5):
        client.feed(pub("=nobody", b"x" * 65_536))
        assert client.transport.reading


def test_who_sends_plenty_waits_while_the_store_is_behind() -> None:
    """And nobody else does, and not for ever: should the store not recover, commits say why."""
    store = FaultyStore()
    broker = Broker(store)
    floods, other = [broker.client() for _ in range(20)], broker.client()
    other.create(name="box")
    store.behind = True
    for flood in floods:
        flood.feed(pub("MAILBOX.box", b"x" * 65_536))
    for number in range(3):
        broker.advance(0.05)
        assert not any(flood.transport.reading for flood in floods)
        # (nor who uses up its share)
        broker.hub.share = 0
        other.feed(queries(3))
        broker.settle()
        broker.hub.share = 0.005
        assert other.transport.reading
        assert other.put("box", "little") == number + 21
    store.behind = False
    broker.advance(0.05)
    assert all(flood.transport.reading for flood in floods)
    store.behind = True
    for flood in floods:
        flood.feed(pub("MAILBOX.box", b"x" * 65_536))
    broker.advance(0.5)
    assert not any(flood.transport.reading for flood in floods)
    broker.advance(1)
    assert all(flood.transport.reading for flood in floods)


def test_while_writes_are_refused_it_is_tried_once_a_second_though_floods_wait() -> None:
    store = FaultyStore()
    broker = Broker(store)
    flood = broker.client()
    flood.create(name="box")
    store.failing = "the disk is full"
    store.behind = True
    flood.feed(pub("MAILBOX.box", b"x" * 65_536))
    before = store.attempts
    broker.advance(0.9)
    assert store.attempts - before <= 2


STREAM = b"".join(
    (
        *(pub("MAILBOX.box", b"%d" % number, reply=f"_INBOX.c2.{number}") for number in range(5)),
        pub("MAILBOX.box", b"same") * 5,
        *(pub("MAILBOX.box", b"unanswered %d" % number) for number in range(8, 12)),
        b"SUB own.* own\r\nSUB own.a again\r\n",
        pub("=own.a", b"heard twice") * 4,
        b"UNSUB again\r\n",
        pub("=own.a", b"heard once") * 3,
        pub("MAILBOX.CREATE", b'{"name":"other"}', reply="_INBOX.c2.created"),
        queries(3),
        pub("MAILBOX.nowhere", b"", reply="_INBOX.c2.wrong") + pub("MAILBOX.nowhere", b""),
        b"UNSUB own 8\r\n" + pub("=own.b", b"the last one") * 3 + b"PING\r\n",
    )
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=6), st.booleans())
def test_a_stream_means_the_same_however_little_is_done_at_once(cuts: list[int], rest: bool) -> None:
    heard = []
    for share in (1.0, 0.0):
        broker = Broker()
        broker.client().create(name="box", ttl=0)
        client = broker.client()
        broker.hub.share = share
        client.raw.clear()
        for start, stop in pairwise(sorted({0, *cuts, len(STREAM)})):
            client.feed(STREAM[start:stop])
            if rest:
                broker.loop.turn()
        broker.settle()
        assert client.transport.reading
        heard.append(bytes(client.raw))
    assert heard[0] == heard[1]
    assert heard[0].count(b"heard twice") == 8


def test_where_many_wait_each_has_a_smaller_share_and_sooner_again() -> None:
    broker = Broker(clock=Stopwatch())
    broker.hub.share = 0.02
    senders = [broker.client() for _ in range(12)]
    senders[0].create(name="box")
    # (the stopwatch goes on by a millisecond for each of those that come one by one)
    for sender in senders:
        sender.feed(pub("MAILBOX.box", b"x", headers={"A": "b"}) * 50)
    done = [sender.session.in_msgs for sender in senders[1:]]
    assert 20 <= done[0] <= 21
    assert 10 <= done[-1] <= 11
    broker.settle()
    assert [sender.session.in_msgs for sender in senders[1:]] == [50] * 11


@pytest.mark.parametrize("subscribe", [b"SUB a %d\r\n", b"SUB a workers%d 9%d\r\n"])
@pytest.mark.parametrize("sizes", [(1,), (1, 2)])
def test_what_many_subscriptions_of_one_client_hear_is_done_in_pieces(
    broker: Broker, subscribe: bytes, sizes: tuple[int, ...]
) -> None:
    sender = broker.client()
    sender.send(b"".join(subscribe.replace(b"%d", b"%d" % number) for number in range(5)))
    # the stopwatch goes on by a second whenever it is looked at
    seconds = itertools.count()
    broker.hub.elapsed = lambda: next(seconds)
    broker.hub.share = 3
    sender.feed(b"".join(pub("=a", b"x" * size) for size in sizes) * 12)
    heard = [len(sender.bodies()) for _ in turns(broker)] + [len(sender.bodies())]
    assert max(heard) <= 15
    assert sum(heard) == 60 * len(sizes)


def test_what_is_wrong_ends_a_client_behind_what_came_before(broker: Broker, box: str) -> None:
    client = broker.client()
    client.feed(queries(3) + b"nonsense\r\n" + queries(3))
    broker.settle()
    assert answered(client) == ["q0", "q1", "q2", "-ERR"]
    assert client.gone


def test_what_a_client_sent_before_it_left_still_counts(broker: Broker, box: str) -> None:
    client, other = broker.client(pong=False), broker.client()
    client.subscribe("INBOX.box", "workers")
    client.feed(pub("MAILBOX.box", b"x") * QUERIES)
    broker.loop.turn()
    client.transport.abort()
    # and others are served in between
    served = 0
    for _ in turns(broker):
        other.feed(b"PING\r\n")
        broker.loop.turn()
        served += 1
    assert served >= QUERIES // 2 - 1
    assert client.session.closed
    assert client.connection not in broker.server.connections
    assert not broker.committer._waiting
    broker.hub.share = 1
    assert len(other.query("box")) == QUERIES
    got = other.fetch("box", "workers")
    assert len(entries(got)) == QUERIES
    # nothing was given to who was gone
    deliveries = [message["headers"]["mq9-deliveries"] for message in got["messages"]]
    assert deliveries.count("1") >= QUERIES - 2


def test_who_has_left_is_given_nothing_by_what_it_asked_for(broker: Broker, box: str) -> None:
    client, other = broker.client(), broker.client()
    other.put("box", "x")
    client.feed(queries(3) + pub("MSG.FETCH.box", fetching("g"), reply="_INBOX.c2.f"))
    client.transport.abort()
    broker.settle()
    assert client.session.closed
    (message,) = other.fetch("box", "g")["messages"]
    assert message["headers"]["mq9-deliveries"] == "1"


def test_a_client_that_is_closed_in_between_is_not_heard_any_more(broker: Broker, box: str) -> None:
    client, other = broker.client(), broker.client()
    client.feed(pub("MAILBOX.box", b"x") * QUERIES)
    client.connection.finish("Stale Connection")
    broker.settle()
    assert client.gone
    assert answered(client) == ["-ERR"]
    assert len(other.query("box")) == 1


def test_behind_the_door_there_are_shares_too() -> None:
    broker = Broker(users=Users(token="secret"))
    broker.hub.share = 0
    coroutines = []
    broker.server.run = coroutines.append  # type: ignore[method-assign]
    client = broker.client(connect=None)
    connect = f"CONNECT {json.dumps(OPTIONS | {'auth_token': 'secret'})}\r\nSUB _INBOX.* r\r\n"
    create = pub("MAILBOX.CREATE", b'{"name":"box"}', reply="_INBOX.made")
    client.feed(connect.encode() + create + queries(3, "_INBOX"))
    with pytest.raises(StopIteration):
        coroutines.pop().send(None)
    assert not client.transport.reading
    broker.settle()
    assert answered(client) == ["made", "q0", "q1", "q2"]
    assert client.transport.reading


def test_batches_on_their_way_change_nothing() -> None:
    store = FaultyStore()
    broker = Broker(store)
    broker.client().create(name="box", ttl=0)
    client = broker.client()
    broker.hub.share = 0
    store.by_hand = True
    client.feed(
        b"".join(pub("MAILBOX.box", b"%d" % number, reply=f"_INBOX.c2.s{number}") + b"PING\r\n" for number in range(9))
    )
    broker.settle()
    assert answered(client) == []
    assert client.transport.reading
    while store.flights:
        store.land()
        broker.settle()
    assert [name for name in answered(client) if name != "PONG"] == [f"s{number}" for number in range(9)]
    store.by_hand = False
    assert [body for _, body in client.query("box")] == [f"{number}" for number in range(9)]


# ---- what is read ----


def test_feeds_of_many_clients_take_turns(broker: Broker, box: str) -> None:
    sender, *readers = (broker.client() for _ in range(5))
    for number in range(5):
        sender.put("box", str(number))
    for reader in readers:
        reader.feed(f"SUB {AI}INBOX.box all\r\n".encode())
    began = []
    for _ in turns(broker):
        began.append(sum(any(frame.sid == "all" for frame in reader.frames) for reader in readers))
        sender.feed(b"PING\r\n")
    assert max(after - before for before, after in pairwise(began)) == 1
    assert [reader.bodies("all") for reader in readers] == [[str(number) for number in range(5)]] * 4
    assert answered(sender).count("PONG") == len(began)


def test_feeds_of_one_client_take_turns(broker: Broker, box: str) -> None:
    sender, reader = broker.client(), broker.client()
    sender.put("box", "stored")
    broker.hub.share = 1
    reader.feed(b"".join(f"SUB {AI}INBOX.box {sid}\r\n".encode() for sid in range(50)))
    broker.hub.share = 0
    heard = [len(reader.bodies()) for _ in turns(broker)] + [len(reader.bodies())]
    assert max(heard) == 1
    assert sum(heard) == 50
    sender.put("box", "live")
    assert reader.bodies() == ["live"] * 50


def test_feeds_of_what_is_over_hold_nobody_up(broker: Broker, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "due", lambda *_: False)
    client = broker.client()
    over = [client.mailbox(ttl=10) for _ in range(3)]
    broker.hub.share = 1
    client.put("box", "lives")
    client.feed(b"".join(f"SUB {AI}INBOX.{name} {sid}\r\n".encode() for sid, name in enumerate([*over, "box"])))
    broker.hub.share = 0
    broker.clock.advance(10)
    assert sum(1 for _ in turns(broker)) < 20
    assert client.bodies() == ["lives"]


@pytest.fixture
def unswept(monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of a broker that has 50 expired messages and 30 expired names before what lives, which nobody takes
    away, and looks at five for one answer."""
    monkeypatch.setattr(Sweep, "due", lambda *_: False)
    broker = Broker()
    client = broker.client()
    client.create(name="box", public=True, ttl=0)
    client.send(*(pub("MAILBOX.CREATE", {"name": f"a{number}", "public": True, "ttl": 20}) for number in range(30)))
    client.send(*(pub("MAILBOX.box", b"x", headers={"mq9-ttl": 10}) for _ in range(50)))
    client.put("box", "lives")
    broker.clock.advance(30)
    monkeypatch.setattr(messages, "EXAMINED", 5)
    monkeypatch.setattr("mq9_broker.dialects.native.EXAMINED", 5)
    monkeypatch.setattr(feeds, "_LOOKED_AT", 5)
    return client


@pytest.mark.parametrize("name", ["", "g"])
def test_a_fetch_that_waits_goes_on_looking(unswept: Client, name: str) -> None:
    asked = unswept.ask("MSG.FETCH.box", fetching(name, wait=5000))
    assert 5 < sum(1 for _ in turns(unswept.broker)) < 20
    assert entries(asked.now or {}) == [(51, "lives")]


def test_a_fetch_that_does_not_wait_says_that_there_may_be_more(unswept: Client) -> None:
    for name in ("", "g"):
        answer = unswept.ask("MSG.FETCH.box", fetching(name))
        unswept.broker.loop.turn()
        assert answer.now is not None
        assert entries(answer.now) == []
        assert answer.now["more"] is True


@pytest.mark.parametrize("name", ["", "g"])
def test_a_look_that_ends_with_the_last_one_has_seen_them_all(
    unswept: Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "EXAMINED", 51)
    answer = unswept.fetch("box", name)
    assert (entries(answer), answer["more"]) == ([(51, "lives")], False)
    assert "next" not in unswept.request("MAILBOX.QUERY.box", {})


def test_a_fetch_goes_on_looking_at_what_has_returned(unswept: Client) -> None:
    broker, other = unswept.broker, unswept.broker.client()
    unswept.create(name="more", public=True, ttl=0)
    unswept.send(*(pub("MAILBOX.more", b"x", headers={"mq9-ttl": 10}) for _ in range(50)))
    unswept.put("more", "lives")
    for _ in range(51):
        other.fetch("more", "g", limit=1)
    other.hang_up()
    broker.clock.advance(10)
    asked = unswept.ask("MSG.FETCH.more", fetching("g", wait=5000))
    assert 5 < sum(1 for _ in turns(broker)) < 20
    assert entries(asked.now or {}) == [(51, "lives")]


def test_a_queue_goes_on_looking(unswept: Client) -> None:
    unswept.feed(f"SUB {AI}INBOX.box workers all\r\n".encode())
    assert 5 < sum(1 for _ in turns(unswept.broker)) < 20
    assert unswept.bodies("all") == ["lives"]


def test_a_feed_goes_on_looking(unswept: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SLICE", 1000)
    unswept.feed(f"SUB {AI}INBOX.box all\r\n".encode())
    assert 5 < sum(1 for _ in turns(unswept.broker)) < 20
    assert unswept.bodies("all") == ["lives"]


def test_the_directory_goes_on_looking(unswept: Client) -> None:
    client, broker = unswept, unswept.broker
    first = client.ask("PUBLIC.LIST", {})
    client.feed(f"SUB {AI}PUBLIC.LIST all\r\n".encode())
    broker.loop.turn()
    assert first.now is not None
    assert 3 < sum(1 for _ in turns(broker)) < 20
    assert first.now["mailboxes"] == []
    assert first.now["next"] == "a12"
    page, listed = first.now, []
    while "next" in page:
        page = client.request("PUBLIC.LIST", {"after": page["next"]})
        listed += page["mailboxes"]
    assert [entry["mail_id"] for entry in listed] == ["box"]
    assert [line for line in by_name(frame.json for frame in client.take("all")) if line[0] == "created"] == [
        ("created", "box")
    ]


# ---- what is large ----

PIECE = 16_384


class CountingStore(MemoryStore):
    """It counts the bytes that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def get(self, key: bytes) -> bytes | None:
        value = super().get(key)
        self.read += len(value or b"")
        return value

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().scan(start, end, ahead):
            self.read += len(value)
            yield key, value


@pytest.mark.parametrize(
    "command",
    [
        pub("MAILBOX.QUERY.box", {"limit": 1, "group_name": "given"}, reply="_INBOX.c1.last"),
        pub("MAILBOX.box", "one more", reply="_INBOX.c1.last"),
        pub("MSG.FETCH.box", fetching(wait=5000), reply="_INBOX.c1.last"),
        pub("MSG.FETCH.box", fetching("new", wait=5000, limit=3), reply="_INBOX.c1.last"),
        pub("MSG.FETCH.box", fetching("given", wait=5000), reply="_INBOX.c1.last"),
        f"SUB {AI}INBOX.box new all\r\n".encode(),
        f"SUB {AI}INBOX.box given all\r\n".encode(),
    ],
)
@pytest.mark.parametrize("expired", [False, True])
def test_what_is_looked_at_in_a_turn_is_bounded_in_bytes(
    command: bytes, expired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 120 large messages, between two small ones, a group was given all and has none; others never had any."""
    store = CountingStore()
    broker = Broker(store, limits=Limits(max_payload=4 * PIECE))
    client, gone = broker.client(), broker.client()
    client.create(name="box", public=True, ttl=0, max_msgs=122)
    client.put("box", "first")
    client.send(pub("MAILBOX.box", b"x" * PIECE, headers={"mq9-ttl": 10}) * 120)
    client.put("box", "last")
    assert [len(gone.fetch("box", "given", limit=1)["messages"]) for _ in range(121)] == [1] * 121
    gone.hang_up()
    monkeypatch.setattr(messages, "EXAMINED", 64)
    if expired:
        monkeypatch.setattr(Sweep, "due", lambda *_: False)
        broker.clock.advance(10)
    store.read = 0
    client.feed(command)
    read = [0, store.read, *(store.read for _ in turns(broker)), store.read]
    assert client.frames
    # (one command may look three times, and a row ends behind the message with which it is too long)
    assert max(after - before for before, after in pairwise(read)) < 3 * (64 * 4096 + 4 * PIECE)


@pytest.mark.parametrize("retain", ["ttl", "ack"])
def test_what_is_acknowledged_or_deleted_unread_is_looked_at_once(retain: str) -> None:
    store = CountingStore()
    client = Broker(store).client()
    owner = client.create(name="box", public=True, ttl=0, retain=retain)["owner"]
    client.send(pub("MAILBOX.box", b"x" * PIECE) * 20)
    assert len(client.fetch("box", "workers", limit=1)["messages"]) == 1
    store.read = 0
    assert client.request("MSG.ACK.box", {"group_name": "workers", "msg_ids": [*range(11, 21)]})["error"] == ""
    assert client.request(f"MSG.DELETE.{owner}.5")["error"] == ""
    assert store.read < 12 * PIECE
    assert client.fetch("box", "workers", limit=0)["waiting"]["normal"] == 8


def test_large_messages_whose_time_comes_at_once_share_turns_in_their_order() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", public=True, ttl=0)
    for number in range(20):
        body = f"{number} ".encode() + b"x" * 500_000
        client.send(pub("MAILBOX.box", body, headers={"mq9-delay": 10 + number % 2}))
    sid = client.subscribe("INBOX.box")
    mailbox = broker.find("box")
    assert mailbox is not None
    broker.clock.advance(20)
    client.feed(b"PING\r\n")
    stored = [0, mailbox.count, *(mailbox.count for _ in turns(broker)), mailbox.count]
    assert max(after - before for before, after in pairwise(stored)) == 3
    assert [int(body.split()[0]) for body in client.bodies(sid)] == [*range(0, 20, 2), *range(1, 20, 2)]
    assert client.request("MAILBOX.QUERY.box", {"limit": 0})["unread"] == 20


def test_what_a_look_does_not_come_to_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Broker().client()
    owner = client.create(name="box", public=True, ttl=0)["owner"]
    client.send(pub("MAILBOX.box", b"x" * PIECE) * 40)
    client.request(f"MSG.DELETE.{owner}.5")
    monkeypatch.setattr(messages, "EXAMINED", 64)
    told = [client.fetch("box", "workers", limit=1)["waiting"]["normal"] for _ in range(39)]
    # (it goes on where the last one ended, so the figure is exact before long)
    assert told == [*range(38, -1, -1)]


def test_what_is_acknowledged_already_does_not_wait_where_a_look_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Broker().client()
    client.create(name="box", public=True, ttl=0)
    client.send(pub("MAILBOX.box", b"x" * PIECE) * 40, pub("MAILBOX.box.low", b"x" * PIECE) * 20)
    monkeypatch.setattr(messages, "EXAMINED", 64)
    assert len(client.fetch("box", "workers", limit=1)["messages"]) == 1
    done = [*range(20, 40), *range(42, 60)]
    assert client.request("MSG.ACK.box", {"group_name": "workers", "msg_ids": done})["error"] == ""
    waiting = client.request("MAILBOX.QUERY.box", {"limit": 0, "group_name": "workers"})["waiting"]
    assert (waiting["normal"], waiting["low"]) == (19, 2)


def test_what_is_acknowledged_does_not_wait_where_priorities_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Broker().client()
    client.create(name="box", public=True, ttl=0)
    client.send((pub("MAILBOX.box", b"x" * PIECE) + pub("MAILBOX.box.low", b"x" * PIECE)) * 30)
    monkeypatch.setattr(messages, "EXAMINED", 64)
    assert len(client.fetch("box", "workers", limit=1)["messages"]) == 1
    done = [*range(3, 43, 2)]
    assert client.request("MSG.ACK.box", {"group_name": "workers", "msg_ids": done})["error"] == ""
    waiting = client.request("MAILBOX.QUERY.box", {"limit": 0, "group_name": "workers"})["waiting"]
    assert 9 <= waiting["normal"] <= 10
    assert waiting["low"] == 30


# ---- what waits ----


def test_what_a_fan_out_leaves_in_memory_is_bounded_while_a_batch_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It can't be written then: who does not read goes, and who sends waits."""
    monkeypatch.setattr(router, "_MAX_PUSHED", 5000)
    monkeypatch.setattr(commit, "MAX_GATHERING", 4000)
    store = FaultyStore()
    broker = Broker(store, limits=Limits(max_pending=20_000))
    sender, slow, quick = (broker.client() for _ in range(3))
    sender.create(name="box", ttl=0)
    slow.send(b"".join(b"SUB a %d\r\n" % number for number in range(500)))
    sid = quick.subscribe("=a")
    store.by_hand = True
    sender.send(pub("MAILBOX.box", b"on its way"))
    sender.feed(pub("MAILBOX.box", b"next") + pub("=a", b"x" * 1000))
    assert slow.session.out_msgs < 40
    assert sum(map(len, slow.session.out)) == 0
    broker.settle()
    assert slow.gone
    assert "slow consumer, closed" in caplog.text
    assert broker.hub.counters.slow_consumers == 1
    assert not sender.transport.reading
    assert quick.bodies(sid) == []
    while store.flights:
        store.land()
        broker.settle()
    assert sender.transport.reading
    assert quick.bodies(sid) == ["x" * 1000]
    assert not sender.gone


def test_who_fills_his_own_connection_meanwhile_goes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_MAX_PUSHED", 5000)
    monkeypatch.setattr(commit, "MAX_GATHERING", 4000)
    store = FaultyStore()
    broker = Broker(store, limits=Limits(max_pending=20_000))
    sender, other = broker.client(), broker.client()
    sender.create(name="box", ttl=0)
    sender.send(b"".join(b"SUB a %d\r\n" % number for number in range(500)))
    store.by_hand = True
    sender.feed(pub("MAILBOX.box", b"on its way", reply="_INBOX.c1.sent"))
    broker.settle()
    sender.feed(pub("MAILBOX.box", b"next", reply="_INBOX.c1.sent") + pub("=a", b"x" * 1000) + b"PING\r\n")
    broker.settle()
    assert sender.gone
    assert not broker.hub.promises
    store.land(failed="no space")
    broker.settle()
    store.by_hand = False
    broker.advance(2)
    assert other.put("box", "the store takes writes again") == 1


@pytest.mark.parametrize("name", ["", "g"])
def test_fetches_that_wait_are_limited(name: str) -> None:
    broker = Broker(limits=Limits(max_fetches=2))
    client, other = broker.client(), broker.client()
    client.create(name="box", ttl=0)
    waiting = [client.ask("MSG.FETCH.box", fetching(name, wait=5000)) for _ in range(2)]
    assert client.request("MSG.FETCH.box", fetching(name, wait=5000)) == {
        "error": "this connection has 2 FETCHes that wait, the most it may have: wait for an answer to one of them, "
        "or ask with max_wait_ms 0"
    }
    assert client.fetch("box", name)["messages"] == []
    assert other.ask("MSG.FETCH.box", fetching(name, wait=5000)).now is None
    broker.advance(6)
    assert all(answer.now is not None for answer in waiting)
    late = client.ask("MSG.FETCH.box", fetching(name, wait=5000))
    broker.settle()
    assert late.now is None
