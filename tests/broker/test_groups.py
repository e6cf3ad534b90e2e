"""Groups: each message to one reader, leases, positions that are stored, and the time all of it takes."""

from __future__ import annotations

import gc
import json
from itertools import chain
from random import Random
from typing import Any

import pytest

from broker.inprocess import AI, Broker, Client, entries, fetching, pub
from mq9_broker import groups, mailboxes
from mq9_broker.model import NEVER, Limits
from mq9_broker.store import Batch

DAY = 86_400
EMPTY = {
    "error": "",
    "messages": [],
    "more": False,
    "waiting": dict.fromkeys(("critical", "urgent", "normal", "low"), 0),
}


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="box", ttl=0)
    return client


def put(client: Client, *bodies: object) -> None:
    for body in bodies:
        client.put("box", str(body))


def got(client: Client, group: str = "g", limit: int = 100, **fields: object) -> list[str]:
    """The bodies of a FETCH that is answered at once."""
    return [body for _, body in entries(client.fetch("box", group, limit=limit, **fields))]


def deliveries(answer: dict[str, Any]) -> list[tuple[int, str]]:
    return [(message["msg_id"], message["headers"]["mq9-deliveries"]) for message in answer["messages"]]


def ack(client: Client, *msg_ids: int, group: str = "g", **fields: object) -> str:
    answer = client.request("MSG.ACK.box", {"group_name": group, "msg_ids": list(msg_ids)} | fields)
    error = answer["error"]
    assert isinstance(error, str)
    return error


def test_a_member_gets_its_own_tiers_after_a_long_answer_though_others_are_ready(
    broker: Broker, client: Client
) -> None:
    """It had enough for that turn, and the others don't read what is left."""
    everything, urgent = broker.client(pong=False), broker.client(pong=False)
    urgent.subscribe("INBOX.box.high", "g")
    sid = everything.subscribe("INBOX.box", "g")
    put(client, "x" * 100_000)
    assert everything.bodies(sid) == ["x" * 100_000]
    everything.ask("MAILBOX.QUERY.box")
    put(client, "later")
    assert everything.bodies(sid) == ["later"]


# ---- leases ----


def test_what_is_leased_is_nobody_elses(broker: Broker, client: Client) -> None:
    put(client, 1, 2, 3)
    other = broker.client()
    assert got(client, limit=2) == ["1", "2"]
    assert got(other) == ["3"]
    assert got(client) == got(other) == []
    assert got(client, "another") == ["1", "2", "3"]
    assert ack(other, 1) == "message 1 is leased to another member of the group"
    assert ack(client, 1, member="m") == "message 1 is leased to another member of the group"
    assert ack(client, 1, 2) == ""
    assert ack(other, 3) == ""
    assert got(client) == []
    assert client.fetch("box", "g") == EMPTY


def test_a_lease_ends_after_ack_wait(broker: Broker, client: Client) -> None:
    """Then the message is back in its place: for the next reader, with the count of its deliveries."""
    client.create(name="quick", ack_wait=5)
    client.put("quick", "a")
    client.put("quick", "b")
    first = client.fetch("quick", "g", limit=1)
    assert deliveries(first) == [(1, "1")]
    broker.advance(4.999)
    assert entries(client.fetch("quick", "g", limit=1)) == [(2, "b")]
    broker.advance(0.001)
    again = broker.client().fetch("quick", "g")
    assert deliveries(again) == [(1, "2")]
    broker.advance(4.999)
    third = client.fetch("quick", "g")
    assert deliveries(third) == [(2, "2")]
    broker.advance(0.001)
    assert deliveries(client.fetch("quick", "g")) == [(1, "3")]


def test_the_default_ack_wait_is_a_minute(broker: Broker, client: Client) -> None:
    put(client, 1)
    assert got(client) == ["1"]
    broker.advance(59.999)
    assert got(client) == []
    broker.advance(0.001)
    assert got(client) == ["1"]


def test_the_end_of_a_lease_wakes_a_long_poll(broker: Broker, client: Client) -> None:
    put(client, 1)
    assert got(client) == ["1"]
    other = broker.client()
    waiting = other.ask("MSG.FETCH.box", fetching("g", wait=120_000))
    broker.advance(59.999)
    assert waiting.now is None
    broker.advance(0.001)
    assert waiting.now is not None
    assert deliveries(waiting.now) == [(1, "2")]


