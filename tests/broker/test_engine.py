"""Mailboxes and messages, and everything about time: the clock moves when a test says so, and values are exact."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from broker.inprocess import AI, NOBODY, Answer, Broker, Client, FaultyStore, by_name, entries, fetching, pub
from mq9_broker import board, mailboxes, sweep
from mq9_broker.clock import ManualClock
from mq9_broker.model import Limits
from mq9_broker.store.memory import MemoryStore

START = 1_800_000_000  # the manual clock's first second
DAY = 86_400


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    return broker.client()


def missing(address: str) -> dict[str, str]:
    return {"error": f"mailbox {address} does not exist"}


def leave(broker: Broker) -> dict[bytes, bytes]:
    """What the stores hold when all that is due has happened."""
    broker.advance(5)
    return broker.stored()


# ---- mailboxes end ----


def test_a_mailbox_lives_its_ttl_and_no_longer(broker: Broker, client: Client) -> None:
    created = client.create(ttl=10)
    address = created["mail_id"]
    assert (created["ttl"], created["expires_at"]) == (10, START + 10)
    client.put(address, "x")
    broker.clock.advance(9.999)
    assert client.query(address) == [(1, "x")]
    broker.clock.advance(0.001)
    for request in (
        f"MAILBOX.{address}",
        f"MAILBOX.QUERY.{address}",
        f"MSG.FETCH.{address}",
        f"MAILBOX.RENEW.{address}",
        f"MAILBOX.DROP.{address}",
        f"MAILBOX.DELETE.{address}.1",
        f"MSG.SEND.{created['send_only']}",
    ):
        shown = created["send_only"] if "s-" in request else address
        assert client.request(request) == missing(shown), request
    assert client.request(f"MSG.ACK.{address}", {"group_name": "g", "msg_id": 1}) == missing(address)
    client.subscribe(f"INBOX.{address}")
    assert client.errors() == [f'Permissions Violation for Subscription to "{AI}INBOX.{address}"']
    assert leave(broker) == {}


def test_the_default_is_a_day_and_0_is_for_ever(broker: Broker, client: Client) -> None:
    assert client.create()["expires_at"] == START + DAY
    lasting = client.create(ttl=0)
    assert (lasting["ttl"], lasting["expires_at"]) == (0, None)
    broker.clock.advance(100 * 365 * DAY)
    assert client.put(lasting["mail_id"], "x") == 1


def test_the_operators_maximum(broker: Broker) -> None:
    client = Broker(limits=Limits(max_ttl=100)).client()
    assert client.create()["ttl"] == 100
    assert client.create(ttl=0)["ttl"] == 100
    assert client.create(ttl=99)["ttl"] == 99
    above = client.request("MAILBOX.CREATE", {"ttl": 101})
    assert above == {"error": "ttl 101 is above this broker's maximum of 100 seconds"}


@pytest.mark.parametrize(
    ("original", "after", "asked", "expires"),
    [
        (100, 30, None, 130),  # the usual sign of life
        (100, 30, 100, 130),
        (100, 30, 40, 100),  # never shorter
        (100, 30, 90, 120),
        (100, 30, 1000, 130),  # never more than the original from now
        (100, 30, 0, 130),
        (100, 0, None, 100),
        (0, 30, None, None),
        (0, 30, 5, None),
        (0, 30, 0, None),
    ],
)
def test_creating_again_prolongs(
    broker: Broker, client: Client, original: int, after: int, asked: int | None, expires: int | None
) -> None:
    first = client.create(name="worker", ttl=original, desc="mine", ack_wait=5)
    assert first["is_new"] is True
    broker.advance(after)
    again = client.request("MAILBOX.CREATE", {"name": "worker", "ttl": asked, "desc": "other", "ack_wait": 9})
    assert again == {
        "error": "",
        "mail_id": "worker",
        "is_new": False,
        "inbox": f"{AI}INBOX.worker",
        "send_only": first["send_only"],
        "ttl": original,
        "expires_at": expires if expires is None else START + expires,
    }
    mailbox = broker.find("worker")
    assert mailbox is not None
    assert (mailbox.settings.desc, mailbox.settings.ack_wait) == ("mine", 5)
    if expires is not None:
        broker.clock.advance(expires - after - 0.001)
        assert client.put("worker", "x") == 1
        broker.clock.advance(0.001)
        assert client.request("MAILBOX.worker", b"x") == missing("worker")


def test_a_renewal_that_ended_earlier_is_prolonged_to_its_ttl(broker: Broker, client: Client) -> None:
    """RENEW sets any end; creating again moves it to the later one, the original ttl at most."""
    owner = client.create(name="worker", ttl=100)["owner"]
    assert client.request(f"MAILBOX.RENEW.{owner}", {"ttl": 10}) == {"error": "", "ttl": 10, "expires_at": START + 10}
    assert client.request("MAILBOX.CREATE", {"name": "worker"})["expires_at"] == START + 100
    client.request(f"MAILBOX.RENEW.{owner}", {"ttl": 1000})
    assert client.request("MAILBOX.CREATE", {"name": "worker"})["expires_at"] == START + 1000


def test_renew_counts_from_now(broker: Broker, client: Client) -> None:
    address = client.mailbox(ttl=100)
    broker.advance(50)
    assert client.request(f"MAILBOX.RENEW.{address}") == {"error": "", "ttl": 100, "expires_at": START + 150}
    assert client.request(f"MAILBOX.RENEW.{address}", {"ttl": 5}) == {"error": "", "ttl": 5, "expires_at": START + 55}
    assert client.request(f"MAILBOX.RENEW.{address}", {"ttl": 0}) == {"error": "", "ttl": 0, "expires_at": None}
    broker.clock.advance(1000 * DAY)
    assert client.put(address, "x") == 1
    client.request(f"MAILBOX.RENEW.{address}", {"ttl": 1})
    broker.advance(1)
    assert client.request(f"MAILBOX.{address}", b"x") == missing(address)
    assert leave(broker) == {}


def test_the_end_is_told_to_everybody_who_listens(broker: Broker, client: Client) -> None:
    client.create(name="box", ttl=10)
    client.put("box", "x")
    plain, simple, member = broker.client(), broker.client(headers=False, no_responders=False), broker.client()
    sid = plain.subscribe("MAILBOX.box.>")
    simple.subscribe("INBOX.box")
    member.subscribe("INBOX.box", "workers")
    waiting = client.ask("MSG.FETCH.box", fetching(wait=60_000, deliver="latest"))
    in_group = client.ask("MSG.FETCH.box", fetching("g", wait=60_000, deliver="latest"))
    broker.settle()
    assert plain.bodies() == ["x"]
    broker.advance(9.999)
    assert plain.take() == []
    broker.advance(0.001)
    (last,) = plain.take()
    assert (last.subject, last.sid, last.status, last.payload) == (f"{AI}MAILBOX.box", sid, "410 Mailbox Expired", b"")
    assert simple.bodies() == ["x"]
    assert [frame.status for frame in member.take()] == ["", "410 Mailbox Expired"]
    assert waiting.now == missing("box")
    assert in_group.now == missing("box")
    assert not plain.session.subscriptions.keys() & {sid.encode()}
    assert all(not other.session.behind for other in (plain, simple, member))
    client.create(name="box")
    client.put("box", "y")
    assert plain.take() == simple.take() == member.take() == []
    assert plain.send(f"UNSUB {sid}\r\nPING\r\n")[0].verb == "PONG"


def test_a_drop_is_an_end_too(broker: Broker, client: Client) -> None:
    address = client.mailbox()
    sid = client.subscribe(f"INBOX.{address}")
    assert client.request(f"MAILBOX.DROP.{address}") == {"error": ""}
    assert [frame.status for frame in client.take(sid)] == ["410 Mailbox Expired"]
    assert client.request(f"MAILBOX.{address}", b"x") == missing(address)
    assert client.request(f"MAILBOX.DROP.{address}") == missing(address)
    assert leave(broker) == {}


def test_a_name_that_is_created_again_begins_a_new_life(broker: Broker, client: Client) -> None:
    """The old one's end comes first; its messages, ids, groups, duplicates and delayed mail never come back."""
    old = client.create(name="phoenix", public=True, ttl=60, desc="old")
    client.put("phoenix", "old", id="same")
    client.put("phoenix", "late", delay=90)
    client.fetch("phoenix", "g", ack=[])
    watcher, directory = broker.client(), broker.client()
    sid = watcher.subscribe("INBOX.phoenix")
    list_sid = directory.subscribe("PUBLIC.LIST")
    assert watcher.bodies(sid) == ["old"]
    broker.clock.advance(60)
    new = client.create(name="phoenix", public=True, desc="new")
    assert new["is_new"] is True
    assert new["owner"] != old["owner"]
    assert [frame.status for frame in watcher.take(sid)] == ["410 Mailbox Expired"]
    changes = [frame.json for frame in directory.take(list_sid)]
    assert [(change["event"], change["desc"]) for change in changes] == [
        ("created", "old"),
        ("expired", "old"),
        ("created", "new"),
    ]
    assert client.query("phoenix") == []
    assert client.request(f"MAILBOX.QUERY.{old['owner']}") == missing(old["owner"])
    assert client.request(f"MAILBOX.{old['send_only']}", b"x") == missing(old["send_only"])
    assert client.put("phoenix", "new", id="same") == 1
    assert entries(client.fetch("phoenix", "g")) == [(1, "new")]
    broker.advance(120)
    assert client.query("phoenix") == [(1, "new")]
    client.request(f"MAILBOX.DROP.{new['owner']}")
    broker.advance(DAY)
    assert broker.stored() == {}


