"""CREATE's `subscribe`: broadcasts that are stored, so that who was away gets them too."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.inprocess import AI, Broker, Client, FaultyStore, pub
from mq9_broker import keys, patterns
from mq9_broker.dialects import native
from mq9_broker.errors import Mq9Error
from mq9_broker.patterns import Patterns, check_patterns
from mq9_broker.store.memory import MemoryStore
from mq9_broker.store.pending import Pending
from mq9_broker.subjects import matches


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    return broker.client()


def cast(client: Client, subject: str, body: object = b"x", reply: str = "", **headers: object) -> None:
    named = {f"mq9-{name}": value for name, value in headers.items()} or None
    client.feed(pub(f"BROADCAST.{subject}", body, reply, named))
    client.broker.settle()


def stored(client: Client, address: str) -> list[tuple[str, str]]:
    """(subject without prefix, payload) of the broadcasts in a mailbox."""
    found = client.request(f"MAILBOX.QUERY.{address}", {"limit": 1000})["messages"]
    return [
        (message["headers"]["mq9-subject"].removeprefix(f"{AI}BROADCAST."), message["payload"]) for message in found
    ]


# ---- what is stored ----


def test_what_matches_is_stored(broker: Broker, client: Client) -> None:
    box = client.mailbox(ttl=0, subscribe=["pipeline.*", "deploy.>"])
    for subject in ("pipeline.done", "pipeline.a.b", "deploy.eu.done", "deploy", "other.done", "pipeline2.x"):
        cast(client, subject, subject)
    assert stored(client, box) == [("pipeline.done", "pipeline.done"), ("deploy.eu.done", "deploy.eu.done")]


def test_it_is_live_as_ever(broker: Broker, client: Client) -> None:
    client.create(name="box", ttl=0, subscribe=["pipeline.*"])
    listener, reader = broker.client(), broker.client()
    sid = listener.subscribe("BROADCAST.pipeline.*")
    stored_sid = reader.subscribe("INBOX.box")
    cast(client, "pipeline.done", b"42")
    assert [(frame.subject, frame.body) for frame in listener.take(sid)] == [(f"{AI}BROADCAST.pipeline.done", "42")]
    (frame,) = reader.take(stored_sid)
    assert (frame.subject, frame.body) == (f"{AI}INBOX.box.normal", "42")
    assert frame.headers["mq9-subject"] == f"{AI}BROADCAST.pipeline.done"


def test_each_mailbox_stores_it_once(client: Client) -> None:
    client.create(name="box", ttl=0, subscribe=["a.*", "a.b", "a.>", "a.b"])
    cast(client, "a.b")
    assert len(stored(client, "box")) == 1


def test_after_a_restart(broker: Broker, client: Client) -> None:
    client.create(name="one", ttl=0, subscribe=["a.*"])
    two = client.mailbox(ttl=0, subscribe=["a.b"])
    again = broker.restart().client()
    cast(again, "a.b")
    again.create(name="three", ttl=0, subscribe=["a.>"])
    cast(again, "a.b")
    assert [len(stored(again, box)) for box in ("one", two, "three")] == [2, 2, 1]


def test_memory_mailboxes_too(client: Client) -> None:
    client.create(name="quick", ttl=0, storage="memory", subscribe=["a.*"])
    cast(client, "a.b")
    assert len(stored(client, "quick")) == 1


def test_what_has_ended_stores_nothing(broker: Broker, client: Client) -> None:
    """And a mailbox of the same name has patterns of its own."""
    client.create(name="box", ttl=5, subscribe=["a.*"])
    cast(client, "a.b")
    broker.clock.advance(5)
    cast(client, "a.c")
    client.create(name="box", ttl=0, subscribe=["b.*"])
    cast(client, "a.b")
    cast(client, "b.b")
    assert stored(client, "box") == [("b.b", "x")]
    gone = client.create(name="gone", subscribe=["b.*"])["owner"]
    client.request(f"MAILBOX.DROP.{gone}")
    cast(client, "b.c")
    assert [key for key in broker.stored() if key[:1] == b"B"] == [keys.broadcasts("b.*", "box")]


def test_a_broadcast_keeps_its_headers(broker: Broker, client: Client) -> None:
    """Those of the sender as they came, those of mq9 as in a send."""
    me = client.create(ttl=0)
    client.create(name="box", ttl=0, subscribe=["a.*"])
    headers = {
        "Topic": "db",
        "mq9-priority": "urgent",
        "mq9-ttl": 10,
        "mq9-from": me["mail_id"],
        "mq9-tags": "x,y",
        "mq9-subject": "forged",
        "mq9-hops": 1,
    }
    client.feed(pub("BROADCAST.a.b", b"1", headers=headers))
    (message,) = client.request("MAILBOX.QUERY.box")["messages"]
    assert message["priority"] == "urgent"
    assert message["headers"] == {
        "mq9-subject": f"{AI}BROADCAST.a.b",
        "Topic": "db",
        "mq9-tags": "x,y",
        "mq9-from": me["send_only"],
        "mq9-hops": "1",
    }
    broker.advance(10)
    assert stored(client, "box") == []


@pytest.mark.parametrize("header", [{"mq9-priority": "anything"}, {"mq9-from": "s-forged"}, {"mq9-ttl": "x"}])
def test_headers_that_no_message_may_have(broker: Broker, client: Client, header: dict[str, object]) -> None:
    """Broadcasts are pub/sub, which takes any: they are stored without them."""
    client.create(name="box", ttl=0, subscribe=["a.*"])
    client.feed(pub("BROADCAST.a.b", b"1", headers={"Topic": "db", **header}))
    broker.settle()
    assert client.errors() == []
    (message,) = client.request("MAILBOX.QUERY.box")["messages"]
    assert message["headers"] == {"mq9-subject": f"{AI}BROADCAST.a.b", "Topic": "db"}
    assert message["priority"] == "normal"


def test_a_secret_sender_is_shown_to_nobody(broker: Broker, client: Client) -> None:
    me = client.create(ttl=0)
    client.create(name="box", ttl=0, subscribe=["a.*"])
    listener = broker.client()
    sid = listener.subscribe("BROADCAST.>")
    cast(client, "a.b", **{"from": me["mail_id"]})
    (frame,) = listener.take(sid)
    assert frame.headers["mq9-from"] == me["send_only"]
    assert me["mail_id"].encode() not in b"".join(broker.stored().values())


def test_where_answers_go(broker: Broker, client: Client) -> None:
    client.create(name="box", ttl=0, subscribe=["a.*"])
    cast(client, "a.b", reply=f"{AI}INBOX.box")
    cast(client, "a.c", reply="_INBOX.gone.soon")
    one, two = client.request("MAILBOX.QUERY.box")["messages"]
    assert one["headers"]["mq9-reply-to"] == f"{AI}INBOX.box"
    assert "mq9-reply-to" not in two["headers"]


def test_a_full_mailbox_does_not_stop_the_others(client: Client) -> None:
    for name in ("full", "open"):
        client.create(name=name, ttl=0, subscribe=["a.*"], max_msgs=2 if name == "full" else 0)
    for _ in range(4):
        cast(client, "a.b")
    assert client.errors() == []
    assert [len(stored(client, name)) for name in ("full", "open")] == [2, 4]


def test_a_broadcast_goes_into_a_thousand_at_the_most(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_KEEPERS", 10)
    boxes = [client.mailbox(ttl=0 if number else 5, subscribe=["a.*", "a.>"]) for number in range(15)]
    client.broker.advance(6)
    cast(client, "a.b")
    assert sum(len(stored(client, box)) for box in boxes[1:]) == 10
    assert native._KEEPERS == 10


def test_the_capability_board_as_well(client: Client) -> None:
    client.create(name="box", ttl=0, subscribe=["system.capability"])
    cast(client, "system.capability", {"from": "box"})
    assert stored(client, "box") == [("system.capability", '{"from": "box"}')]


# ---- a store that fails ----


def test_what_could_not_be_created_stores_nothing() -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    owner = client.create(name="kept", ttl=0, subscribe=["a.*"])["owner"]
    cast(client, "a.b")
    store.failing = "full"
    client.ask("MAILBOX.CREATE", {"name": "lost", "subscribe": ["a.*"]})
    client.ask(f"MAILBOX.DROP.{owner}")
    broker.settle()
    cast(client, "a.b")  # live, and not stored
    assert client.errors() == []
    store.failing = ""
    broker.advance(2)
    cast(client, "a.b")
    assert len(stored(client, "kept")) == 2
    assert client.create(name="lost", ttl=0)["is_new"] is True
    cast(client, "a.b")
    assert stored(client, "lost") == []


# ---- patterns ----

word = st.sampled_from(["a", "b", "c"])
subject = st.lists(word, min_size=2, max_size=4).map(".".join)
pattern = st.builds(
    lambda first, rest, tail: ".".join([first, *rest, *tail]),
    word,
    st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=2),
    st.sampled_from([[], [">"]]),
)


@given(st.dictionaries(st.sampled_from("123456"), st.lists(pattern, min_size=1, max_size=4, unique=True)), st.data())
def test_the_tree_finds_what_matches(boxes: dict[str, list[str]], data: st.DataObject) -> None:
    """Loaded or built up, and after some have gone."""
    place = Pending(MemoryStore())
    tree = Patterns((place,))
    for name in data.draw(st.lists(word)):
        list(tree.matching(f"{name}.b"))
    for address, own in boxes.items():
        tree.add(place, address, tuple(own))
    for address in data.draw(st.lists(st.sampled_from(sorted(boxes)), unique=True)) if boxes else []:
        tree.remove(place, address, tuple(boxes.pop(address)))
    for _ in range(5):
        wanted = data.draw(subject)
        expected = {
            address for address, own in boxes.items() if any(matches(one.encode(), wanted.encode()) for one in own)
        }
        assert set(tree.matching(wanted)) == expected
    for address in [*boxes]:
        tree.remove(place, address, tuple(boxes.pop(address)))
    assert list(tree.matching("a.b")) == []
    assert not list(place.scan(b"", b"\xff"))


def test_what_does_not_match_costs_nothing() -> None:
    """However many patterns there are: neither a look at a mailbox nor a walk through what others want."""
    store = Counting()
    broker = Broker(store)
    client = broker.client()
    for number in range(3000):
        client.feed(pub("MAILBOX.CREATE", {"subscribe": [f"d{number % 50}.*", f"e.x{number}.>", "same.>"]}))
    broker.settle()
    broker = broker.restart()
    client = broker.client()
    store.read = 0
    for _ in range(3):
        cast(client, "other.event")
    assert store.read == 0
    # the patterns of a domain are read once; those that many have in common not even that often
    cast(client, "d1.x.y")
    assert store.read < 20
    cast(client, "e.none")
    assert store.read < 3020
    before = store.read
    for subject in ("d1.x.y", "e.none", "e.x3.", "other.event"):
        cast(client, subject)
    assert store.read == before
    cast(client, "same.x")
    assert store.read - before < 3 * 1000 + 50


def test_memory_holds_so_many_words(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_MAX_WORDS", 20)
    for number in range(50):
        client.create(name=f"box{number}", subscribe=[f"d{number}.x", f"d{number}.y"])
    for number in range(50):
        cast(client, f"d{number}.x")
        cast(client, f"e{number}.x")
    assert all(len(stored(client, f"box{number}")) == 1 for number in range(50))
    assert client.broker.hub.mailboxes.patterns._words < 30


class Counting(MemoryStore):
    """Counts the records that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def get(self, key: bytes) -> bytes | None:
        self.read += key[:1] != b"!"
        return super().get(key)

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        for item in super().scan(start, end, ahead):
            self.read += item[0][:1] not in b"E!"
            yield item


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("*.done", "its first word must not be a wildcard"),
        (">", "its first word must not be a wildcard"),
        ("pipeline", "a broadcast is {domain}.{event}; for all of a domain use pipeline.>"),
        ("$mq9.AI.BROADCAST.pipeline.*", "leave out $mq9.AI.BROADCAST., as in pipeline.*"),
        ("a..b", "it must be words with single dots between them"),
        (".a.b", "it must be words with single dots between them"),
        ("a.b c", "it must be words with single dots between them"),
        ("a.\nb", "it must be words with single dots between them"),
        ("a.>.b", "> stands for everything that follows, so it can only be the last word"),
        ("a." + "b" * 255, "it has 257 characters, allowed are 256"),
    ],
)
def test_what_is_no_pattern_of_broadcasts(given: str, problem: str) -> None:
    with pytest.raises(Mq9Error) as refused:
        check_patterns(["fine.*", given])
    assert refused.value.text == f"subscribe {given[:60]!r} is no pattern of broadcasts: {problem}"


