"""Receipts: what a sender hears of its message, if it asked, and what it costs those who did not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from broker.inprocess import Broker, Client, FaultyStore, entries, pub
from mq9_broker import sweep
from mq9_broker.store.memory import MemoryStore

ALL = "delivered,acked,expired,dead"


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="box", ttl=0, ack_wait=10, max_deliver=2)
    client.create(name="me", ttl=0)
    return client


@pytest.fixture
def me(client: Client) -> dict[str, Any]:
    return client.create(ttl=0)


def send(client: Client, me: dict[str, Any], events: str = ALL, box: str = "box", **headers: object) -> int:
    number = client.put(box, "order", **{"from": me.get("owner", me["mail_id"]), "receipt": events} | headers)
    assert isinstance(number, int)
    return number


def receipts(client: Client, me: dict[str, Any]) -> list[dict[str, Any]]:
    """The receipts a sender got, without their times."""
    found = client.request(f"MAILBOX.QUERY.{me['mail_id']}")["messages"]
    said = [json.loads(message["payload"]) for message in found]
    return [{name: value for name, value in receipt.items() if name != "time"} for receipt in said]


def of(event: str, msg_id: int = 1, **more: object) -> dict[str, Any]:
    return {"event": event, "mail_id": "box", "msg_id": msg_id} | more


# ---- the form ----


def test_a_receipt_is_a_message_from_the_mailbox_it_speaks_of(
    broker: Broker, client: Client, me: dict[str, Any]
) -> None:
    send(client, me)
    client.fetch("box", "g")
    (message,) = client.request(f"MAILBOX.QUERY.{me['mail_id']}")["messages"]
    assert message["headers"] == {"mq9-receipt": "delivered", "mq9-from": "box"}
    assert message["priority"] == "notify"
    now = broker.clock.now() // 1000
    assert message["payload"] == f'{{"event":"delivered","mail_id":"box","msg_id":1,"time":{now},"group":"g"}}'


def test_no_secret_is_in_it(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    """A private mailbox is named by what its sender may know, however it was addressed."""
    other = client.create(ttl=0)
    send(client, me, box=other["mail_id"])
    client.query(other["mail_id"])
    (receipt,) = client.request(f"MAILBOX.QUERY.{me['mail_id']}")["messages"]
    assert receipt["headers"]["mq9-from"] == other["send_only"]
    assert other["mail_id"] not in str(receipt)
    assert receipts(client, me) == [of("delivered") | {"mail_id": other["send_only"]}]


def test_a_public_sender_gets_them_too(client: Client) -> None:
    owner = client.create(name="pub", ttl=0)
    send(client, owner)
    client.query("box")
    assert receipts(client, {"mail_id": "pub"}) == [of("delivered")]


def test_the_header_is_no_secret_and_nobody_elses_word(client: Client, me: dict[str, Any]) -> None:
    """The reader does not see what its sender asked for, and no sender can pass for a receipt."""
    send(client, me)
    (message,) = client.request("MAILBOX.QUERY.box")["messages"]
    assert message["headers"] == {"mq9-from": me["send_only"]}


# ---- delivered ----


def test_delivered_is_told_once(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me)
    assert receipts(client, me) == []
    readers = [broker.client() for _ in range(3)]
    for reader in readers:
        reader.subscribe("INBOX.box")
    client.query("box")
    client.fetch("box", "g")
    assert receipts(client, me) == [of("delivered")]
    again = broker.restart().client()
    again.query("box")
    assert len(receipts(again, me)) == 1


@pytest.mark.parametrize("how", ["query", "fetch", "group", "subscribed", "live", "queue", "explicit", "long poll"])
def test_every_way_of_reading_is_a_delivery(broker: Broker, client: Client, me: dict[str, Any], how: str) -> None:
    reader = broker.client()
    box = "box"
    if how == "explicit":
        box = "explicit"
        client.create(name=box, ttl=0, ack="explicit")
    if how == "live":
        reader.subscribe("INBOX.box")
    if how == "long poll":
        reader.ask("MSG.FETCH.box", {"config": {"max_wait_ms": 5000}})
    send(client, me, "delivered", box)
    if how == "query":
        reader.query(box)
    elif how in ("fetch", "group"):
        reader.fetch(box, "g" if how == "group" else "")
    elif how == "subscribed":
        reader.subscribe(f"INBOX.{box}")
    elif how in ("queue", "explicit"):
        reader.subscribe(f"INBOX.{box}", "g")
    group = {"group": "g"} if how in ("group", "queue", "explicit") else {}
    assert receipts(client, me) == [of("delivered") | {"mail_id": box} | group]


def test_live_for_many_at_once_is_told_once(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    for _ in range(5):
        broker.client().subscribe("INBOX.box")
    send(client, me)
    assert receipts(client, me) == [of("delivered")]


def test_what_was_not_shown_was_not_delivered(client: Client, me: dict[str, Any]) -> None:
    """A page that is full, a filter that left it out, a count."""
    client.put("box", "first")
    send(client, me)
    client.query("box", limit=1)
    client.query("box", limit=0)
    client.query("box", tags=["none"])
    client.fetch("box", "g", limit=1)
    assert receipts(client, me) == []
    client.fetch("box", "g", limit=1)
    assert receipts(client, me) == [of("delivered", 2, group="g")]


# ---- acked ----


def test_every_group_that_acknowledges_is_told(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, "acked")
    for group in ("g", "h"):
        client.fetch("box", group)
        client.request("MSG.ACK.box", {"group_name": group, "msg_ids": [1]})
        client.request("MSG.ACK.box", {"group_name": group, "msg_ids": [1]})
    assert receipts(client, me) == [of("acked", group="g"), of("acked", group="h")]


@pytest.mark.parametrize("how", ["up to", "with fetch", "ahead", "confirmed", "word", "after a restart", "retain"])
def test_every_way_of_acknowledging(broker: Broker, client: Client, me: dict[str, Any], how: str) -> None:
    box = how.replace(" ", "-")
    client.create(
        name=box,
        ttl=0,
        ack="explicit" if how == "word" else "none",
        retain="ack" if how == "retain" else "ttl",
    )
    client.put(box, "before")
    send(client, me, "acked", box)
    if how == "up to":
        client.fetch(box, "g")
        client.request(f"MSG.ACK.{box}", {"group_name": "g", "msg_id": 2})
    elif how == "with fetch":
        client.fetch(box, "g")
        client.fetch(box, "g", ack=[2])
    elif how == "ahead":
        client.fetch(box, "g", limit=1)
        for _ in range(2):
            client.request(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [2]})
    elif how == "confirmed":
        broker.client().subscribe(f"INBOX.{box}", "g")
    elif how == "word":
        worker = broker.client()
        worker.subscribe(f"INBOX.{box}", "g")
        worker.send(pub(f"={worker.take('s1')[1].reply}"))
    elif how == "after a restart":
        client.fetch(box, "g")
        client.request(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [1]})
        broker = broker.restart()
        client = broker.client()
        client.request(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [2]})
    elif how == "retain":
        client.fetch(box, "g")
        client.request(f"MSG.ACK.{box}", {"group_name": "g", "msg_ids": [2]})
    assert receipts(client, me) == [of("acked", 2, group="g") | {"mail_id": box}]


# ---- expired ----


def test_what_nobody_acknowledged_expired(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, "expired", ttl=5)
    client.fetch("box", "g")
    broker.advance(5)
    assert receipts(client, me) == [of("expired", reason="ttl")]


def test_what_was_acknowledged_did_not(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, "acked,expired", ttl=30)
    client.fetch("box", "g")
    client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]})
    broker.advance(60)
    assert client.query("box") == []
    assert receipts(client, me) == [of("acked", group="g")]


def test_every_end_is_told(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    owner = client.create(name="mine", ttl=0)["owner"]
    client.create(name="now", ttl=0, type="latest")
    send(client, me, "expired", "mine")
    client.request(f"MAILBOX.DELETE.{owner}.1")
    send(client, me, "expired", "mine", key="k")
    client.put("mine", "newer", key="k")
    send(client, me, "expired", "now")
    client.put("now", "newer")
    send(client, me, "expired", "mine", delay=10, ttl=5)
    broker.advance(11)
    assert receipts(client, me) == [
        of("expired", 1, reason="deleted") | {"mail_id": "mine"},
        of("expired", 2, reason="replaced") | {"mail_id": "mine"},
        of("expired", 1, reason="replaced") | {"mail_id": "now"},
        of("expired", -1, reason="ttl") | {"mail_id": "mine"},
    ]


@pytest.mark.parametrize("how", ["expired", "dropped"])
@pytest.mark.parametrize("kind", ["standard", "latest"])
@pytest.mark.parametrize("many", [1, 1200])
def test_the_end_of_a_mailbox_ends_what_is_in_it(
    broker: Broker, client: Client, me: dict[str, Any], how: str, kind: str, many: int
) -> None:
    """Also of one that is so large that its records go as a range. Who had it acknowledged hears nothing."""
    owner = client.create(name="short", ttl=100, type=kind)["owner"]
    if kind == "standard":
        for _ in range(many):
            client.feed(pub("MAILBOX.short", b"noise"))
        send(client, me, "expired", "short", priority="low")
        client.request("MSG.ACK.short", {"group_name": "g", "msg_ids": [send(client, me, "expired", "short")]})
        client.fetch("short", "g", limit=1)
        client.request("MSG.ACK.short", {"group_name": "g", "msg_ids": [send(client, me, "expired", "short")]})
    last = send(client, me, "expired", "short")
    if how == "dropped":
        client.request(f"MAILBOX.DROP.{owner}")
    else:
        broker.advance(100)
    broker.advance(5)
    expected = [last] if kind == "latest" else [many + 1, many + 2, last]
    assert sorted((r["msg_id"], r["reason"]) for r in receipts(client, me)) == [(i, "mailbox") for i in expected]
    assert not any(key[:1] == b"X" for key in broker.stored())


def test_many_ends_at_once_in_small_steps(
    broker: Broker, client: Client, me: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "STEP", 7)
    client.create(name="short", ttl=100)
    for _ in range(50):
        send(client, me, "expired", "short")
    broker.advance(101)
    assert sorted(receipt["msg_id"] for receipt in receipts(client, me)) == list(range(1, 51))


# ---- dead ----


def test_dead_says_why(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, "dead")
    for _ in range(2):
        client.fetch("box", "g")
        broker.advance(10)
    assert receipts(client, me) == [of("dead", group="g", reason="max_deliver")]
    client.create(name="jobs", ttl=0, ack="explicit", dead_letter="me")
    send(client, me, "dead", "jobs")
    worker = broker.client()
    worker.subscribe("INBOX.jobs", "g")
    worker.send(pub(f"={worker.take('s1')[0].reply}", b"+TERM not mine"))
    assert receipts(client, me)[1] == of("dead", group="g", reason="terminated: not mine") | {"mail_id": "jobs"}
    # the dead letter itself asks for nothing
    client.query("me")
    assert len(receipts(client, me)) == 2


# ---- to whom, and where not ----


def test_only_what_was_asked_for(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, "dead")
    client.fetch("box", "g")
    client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]})
    assert receipts(client, me) == []
    send(client, me, " acked , delivered")
    client.fetch("box", "g")
    client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [2]})
    assert [receipt["event"] for receipt in receipts(client, me)] == ["delivered", "acked"]


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ("read", "header mq9-receipt: unknown event 'read', use delivered, acked, expired, dead"),
        ("acked,", "header mq9-receipt: unknown event '', use delivered, acked, expired, dead"),
        ("", "header mq9-receipt: unknown event '', use delivered, acked, expired, dead"),
        ("Acked", "header mq9-receipt: unknown event 'Acked', use delivered, acked, expired, dead"),
    ],
)
def test_unknown_events(client: Client, me: dict[str, Any], events: str, error: str) -> None:
    headers = {"mq9-from": me["mail_id"], "mq9-receipt": events}
    assert client.request("MAILBOX.box", b"x", headers) == {"error": error}


def test_receipts_need_somebody_to_go_to(client: Client) -> None:
    assert client.request("MAILBOX.box", b"x", {"mq9-receipt": "acked"}) == {
        "error": "header mq9-receipt needs mq9-from, the mail_id or owner address that receipts go to"
    }
    assert client.query("box") == []


def test_a_sender_that_is_gone_or_full_gets_none(broker: Broker, client: Client) -> None:
    small = client.create(ttl=0, max_msgs=1)
    short = client.create(ttl=5)
    for sender in (small, short):
        send(client, sender, "delivered,acked")
    client.put(small["mail_id"], "full")
    broker.advance(6)
    client.fetch("box", "g")
    client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1, 2]})
    assert client.query(small["mail_id"]) == [(1, "full")]


def test_there_is_no_end_of_receipts_of_receipts(broker: Broker, client: Client) -> None:
    """Two mailboxes that write to each other, and one that writes to itself."""
    one, two = client.create(ttl=0), client.create(ttl=0)
    for sender, box in ((one, two), (two, one), (one, one)):
        send(client, sender, ALL, box["mail_id"])
    for _ in range(5):
        for box in (one, two):
            answer = client.fetch(box["mail_id"], "g", limit=1000)
            ids = [number for number, _ in entries(answer)]
            client.fetch(box["mail_id"], "g", ack=ids)
    assert len(client.query(one["mail_id"], limit=1000)) + len(client.query(two["mail_id"], limit=1000)) == 3 + 6


def test_a_receipt_is_as_certain_as_what_it_tells() -> None:
    """Acknowledgement and receipt are one write."""
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0)
    me = client.create(ttl=0)
    send(client, me, "acked")
    client.fetch("box", "g")
    store.failing = "full"
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]})["error"] != ""
    assert receipts(client, me) == []
    store.failing = ""
    broker.advance(2)
    client.fetch("box", "g")
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == {"error": ""}
    assert receipts(client, me) == [of("acked", group="g")]
    assert receipts(broker.restart(store.crash()).client(), me) == [of("acked", group="g")]


def test_reading_goes_on_while_the_store_takes_nothing() -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0)
    me = client.create(ttl=0)
    send(client, me, "delivered")
    store.failing = "full"
    client.request("MAILBOX.box", b"lost")
    assert client.query("box") == [(1, "order")]
    store.failing = ""
    broker.advance(2)
    client.query("box")
    assert [receipt["event"] for receipt in receipts(client, me)] == ["delivered"]


# ---- what it costs the others ----


class Counting(MemoryStore):
    """Counts what is read of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    def get(self, key: bytes) -> bytes | None:
        self.read += key[:1] == b"I" and key[9:10] == b"m"
        return super().get(key)

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        for key, value in super().scan(start, end, ahead):
            self.read += key[:1] == b"I" and key[9:10] == b"m"
            yield key, value