def test_nothing_comes_back_after_a_restart(broker: Broker, client: Client) -> None:
    client.create(name="short", ttl=10)
    client.put("short", "x")
    broker.clock.advance(11)  # this broker does not live to see it
    after = broker.restart()
    assert after.client().request("MAILBOX.QUERY.short") == missing("short")
    assert leave(after) == {}


def test_what_is_kept_in_memory_is_gone_with_the_broker(broker: Broker, client: Client) -> None:
    client.create(name="signal", public=True, storage="memory")
    client.create(name="mail", public=True)
    client.put("signal", "x")
    client.put("mail", "x")
    after = broker.restart().client()
    assert after.request("MAILBOX.QUERY.signal") == missing("signal")
    assert after.query("mail") == [(1, "x")]
    assert [entry["mail_id"] for entry in after.request("PUBLIC.LIST")["mailboxes"]] == ["mail"]


# ---- messages end ----


def test_a_message_lives_its_ttl_and_no_longer(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "short", ttl=10)
    client.put("box", "long")
    broker.clock.advance(9.999)
    assert client.query("box") == [(1, "short"), (2, "long")]
    broker.clock.advance(0.001)
    assert client.query("box") == [(2, "long")]
    assert client.request("MAILBOX.QUERY.box")["unread"] == 1
    assert entries(client.fetch("box")) == [(2, "long")]
    assert entries(client.fetch("box", "g")) == [(2, "long")]
    sid = client.subscribe("INBOX.box")
    assert client.bodies(sid) == ["long"]


