"""What no member could handle: how often it is tried, and where it goes then."""

from __future__ import annotations

from typing import Any

import pytest

from broker.inprocess import NOBODY, NOBODY_SEND_ONLY, Broker, Client, FaultyStore, entries, pub


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="graveyard", ttl=0)
    client.create(name="box", ttl=0, ack_wait=10, max_deliver=2, dead_letter="graveyard")
    return client


def fail(broker: Broker, client: Client, box: str = "box", times: int = 2) -> None:
    """Read everything so many times and acknowledge nothing."""
    for _ in range(times):
        assert client.fetch(box, "g")["messages"]
        broker.advance(10)


def dead(client: Client, box: str = "graveyard") -> list[dict[str, Any]]:
    found = client.request(f"MAILBOX.QUERY.{box}")["messages"]
    assert isinstance(found, list)
    return found


def create_error(client: Client, **fields: object) -> str:
    error = client.request("MAILBOX.CREATE", fields)["error"]
    assert isinstance(error, str)
    return error


# ---- how often ----


def test_what_was_delivered_too_often_is_dead(broker: Broker, client: Client) -> None:
    client.put("box", "poison")
    fail(broker, client, times=1)
    assert dead(client) == []
    answer = client.fetch("box", "g")
    assert answer["messages"][0]["headers"]["mq9-deliveries"] == "2"
    broker.advance(9.999)
    assert dead(client) == []
    broker.advance(0.001)
    assert [message["payload"] for message in dead(client)] == ["poison"]
    assert client.fetch("box", "g")["messages"] == []
    assert broker.restart().client().fetch("box", "g")["messages"] == []


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_dead_stays_so_when_its_end_can_not_be_stored(times: int) -> None:
    """Else it would be given out once more for each time that the disk is full."""
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="graveyard", ttl=0)
    client.create(name="box", ttl=0, ack_wait=10, max_deliver=1, dead_letter="graveyard")
    client.put("box", "poison")
    assert client.fetch("box", "g")["messages"]
    store.by_hand = True
    for _ in range(times):
        broker.advance(10)
        store.land(failed="No space left on device")
        broker.settle()
    store.by_hand = False
    while store.flights:
        store.land()
    broker.advance(2)
    assert client.fetch("box", "g")["messages"] == []
    assert [message["payload"] for message in dead(client)] == ["poison"]


def test_the_default_is_five_times(broker: Broker, client: Client) -> None:
    client.create(name="usual", ttl=0, ack_wait=10)
    client.put("usual", "x")
    fail(broker, client, "usual", 5)
    assert client.fetch("usual", "g")["messages"] == []


def test_0_is_no_limit(broker: Broker, client: Client) -> None:
    client.create(name="patient", ttl=0, ack_wait=10, max_deliver=0)
    client.put("patient", "x")
    fail(broker, client, "patient", 30)
    assert client.fetch("patient", "g")["messages"][0]["headers"]["mq9-deliveries"] == "31"


def test_every_end_of_a_lease_counts(broker: Broker, client: Client) -> None:
    """Time, a lost connection, a refusal: all but the acknowledgement."""
    client.create(name="jobs", ttl=0, ack="explicit", ack_wait=10, max_deliver=3, dead_letter="graveyard")
    client.put("jobs", "x")
    first = broker.client()
    first.subscribe("INBOX.jobs", "g")
    (frame,) = first.take("s1")
    first.feed(pub(f"={frame.reply}", b"-NAK"))
    broker.settle()
    assert len(first.take("s1")) == 1
    first.hang_up()
    assert dead(client) == []
    assert len(client.fetch("jobs", "g")["messages"]) == 1
    broker.advance(10)
    assert [message["payload"] for message in dead(client)] == ["x"]


def test_a_refusal_of_the_last_delivery_is_the_end_at_once(broker: Broker, client: Client) -> None:
    client.create(name="jobs", ttl=0, ack="explicit", max_deliver=1, dead_letter="graveyard")
    client.put("jobs", "x")
    worker = broker.client()
    worker.subscribe("INBOX.jobs", "g")
    (frame,) = worker.take("s1")
    assert worker.request(f"={frame.reply}", b'-NAK {"delay":9000000000}') == {"error": ""}
    assert [message["payload"] for message in dead(client)] == ["x"]