def test_what_expires_without_a_receipt_is_not_read() -> None:
    store = Counting()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0)
    me = client.create(ttl=0)
    for number in range(3000):
        client.feed(pub("MAILBOX.box", str(number), headers={"mq9-ttl": 5, "A": "b"}))
    send(client, me, "expired", ttl=5)
    broker.settle()
    store.read = 0
    broker.advance(10)
    assert store.read == 1
    assert client.request("MAILBOX.QUERY.box")["unread"] == 0
    assert [receipt["msg_id"] for receipt in receipts(client, me)] == [3001]


def test_what_is_acknowledged_without_a_receipt_is_not_read_again() -> None:
    store = Counting()
    broker = Broker(store)
    client = broker.client()
    client.create(name="box", ttl=0)
    for number in range(100):
        client.put("box", str(number))
    ids = [number for number, _ in entries(client.fetch("box", "g"))]
    store.read = 0
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": ids}) == {"error": ""}
    assert store.read == 0


def test_what_is_kept_for_a_receipt_goes_with_it(broker: Broker, client: Client, me: dict[str, Any]) -> None:
    send(client, me, ALL, ttl=50)
    assert any(key[9:10] == b"a" for key in broker.stored() if key[:1] == b"I")
    client.fetch("box", "g")
    client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]})
    assert not any(key[9:10] == b"a" for key in broker.stored() if key[:1] == b"I")
    broker.advance(60)
    assert not any(key[9:10] == b"w" for key in broker.stored() if key[:1] == b"E")