def test_what_expired_is_invisible_before_it_is_swept(broker: Broker, client: Client) -> None:
    """More expires at one moment than one step takes away: readers see none of it, and counts are exact."""
    client.create(name="box")
    for word in ("critical", "normal"):
        client.send(*(pub(f"MAILBOX.box.{word}", b"x", headers={"mq9-ttl": 10}) for _ in range(1000)))
    client.put("box", "stays")
    client.fetch("box", "g", limit=3)
    broker.clock.advance(10)
    client.feed(b"PING\r\n")  # an event: the first step is taken
    answers = [
        client.ask("MAILBOX.QUERY.box", {"group_name": "g"}),
        client.ask("MAILBOX.QUERY.box", {"group_name": "other"}),
        client.ask("MSG.FETCH.box", fetching()),
        client.ask("MSG.FETCH.box", fetching("g")),
        client.ask("MSG.FETCH.box", fetching("new")),
    ]
    broker.loop.turn()
    assert len(broker.stored()) > 1500
    found = [answer.now for answer in answers]
    for answer in found:
        assert answer is not None
        assert entries(answer) == [(2001, "stays")]
    assert [answer["unread"] for answer in found[:2] if answer] == [1, 1]
    waiting = {"critical": 0, "urgent": 0, "normal": 1, "low": 0}
    assert [answer["waiting"] for answer in found[:2] if answer] == [waiting, waiting]


def test_what_ends_is_gone_before_it_is_swept(broker: Broker, client: Client) -> None:
    """The same for mailboxes and for what is remembered of repeats, at the very millisecond."""
    client.create(name="box", ttl=0)
    client.send(*(pub("MAILBOX.CREATE", {"name": f"n{number}", "ttl": 120}) for number in range(1000)))
    client.send(*(pub("MAILBOX.box", b"x", headers={"Nats-Msg-Id": number}) for number in range(1000)))
    broker.clock.advance(120)
    answers = [
        client.ask("MAILBOX.n999", b"x"),
        client.ask("MAILBOX.CREATE", {"name": "n998"}),
        client.ask("PUBLIC.LIST", {"prefix": "n"}),
        *(client.ask("MAILBOX.box", b"x", {"Nats-Msg-Id": number}) for number in range(50)),
        *(client.ask("MAILBOX.box", b"x", {"Nats-Msg-Id": number}) for number in range(50)),
    ]
    broker.loop.turn()
    assert len(broker.stored()) > 2000
    found = [answer.now or {} for answer in answers]
    assert found[0] == missing("n999")
    assert found[1]["is_new"] is True
    assert found[2]["mailboxes"] == []
    assert found[3:53] == [{"error": "", "msg_id": 1001 + number} for number in range(50)]
    assert found[53:] == [{"error": "", "msg_id": 1001 + number, "duplicate": True} for number in range(50)]
    broker.advance(119)
    for number in range(50):
        assert client.request("MAILBOX.box", b"x", {"Nats-Msg-Id": number})["duplicate"] is True


def test_the_expiry_is_told_in_milliseconds(broker: Broker, client: Client) -> None:
    client.create(name="box")
    sid = client.subscribe("INBOX.box")
    broker.clock.advance(0.25)
    client.put("box", "x", ttl=10)
    (frame,) = client.take(sid)
    assert frame.headers["mq9-time"] == str(START * 1000 + 250)
    assert frame.headers["mq9-expires"] == str(START * 1000 + 10_250)


def test_a_ttl_of_0_is_none(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "x", ttl=0)
    broker.advance(80_000)
    assert client.query("box") == [(1, "x")]


def test_an_id_is_never_used_again(broker: Broker, client: Client) -> None:
    address = client.mailbox()
    client.put(address, "x", ttl=1)
    broker.advance(2)
    client.put(address, "y")
    assert client.request(f"MAILBOX.DELETE.{address}.2") == {"error": "", "deleted": True}
    assert client.put(address, "z") == 3
    assert broker.restart().client().request(f"MAILBOX.{address}", b"w")["msg_id"] == 4


def test_the_newest_alone_is_kept_in_a_latest_mailbox(broker: Broker, client: Client) -> None:
    address = client.mailbox(type="latest")
    client.put(address, "1", priority="critical")
    client.put(address, "2", priority="low", ttl=10)
    assert client.query(address) == [(2, "2")]
    assert client.request(f"MAILBOX.QUERY.{address}")["unread"] == 1
    assert client.request(f"MAILBOX.DELETE.{address}.1") == {
        "error": f"message 1 does not exist in mailbox {address}",
    }
    broker.advance(10)
    assert client.query(address) == []
    assert client.request(f"MAILBOX.QUERY.{address}")["unread"] == 0
    client.put(address, "3")
    assert client.query(address) == [(3, "3")]
    assert entries(client.fetch(address, "g")) == [(3, "3")]
    sid = client.subscribe(f"INBOX.{address}")
    assert client.bodies(sid) == ["3"]


def test_what_the_newest_replaced_leaves_nothing_behind(broker: Broker, client: Client) -> None:
    """Not even an appointment for the end of its ttl."""
    address = client.mailbox(type="latest")
    client.put(address, "x", ttl=DAY)
    before = len(broker.stored())
    for _ in range(50):
        client.put(address, "x", ttl=DAY)
    assert len(broker.stored()) == before


# ---- delayed messages ----