@pytest.mark.parametrize("given", ["a.b", "a.*", "a.>", "a.*.c.>", "système.état", "a.b*", "m-x.y"])
def test_what_is_one(given: str) -> None:
    assert check_patterns([given, given]) == (given,)


def test_joining_changes_no_patterns(client: Client) -> None:
    created: dict[str, Any] = client.create(name="box", ttl=0, subscribe=["a.*"])
    assert created["is_new"] is True
    client.create(name="box", subscribe=["b.*"])
    cast(client, "a.b")
    cast(client, "b.b")
    assert stored(client, "box") == [("a.b", "x")]


@pytest.mark.parametrize("headers", [{}, {"key": "k", "ttl": 9, "receipt": "expired"}, {"delay": 9}])
def test_a_large_one_is_in_memory_once_however_many_store_it(client: Client, headers: dict[str, object]) -> None:
    names = [client.mailbox(name=f"box{number}", subscribe=["a.b"]) for number in range(50)]
    tracemalloc.start()
    try:
        cast(client, "a.b", "x" * 1_000_000, reply="$mq9.AI.MAILBOX.box1", **headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    client.broker.advance(8 if "ttl" in headers else 10)
    assert {body for name in names for _, body in stored(client, name)} == {"x" * 1_000_000}
    assert all(len(stored(client, name)) == 1 for name in names)