def test_what_gives_way_in_its_senders_own_mailbox_leaves_the_newest_there(broker: Broker) -> None:
    client, other = broker.client(), broker.client()
    latest = client.mailbox(type="latest", subscribe=["news.*"])
    client.put(latest, "one", **{"from": latest, "receipt": "expired"})
    other.send(pub("BROADCAST.news.today", b"two"))
    client.put(latest, "three", **{"from": latest, "receipt": "expired"})
    client.put(latest, "four", delay=5)
    broker.advance(10)
    assert [body for _, body in client.query(latest)] == ["four"]
    assert not other.gone


def test_two_of_the_newest_only_whose_senders_each_are_the_other_tell_each_other_once(broker: Broker) -> None:
    client = broker.client()
    one, two = client.mailbox(type="latest"), client.mailbox(type="latest")
    client.put(one, "a", **{"from": two, "receipt": "expired"})
    client.put(two, "b", **{"from": one, "receipt": "expired"})
    client.put(one, "c")
    assert [client.request(f"MAILBOX.QUERY.{box}")["unread"] for box in (one, two)] == [1, 1]
    assert not client.gone


def test_a_receipt_for_an_older_one_of_the_same_key_comes_behind_the_newer(broker: Broker) -> None:
    client = broker.client()
    box = client.mailbox()
    state = {"from": box, "receipt": "expired", "key": "state", "priority": "low"}
    client.put(box, "one", **state)
    client.put(box, "two", **state)
    (first, body), (second, receipt) = client.query(box)
    assert (first, body, second) == (2, "two", 3)
    assert json.loads(receipt)["msg_id"] == 1


def test_who_sends_to_the_first_of_many_that_follow_from_one_another_waits_for_a_hundred() -> None:
    broker = Broker()
    client, other = broker.client(), broker.client()
    row = [client.mailbox(type="latest") for _ in range(300)]
    for box, sender in pairwise(row):
        client.put(box, "old", **{"from": sender, "receipt": "expired"})
    other.put(row[0], "new")
    assert [client.query(box)[0][1][:7] for box in (row[0], row[1], row[100])] == ["new", '{"event', '{"event']
    assert client.query(row[101])[0][1] == "old"
    # and the next chain is told again
    other.put(row[101], "new")
    assert client.query(row[102])[0][1] != "old"
    assert not other.gone