def test_a_delayed_message_comes_when_it_is_due(broker: Broker, client: Client) -> None:
    """Its id is given then; its time is that of the send."""
    client.create(name="box")
    sid = client.subscribe("INBOX.box")
    assert client.put("box", "late", delay=10) == -1
    assert client.put("box", "now") == 1
    assert client.bodies(sid) == ["now"]
    broker.advance(9.999)
    assert client.query("box") == [(1, "now")]
    broker.advance(0.001)
    (frame,) = client.take(sid)
    assert (frame.body, frame.headers["mq9-msg-id"], frame.headers["mq9-time"]) == ("late", "2", str(START * 1000))
    found = client.request("MAILBOX.QUERY.box")["messages"]
    assert [(message["msg_id"], message["create_time"]) for message in found] == [(1, START), (2, START)]


def test_delayed_messages_come_in_the_order_of_their_times(broker: Broker, client: Client) -> None:
    client.create(name="box")
    for delay in (30, 10, 20, 10):
        client.put("box", f"{delay}", delay=delay)
    broker.clock.advance(60)
    assert client.query("box") == [(1, "10"), (2, "10"), (3, "20"), (4, "30")]


def test_a_delayed_messages_ttl_counts_from_the_send(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "x", delay=10, ttl=15)
    client.put("box", "never", delay=10, ttl=10)
    broker.advance(10)
    assert client.query("box") == [(1, "x")]
    broker.advance(4.999)
    assert client.query("box") == [(1, "x")]
    broker.advance(0.001)
    assert client.query("box") == []
    assert client.put("box", "next") == 2


def test_a_delayed_message_keeps_its_priority_and_headers(broker: Broker, client: Client) -> None:
    client.create(name="box")
    sid = client.subscribe("INBOX.box")
    client.request("MAILBOX.box.urgent", b"x", {"mq9-delay": 5, "Mine": "yes", "mq9-hops": 3})
    broker.advance(5)
    (frame,) = client.take(sid)
    assert frame.subject == f"{AI}INBOX.box.urgent"
    assert (frame.headers["Mine"], frame.headers["mq9-hops"], "mq9-delay" in frame.headers) == ("yes", "3", False)


def test_a_delay_survives_a_restart(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "late", delay=10)
    broker.clock.advance(5)
    after = broker.restart()
    reader = after.client()
    assert reader.query("box") == []
    after.advance(5)
    assert reader.query("box") == [(1, "late")]


def test_a_delayed_message_wakes_a_long_poll(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "late", delay=10)
    waiting = client.ask("MSG.FETCH.box", fetching(wait=60_000))
    broker.advance(9.999)
    assert waiting.now is None
    broker.advance(0.001)
    assert waiting.now is not None
    assert entries(waiting.now) == [(1, "late")]


# ---- duplicates ----