def test_a_push_without_acknowledgements_does_not_kill(broker: Broker, client: Client) -> None:
    """It says that the way to the client broke, and nothing of what the client did."""
    client.put("box", "x")
    for count in range(1, 8):
        member = broker.client(pong=False)
        sid = member.subscribe("INBOX.box", "g")
        assert [frame.headers["mq9-deliveries"] for frame in member.take(sid)] == [str(count)]
        member.hang_up()
    assert dead(client) == []


def test_counts_are_the_groups_own(broker: Broker, client: Client) -> None:
    client.put("box", "x")
    fail(broker, client)
    assert entries(client.fetch("box", "another")) == [(1, "x")]
    assert len(dead(client)) == 1


# ---- where it goes ----


def test_a_dead_letter_says_where_from_and_why(broker: Broker, client: Client) -> None:
    me = client.create(ttl=0)
    client.put("box", "first")
    sent = {
        "mq9-priority": "high",
        "mq9-from": me["mail_id"],
        "mq9-hops": 3,
        "mq9-ttl": 60,
        "mq9-tags": "a,b",
        "mq9-key": "k",
        "Topic": "db",
    }
    assert client.request("MAILBOX.box", b"\xff\x00", sent)["msg_id"] == 2
    client.feed(pub("MAILBOX.box", b"answer me", reply="$mq9.AI.INBOX.graveyard.low"))
    fail(broker, client)
    urgent, first, third = dead(client)
    assert urgent["headers"] == {
        "mq9-dead-from": "box",
        "mq9-dead-reason": "max_deliver",
        "mq9-dead-id": "2",
        "mq9-dead-group": "g",
        "mq9-dead-key": "k",
        "mq9-tags": "a,b",
        "Topic": "db",
        "mq9-from": me["send_only"],
        "mq9-hops": "3",
    }
    assert (urgent["priority"], urgent["payload"], urgent["encoding"]) == ("high", "/wA=", "base64")
    assert (first["payload"], first["headers"]["mq9-dead-id"]) == ("first", "1")
    assert third["headers"]["mq9-reply-to"] == "$mq9.AI.INBOX.graveyard.low"
    # it lives as long as its mailbox, not as long as it would have lived
    broker.advance(100)
    assert len(dead(client)) == 3


def test_what_other_groups_have_yet_to_read_stays(broker: Broker, client: Client) -> None:
    client.put("box", "x")
    fail(broker, client)
    assert client.query("box") == [(1, "x")]


def test_a_mailbox_that_retains_nothing_gives_it_away(broker: Broker, client: Client) -> None:
    client.create(name="queue", ttl=0, ack_wait=10, max_deliver=1, retain="ack", dead_letter="graveyard")
    client.put("queue", "x")
    fail(broker, client, "queue", 1)
    assert client.query("queue") == []
    assert [message["payload"] for message in dead(client)] == ["x"]


@pytest.mark.parametrize("retain", ["ttl", "ack"])
def test_without_a_place_to_go_it_stays_and_is_skipped(broker: Broker, client: Client, retain: str) -> None:
    client.create(name="alone", ttl=0, ack_wait=10, max_deliver=1, retain=retain)
    client.put("alone", "x")
    fail(broker, client, "alone", 1)
    client.put("alone", "y")
    assert client.query("alone") == [(1, "x"), (2, "y")]
    again = broker.restart().client()
    assert entries(again.fetch("alone", "g")) == [(2, "y")]


@pytest.mark.parametrize("how", ["gone", "full"])
def test_a_place_that_can_take_nothing_is_none(broker: Broker, client: Client, how: str) -> None:
    owner = client.create(name="grave", ttl=0, max_msgs=1)["owner"]
    client.create(name="bin", ttl=0, ack_wait=10, max_deliver=1, retain="ack", dead_letter="grave")
    client.put("bin", "x")
    if how == "gone":
        client.request(f"MAILBOX.DROP.{owner}")
    else:
        client.put("grave", "there is no more room")
    fail(broker, client, "bin", 1)
    assert client.query("bin") == [(1, "x")]
    assert client.fetch("bin", "g")["messages"] == []


