"""mq9-key: of the messages with the same key the newest alone stays; mq9-tags: what a QUERY may ask for."""

from __future__ import annotations

import pytest

from broker.inprocess import Broker, Client, FaultyStore, entries, pub


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="box", ttl=0)
    return client


# ---- keys ----


def test_the_newest_with_a_key_stays(broker: Broker, client: Client) -> None:
    client.put("box", "a1", key="a")
    client.put("box", "none")
    client.put("box", "b1", key="b")
    assert client.put("box", "a2", key="a") == 4
    assert client.query("box") == [(2, "none"), (3, "b1"), (4, "a2")]
    assert client.request("MAILBOX.QUERY.box")["unread"] == 3
    again = broker.restart().client()
    again.put("box", "b2", key="b")
    assert again.query("box") == [(2, "none"), (4, "a2"), (5, "b2")]


def test_whatever_its_tier(client: Client) -> None:
    client.put("box", "calm", key="k", priority="low")
    client.put("box", "loud", key="k", priority="critical")
    client.put("box", "calm again", key="k", priority="low")
    assert client.query("box") == [(3, "calm again")]


def test_in_one_turn(broker: Broker, client: Client) -> None:
    watcher = broker.client()
    sid = watcher.subscribe("INBOX.box")
    for number in range(5):
        client.feed(pub("MAILBOX.box", str(number), headers={"mq9-key": "k"}))
    broker.settle()
    assert client.query("box") == [(5, "4")]
    assert watcher.bodies(sid)[-1] == "4"


def test_a_key_is_the_mailboxes_own(client: Client) -> None:
    client.create(name="other", ttl=0)
    client.put("box", "here", key="k")
    client.put("other", "there", key="k")
    assert client.query("box") == [(1, "here")]
    assert client.query("other") == [(1, "there")]


def test_the_reader_sees_the_key(broker: Broker, client: Client) -> None:
    client.put("box", "x", key="build: 7")
    (message,) = client.request("MAILBOX.QUERY.box")["messages"]
    assert message["headers"] == {"mq9-key": "build: 7"}
    reader = broker.client()
    (frame,) = reader.take(reader.subscribe("INBOX.box"))
    assert frame.headers["mq9-key"] == "build: 7"


def test_a_delayed_message_replaces_when_it_comes(broker: Broker, client: Client) -> None:
    client.put("box", "later", key="k", delay=10)
    client.put("box", "now", key="k")
    assert client.query("box") == [(1, "now")]
    broker.advance(10)
    assert client.query("box") == [(2, "later")]


