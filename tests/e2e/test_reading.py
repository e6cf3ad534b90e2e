"""Reading with QUERY and FETCH, acknowledging, and deleting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e.harness import AI, WORDS, Broker, Connect, Peer, Wire, bodies, body_of, fresh_name, ids, pub

pytestmark = pytest.mark.anyio

FIRST_HIGHEST = ["critical", "high", "urgent", "normal", "notify", "low"]


async def filled(peer: Peer, count: int, **fields: Any) -> str:
    """The mail_id of a new mailbox that holds the normal messages "1" to "<count>", whose ids are the same numbers."""
    address = (await peer.create(**fields))["mail_id"]
    for number in range(1, count + 1):
        await peer.nc.publish(f"{AI}MAILBOX.{address}", str(number).encode())
    await peer.flush()
    return str(address)


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# ---- QUERY ----


@pytest.mark.parametrize("verb", ["MAILBOX.QUERY", "MSG.QUERY"])
async def test_query_gives_everything_in_priority_order(peer: Peer, verb: str) -> None:
    address = (await peer.create())["mail_id"]
    now = int(time.time())
    for word in reversed(WORDS):
        await peer.send(f"{address}.{word}", word)
    for _ in range(2):  # it consumes nothing
        reply = await peer.ask(f"{verb}.{address}")
        assert set(reply) == {"error", "messages", "unread"}
        assert (reply["error"], reply["unread"]) == ("", 6)
        assert bodies(reply) == FIRST_HIGHEST
        assert ids(reply) == [6, 4, 5, 3, 1, 2]
    for message in reply["messages"]:
        assert set(message) == {"msg_id", "payload", "priority", "headers", "create_time"}
        assert message["priority"] == message["payload"]
        assert message["headers"] is None
        assert now - 1 <= message["create_time"] <= now + 5


async def test_query_pages(peer: Peer) -> None:
    address = await filled(peer, 10)
    await peer.send(f"{address}.urgent", "11")
    pages, after = [], None
    while True:
        reply = await peer.query(address, limit=4, after=after)
        assert reply["unread"] == 11
        pages.append(ids(reply))
        after = reply.get("next")
        if after is None:
            break
    assert pages == [[11, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


async def test_a_cursor_outlives_what_it_pointed_at(peer: Peer) -> None:
    address = await filled(peer, 6)
    after = (await peer.query(address, limit=3))["next"]
    assert (await peer.ask(f"MAILBOX.DELETE.{address}.3"))["error"] == ""
    assert (await peer.ask(f"MAILBOX.DELETE.{address}.4"))["error"] == ""
    assert ids(await peer.query(address, after=after)) == [5, 6]


async def test_query_limits(peer: Peer) -> None:
    address = await filled(peer, 1003)
    assert ids(await peer.query(address)) == numbers(1, 100)
    assert ids(await peer.query(address, limit=1000)) == numbers(1, 1000)
    for limit in (1001, -1, "10", 1.5, True):
        reply = await peer.ask(f"MAILBOX.QUERY.{address}", {"limit": limit})
        assert set(reply) == {"error"}, limit
        assert "limit" in reply["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("after", "no such cursor"),
        ("after", 5),
        ("since", "yesterday"),
        ("since", -1),
        ("group_name", "with space"),
        ("group_name", "g" * 129),
        ("group_name", "line\nbreak"),
        ("group_name", 7),
        # known, but not offered yet
        ("key", 5),
        ("tags", "a"),
    ],
)
async def test_query_refuses_bad_fields_by_name(peer: Peer, field: str, value: object) -> None:
    address = await filled(peer, 1)
    reply = await peer.ask(f"MAILBOX.QUERY.{address}", {field: value})
    assert set(reply) == {"error"}
    assert field in reply["error"]


async def test_query_since(peer: Peer) -> None:
    address = await filled(peer, 3)
    now = int(time.time())
    assert ids(await peer.query(address, since=now - 60)) == [1, 2, 3]
    late = await peer.query(address, since=now + 60)
    assert (late["messages"], late["unread"]) == ([], 3)
    assert "next" not in late


async def test_one_reply_examines_four_thousand_at_most(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(4005 * pub(f"{AI}MAILBOX.{address}", b"x"))
    client.settle(pub(f"{AI}MAILBOX.{address}.low", b"last"))
    reply = client.ask(f"MAILBOX.QUERY.{address}", {"since": int(time.time()) + 60})
    assert (reply["messages"], reply["unread"]) == ([], 4006)
    reply = client.ask(f"MAILBOX.QUERY.{address}", {"after": reply["next"], "limit": 1000})
    assert ids(reply) == numbers(4001, 4006)
    assert "next" not in reply


async def test_bytes_that_are_not_text_are_base64(peer: Peer) -> None:
    address = (await peer.create())["mail_id"]
    for payload in (b"\xff\x00", 'ünï \u2028 "\\\n'.encode(), b"\0", b""):
        await peer.send(address, payload)
    got = (await peer.query(address))["messages"]
    assert (got[0]["payload"], got[0]["encoding"]) == ("/wA=", "base64")
    assert [message["payload"] for message in got[1:]] == ['ünï \u2028 "\\\n', "\0", ""]
    assert not any("encoding" in message for message in got[1:])


@pytest.mark.parametrize("verb", ["MAILBOX.QUERY", "MSG.FETCH"])
async def test_a_reply_never_exceeds_max_payload(peer: Peer, verb: str) -> None:
    address, biggest = (await peer.create())["mail_id"], 1048576
    for payload in (b"a" * 400_000, b"b" * 400_000, b'"' * 400_000, b"c" * 400_000, b"d" * 700_000):
        await peer.send(address, payload)
    sizes, body = [], {"limit": 1000, "config": {"num_msgs": 1000, "max_wait_ms": 0}}
    start: dict[str, Any] = {}
    while True:
        answer = await peer.nc.request(f"{AI}{verb}.{address}", json.dumps(body | start).encode(), timeout=10)
        assert len(answer.data) <= biggest
        reply = json.loads(answer.data)
        sizes.append(ids(reply))
        if not (reply.get("next") or reply.get("more")):
            break
        start = {"after": reply.get("next"), "deliver": "from_id", "from_id": ids(reply)[-1] + 1}
    assert sizes == [[1, 2], [3], [4], [5]]


@pytest.mark.parametrize("verb", ["MAILBOX.QUERY", "MSG.FETCH"])
async def test_a_message_too_large_for_a_reply_is_sent_alone(peer: Peer, verb: str) -> None:
    address, payload = (await peer.create())["mail_id"], b"\xff" * 1048576
    for body in (payload, b"small"):
        await peer.send(address, body)
    reply = await peer.ask(f"{verb}.{address}", {"config": {"max_wait_ms": 0}})
    assert ids(reply) == [1]
    assert body_of(reply["messages"][0]) == payload
    assert reply.get("next") or reply.get("more")


async def test_waiting_is_what_the_group_has_not_had(peer: Peer) -> None:
    address = await filled(peer, 1005)
    for word, count in (("critical", 1), ("urgent", 2), ("high", 1), ("low", 1), ("notify", 3)):
        for _ in range(count):
            await peer.send(f"{address}.{word}", word)
    before = await peer.query(address, group_name="g", limit=1)
    assert before["waiting"] == {"critical": 1, "urgent": 3, "normal": 1000, "low": 4}
    got = await peer.fetch(address, "g", n=6)
    assert [message["priority"] for message in got["messages"]] == [
        *("critical", "urgent", "urgent", "high"),
        *("normal", "normal"),
    ]
    await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": ids(got)})
    after = await peer.query(address, group_name="g", limit=1)
    assert after["waiting"] == {"critical": 0, "urgent": 0, "normal": 1000, "low": 4}
    assert (await peer.query(address, group_name="other", limit=1))["waiting"] == before["waiting"]
    assert "waiting" not in await peer.query(address, limit=1)
    assert "waiting" not in await peer.query(address, limit=1, group_name="")


# ---- FETCH without a group ----


async def test_fetch_without_a_group_records_nothing(peer: Peer) -> None:
    address = await filled(peer, 5)
    for _ in range(2):
        reply = await peer.fetch(address, n=3)
        assert set(reply) == {"error", "messages", "more"}
        assert (ids(reply), reply["more"]) == ([1, 2, 3], True)
    reply = await peer.fetch(address, "", n=5)
    assert (ids(reply), reply["more"]) == (numbers(1, 5), False)
    assert reply["messages"] == (await peer.query(address))["messages"]


async def test_fetch_defaults(peer: Peer) -> None:
    address = await filled(peer, 101)
    reply = await peer.ask(f"MSG.FETCH.{address}")
    assert (ids(reply), reply["more"]) == (numbers(1, 100), True)
    empty = (await peer.create())["mail_id"]
    started = time.monotonic()
    reply = await peer.ask(f"MSG.FETCH.{empty}")
    assert 0.4 < time.monotonic() - started < 2
    assert (reply["error"], reply["messages"], reply["more"]) == ("", [], False)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"deliver": "earliest"}, [1, 2, 3, 4, 5]),
        ({"deliver": "latest"}, []),
        ({"deliver": "from_id", "from_id": 4}, [4, 5]),
        ({"deliver": "from_id", "from_id": 1}, [1, 2, 3, 4, 5]),
        ({"deliver": "from_id", "from_id": 99}, []),
    ],
)
@pytest.mark.parametrize("group", [None, "g"])
async def test_deliver(peer: Peer, group: str | None, start: dict[str, Any], expected: list[int]) -> None:
    address = await filled(peer, 5)
    assert ids(await peer.fetch(address, group, **start)) == expected


async def test_deliver_matters_only_to_a_new_group(peer: Peer) -> None:
    address = await filled(peer, 3)
    assert ids(await peer.fetch(address, "new", deliver="latest")) == []
    await peer.send(address, "4")
    assert ids(await peer.fetch(address, "new", deliver="earliest")) == [4]
    assert ids(await peer.fetch(address, "old", n=1)) == [1]
    assert ids(await peer.fetch(address, "old", deliver="latest")) == [2, 3, 4]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"deliver": "newest"}, "deliver"),
        ({"deliver": 1}, "deliver"),
        ({"deliver": "from_id"}, "from_id"),
        ({"deliver": "from_id", "from_id": "x"}, "from_id"),
        ({"config": []}, "config"),
        ({"config": {"num_msgs": -1}}, "num_msgs"),
        ({"config": {"num_msgs": "1"}}, "num_msgs"),
        ({"config": {"max_wait_ms": -1}}, "max_wait_ms"),
        ({"config": {"max_wait_ms": 300_001}}, "max_wait_ms"),
        ({"config": {"max_wait_ms": "1"}}, "max_wait_ms"),
        ({"group_name": "a b"}, "group_name"),
        ({"group_name": "g" * 129}, "group_name"),
        ({"group_name": 5}, "group_name"),
        ({"group_name": "g", "member": 5}, "member"),
        ({"group_name": "g", "ack": "1"}, "ack"),
        ({"group_name": "g", "ack": ["1"]}, "ack"),
    ],
    ids=str,
)
async def test_fetch_refuses_bad_fields_by_name(peer: Peer, body: dict[str, Any], named: str) -> None:
    address = await filled(peer, 1)
    reply = await peer.ask(f"MSG.FETCH.{address}", body)
    assert set(reply) == {"error"}
    assert named in reply["error"]


# ---- waiting for mail ----


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_true_long_poll(connect: Connect, server: Broker, group: str | None) -> None:
    reader, sender = await connect(server), await connect(server)
    address = (await reader.create())["mail_id"]
    started = time.monotonic()
    assert (await reader.fetch(address, group, wait_ms=300))["messages"] == []
    assert 0.29 < time.monotonic() - started < 1.5
    started = time.monotonic()
    poll = asyncio.create_task(reader.fetch(address, group, wait_ms=20_000))
    await reader.flush()
    await sender.send(f"{address}.urgent", "now")
    assert bodies(await poll) == ["now"]
    assert time.monotonic() - started < 2
    started = time.monotonic()
    assert (await reader.fetch(address, group, wait_ms=0, deliver="latest"))["messages"] == []
    assert time.monotonic() - started < 0.3


async def test_a_message_answers_one_poll_of_a_group_and_every_poll_without(connect: Connect, server: Broker) -> None:
    reader = await connect(server)
    address = (await reader.create())["mail_id"]
    grouped = [asyncio.create_task(reader.fetch(address, "g", wait_ms=400)) for _ in range(3)]
    others = [asyncio.create_task(reader.fetch(address, group, wait_ms=10_000)) for group in (None, None, "h")]
    await reader.flush()
    await reader.send(address, "once")
    assert [bodies(await poll) for poll in others] == 3 * [["once"]]
    assert sorted([bodies(await poll) for poll in grouped]) == [[], [], ["once"]]


async def test_a_poll_does_not_hold_up_its_connection(peer: Peer) -> None:
    address = (await peer.create())["mail_id"]
    poll = asyncio.create_task(peer.fetch(address, wait_ms=10_000))
    started = time.monotonic()
    for _ in range(20):
        await peer.query(address)
    assert time.monotonic() - started < 2
    await peer.send(address, "end")
    assert bodies(await poll) == ["end"]


async def test_a_poll_of_a_lost_connection_takes_nothing(
    connect: Connect, server: Broker, wire: Callable[..., Wire]
) -> None:
    peer, dying = await connect(server), wire(server)
    address = (await peer.create())["mail_id"]
    request = json.dumps({"group_name": "g", "config": {"max_wait_ms": 60_000}}).encode()
    dying.settle(pub(f"{AI}MSG.FETCH.{address}", request, reply="r"))
    dying.close()
    await peer.flush()
    await peer.send(address, "x")
    assert ids(await peer.fetch(address, "g")) == [1]


@pytest.mark.parametrize("end", ["dropped", "expired"])
async def test_a_poll_ends_with_its_mailbox(peer: Peer, end: str) -> None:
    address = (await peer.create(ttl=1 if end == "expired" else 60))["mail_id"]
    poll = asyncio.create_task(peer.ask(f"MSG.FETCH.{address}", {"config": {"max_wait_ms": 20_000}}, timeout=25))
    await peer.flush()
    if end == "dropped":
        assert (await peer.ask(f"MAILBOX.DROP.{address}"))["error"] == ""
    async with asyncio.timeout(4):
        assert await poll == {"error": f"mailbox {address} does not exist"}


# ---- groups, leases, members ----


async def test_a_group_gets_each_message_once(connect: Connect, server: Broker) -> None:
    first, second = await connect(server), await connect(server)
    address = await filled(first, 10)
    assert ids(await first.fetch(address, "g", n=4)) == [1, 2, 3, 4]
    assert ids(await second.fetch(address, "g", n=4)) == [5, 6, 7, 8]
    assert ids(await first.fetch(address, "g")) == [9, 10]
    assert ids(await second.fetch(address, "g")) == []
    assert ids(await second.fetch(address, "other", n=2)) == [1, 2]
    assert (await first.query(address))["unread"] == 10


async def test_more_says_that_the_group_has_more(peer: Peer) -> None:
    address = await filled(peer, 4)
    assert (await peer.fetch(address, "g", n=2))["more"] is True
    last = await peer.fetch(address, "g", n=2)
    assert (ids(last), last["more"]) == ([3, 4], False)


async def test_fetch_says_what_waits_for_the_group(peer: Peer) -> None:
    address = await filled(peer, 5)
    await peer.send(f"{address}.urgent", "6")
    assert (await peer.fetch(address, "g", n=3))["waiting"] == {"critical": 0, "urgent": 0, "normal": 3, "low": 0}
    assert "waiting" not in await peer.fetch(address, n=1)


async def test_at_most_a_thousand_are_out_in_a_group(connect: Connect, server: Broker) -> None:
    first, second = await connect(server), await connect(server)
    address = await filled(first, 1100)
    assert ids(await first.fetch(address, "g", n=1100)) == numbers(1, 1000)
    assert ids(await second.fetch(address, "g", n=1100)) == []
    assert (await first.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_id": 60}))["error"] == ""
    assert ids(await second.fetch(address, "g", n=1100)) == numbers(1001, 1060)
    assert ids(await second.fetch(address, n=1100)) == numbers(1, 1100)


async def test_a_thousand_groups_and_no_more(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(pub(f"{AI}MAILBOX.{address}", b"x"))
    for number in range(1000):
        assert ids(client.ask(f"MSG.FETCH.{address}", {"group_name": f"g{number}"})) == [1]
    refused = client.ask(f"MSG.FETCH.{address}", {"group_name": "one-more"})
    assert set(refused) == {"error"}
    assert "1000" in refused["error"]


async def test_a_named_member_gets_its_own_again_first(connect: Connect, server: Broker) -> None:
    peer, stranger = await connect(server), await connect(server)
    address = await filled(peer, 5)
    assert ids(await peer.fetch(address, "g", n=2, member="ann")) == [1, 2]
    assert ids(await peer.fetch(address, "g", n=1, member="bob")) == [3]
    assert ids(await peer.fetch(address, "g", n=3, member="ann")) == [1, 2, 4]
    assert ids(await stranger.fetch(address, "g", member="ann")) == [5]
    await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "member": "ann", "msg_ids": [1, 4]})
    assert ids(await peer.fetch(address, "g", member="ann")) == [2]
    assert ids(await peer.fetch(address, "g", member="bob")) == [3]


async def test_an_urgent_message_comes_before_what_waits(peer: Peer) -> None:
    address = await filled(peer, 4)
    assert ids(await peer.fetch(address, "g", n=2)) == [1, 2]
    await peer.send(f"{address}.critical", "5")
    assert ids(await peer.fetch(address, "g")) == [5, 3, 4]


async def test_ack_exactly_these(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    address = await filled(peer, 6)
    assert ids(await peer.fetch(address, "g", n=4)) == [1, 2, 3, 4]
    assert (await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [4, 2]}))["error"] == ""
    await peer.nc.close()
    peer = await connect(broker)
    assert ids(await peer.fetch(address, "g")) == [1, 3, 5, 6]
    assert (await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [1, 6]}))["error"] == ""
    await peer.nc.close()
    for hard in (False, True):  # acknowledgements are stored, leases are not
        broker.restart(hard=hard)
        peer = await connect(broker)
        assert ids(await peer.fetch(address, "g")) == [3, 5]
        await peer.nc.close()


async def test_ack_up_to_and_including(peer: Peer) -> None:
    address = await filled(peer, 3)
    await peer.send(f"{address}.urgent", "4")
    assert ids(await peer.fetch(address, "g", member="ann")) == [4, 1, 2, 3]
    assert (await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "member": "ann", "msg_id": 1}))["error"] == ""
    assert ids(await peer.fetch(address, "g", member="ann")) == [2, 3]


async def test_ack_in_the_same_round_trip(peer: Peer) -> None:
    address = await filled(peer, 5)
    got: list[int] = []
    rounds = []
    while True:
        got = ids(await peer.fetch(address, "g", n=2, member="ann", ack=got))
        if not got:
            break
        rounds.append(got)
    assert rounds == [[1, 2], [3, 4], [5]]


async def test_ack_is_refused_for_what_somebody_else_has(connect: Connect, server: Broker) -> None:
    first, second = await connect(server), await connect(server)
    address = await filled(first, 4)
    assert ids(await first.fetch(address, "g", n=2)) == [1, 2]
    for body in ({"group_name": "g", "msg_ids": [3, 1]}, {"group_name": "g", "member": "ann", "msg_ids": [2]}):
        reply = await second.ask(f"MSG.ACK.{address}", body)
        assert set(reply) == {"error"}
        assert reply["error"] != ""
    reply = await first.ask(f"MSG.ACK.{address}", {"group_name": "g", "member": "ann", "msg_ids": [1]})
    assert set(reply) == {"error"}
    # nothing was half done: 3 is still there, and acknowledging what nobody has is allowed
    assert (await second.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [4]}))["error"] == ""
    assert ids(await second.fetch(address, "g")) == [3]
    assert (await first.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [1, 2]}))["error"] == ""


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"msg_ids": [1]}, "group_name"),
        ({"group_name": "", "msg_ids": [1]}, "group_name"),
        ({"group_name": "g"}, "msg_id"),
        ({"group_name": "g", "msg_ids": "1"}, "msg_ids"),
        ({"group_name": "g", "msg_ids": ["1"]}, "msg_ids"),
        ({"group_name": "g", "msg_id": "1"}, "msg_id"),
    ],
    ids=str,
)
async def test_ack_refuses_bad_fields_by_name(peer: Peer, body: dict[str, Any], named: str) -> None:
    address = await filled(peer, 1)
    reply = await peer.ask(f"MSG.ACK.{address}", body)
    assert set(reply) == {"error"}
    assert named in reply["error"]


async def test_a_lost_connection_returns_its_leases(
    connect: Connect, server: Broker, wire: Callable[..., Wire]
) -> None:
    peer, dying = await connect(server), wire(server)
    address = await filled(peer, 3)
    assert ids(dying.ask(f"MSG.FETCH.{address}", {"group_name": "g", "config": {"num_msgs": 2}})) == [1, 2]
    assert ids(await peer.fetch(address, "g", n=1)) == [3]
    poll = asyncio.create_task(peer.fetch(address, "g", wait_ms=10_000))
    await peer.flush()
    started = time.monotonic()
    dying.reset()
    assert ids(await poll) == [1, 2]
    assert time.monotonic() - started < 2


async def test_a_lease_ends_after_ack_wait(connect: Connect, server: Broker) -> None:
    first, second = await connect(server), await connect(server)
    address = await filled(first, 2, ack_wait=1)
    assert ids(await first.fetch(address, "g")) == [1, 2]
    await first.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [1]})
    assert ids(await second.fetch(address, "g")) == []
    started = time.monotonic()
    assert ids(await second.fetch(address, "g", wait_ms=5000)) == [2]
    assert 0.5 < time.monotonic() - started < 3


# ---- DELETE ----


@pytest.mark.parametrize("verb", ["MAILBOX.DELETE", "MSG.DELETE"])
async def test_delete_one_message(connect: Connect, broker: Broker, verb: str) -> None:
    peer = await connect(broker)
    made = await peer.create(name="a.b")
    for number in ("1", "2", "3"):
        await peer.send("a.b", number)
    assert (await peer.ask(f"{verb}.{made['owner']}.2"))["error"] == ""
    assert ids(await peer.query("a.b")) == [1, 3]
    assert ids(await peer.fetch("a.b", "g")) == [1, 3]
    assert (await peer.query("a.b"))["unread"] == 2
    for number in (1, 3):
        assert (await peer.ask(f"{verb}.{made['owner']}.{number}"))["error"] == ""
    assert (await peer.query("a.b"))["unread"] == 0
    await peer.nc.close()
    broker.restart(hard=True)
    peer = await connect(broker)
    assert (await peer.send("a.b", "next"))["msg_id"] == 4


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "one.two"])
async def test_delete_needs_a_message_id(peer: Peer, number: str) -> None:
    address = await filled(peer, 2)
    reply = await peer.ask(f"MAILBOX.DELETE.{address}.{number}")
    assert set(reply) == {"error"}
    assert ids(await peer.query(address)) == [1, 2]


async def test_a_name_that_ends_in_a_number_is_no_message(peer: Peer) -> None:
    made = await peer.create(name=fresh_name() + ".7")
    await peer.send(made["mail_id"], "x")
    reply = await peer.ask(f"MAILBOX.DELETE.{made['mail_id']}")
    assert set(reply) == {"error"}
    assert ids(await peer.query(made["mail_id"])) == [1]