def test_a_repeat_within_two_minutes_stores_nothing(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.create(name="other")

    def send(address: str = "box", key: str = "a") -> dict[str, Any]:
        return client.request(f"MAILBOX.{address}", b"x", {"Nats-Msg-Id": key})

    assert send() == {"error": "", "msg_id": 1}
    assert send() == {"error": "", "msg_id": 1, "duplicate": True}
    assert send(key="b") == {"error": "", "msg_id": 2}
    assert send("other") == {"error": "", "msg_id": 1}
    broker.advance(119.999)
    assert send() == {"error": "", "msg_id": 1, "duplicate": True}
    broker.advance(0.001)
    assert send() == {"error": "", "msg_id": 3}
    assert send() == {"error": "", "msg_id": 3, "duplicate": True}


def test_a_repeat_is_known_after_a_restart_and_after_the_first_is_gone(broker: Broker, client: Client) -> None:
    address = client.mailbox()
    client.put(address, "x", id="a")
    client.request(f"MAILBOX.DELETE.{address}.1")
    client.put(address, "y", id="b", ttl=1)
    broker.advance(60)
    after = broker.restart().client()
    for key, msg_id in (("a", 1), ("b", 2)):
        repeat = after.request(f"MAILBOX.{address}", b"x", {"Nats-Msg-Id": key})
        assert repeat == {"error": "", "msg_id": msg_id, "duplicate": True}
    assert after.query(address) == []


def test_a_repeat_in_the_same_turn(broker: Broker, client: Client) -> None:
    client.create(name="box")
    answers = [client.ask("MAILBOX.box", b"x", {"Nats-Msg-Id": "a"}) for _ in range(3)]
    broker.settle()
    assert [answer.now for answer in answers] == [
        {"error": "", "msg_id": 1},
        {"error": "", "msg_id": 1, "duplicate": True},
        {"error": "", "msg_id": 1, "duplicate": True},
    ]


def test_a_delayed_message_is_not_repeated_either(broker: Broker, client: Client) -> None:
    client.create(name="box")
    headers = {"Nats-Msg-Id": "a", "mq9-delay": 10}
    assert client.request("MAILBOX.box", b"x", headers) == {"error": "", "msg_id": -1}
    assert client.request("MAILBOX.box", b"x", headers) == {"error": "", "msg_id": -1, "duplicate": True}
    broker.advance(20)
    assert client.query("box") == [(1, "x")]


def test_what_is_remembered_of_repeats_goes_after_two_minutes(broker: Broker, client: Client) -> None:
    address = client.mailbox(ttl=0)
    client.put(address, "x")
    before = set(broker.stored())
    for number in range(20):
        client.put(address, "x", id=number, ttl=1)
    broker.advance(121)
    assert set(broker.stored()) == before


# ---- long polls ----


def test_a_long_poll_is_answered_when_its_time_is_over(broker: Broker, client: Client) -> None:
    client.create(name="box")
    waiting = client.ask("MSG.FETCH.box", fetching(wait=5000))
    default = client.ask("MSG.FETCH.box")
    at_once = client.ask("MSG.FETCH.box", fetching(wait=0))
    broker.settle()
    assert at_once.now == {"error": "", "messages": [], "more": False}
    broker.advance(0.499)
    assert default.now is None
    broker.advance(0.001)
    assert default.now == {"error": "", "messages": [], "more": False}
    broker.advance(4.499)
    assert waiting.now is None
    broker.advance(0.001)
    assert waiting.now == {"error": "", "messages": [], "more": False}
    assert client.request("MSG.FETCH.box", fetching(wait=300_001)) == {
        "error": "max_wait_ms must be from 0 to 300000, not 300001"
    }


def test_a_message_wakes_all_long_polls_without_a_group_at_once(broker: Broker, client: Client) -> None:
    client.create(name="box")
    readers = [broker.client() for _ in range(3)]
    waiting = [reader.ask("MSG.FETCH.box", fetching(wait=60_000)) for reader in readers]
    broker.advance(30)
    client.put("box", "x")
    for answer in waiting:
        assert answer.now is not None
        assert entries(answer.now) == [(1, "x")]
    broker.advance(60)
    assert [answer.now is not None for answer in waiting] == [True] * 3


def test_a_long_poll_waits_for_what_it_asked_for(broker: Broker, client: Client) -> None:
    client.create(name="box")
    client.put("box", "old")
    later = client.ask("MSG.FETCH.box", fetching(wait=60_000, deliver="latest"))
    from_three = client.ask("MSG.FETCH.box", fetching(wait=60_000, deliver="from_id", from_id=3))
    client.put("box", "two")
    assert later.now is not None
    assert entries(later.now) == [(2, "two")]
    assert from_three.now is None
    client.put("box", "three")
    assert from_three.now is not None
    assert entries(from_three.now) == [(3, "three")]


def test_what_expires_before_it_is_seen_wakes_nobody(broker: Broker, client: Client) -> None:
    address = client.mailbox()
    waiting = client.ask(f"MSG.FETCH.{address}", fetching(wait=5000))
    client.feed(pub(f"MAILBOX.{address}", b"x") + pub(f"MAILBOX.DELETE.{address}.1"))
    broker.settle()
    assert waiting.now is None
    broker.advance(5)
    assert waiting.now == {"error": "", "messages": [], "more": False}


def test_a_long_poll_of_a_client_that_left_keeps_nothing(broker: Broker, client: Client) -> None:
    client.create(name="box")
    other = broker.client()
    other.feed(pub("MSG.FETCH.box", fetching("g", wait=60_000), reply="_INBOX.c2.x"))
    broker.settle()
    other.hang_up()
    mailbox = broker.find("box")
    assert mailbox is not None
    assert not mailbox.waiters
    client.put("box", "x")
    assert entries(client.fetch("box", "g")) == [(1, "x")]


# ---- the directory ----


def test_changes_of_the_directory(broker: Broker, client: Client) -> None:
    owner = client.create(name="b", public=True, desc="Bé", ttl=100)["owner"]
    client.create(name="hidden", ttl=100)
    client.mailbox()
    sid = client.subscribe("PUBLIC.LIST")
    assert [frame.json for frame in client.take(sid)] == [
        {"event": "created", "mail_id": "b", "desc": "Bé", "ttl": 100, "expires_at": START + 100}
    ]
    client.create(name="a", public=True, ttl=0)
    broker.advance(50)
    client.request(f"MAILBOX.RENEW.{owner}", {"ttl": 60})
    broker.advance(60)
    client.create(name="c", public=True)
    client.request(f"MAILBOX.DROP.{client.create(name='d', public=True)['owner']}")
    changes = [frame.json for frame in client.take(sid)]
    assert [(change["event"], change["mail_id"], change["expires_at"]) for change in changes] == [
        ("created", "a", None),
        ("renewed", "b", START + 110),
        ("expired", "b", START + 110),
        ("created", "c", START + 110 + DAY),
        ("created", "d", START + 110 + DAY),
        ("dropped", "d", START + 110 + DAY),
    ]


def test_renewals_are_told_once_per_tenth_of_the_ttl(broker: Broker, client: Client) -> None:
    client.create(name="worker", public=True, ttl=100)
    sid = client.subscribe("PUBLIC.LIST")
    client.take(sid)
    told = []
    for second in range(1, 41):
        broker.advance(1)
        client.create(name="worker")
        told += [(second, frame.json["event"], frame.json["expires_at"]) for frame in client.take(sid)]
    assert told == [(second, "renewed", START + second + 100) for second in (10, 20, 30, 40)]
    mailbox = broker.find("worker")
    assert mailbox is not None
    assert mailbox.expires == (START + 140) * 1000


def test_the_directory_in_pages(broker: Broker, client: Client) -> None:
    names = sorted(f"p{number}" for number in range(25))
    for name in reversed(names):
        client.create(name=name, public=True, storage="memory" if name.endswith("3") else "disk")
    client.create(name="q", public=True)
    found: list[str] = []
    after = None
    while True:
        answer = client.request("PUBLIC.LIST", {"prefix": "p", "limit": 10, "after": after})
        found += [entry["mail_id"] for entry in answer["mailboxes"]]
        after = answer.get("next")
        if after is None:
            break
        assert len(answer["mailboxes"]) == 10
    assert found == names


# ---- the capability board ----

BOARD = "BROADCAST.system.capability"


def declare(client: Client, sender: str, what: str = "x") -> None:
    client.feed(pub(BOARD, {"from": sender, "what": what}))
    client.broker.settle()


def remembered(broker: Broker) -> list[tuple[str, str]]:
    reader = broker.client()
    sid = reader.subscribe(BOARD)
    found = [frame.json for frame in reader.take(sid)]
    reader.hang_up()
    return sorted((each["from"], each["what"]) for each in found)


def test_a_declaration_without_a_mailbox_is_remembered_for_an_hour(broker: Broker, client: Client) -> None:
    declare(client, "nobody", "1")
    broker.advance(1800)
    declare(client, "nobody", "2")
    declare(client, "somebody", "1")
    broker.advance(1800)
    assert remembered(broker) == [("nobody", "2"), ("somebody", "1")]
    broker.advance(1799.999)
    assert len(remembered(broker)) == 2
    broker.advance(0.001)
    assert remembered(broker) == []
    assert broker.stored() == {}


def test_a_declaration_lives_as_long_as_its_mailbox(broker: Broker, client: Client) -> None:
    owner = client.create(name="worker", ttl=0)["owner"]
    private = client.create(ttl=100)
    declare(client, "worker")
    declare(client, private["send_only"])
    broker.advance(99.999)
    assert remembered(broker) == [(private["send_only"], "x"), ("worker", "x")]
    broker.advance(0.001)
    assert remembered(broker) == [("worker", "x")]
    broker.advance(7200)
    assert remembered(broker) == [("worker", "x")]
    assert remembered(broker.restart()) == [("worker", "x")]
    client.request(f"MAILBOX.DROP.{owner}")
    assert remembered(broker) == []


def test_a_declaration_does_not_come_back_with_the_name(broker: Broker, client: Client) -> None:
    owner = client.create(name="worker")["owner"]
    declare(client, "worker", "old")
    client.request(f"MAILBOX.DROP.{owner}")
    client.create(name="worker")
    assert remembered(broker) == []
    declare(client, "worker", "new")
    assert remembered(broker) == [("worker", "new")]


def test_a_declaration_that_got_a_mailbox_later_stays_after_the_hour(broker: Broker, client: Client) -> None:
    declare(client, "worker", "1")
    client.create(name="worker", ttl=0)
    broker.advance(10)
    declare(client, "worker", "2")
    broker.advance(3600)
    assert remembered(broker) == [("worker", "2")]


def test_a_new_subscriber_gets_what_is_remembered_and_then_live_ones_once(broker: Broker, client: Client) -> None:
    declare(client, "a", "1")
    readers = [broker.client() for _ in range(3)]
    for reader, subject in zip(readers, (BOARD, "BROADCAST.system.*", "BROADCAST.>"), strict=True):
        reader.subscribe(subject)
    queue, other = broker.client(), broker.client()
    queue.subscribe(BOARD, "q")
    other.subscribe("BROADCAST.pipeline.>")
    declare(client, "b", "1")
    declare(client, "a", "2")
    for reader in readers:
        seen = [(frame.json["from"], frame.json["what"]) for frame in reader.take()]
        assert seen == [("a", "1"), ("b", "1"), ("a", "2")]
    assert len(queue.take()) == 2
    assert other.take() == []


def test_a_declaration_in_the_turn_of_the_subscription_comes_once(broker: Broker, client: Client) -> None:
    declare(client, "a", "1")
    declare(client, "b", "1")
    reader = broker.client()
    reader.feed(f"SUB {AI}{BOARD} 7\r\n".encode())
    client.feed(pub(BOARD, {"from": "a", "what": "2"}))
    broker.settle()
    assert [(frame.json["from"], frame.json["what"]) for frame in reader.take()] == [("a", "2"), ("b", "1")]


def test_the_board_is_bounded(broker: Broker, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_SENDERS", 5)
    for number in range(8):
        declare(client, f"s{number}")
    declare(client, "s4", "again")
    declare(client, "s8")
    assert remembered(broker) == [("s4", "again"), ("s5", "x"), ("s6", "x"), ("s7", "x"), ("s8", "x")]
    after = broker.restart()
    declare(after.client(), "s9")
    assert [name for name, _ in remembered(after)] == ["s4", "s6", "s7", "s8", "s9"]


def test_what_is_no_declaration_is_a_broadcast_and_no_more(broker: Broker, client: Client) -> None:
    reader = broker.client()
    reader.subscribe(BOARD)
    payloads = [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"from":5}',
        b'{"from":""}',
        b'{"from":"\\ud800"}',
        b"[" * 100_000,
        b"\xff",
        json.dumps({"from": "big", "x": "x" * 65_536}).encode(),
    ]
    for payload in payloads:
        client.send(pub(BOARD, payload))
    assert [frame.payload for frame in reader.take()] == payloads
    assert remembered(broker) == []
    assert not client.gone


def test_a_secret_in_a_declaration_is_not_a_key(broker: Broker, client: Client) -> None:
    created = client.create()
    declare(client, created["mail_id"])
    assert not any(created["mail_id"].encode() in key for key in broker.stored())
    declare(client, created["send_only"], "the same sender")
    assert remembered(broker) == [(created["send_only"], "the same sender")]


# ---- the sweep ----


def test_the_sweep_takes_small_steps() -> None:
    """Thousands of ends at one moment: every turn writes little, and whoever asks meanwhile is answered at once."""
    store = Recording()
    broker = Broker(store, MemoryStore())
    client = broker.client()
    client.send(*(pub("MAILBOX.CREATE", {"ttl": 10, "name": f"n{number}", "public": True}) for number in range(1500)))
    client.send(*(pub(f"MAILBOX.n{number}", b"x") for number in range(1500)))
    store.sizes.clear()
    broker.clock.advance(10)
    client.take()
    turns = 0
    client.feed(b"PING\r\n")
    while not broker.loop.resting:
        broker.loop.turn()
        turns += 1
        assert [frame.verb for frame in client.take()] == ["PONG"]
        client.feed(b"PING\r\n")
        if turns > 100:
            break
        if broker.stored() == {}:
            break
    assert broker.stored() == {}
    # a step settles 256 entries; an end writes about eight records
    assert max(store.sizes) <= 2 * sweep.STEP * 9
    assert turns >= 1500 // (2 * sweep.STEP)


class Recording(MemoryStore):
    """Notes how large each batch was."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def commit(self, batch: Any) -> None:
        self.sizes.append(len(batch.writes))
        super().commit(batch)


def fill(broker: Broker, client: Client, **settings: object) -> str:
    """A mailbox with a bit of everything; its secret address."""
    created = client.create(**settings)
    address = created["mail_id"]
    for word in ("critical", "high", "normal", "low"):
        client.request(f"MAILBOX.{address}.{word}", b"x")
        client.request(f"MAILBOX.{address}.{word}", b"x", {"mq9-ttl": 30})
    client.put(address, "x", id="a")
    client.put(address, "x", delay=40)
    client.put(address, "x", delay=50, ttl=60)
    for group in ("g1", "g2"):
        client.fetch(address, group, limit=3)
        client.request(f"MSG.ACK.{address}", {"group_name": group, "msg_ids": [1, 5]})
    secret = created.get("owner", address)
    assert isinstance(secret, str)
    client.request(f"MAILBOX.DELETE.{secret}.3")
    return secret


@pytest.mark.parametrize(
    "settings",
    [{}, {"name": "a"}, {"name": "a", "public": True}, {"storage": "memory"}, {"type": "latest"}],
    ids=["private", "named", "public", "memory", "latest"],
)
@pytest.mark.parametrize("end", ["dropped", "expired"])
def test_an_end_leaves_no_record_behind(broker: Broker, client: Client, settings: dict[str, object], end: str) -> None:
    secret = fill(broker, client, ttl=200, **settings)
    assert broker.stored()
    if end == "dropped":
        client.request(f"MAILBOX.DROP.{secret}")
        broker.advance(3)
        # appointments for what is gone stay until their time, and nothing else
        assert {key[:1] for key in broker.stored()} <= {b"E"}
    broker.advance(200)
    broker.advance(DAY)  # (each group is looked at once a day)
    assert broker.stored() == {}
    assert broker.disk.get(b"!incarnation") == (1).to_bytes(8, "big")


@pytest.mark.parametrize("number", [10, 999, 1500, 5000])
def test_a_large_mailbox_goes_in_small_steps_soon_after_its_end(number: int) -> None:
    store = Recording()
    broker = Broker(store, MemoryStore())
    client = broker.client()
    address = client.mailbox(ttl=0)
    client.send(pub(f"MAILBOX.{address}", b"x") * number)
    client.send(*(pub(f"MAILBOX.{address}", b"x", headers={"mq9-delay": 90_000}) for _ in range(500)))
    store.sizes.clear()
    client.request(f"MAILBOX.DROP.{address}")
    broker.advance(2)
    assert {key[:1] for key in broker.stored()} <= {b"E"}
    assert max(store.sizes) <= 3 * sweep.STEP


def test_ends_in_any_order_are_all_cleaned_up(broker: Broker, client: Client) -> None:
    """The older after the newer too, with time between them."""
    addresses = [client.mailbox(ttl=0) for _ in range(6)]
    for address in addresses:
        client.put(address, "x")
    for index in (3, 1, 5, 0, 4, 2):
        client.request(f"MAILBOX.DROP.{addresses[index]}")
        broker.advance(2)
    assert broker.stored() == {}


def test_an_older_end_while_a_newer_one_is_half_cleaned_up(broker: Broker, client: Client) -> None:
    older, newer = client.mailbox(ttl=0), client.mailbox(ttl=0)
    for address in (older, newer):
        client.send(pub(f"MAILBOX.{address}", b"x") * 900)
    client.feed(pub(f"MAILBOX.DROP.{newer}"))
    broker.loop.turn()
    assert 900 < len(broker.stored()) < 1800
    client.feed(pub(f"MAILBOX.DROP.{older}"))
    broker.settle()
    assert broker.stored() == {}


def test_what_an_earlier_process_left_is_cleaned_up(broker: Broker, client: Client) -> None:
    addresses = [client.mailbox(ttl=0) for _ in range(3)]
    for address in addresses:
        client.send(pub(f"MAILBOX.{address}", b"x") * 600)
    for address in addresses:
        client.feed(pub(f"MAILBOX.DROP.{address}"))
    broker.loop.turn()  # and the process dies
    assert broker.stored()
    after = broker.restart()
    after.advance(1)
    assert after.stored() == {}


def test_a_mailbox_that_was_never_used_costs_nothing_to_end(broker: Broker, client: Client) -> None:
    address = client.mailbox(ttl=10)
    assert len(broker.stored()) == 2  # its record, and the appointment for its end
    broker.advance(11)
    assert broker.stored() == {}
    assert client.request(f"MAILBOX.QUERY.{address}") == missing(address)


def test_a_clock_that_goes_backwards_loses_nothing(broker: Broker, client: Client) -> None:
    client.create(name="a", ttl=100)
    broker.advance(50)
    broker.clock.advance(-3600)
    client.create(name="b", ttl=10)
    client.put("a", "x")
    broker.advance(11)
    assert client.request("MAILBOX.QUERY.b") == missing("b")
    broker.advance(3600 + 50)
    assert client.request("MAILBOX.QUERY.a") == missing("a")
    assert leave(broker) == {}


# ---- the cache of mailboxes ----


def test_a_bounded_cache_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More mailboxes than the cache holds, commands for many of them in one turn: ids and contents are exact."""
    monkeypatch.setattr(mailboxes, "_IN_USE", 8)
    random = Random(11)
    broker = Broker()
    client = broker.client()
    created = [client.create(name=f"b{number}", ttl=0) for number in range(40)]
    expected: dict[str, dict[int, str]] = {box["mail_id"]: {} for box in created}
    newest = dict.fromkeys(expected, 0)
    for round_ in range(60):
        asked: list[tuple[Answer, dict[str, Any]]] = []
        for step in range(random.randint(1, 30)):
            number = random.randrange(40) if random.random() < 0.7 else 0
            name = f"b{number}"
            if random.random() < 0.3 and expected[name]:
                gone = random.choice(sorted(expected[name]))
                del expected[name][gone]
                answer = client.ask(f"MAILBOX.DELETE.{created[number]['owner']}.{gone}")
                asked.append((answer, {"error": "", "deleted": True}))
            else:
                newest[name] += 1
                expected[name][newest[name]] = f"{round_}.{step}"
                headers = {"mq9-from": random.choice(created)["owner"]} if random.random() < 0.5 else None
                answer = client.ask(f"MAILBOX.{name}", f"{round_}.{step}", headers)
                asked.append((answer, {"error": "", "msg_id": newest[name]}))
            if random.random() < 0.05:
                broker.settle()
        broker.settle()
        assert [answer.now for answer, _ in asked] == [wanted for _, wanted in asked]
        client.frames.clear()
    for reader in (client, broker.restart().client()):
        for name, bodies in expected.items():
            found = reader.request(f"MAILBOX.QUERY.{name}", {"limit": 1000})
            assert (entries(found), found["unread"]) == (sorted(bodies.items()), len(bodies))


def test_what_somebody_listens_to_stays_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "_IN_USE", 8)
    broker = Broker()
    client, watcher = broker.client(), broker.client()
    names = [f"b{number}" for number in range(30)]
    for name in names:
        client.create(name=name)
    sids = {name: watcher.subscribe(f"INBOX.{name}") for name in names[:12]}
    waiting = watcher.ask("MSG.FETCH.b20", fetching("g", wait=60_000))
    leased = client.create(name="leased")["mail_id"]
    client.put(leased, "x")
    assert entries(client.fetch(leased, "g")) == [(1, "x")]
    for _ in range(5):
        for name in names:
            client.query(name)
    assert entries(client.fetch(leased, "g")) == []  # still out
    for name in names:
        client.put(name, name)
    assert [watcher.bodies(sids[name]) for name in names[:12]] == [[name] for name in names[:12]]
    assert waiting.now is not None
    assert entries(waiting.now) == [(1, "b20")]