def test_a_query_for_a_key(broker: Broker, client: Client) -> None:
    for number in range(20):
        client.put("box", str(number), key=f"k{number}", priority="low")
        client.put("box", "noise")
    assert client.query("box", key="k7") == [(15, "7")]
    assert client.query("box", key="k") == []
    assert client.query("box", key="k7", limit=0) == []
    assert client.query("box", key="k7", since=broker.clock.now() // 1000 + 5) == []
    client.put("box", "new", key="k7", priority="critical")
    assert client.query("box", key="k7") == [(41, "new")]
    assert client.request("MAILBOX.QUERY.box", {"key": "k7"})["unread"] == 40


def test_a_key_in_a_latest_mailbox(client: Client) -> None:
    client.create(name="now", ttl=0, type="latest")
    client.put("now", "a", key="a")
    client.put("now", "b", key="b")
    assert client.query("now", key="a") == []
    assert client.query("now", key="b") == [(2, "b")]


def test_what_is_replaced_is_gone_for_groups(broker: Broker, client: Client) -> None:
    """The one who works on it may say that it is done; nobody else gets it."""
    client.put("box", "old", key="k")
    assert entries(client.fetch("box", "g")) == [(1, "old")]
    client.put("box", "new", key="k")
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == {"error": ""}
    assert entries(client.fetch("box", "g")) == [(2, "new")]
    broker.advance(60)
    assert entries(client.fetch("box", "g")) == [(2, "new")]


def test_nothing_is_left_of_a_key(broker: Broker, client: Client) -> None:
    """However its message goes: by its time, by DELETE, by another one."""
    owner = client.create(name="mine", ttl=0)["owner"]
    client.put("mine", "x", key="deleted")
    client.request(f"MAILBOX.DELETE.{owner}.1")
    client.put("mine", "x", key="expired", ttl=5)
    client.put("mine", "x", key="replaced", ttl=500)
    client.put("mine", "x", key="replaced", ttl=5)
    broker.advance(6)
    assert client.request("MAILBOX.QUERY.mine")["unread"] == 0
    assert [key[9:10] for key in broker.stored() if key[:1] == b"I"] == [b"s"]
    assert [key for key in broker.stored() if key[:1] == b"E" and key[9:10] != b"M"] == []


def test_one_that_expired_and_one_that_replaced_it_fall_due_together(broker: Broker, client: Client) -> None:
    """The machine slept: the delayed one replaces first, and the count is right."""
    client.put("box", "old", key="k", ttl=10)
    client.put("box", "new", key="k", delay=9)
    broker.clock.advance(20)
    broker.advance(0)
    answer = client.request("MAILBOX.QUERY.box")
    assert (entries(answer), answer["unread"]) == ([(2, "new")], 1)
    client.put("box", "newer", key="k")
    assert client.request("MAILBOX.QUERY.box")["unread"] == 1


def test_a_failed_commit_replaces_nothing() -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0)
    client.put("box", "kept", key="k")
    store.failing = "full"
    assert client.request("MAILBOX.box", b"lost", {"mq9-key": "k"})["error"] != ""
    assert client.query("box", key="k") == [(1, "kept")]
    store.failing = ""
    broker.advance(2)
    client.put("box", "next", key="k")
    assert client.query("box") == [(2, "next")]


# ---- tags ----


def test_a_query_for_tags(client: Client) -> None:
    client.put("box", "1", tags="red, big")
    client.put("box", "2", tags="red")
    client.put("box", "3")
    client.put("box", "4", tags="big,red,round", priority="high")
    assert client.query("box", tags=["red"]) == [(4, "4"), (1, "1"), (2, "2")]
    assert client.query("box", tags=["big", "red"]) == [(4, "4"), (1, "1")]
    assert client.query("box", tags=["re"]) == []
    assert client.query("box", tags=["red,big"]) == []
    assert len(client.query("box", tags=[])) == 4
    assert client.query("box", tags=["red"], limit=2) == [(4, "4"), (1, "1")]


def test_tags_in_pages(client: Client) -> None:
    for number in range(9):
        client.put("box", str(number), tags="odd" if number % 2 else "even")
    first = client.request("MAILBOX.QUERY.box", {"tags": ["odd"], "limit": 3})
    assert [body for _, body in entries(first)] == ["1", "3", "5"]
    rest = client.query("box", tags=["odd"], after=first["next"])
    assert [body for _, body in rest] == ["7"]


def test_tags_with_a_key(client: Client) -> None:
    client.put("box", "1", tags="t", key="k")
    assert client.query("box", key="k", tags=["t"]) == [(1, "1")]
    assert client.query("box", key="k", tags=["other"]) == []


def test_the_reader_sees_the_tags(client: Client) -> None:
    client.put("box", "x", tags=" a ,b")
    (message,) = client.request("MAILBOX.QUERY.box")["messages"]
    assert message["headers"] == {"mq9-tags": "a,b"}


def test_a_query_looks_at_four_thousand_and_says_where_to_go_on(client: Client) -> None:
    for number in range(4500):
        client.feed(pub("MAILBOX.box", b"x", headers={"mq9-tags": "t"} if number == 4400 else {"A": "b"}))
    first = client.request("MAILBOX.QUERY.box", {"tags": ["t"]})
    assert first["messages"] == []
    assert [number for number, _ in client.query("box", tags=["t"], after=first["next"])] == [4401]