def test_the_dead_may_die_again(broker: Broker, client: Client) -> None:
    """And tell of the last time only."""
    client.create(name="second", ttl=0, ack_wait=10, max_deliver=1, retain="ack", dead_letter="graveyard")
    client.create(name="start", ttl=0, ack_wait=10, max_deliver=1, retain="ack", dead_letter="second")
    client.put("start", "x")
    fail(broker, client, "start", 1)
    fail(broker, client, "second", 1)
    (message,) = dead(client)
    assert message["headers"] == {
        "mq9-dead-from": "second",
        "mq9-dead-reason": "max_deliver",
        "mq9-dead-id": "1",
        "mq9-dead-group": "g",
    }


def test_a_private_mailbox_for_the_dead(broker: Broker, client: Client) -> None:
    """By its send-only address; what it gets names the private mailbox it came from by the same."""
    grave = client.create(ttl=0)
    box = client.create(ttl=0, ack_wait=10, max_deliver=1, dead_letter=grave["send_only"])
    client.put(box["mail_id"], "x")
    fail(broker, client, box["mail_id"], 1)
    (message,) = dead(client, grave["mail_id"])
    assert message["headers"]["mq9-dead-from"] == box["send_only"]


def test_the_dead_survive_a_restart_together_with_their_end(broker: Broker, client: Client) -> None:
    """What goes and what comes are one write: never both, never neither."""
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="graveyard", ttl=0)
    client.create(name="queue", ttl=0, ack_wait=10, max_deliver=1, retain="ack", dead_letter="graveyard")
    client.put("queue", "x")
    assert client.fetch("queue", "g")["messages"]
    store.by_hand = True
    broker.advance(10)
    lost = broker.restart(store.crash()).client()
    assert (lost.query("queue"), lost.query("graveyard")) == ([(1, "x")], [])
    while store.flights:
        store.land()
        broker.settle()
    kept = broker.restart(store.crash()).client()
    assert (kept.query("queue"), kept.query("graveyard")) == ([], [(1, "x")])


# ---- what can't be meant ----


def test_where_dead_letters_can_not_go(client: Client) -> None:
    assert create_error(client, dead_letter="nowhere") == (
        "dead_letter nowhere does not exist: create that mailbox first"
    )
    assert create_error(client, dead_letter=NOBODY_SEND_ONLY) == (
        f"dead_letter {NOBODY_SEND_ONLY} does not exist: create that mailbox first"
    )
    secret = client.mailbox()
    for given in (NOBODY, secret):
        error = create_error(client, dead_letter=given)
        assert error == "dead_letter must be a send-only address or a public name, not a secret mail_id"
    assert create_error(client, name="self", dead_letter="self") == "dead_letter self is the mailbox itself"
    assert create_error(client, max_deliver=-1) == "max_deliver must be from 0 to 1000000000, not -1"
    assert client.request("MAILBOX.QUERY.self")["error"] != ""


def test_a_circle_can_not_be_closed(broker: Broker, client: Client) -> None:
    """Whichever of them is created last: an older one waits for a name that has gone meanwhile."""
    owner = client.create(name="c", ttl=0)["owner"]
    client.create(name="b", ttl=0, dead_letter="c")
    client.create(name="a", ttl=0, dead_letter="b")
    client.request(f"MAILBOX.DROP.{owner}")
    assert create_error(client, name="c", dead_letter="a") == ("dead_letter a leads back to c: b sends its dead there")
    assert create_error(client, name="c", dead_letter="b") == ("dead_letter b leads back to c: b sends its dead there")
    assert create_error(client, name="c", dead_letter="graveyard") == ""


def test_a_chain_has_an_end(client: Client) -> None:
    client.create(name="n0")
    for number in range(1, 16):
        client.create(name=f"n{number}", dead_letter=f"n{number - 1}")
    assert create_error(client, name="last", dead_letter="n15") == ""
    assert create_error(client, name="more", dead_letter="last") == (
        "dead_letter last is the first of more than 16 mailboxes that follow each other"
    )


def test_joining_a_mailbox_asks_nothing_of_its_dead_letters(client: Client) -> None:
    """Its settings stay; those of the one who joins don't count."""
    assert client.create(name="box", dead_letter="nowhere")["is_new"] is False