def test_a_lease_ends_with_the_connection(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    worker, other = broker.client(), broker.client()
    assert got(worker) == ["1", "2"]
    waiting = other.ask("MSG.FETCH.box", fetching("g", wait=60_000))
    worker.hang_up()
    assert waiting.now is not None
    assert deliveries(waiting.now) == [(1, "2"), (2, "2")]


def test_what_returns_goes_to_its_place(broker: Broker, client: Client) -> None:
    """Tier first, then id: before what came later, behind what is more urgent."""
    put(client, 1, 2, 3)
    worker = broker.client()
    assert got(worker, limit=2) == ["1", "2"]
    client.put("box", "urgent", priority="urgent")
    worker.hang_up()
    assert got(client) == ["urgent", "1", "2", "3"]


def test_a_named_member_gets_its_own_again_first(broker: Broker, client: Client) -> None:
    put(client, 1, 2, 3, 4)
    assert got(client, limit=2, member="m") == ["1", "2"]
    assert got(client, limit=1) == ["3"]
    assert got(client, limit=1) == ["4"]
    first = client.fetch("box", "g", member="m")
    assert entries(first) == [(1, "1"), (2, "2")]
    assert deliveries(first) == [(1, "1"), (2, "1")]
    assert ack(client, 1, member="m") == ""
    assert got(client, member="m") == ["2"]
    assert got(client, member="other") == []


def test_asking_again_prolongs_the_lease(broker: Broker, client: Client) -> None:
    put(client, 1)
    assert got(client, member="m") == ["1"]
    for _ in range(5):
        broker.advance(50)
        assert got(client, member="m") == ["1"]
    broker.advance(59.999)
    assert got(client) == []
    broker.advance(0.001)
    assert got(client) == ["1"]


def test_its_own_again_in_portions(broker: Broker, client: Client) -> None:
    put(client, *range(1, 6))
    assert got(client, limit=4, member="m") == ["1", "2", "3", "4"]
    answer = client.fetch("box", "g", limit=2, member="m")
    assert (entries(answer), answer["more"]) == ([(1, "1"), (2, "2")], True)
    answer = client.fetch("box", "g", limit=4, member="m")
    assert (entries(answer), answer["more"]) == ([(1, "1"), (2, "2"), (3, "3"), (4, "4")], True)
    assert got(client, member="m") == ["1", "2", "3", "4", "5"]


def test_never_more_than_was_asked_for_and_more_says_whether_there_is(broker: Broker, client: Client) -> None:
    put(client, *range(1, 6))
    seen = []
    while True:
        answer = client.fetch("box", "g", limit=2)
        seen += [body for _, body in entries(answer)]
        if not answer["more"]:
            break
    assert seen == ["1", "2", "3", "4", "5"]
    assert client.request("MSG.FETCH.box", fetching("g", limit=-1)) == {
        "error": f"num_msgs must be from 0 to {1 << 62}, not -1"
    }


def test_asking_for_none_says_whether_there_is_something(broker: Broker, client: Client) -> None:
    """And takes nothing, wakes up when something comes, and counts as no delivery."""
    sender = client.mailbox()
    put(client, "old")
    nothing = {name: value for name, value in EMPTY.items() if name != "waiting"}
    assert client.fetch("box", limit=0) == nothing | {"more": True}
    assert client.fetch("box", limit=0, deliver="latest") == nothing
    assert client.fetch("box", "g", limit=0) == EMPTY | {"more": True, "waiting": EMPTY["waiting"] | {"normal": 1}}
    assert got(client) == ["old"]
    anything = client.ask("MSG.FETCH.box", fetching("g", limit=0, wait=60_000))
    taking = broker.client().ask("MSG.FETCH.box", fetching("g", wait=60_000))
    newer = client.ask("MSG.FETCH.box", fetching(limit=0, wait=60_000, deliver="latest"))
    assert (anything.now, taking.now, newer.now) == (None, None, None)
    client.put("box", "new", **{"from": sender, "receipt": "delivered"})
    assert newer.now == nothing | {"more": True}
    assert anything.now == EMPTY | {"more": True, "waiting": EMPTY["waiting"] | {"normal": 1}}
    assert taking.now is not None
    assert deliveries(taking.now) == [(2, "1")]
    client.put("box", "unread", **{"from": sender, "receipt": "delivered"})
    assert client.fetch("box", limit=0)["more"]
    assert [json.loads(body)["msg_id"] for _, body in client.query(sender)] == [2]


@pytest.mark.parametrize("limit", [0, 1])
def test_only_what_is_given_again_is_leased_anew(broker: Broker, client: Client, limit: int) -> None:
    client.create(name="short", ack_wait=20)
    for number in range(3):
        client.put("short", str(number))
    client.fetch("short", "g", member="m")
    broker.advance(15)
    assert len(client.fetch("short", "g", limit=limit, member="m")["messages"]) == limit
    broker.advance(6)
    others = entries(broker.client().fetch("short", "g"))
    assert others == [(1, "0"), (2, "1"), (3, "2")][limit:]


def test_asking_for_none_waits_while_others_have_all_there_is(broker: Broker, client: Client) -> None:
    for number in range(1001):
        client.put("box", str(number))
    assert len(got(client, limit=1000)) == 1000
    waiting = broker.client().ask("MSG.FETCH.box", fetching("g", limit=0, wait=60_000))
    assert waiting.now is None
    ack(client, 1)
    assert waiting.now is not None
    assert waiting.now["more"]


def test_at_most_a_thousand_are_out(broker: Broker, client: Client) -> None:
    client.send(pub("MAILBOX.box", b"x") * 1200)
    first = client.fetch("box", "g", limit=5000)
    assert (len(first["messages"]), first["more"]) == (1000, True)
    assert first["waiting"]["normal"] == 200
    assert client.fetch("box", "g", limit=10)["messages"] == []
    assert ack(client, 1, 2, 3) == ""
    more = client.fetch("box", "g", limit=5000)
    assert [msg_id for msg_id, _ in entries(more)] == [1001, 1002, 1003]
    assert more["more"] is True


# ---- acknowledging ----


def test_acknowledging_exactly_these(broker: Broker, client: Client) -> None:
    put(client, *range(1, 6))
    assert got(client) == ["1", "2", "3", "4", "5"]
    assert ack(client, 2, 4, 4) == ""
    broker.advance(60)
    assert got(client) == ["1", "3", "5"]


def test_acknowledging_up_to_one_goes_in_the_order_of_delivery(broker: Broker, client: Client) -> None:
    """And touches neither another member's nor what was delivered later."""
    put(client, 1, 2)
    assert got(client, limit=2) == ["1", "2"]
    client.put("box", "urgent", priority="urgent")
    put(client, 4)
    assert got(client, limit=1) == ["urgent"]
    assert got(client, limit=1, member="m") == ["4"]
    answer = client.request("MSG.ACK.box", {"group_name": "g", "msg_id": 2})
    assert answer == {"error": ""}
    broker.advance(60)
    assert got(client) == ["urgent", "4"]
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_id": 1}) == {
        "error": "message 1 is not leased to this member of group g"
    }