# ---- secrets ----


def test_no_secret_is_stored(broker: Broker, client: Client) -> None:
    secrets = [client.mailbox(), client.create(name="a", public=True)["owner"], client.mailbox(storage="memory")]
    for secret in secrets:
        fill_with = {"mq9-from": secret}
        client.request("MAILBOX.a", b"x", fill_with)
        client.send(pub("MAILBOX.a", b"x", reply=f"{AI}INBOX.{secret}"))
        client.request(f"MAILBOX.{secret}", b"x", {"Nats-Msg-Id": secret})
        client.fetch(secret, "g")
        client.send(pub(BOARD, {"from": "a"}))
    for key, value in broker.stored().items():
        for secret in secrets:
            assert secret.encode() not in key + value


def test_a_send_only_address_reads_nothing(broker: Broker, client: Client) -> None:
    for created in (client.create(), client.create(name="a")):
        address = created["send_only"]
        assert client.request(f"MAILBOX.{address}", b"x") == {"error": "", "msg_id": 1}
        for verb in ("MAILBOX.QUERY.{}", "MSG.FETCH.{}", "MSG.ACK.{}", "MAILBOX.DROP.{}", "MAILBOX.RENEW.{}"):
            payload = {"group_name": "g", "msg_ids": [1]}
            assert client.request(verb.format(address), payload) == missing(address)
            nobody = NOBODY.replace("m-", "s-")
            assert client.request(verb.format(nobody), payload) == missing(nobody)
        assert client.request(f"MAILBOX.DELETE.{address}.1") == missing(address)
        client.subscribe(f"INBOX.{address}")
        assert client.errors() == [f'Permissions Violation for Subscription to "{AI}INBOX.{address}"']


def test_a_failing_store_says_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    store = FaultyStore()
    broker = Broker(store)
    client = broker.client()
    address = client.mailbox()
    store.failing = "No space left on device"
    client.request(f"MAILBOX.{address}", b"x")
    broker.advance(3)
    assert address not in caplog.text
    assert "No space left on device" in caplog.text


def test_broker_time_comes_from_its_clock_alone() -> None:
    """The same commands at the same times give the same bytes."""

    def run() -> bytes:
        broker = Broker(clock=ManualClock(1_000_000_000_000))
        broker.server.id = "MQ"
        client = broker.client()
        client.create(name="a", public=True)
        client.subscribe("INBOX.a")
        client.subscribe("PUBLIC.LIST")
        for number in range(5):
            client.put("a", str(number), ttl=number)
            broker.advance(0.7)
        client.mailbox()
        broker.advance(DAY)
        return bytes(client.raw)

    assert run() == run()
    assert by_name([{"event": "created", "mail_id": "a"}]) == [("created", "a")]
