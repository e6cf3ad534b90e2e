"""max_msgs: a mailbox that is full says so, and drops nothing that it holds."""

from __future__ import annotations

import pytest

from broker.inprocess import AI, Broker, Client, FaultyStore, entries, pub

FULL = {"error": "the mailbox is full: its max_msgs of 3 is reached; there is room when messages are deleted or expire"}


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="box", ttl=0, max_msgs=3)
    return client


def send(client: Client, body: str = "x", **headers: object) -> dict[str, object]:
    answer: dict[str, object] = client.request(
        "MAILBOX.box", body, {f"mq9-{name}": value for name, value in headers.items()} or None
    )
    return answer


def test_the_error_names_the_limit(broker: Broker, client: Client) -> None:
    for number in range(3):
        client.put("box", str(number), priority=("low", "critical", "normal")[number])
    assert send(client) == FULL
    assert send(client, priority="critical") == FULL
    assert send(client, ttl=5) == FULL
    assert send(client, delay=5) == FULL
    (error,) = client.send(pub("MAILBOX.box", b"x"))
    assert error.text == f"'Permissions Violation for Publish to \"{AI}MAILBOX.box\"'"
    assert client.query("box") == [(2, "1"), (3, "2"), (1, "0")]
    assert entries(broker.restart().client().request("MAILBOX.QUERY.box")) == [(2, "1"), (3, "2"), (1, "0")]
    assert broker.restart().client().request("MAILBOX.box", b"x") == FULL


def test_in_one_turn(broker: Broker, client: Client) -> None:
    answers = [client.ask("MAILBOX.box", str(number)) for number in range(5)]
    broker.settle()
    assert [answer.now for answer in answers] == [{"error": "", "msg_id": i} for i in (1, 2, 3)] + [FULL, FULL]


def test_deleting_makes_room(client: Client) -> None:
    owner = client.create(name="mine", ttl=0, max_msgs=1)["owner"]
    client.put("mine", "x")
    assert "its max_msgs of" in client.request("MAILBOX.mine", b"y")["error"]
    client.request(f"MAILBOX.DELETE.{owner}.1")
    assert client.put("mine", "y") == 2


def test_expiring_makes_room_at_once(broker: Broker, client: Client) -> None:
    """Before anything is swept, too."""
    for _ in range(3):
        client.put("box", "x", ttl=5)
    broker.clock.advance(5)
    answer = client.ask("MAILBOX.box", b"now")
    broker.settle()
    assert answer.now == {"error": "", "msg_id": 4}


def test_much_that_expired_and_is_not_swept_makes_room(broker: Broker, client: Client) -> None:
    client.create(name="big", ttl=0, max_msgs=2000)
    for _ in range(2000):
        client.feed(pub("MAILBOX.big", b"x", headers={"mq9-ttl": 5}))
    broker.settle()
    broker.clock.advance(5)
    answers = [client.ask("MAILBOX.big", b"now") for _ in range(2001)]
    broker.settle()
    found = [answer.now for answer in answers]
    assert [answer["error"] for answer in found[:-1] if answer] == [""] * 2000
    assert found[-1] is not None
    assert "its max_msgs of" in found[-1]["error"]


def test_acknowledging_makes_room_where_it_deletes(client: Client) -> None:
    client.create(name="queue", ttl=0, max_msgs=1, retain="ack")
    client.put("queue", "x")
    assert client.request("MAILBOX.queue", b"y")["error"].endswith("or expire, or are acknowledged")
    client.fetch("queue", "g")
    client.request("MSG.ACK.queue", {"group_name": "g", "msg_ids": [1]})
    assert client.put("queue", "y") == 2


def test_a_key_takes_the_place_of_its_older_message(client: Client) -> None:
    client.put("box", "a", key="a")
    client.put("box", "b")
    client.put("box", "c")
    assert client.put("box", "a2", key="a") == 4
    assert send(client, key="other") == FULL


def test_a_delayed_one_does_not_count_on_it(broker: Broker, client: Client) -> None:
    """The older one may have gone when it comes."""
    client.put("box", "a", key="a", ttl=5)
    client.put("box", "b")
    client.put("box", "c")
    assert send(client, key="a", delay=10) == FULL


def test_what_is_delayed_has_its_place(broker: Broker, client: Client) -> None:
    """It is counted when it is sent: when it comes nobody is there to be told."""
    client.put("box", "later", delay=10)
    client.put("box", "1")
    client.put("box", "2")
    assert send(client) == FULL
    again = broker.restart()
    reader = again.client()
    assert reader.request("MAILBOX.box", b"x") == FULL
    again.advance(10)
    assert reader.query("box") == [(1, "1"), (2, "2"), (3, "later")]
    assert reader.request("MAILBOX.box", b"x") == FULL


def test_what_expired_before_it_came_leaves_its_place(broker: Broker, client: Client) -> None:
    client.put("box", "never", delay=10, ttl=5)
    broker.advance(11)
    for _ in range(3):
        client.put("box", "x")
    assert send(client) == FULL


def test_a_repeat_is_answered_when_it_is_full(client: Client) -> None:
    for number in range(3):
        client.put("box", "x", id=str(number))
    assert client.request("MAILBOX.box", b"x", {"Nats-Msg-Id": "1"}) == {"error": "", "msg_id": 2, "duplicate": True}
    assert client.request("MAILBOX.box", b"x", {"Nats-Msg-Id": "new"}) == FULL
    # and what was refused is no repeat later
    client.fetch("box", "g")


def test_a_latest_mailbox_is_never_full(client: Client) -> None:
    client.create(name="now", ttl=0, max_msgs=1, type="latest")
    for number in range(1, 5):
        assert client.put("now", "x") == number


def test_0_is_no_limit(client: Client) -> None:
    client.create(name="open", ttl=0, max_msgs=0)
    for number in range(1, 50):
        assert client.put("open", "x") == number


def test_the_count_is_right_after_failures() -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0, max_msgs=3)
    client.put("box", "1")
    store.failing = "full"
    for _ in range(5):
        assert client.request("MAILBOX.box", b"lost")["error"] == "the store cannot write: full"
    store.failing = ""
    broker.advance(2)
    client.put("box", "2")
    client.put("box", "3")
    assert client.request("MAILBOX.box", b"x") == FULL