def test_acknowledging_with_the_next_fetch(broker: Broker, client: Client) -> None:
    """Applied first: what is acknowledged is not given again, and is gone for good."""
    put(client, 1, 2, 3)
    assert got(client, member="m") == ["1", "2", "3"]
    assert got(client, member="m", ack=[1, 3]) == ["2"]
    assert got(client, member="m", ack=[2]) == []
    broker.advance(60)
    assert got(client) == []


def test_a_wrong_acknowledgement_changes_nothing(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    other = broker.client()
    assert got(other, limit=1) == ["1"]
    for done, error in (
        ([2, 1], "message 1 is leased to another member of the group"),
        ([2, 3], "message 3 does not exist: the newest is 2"),
    ):
        assert client.request("MSG.FETCH.box", fetching("g", ack=done)) == {"error": error}
        assert ack(client, *done) == error
    assert client.request("MSG.FETCH.box", fetching(ack=[1])) == {
        "error": "ack needs group_name: without a group nothing is recorded"
    }
    assert ack(client, 1, group="none") == ("group none does not exist: it begins with a FETCH or a queue subscription")
    assert got(client) == ["2"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"msg_ids": [1]}, "ACK needs group_name: without a group nothing is recorded"),
        ({"group_name": "", "msg_ids": [1]}, "ACK needs group_name: without a group nothing is recorded"),
        ({"group_name": "g"}, "ACK needs either msg_ids, a list, or msg_id, up to which all is acknowledged"),
        (
            {"group_name": "g", "msg_ids": [1], "msg_id": 1},
            "ACK needs either msg_ids, a list, or msg_id, up to which all is acknowledged",
        ),
        ({"group_name": "g", "msg_ids": 1}, "msg_ids must be a list of msg_ids, not 1"),
        ({"group_name": "g", "msg_ids": [0]}, "msg_ids must be a list of msg_ids, not [0]"),
        ({"group_name": "g", "msg_ids": [True]}, "msg_ids must be a list of msg_ids, not [true]"),
        ({"group_name": "g", "msg_ids": ["1"]}, 'msg_ids must be a list of msg_ids, not ["1"]'),
        (
            {"group_name": "a b", "msg_ids": [1]},
            "group_name 'a b' is not allowed: 1 to 128 printable characters without spaces",
        ),
    ],
)
def test_what_no_acknowledgement_is(client: Client, fields: dict[str, object], error: str) -> None:
    put(client, 1)
    got(client)
    assert client.request("MSG.ACK.box", fields) == {"error": error}


