"""retain "ack": what is acknowledged is deleted, and there is one group."""

from __future__ import annotations

import pytest

from broker.inprocess import Broker, Client, FaultyStore, entries, pub

ONE_GROUP = (
    "group other can't be added: the mailbox deletes what is acknowledged (retain ack), so it has one group, g; "
    "use that one"
)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="queue", ttl=0, retain="ack")
    for number in range(1, 6):
        client.put("queue", str(number))
    return client


def ack(client: Client, **fields: object) -> str:
    error = client.request("MSG.ACK.queue", {"group_name": "g"} | fields)["error"]
    assert isinstance(error, str)
    return error


def test_what_is_acknowledged_is_deleted(broker: Broker, client: Client) -> None:
    assert len(entries(client.fetch("queue", "g"))) == 5
    assert ack(client, msg_ids=[2]) == ""
    assert client.query("queue") == [(1, "1"), (3, "3"), (4, "4"), (5, "5")]
    assert ack(client, msg_id=3) == ""
    assert client.query("queue") == [(4, "4"), (5, "5")]
    client.fetch("queue", "g", ack=[4])
    answer = broker.restart().client().request("MAILBOX.QUERY.queue", {"group_name": "g"})
    assert entries(answer) == [(5, "5")]
    assert answer["unread"] == 1
    assert answer["waiting"]["normal"] == 1


def test_what_was_not_given_out_yet_is_deleted_too(broker: Broker, client: Client) -> None:
    assert entries(client.fetch("queue", "g", limit=1)) == [(1, "1")]
    assert ack(client, msg_ids=[3, 5]) == ""
    assert client.query("queue") == [(1, "1"), (2, "2"), (4, "4")]
    assert entries(client.fetch("queue", "g")) == [(2, "2"), (4, "4")]


def test_what_is_confirmed_is_deleted(broker: Broker, client: Client) -> None:
    """A queue without explicit acknowledgements: read is what arrived."""
    member = broker.client(pong=False)
    member.subscribe("INBOX.queue", "g")
    assert len(client.query("queue")) == 5
    member.send(b"PONG\r\n")
    assert client.query("queue") == []


def test_nothing_is_left_in_the_store(broker: Broker, client: Client) -> None:
    client.put("queue", "6", ttl=100, key="k", tags="t")
    client.fetch("queue", "g")
    assert ack(client, msg_ids=[1, 2, 3, 4, 5, 6]) == ""
    left = [key for key in broker.stored() if key[:1] == b"I" and key[9:10] not in (b"s", b"g")]
    assert left == []
    assert not [key for key in broker.stored() if key[:1] == b"E" and key[9:10] in (b"m", b"w")]


def test_reading_without_the_group_deletes_nothing(broker: Broker, client: Client) -> None:
    plain = broker.client()
    sid = plain.subscribe("INBOX.queue")
    assert len(plain.bodies(sid)) == 5
    assert len(entries(client.fetch("queue"))) == 5
    assert len(client.query("queue")) == 5


def test_there_is_one_group(broker: Broker, client: Client) -> None:
    assert entries(client.fetch("queue", "g", limit=1)) == [(1, "1")]
    assert client.fetch("queue", "other") == {"error": ONE_GROUP}
    assert broker.client().send(b"SUB $mq9.AI.INBOX.queue other 1\r\n")[0].verb == "-ERR"
    assert broker.restart().client().fetch("queue", "other") == {"error": ONE_GROUP}
    # when it has gone, after a week without use, there may be another
    broker.advance(9 * 86_400)
    assert entries(client.fetch("queue", "other", limit=1)) == [(1, "1")]


def test_a_failed_commit_deletes_nothing(client: Client) -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="queue", ttl=0, retain="ack")
    client.put("queue", "1")
    assert entries(client.fetch("queue", "g")) == [(1, "1")]
    store.failing = "full"
    assert ack(client, msg_ids=[1]) == "the store cannot write: full"
    assert client.query("queue") == [(1, "1")]
    store.failing = ""
    broker.advance(2)
    assert entries(client.fetch("queue", "g")) == [(1, "1")]
    assert ack(client, msg_ids=[1]) == ""
    assert client.query("queue") == []


def test_acknowledging_a_thousand_in_a_turn(broker: Broker, client: Client) -> None:
    for number in range(1000):
        client.feed(pub("MAILBOX.queue", str(number)))
    broker.settle()
    ids = [number for number, _ in entries(client.fetch("queue", "g", limit=1000))]
    assert ack(client, msg_ids=ids) == ""
    answer = client.request("MAILBOX.QUERY.queue")
    assert (len(answer["messages"]), answer["unread"]) == (5, 5)