def test_acknowledging_what_was_not_given_out(broker: Broker, client: Client) -> None:
    """Read without the group, done all the same: it is not given out later, after a restart neither."""
    put(client, 1, 2, 3, 4)
    assert got(client, limit=1) == ["1"]
    assert ack(client, 3) == ""
    assert ack(client, 3) == ""
    assert got(client) == ["2", "4"]
    after = broker.restart().client()
    assert got(after) == ["1", "2", "4"]


def test_acknowledgements_ahead_are_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_AHEAD", 3)
    put(client, *range(1, 8))
    assert got(client, limit=1) == ["1"]
    assert ack(client, 4, 5, 6) == ""
    assert ack(client, 7) == "the group has too many acknowledgements ahead of its position, 3 at the most: FETCH"
    assert got(client) == ["2", "3", "7"]


# ---- where a group starts ----


def test_where_a_new_group_starts(client: Client) -> None:
    put(client, 1, 2, 3)
    assert got(client, "early") == ["1", "2", "3"]
    assert got(client, "late", deliver="latest") == []
    assert got(client, "from", deliver="from_id", from_id=2) == ["2", "3"]
    assert got(client, "", deliver="from_id", from_id=3) == ["3"]
    put(client, 4)
    assert got(client, "late", deliver="earliest") == ["4"]  # it exists: where it starts is over
    assert client.request("MSG.FETCH.box", fetching("x", deliver="from_id")) == {
        "error": "deliver from_id needs from_id, the msg_id to start at"
    }
    assert client.request("MSG.FETCH.box", fetching("x", deliver="oldest")) == {
        "error": 'deliver must be earliest or latest or from_id, not "oldest"'
    }


def test_a_mailbox_has_so_many_groups(broker: Broker) -> None:
    client = Broker(limits=Limits(max_groups=2)).client()
    client.create(name="box")
    got(client, "a")
    got(client, "b")
    assert client.request("MSG.FETCH.box", fetching("c")) == {
        "error": "group c can't be added: the mailbox has 2 groups, the most it may have"
    }
    client.subscribe("INBOX.box", "c")
    assert client.errors() == [f'Permissions Violation for Subscription to "{AI}INBOX.box" using queue "c"']
    assert got(client, "a") == []


# ---- queues ----


def test_a_message_counts_once_it_is_confirmed(broker: Broker, client: Client) -> None:
    """By the answer to a PING that was sent behind it."""
    put(client, 1, 2)
    member = broker.client(pong=False)
    sid = member.subscribe("INBOX.box", "workers")
    assert [frame.headers["mq9-deliveries"] for frame in member.take(sid)] == ["1", "1"]
    assert member.raw.endswith(b"PING\r\n")
    member.send(b"PONG\r\n")
    member.hang_up()
    put(client, 3)
    again = broker.client(pong=False)
    sid = again.subscribe("INBOX.box", "workers")
    assert again.bodies(sid) == ["3"]
    again.hang_up()
    third = broker.client()
    sid = third.subscribe("INBOX.box", "workers")
    assert [(frame.body, frame.headers["mq9-deliveries"]) for frame in third.take(sid)] == [("3", "2")]


def test_a_pong_confirms_what_was_before_its_ping_only(broker: Broker, client: Client) -> None:
    member = broker.client(pong=False)
    member.subscribe("INBOX.box", "workers")
    put(client, 1)
    put(client, 2)
    member.send(b"PONG\r\n")
    member.hang_up()
    assert got(client, "workers") == ["2"]


def test_at_most_64_are_unconfirmed_per_member(broker: Broker, client: Client) -> None:
    client.send(pub("MAILBOX.box", b"x") * 100)
    member = broker.client(pong=False)
    sid = member.subscribe("INBOX.box", "workers")
    assert len(member.take(sid)) == 64
    assert len(member.send(b"PONG\r\n")) == 36


def test_unsubscribing_returns_what_was_not_confirmed(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    member, other = broker.client(pong=False), broker.client()
    sid = member.subscribe("INBOX.box", "workers")
    other_sid = other.subscribe("INBOX.box", "workers")
    assert member.bodies(sid) == ["1", "2"]
    member.send(f"UNSUB {sid}\r\n")
    assert other.bodies(other_sid) == ["1", "2"]
    member.send(b"PONG\r\n" * 3)
    assert got(client, "workers") == []


def test_a_subscription_with_a_maximum_keeps_what_it_was_given(broker: Broker, client: Client) -> None:
    put(client, 1, 2, 3)
    member, other = broker.client(pong=False), broker.client()
    (*frames,) = member.send(f"SUB {AI}INBOX.box workers 7\r\nUNSUB 7 2\r\n")
    assert [frame.body for frame in frames] == ["1", "2"]
    sid = other.subscribe("INBOX.box", "workers")
    assert other.bodies(sid) == ["3"]
    member.send(b"PONG\r\n")
    member.hang_up()
    assert other.bodies(sid) == []
    assert got(client, "workers") == []


def test_equal_members_take_turns(broker: Broker, client: Client) -> None:
    members = [broker.client() for _ in range(3)]
    sids = [member.subscribe("INBOX.box", "workers") for member in members]
    client.send(*(pub("MAILBOX.box", str(number)) for number in range(30)))
    for number in range(30, 60):
        put(client, number)
    seen = [member.bodies(sid) for member, sid in zip(members, sids, strict=True)]
    assert sorted(chain(*seen), key=int) == [str(number) for number in range(60)]
    assert [len(bodies) for bodies in seen] == [20, 20, 20]


def test_one_whose_socket_is_full_is_passed_over(broker: Broker, client: Client) -> None:
    slow, fast = broker.client(pong=False), broker.client()
    slow.subscribe("INBOX.box", "workers")
    fast_sid = fast.subscribe("INBOX.box", "workers")
    slow.transport.stalled = True
    for number in range(20):
        put(client, f"{number:02}" + "x" * 40_000)
    given = [body[:2] for body in fast.bodies(fast_sid)]
    assert len(given) > 15
    slow.hang_up()
    given += [body[:2] for body in fast.bodies(fast_sid)]
    assert sorted(given) == [f"{number:02}" for number in range(20)]


def test_a_queue_and_fetch_share_a_position(broker: Broker, client: Client) -> None:
    put(client, 1)
    member = broker.client()
    sid = member.subscribe("INBOX.box", "g")
    assert member.bodies(sid) == ["1"]
    assert got(client) == []
    member.send(f"UNSUB {sid}\r\n")
    put(client, 2)
    assert got(client) == ["2"]
    sid = member.subscribe("MAILBOX.box", "g")
    assert member.bodies(sid) == []
    broker.advance(60)
    assert member.bodies(sid) == ["2"]


def test_views_of_a_queue_share_a_position_per_tier(broker: Broker, client: Client) -> None:
    urgent, rest, all_ = broker.client(), broker.client(), broker.client()
    urgent_sid = urgent.subscribe("INBOX.box.high", "g")
    client.put("box", "n1")
    client.put("box", "u1", priority="urgent")
    client.put("box", "c1", priority="critical")
    rest_sid = rest.subscribe("MAILBOX.box.*", "g")
    all_sid = all_.subscribe("MAILBOX.box.>", "g")
    assert [frame.subject for frame in urgent.take(urgent_sid)] == [f"{AI}INBOX.box.urgent"]
    assert [frame.subject for frame in rest.take(rest_sid)] == [f"{AI}MAILBOX.box.critical"]
    assert [frame.subject for frame in all_.take(all_sid)] == [f"{AI}MAILBOX.box.normal"]
    assert got(client) == []


def test_a_position_outlives_members_and_the_broker(broker: Broker, client: Client) -> None:
    put(client, 1, 2, 3)
    member = broker.client()
    sid = member.subscribe("INBOX.box", "workers")
    assert member.bodies(sid) == ["1", "2", "3"]
    assert got(client, limit=2) == ["1", "2"]
    assert ack(client, 1) == ""
    after = broker.restart()
    reader = after.client()
    put(reader, 4)
    sid = reader.subscribe("INBOX.box", "workers")
    assert reader.bodies(sid) == ["4"]
    assert [body for _, body in entries(reader.fetch("box", "g"))] == ["2", "3", "4"]


def test_a_confirmation_after_the_end_of_the_mailbox_leaves_nothing(broker: Broker) -> None:
    client, member = broker.client(), broker.client(pong=False)
    address = client.mailbox(ttl=10)
    client.put(address, "x")
    client.put(address, "y")
    member.subscribe(f"INBOX.{address}", "workers")
    client.fetch(address, "g")
    broker.advance(10)
    member.send(b"PONG\r\n" * 5)
    broker.advance(DAY)
    assert broker.stored() == {}


def test_many_that_expired_do_not_hide_what_is_behind_them(broker: Broker, client: Client) -> None:
    """More than are looked at for one answer, and none of them swept: the queue gets what is behind."""
    client.send(*(pub("MAILBOX.box", b"x", headers={"mq9-ttl": 1}) for _ in range(12_000)))
    client.put("box", "alive")
    member = broker.client()
    broker.clock.advance(2)
    sid = member.subscribe("INBOX.box", "workers")
    assert member.bodies(sid) == ["alive"]


def test_a_long_poll_gets_what_is_behind_many_that_expired(broker: Broker, client: Client) -> None:
    client.send(*(pub("MAILBOX.box", b"x", headers={"mq9-ttl": 1}) for _ in range(12_000)))
    client.put("box", "alive")
    broker.clock.advance(2)
    waiting = client.ask("MSG.FETCH.box", fetching("g", wait=60_000))
    plain = client.ask("MSG.FETCH.box", fetching(wait=60_000))
    broker.settle()
    for answer in (waiting, plain):
        assert answer.now is not None
        assert [body for _, body in entries(answer.now)] == ["alive"]


def test_to_look_for_something_begins_no_group(client: Client) -> None:
    client.create(name="kept", retain="ack")
    client.put("kept", "x")
    answer = client.fetch("kept", "peek", limit=0)
    assert (answer["messages"], answer["more"]) == ([], True)
    # the only one that this mailbox may have
    assert entries(client.fetch("kept", "real")) == [(1, "x")]
    answer = client.fetch("kept", "real", limit=0)
    assert (answer["messages"], answer["more"]) == ([], False)


def test_leases_without_an_end_make_no_appointments(broker: Broker, client: Client) -> None:
    """A queue's members hold theirs until they confirm; next to them, timed leases end again and again."""
    member = broker.client(pong=False)
    member.subscribe("INBOX.box", "g")
    put(client, *range(70))
    for _ in range(3):
        assert len(got(client)) == 6
        broker.advance(60)
    member.send(b"PONG\r\n")
    assert [when for when, _, _ in broker.hub.timers._heap if when >= NEVER] == []


def test_a_long_connection_keeps_nothing_of_groups_that_are_gone(
    broker: Broker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that reads from ever new mailboxes, which end or are pushed out of the cache."""
    monkeypatch.setattr(mailboxes, "_IN_USE", 20)
    for number in range(200):
        client.create(name=f"n{number}", ttl=10, ack_wait=1)
        client.put(f"n{number}", "x")
        assert entries(client.fetch(f"n{number}", "g", ack=[])) == [(1, "x")]
        client.request(f"MSG.ACK.n{number}", {"group_name": "g", "msg_ids": [1]})
    broker.advance(2)
    gc.collect()
    assert 0 < len(client.session.groups) <= 20
    broker.advance(11)
    gc.collect()
    assert len(client.session.groups) == 0


# ---- how much waits ----


def test_what_waits_for_a_group_by_tier(broker: Broker, client: Client) -> None:
    for word, number in (("critical", 1), ("urgent", 2), ("high", 1), ("normal", 4), ("low", 1), ("notify", 2)):
        for _ in range(number):
            client.put("box", "x", priority=word)
    full = {"critical": 1, "urgent": 3, "normal": 4, "low": 3}
    assert client.request("MAILBOX.QUERY.box", {"group_name": "g"})["waiting"] == full
    first = client.fetch("box", "g", limit=3)
    assert first["waiting"] == {"critical": 0, "urgent": 1, "normal": 4, "low": 3}
    assert client.request("MAILBOX.QUERY.box", {"group_name": "g"})["waiting"] == first["waiting"]
    assert client.request("MAILBOX.QUERY.box", {"group_name": "h"})["waiting"] == full
    assert "waiting" not in client.request("MAILBOX.QUERY.box")
    broker.advance(60)
    assert client.request("MAILBOX.QUERY.box", {"group_name": "g"})["waiting"] == full
    assert client.request("MAILBOX.QUERY.box", {"group_name": "g", "limit": 0})["messages"] == []


def test_what_waits_is_counted_to_a_thousand(client: Client) -> None:
    client.send(pub("MAILBOX.box", b"x") * 2500)
    for given, waiting in ((1, 1000), (999, 1000), (0, 1000)):
        answer = (
            client.fetch("box", "g", limit=given) if given else client.request("MAILBOX.QUERY.box", {"group_name": "g"})
        )
        assert answer["waiting"]["normal"] == waiting
    ack(client, *range(1, 1001))
    assert client.fetch("box", "g", limit=700)["waiting"]["normal"] == 800


@pytest.mark.parametrize("seed", range(25))
def test_what_waits_is_what_would_come(seed: int) -> None:
    """Whatever happened before: `waiting` counts exactly what fetching everything would give."""
    random = Random(seed)
    broker = Broker()
    client = broker.client()
    owner = client.create(name="box", ttl=0, ack_wait=20)["owner"]
    for _ in range(60):
        mailbox = broker.find("box")
        assert mailbox is not None
        some = random.randint(1, max(mailbox.last_id, 1))
        step = random.random()
        if step < 0.4:
            headers = {"mq9-ttl": random.randint(1, 40)} if random.random() < 0.3 else None
            client.request(f"MAILBOX.box.{random.choice(['critical', 'high', 'normal', 'low'])}", b"x", headers)
        elif step < 0.5:
            client.request(f"MAILBOX.DELETE.{owner}.{some}")
        elif step < 0.7:
            client.fetch("box", "g", limit=random.randint(1, 3), member=random.choice(["", "m"]))
        elif step < 0.85:
            client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [some]})
        else:
            broker.advance(random.choice([0.5, 10, 21]))
        # a twin of the broker takes everything that is there to be had, and nothing is leased in it
        twin = Broker(clock=broker.clock)
        twin.disk.commit(Batch(dict(broker.disk.scan(b"", b"\xff" * 64))))
        leased = {msg_id for group in mailbox.groups.values() for msg_id in group.leases.out}
        expected = dict.fromkeys(("critical", "urgent", "normal", "low"), 0)
        for message in twin.client().fetch("box", "g", limit=2000)["messages"]:
            if message["msg_id"] not in leased:
                expected[{"high": "urgent"}.get(message["priority"], message["priority"])] += 1
        assert client.request("MAILBOX.QUERY.box", {"group_name": "g", "limit": 0})["waiting"] == expected


# ---- unused groups ----


def stored_groups(broker: Broker) -> int:
    return sum(key[:1] == b"I" and key[9:10] == b"g" for key in broker.stored())


def test_a_group_goes_after_seven_days_without_use(broker: Broker, client: Client) -> None:
    put(client, 1)
    client.hang_up()
    reader = broker.client()
    assert got(reader) == ["1"]
    reader.hang_up()
    broker.advance(7 * DAY - 1)
    assert stored_groups(broker) == 1
    broker.advance(1)
    assert stored_groups(broker) == 0
    mailbox = broker.find("box")
    assert mailbox is not None
    assert (mailbox.group_count, mailbox.groups) == (0, {})
    assert got(broker.client()) == ["1"]  # it begins anew, from the earliest


def test_a_group_stays_while_it_is_used(broker: Broker, client: Client) -> None:
    put(client, 1)
    for _ in range(4):
        reader = broker.client()
        assert got(reader, ack=[1]) == []
        reader.hang_up()
        broker.clock.advance(6.9 * DAY)
        broker.advance(1)
    assert got(broker.client()) == []
    broker.clock.advance(8 * DAY)
    broker.advance(DAY)
    assert stored_groups(broker) == 0


def test_a_member_that_is_there_is_a_use(broker: Broker, client: Client) -> None:
    member = broker.client()
    sid = member.subscribe("INBOX.box", "workers")
    broker.clock.advance(30 * DAY)
    broker.advance(1)
    assert stored_groups(broker) == 1
    put(client, 1)
    assert member.bodies(sid) == ["1"]
    member.hang_up()
    broker.clock.advance(6.9 * DAY)
    broker.advance(1)
    assert stored_groups(broker) == 1


def test_a_group_that_went_makes_room_for_another(broker: Broker) -> None:
    broker = Broker(limits=Limits(max_groups=1))
    client = broker.client()
    client.create(name="box", ttl=0)
    got(client, "a")
    broker.clock.advance(8 * DAY)
    broker.advance(DAY)
    after = broker.restart().client()
    assert got(after, "b") == []


def test_a_mailbox_that_only_had_a_group_leaves_nothing(broker: Broker, client: Client) -> None:
    address = client.mailbox(ttl=0)
    client.fetch(address, "g")
    broker.clock.advance(8 * DAY)
    broker.advance(DAY)
    client.request(f"MAILBOX.DROP.{address}")
    assert not any(key[:1] == b"I" for key in broker.stored())


# ---- everything at once ----


@pytest.mark.parametrize("seed", range(8))
def test_each_message_is_given_to_one_reader_at_a_time_and_done_once(seed: int) -> None:
    """Seeded: fetchers and queue members that come, go, crash, acknowledge or not; at the end nothing is missing."""
    random = Random(seed)
    broker = Broker()
    sender = broker.client()
    sender.create(name="box", ttl=0, ack_wait=30, max_deliver=0)
    done: set[int] = set()
    given: dict[int, int] = {}
    fetchers: list[Client] = []
    sent = 0
    for _ in range(150):
        act = random.random()
        if act < 0.35:
            for _ in range(random.randint(1, 5)):
                sent += 1
                sender.put("box", str(sent), priority=random.choice(["urgent", "normal", "low"]))
        elif act < 0.65:
            if not fetchers or random.random() < 0.2:
                fetchers.append(broker.client())
            reader = random.choice(fetchers)
            for msg_id, _ in entries(reader.fetch("box", "g", limit=random.randint(1, 4))):
                assert msg_id not in done
                assert msg_id not in given
                given[msg_id] = fetchers.index(reader)
        elif act < 0.8 and given:
            msg_id = random.choice(sorted(given))
            assert ack(fetchers[given.pop(msg_id)], msg_id) == ""
            done.add(msg_id)
        elif act < 0.85 and fetchers:
            index = random.randrange(len(fetchers))
            fetchers[index].hang_up()
            fetchers[index] = broker.client()
            given = {msg_id: owner for msg_id, owner in given.items() if owner != index}
        elif act < 0.9:
            broker.advance(31)
            given.clear()
        elif act < 0.93:
            broker = broker.restart()
            sender, fetchers = broker.client(), []
            given.clear()
        elif act < 0.97:
            member = broker.client()
            sid = member.subscribe("INBOX.box", "g")
            broker.settle()
            for frame in member.take(sid):
                msg_id = int(frame.headers["mq9-msg-id"])
                assert msg_id not in done
                assert msg_id not in given
                done.add(msg_id)
            member.hang_up()
    broker.advance(31)
    last = broker.client()
    rest = [msg_id for msg_id, _ in entries(last.fetch("box", "g", limit=1000))]
    assert not done & set(rest)
    assert done | set(rest) == set(range(1, sent + 1))
    assert len(rest) == len(set(rest))
