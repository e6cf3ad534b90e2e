"""Creating, joining, renewing and dropping mailboxes, and who may."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from e2e.harness import (
    AI,
    NOBODY,
    NOBODY_SEND_ONLY,
    PRIVATE_ID,
    SEND_ONLY,
    Broker,
    Connect,
    Peer,
    bodies,
    fresh_name,
    ids,
    take,
)

pytestmark = pytest.mark.anyio

FIELDS = {"error", "mail_id", "is_new", "inbox", "send_only", "ttl", "expires_at"}


# ---- creating ----


async def test_a_private_mailbox_by_an_empty_request(peer: Peer) -> None:
    before = int(time.time())
    made = await peer.ask("MAILBOX.CREATE")
    assert set(made) == FIELDS
    assert made["error"] == ""
    assert made["is_new"] is True
    assert PRIVATE_ID.fullmatch(made["mail_id"].encode())
    assert SEND_ONLY.fullmatch(made["send_only"])
    assert made["inbox"] == f"$mq9.AI.INBOX.{made['mail_id']}"
    assert made["ttl"] == 86400
    assert before + 86400 <= made["expires_at"] <= int(time.time()) + 86401


async def test_addresses_never_repeat_and_do_not_show_each_other(peer: Peer) -> None:
    made = await asyncio.gather(*(peer.create() for _ in range(200)))
    assert len({one["mail_id"] for one in made} | {one["send_only"] for one in made}) == 400
    assert not any(one["mail_id"][2:] == one["send_only"][2:] for one in made)


@pytest.mark.parametrize("public", [True, False])
async def test_a_named_mailbox(peer: Peer, public: bool) -> None:
    name = fresh_name()
    made = await peer.create(name=name, public=public, desc="where builds report", ttl=60)
    assert set(made) == FIELDS | {"owner"}
    assert (made["mail_id"], made["inbox"], made["is_new"]) == (name, f"$mq9.AI.INBOX.{name}", True)
    assert PRIVATE_ID.fullmatch(made["owner"].encode())
    await peer.send(name, "by name")
    await peer.send(made["owner"], "by owner")
    await peer.send(made["send_only"], "by send-only")
    for address in (name, made["owner"]):
        assert bodies(await peer.query(address)) == ["by name", "by owner", "by send-only"]


@pytest.mark.parametrize(
    ("ttl", "expires_in"), [(1, 1), (100, 100), (31_536_000, 31_536_000), (0, None), (None, 86400)]
)
async def test_ttl(peer: Peer, ttl: int | None, expires_in: int | None) -> None:
    now = time.time()
    made = await peer.create(ttl=ttl)
    assert made["ttl"] == (86400 if ttl is None else ttl)
    if expires_in is None:
        assert made["expires_at"] is None
    else:
        assert now + expires_in - 1 < made["expires_at"] < now + expires_in + 2


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "standard", "storage": "disk", "retain": "ttl", "ack": "none"},
        {"ttl": None, "public": None, "name": None, "desc": None, "type": None, "storage": None, "subscribe": None},
        {"no_such_field": [1, 2], "Name": "Not A Field"},
        {"public": False},
    ],
    ids=["defaults-in-words", "nulls", "unknown", "not-public"],
)
async def test_these_fields_change_nothing(peer: Peer, fields: dict[str, Any]) -> None:
    made = await peer.create(**fields)
    assert set(made) == FIELDS
    assert (made["ttl"], made["is_new"]) == (86400, True)


GOOD_NAMES = [
    "a",
    "0",
    "a.b",
    "a-b_c.d",
    "a--b__c",
    "normal.x",
    "urgently",
    "systemd",
    "broadcasts.x",
    "m-short",
    "s-" + "a" * 25,
    "a" * 128,
]


@pytest.mark.parametrize("name", GOOD_NAMES)
async def test_good_names(peer: Peer, name: str) -> None:
    made = await peer.create(name=name, public=True)
    assert (made["mail_id"], made["is_new"]) == (name, True)
    assert (await peer.send(name, "hello"))["msg_id"] == 1


BAD_NAMES = [
    "",
    "A",
    "Jobs",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a-",
    "_a",
    "a_",
    "a b",
    "a\t",
    "a\r\nb",
    "a*",
    "*",
    ">",
    "a.>",
    "a/b",
    "a$b",
    "ä",
    "a" * 129,
    *("critical", "urgent", "high", "normal", "low", "notify"),
    *("a.critical", "a.urgent", "a.high", "a.normal", "a.low", "a.b.notify"),
    *("system", "system.x", "broadcast", "broadcast.x.y"),
    NOBODY,
    NOBODY_SEND_ONLY,
]


@pytest.mark.parametrize("public", [True, False], ids=["public", "unlisted"])
@pytest.mark.parametrize("name", BAD_NAMES)
async def test_bad_names(peer: Peer, name: str, public: bool) -> None:
    reply = await peer.ask("MAILBOX.CREATE", {"name": name, "public": public})
    assert set(reply) == {"error"}
    assert "name" in reply["error"]
    if 0 < len(name) <= 128 and name.isprintable():
        assert name in reply["error"]


BAD_FIELDS: list[tuple[dict[str, Any], list[str]]] = [
    ({"ttl": -1}, ["ttl", "-1"]),
    ({"ttl": "60"}, ["ttl", "60"]),
    ({"ttl": "soon"}, ["ttl", "soon"]),
    ({"ttl": 1.5}, ["ttl", "1.5"]),
    ({"ttl": True}, ["ttl"]),
    ({"ttl": [60]}, ["ttl"]),
    ({"ttl": 10**30}, ["ttl"]),
    ({"name": 5}, ["name", "5"]),
    ({"name": ["a"]}, ["name"]),
    ({"public": True}, ["name"]),
    ({"public": "yes", "name": "pub"}, ["public", "yes"]),
    ({"public": 1, "name": "pub"}, ["public", "1"]),
    ({"desc": 5, "name": "pub", "public": True}, ["desc"]),
    ({"type": "stream"}, ["type", "stream"]),
    ({"type": 1}, ["type"]),
    ({"storage": "tape"}, ["storage", "tape"]),
    ({"storage": True}, ["storage"]),
    ({"retain": "forever"}, ["retain", "forever"]),
    ({"ack": "maybe"}, ["ack", "maybe"]),
    ({"ack_wait": 0}, ["ack_wait", "0"]),
    ({"max_deliver": -1}, ["max_deliver", "-1"]),
    ({"max_deliver": "many"}, ["max_deliver", "many"]),
    ({"dead_letter": "dead"}, ["dead_letter", "dead", "does not exist"]),
    ({"dead_letter": "m-" + "a" * 26}, ["dead_letter", "send-only"]),
    ({"dead_letter": 5}, ["dead_letter", "5"]),
    ({"max_msgs": -10}, ["max_msgs", "-10"]),
    ({"max_msgs": 1.5}, ["max_msgs", "1.5"]),
    ({"subscribe": "pipeline.*"}, ["subscribe", "pipeline.*"]),
    ({"subscribe": ["*.done"]}, ["subscribe", "*.done", "wildcard"]),
    ({"subscribe": [">"]}, ["subscribe", "wildcard"]),
    ({"subscribe": ["pipeline"]}, ["subscribe", "pipeline.>"]),
    ({"subscribe": ["$mq9.AI.BROADCAST.pipeline.*"]}, ["subscribe", "leave out"]),
    ({"subscribe": ["a..b"]}, ["subscribe", "a..b"]),
    ({"subscribe": ["a.b c"]}, ["subscribe", "a.b c"]),
    ({"subscribe": ["a.>.b"]}, ["subscribe", "a.>.b"]),
    ({"subscribe": ["a." + "b" * 300]}, ["subscribe", "302"]),
    ({"subscribe": [""]}, ["subscribe"]),
    ({"subscribe": ["a.b", 5]}, ["subscribe", "5"]),
    ({"subscribe": [f"a.{number}" for number in range(9)]}, ["subscribe", "9", "8"]),
]


@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=[json.dumps(fields)[:40] for fields, _ in BAD_FIELDS])
async def test_bad_fields_are_refused_by_name(peer: Peer, fields: dict[str, Any], named: list[str]) -> None:
    reply = await peer.ask("MAILBOX.CREATE", {"name": fresh_name(), **fields} if "public" not in fields else fields)
    assert set(reply) == {"error"}
    assert all(word in reply["error"] for word in named), reply


async def test_a_refused_create_made_nothing(peer: Peer) -> None:
    name = fresh_name()
    assert set(await peer.ask("MAILBOX.CREATE", {"name": name, "public": True, "max_msgs": -1})) == {"error"}
    assert (await peer.create(name=name, public=True))["is_new"] is True


# ---- joining ----


async def test_joining_shows_no_owner_and_keeps_the_settings(peer: Peer, connect: Connect, server: Broker) -> None:
    name = fresh_name()
    first = await peer.create(name=name, public=True, ttl=100, desc="first")
    await peer.send(name, "kept")
    other = await connect(server)
    joined = await other.create(name=name, public=True, ttl=5000, desc="second", type="latest")
    assert set(joined) == FIELDS
    assert joined["is_new"] is False
    assert {key: joined[key] for key in ("mail_id", "send_only", "inbox", "ttl")} == {
        key: first[key] for key in ("mail_id", "send_only", "inbox", "ttl")
    }
    (listed,) = (await other.ask("PUBLIC.LIST", {"prefix": name}))["mailboxes"]
    assert listed["desc"] == "first"
    await peer.send(name, "too")
    assert bodies(await other.query(name)) == ["kept", "too"]


@pytest.mark.parametrize(
    ("original", "renewed", "join", "expires_in"),
    [
        (100, None, 50, 100),  # the old expiry is later
        (100, None, 5000, 100),  # never beyond the original ttl
        (100, None, None, 100),
        (100, 10, 50, 50),  # now + the joiner's ttl is later
        (100, 10, 5000, 100),
        (100, 500, 50, 500),
        (0, None, 50, None),  # no expiry is the latest of all
    ],
)
async def test_joining_moves_the_expiry_to_the_later(
    peer: Peer, original: int, renewed: int | None, join: int | None, expires_in: int | None
) -> None:
    name = fresh_name()
    made = await peer.create(name=name, ttl=original)
    if renewed is not None:
        assert (await peer.ask(f"MAILBOX.RENEW.{made['owner']}", {"ttl": renewed}))["error"] == ""
    now = time.time()
    expires_at = (await peer.create(name=name, ttl=join))["expires_at"]
    if expires_in is None:
        assert expires_at is None
    else:
        assert now + expires_in - 2 < expires_at < now + expires_in + 2


async def test_an_expired_name_begins_a_new_life(peer: Peer) -> None:
    name, private = fresh_name(), await peer.create(ttl=1)
    renewed, silent = await peer.create(ttl=1), await peer.create(name=name, public=True, ttl=1)
    assert (await peer.ask(f"MAILBOX.RENEW.{renewed['mail_id']}", {"ttl": 60}))["error"] == ""
    await peer.send(name, "of the first life")
    async with asyncio.timeout(5):
        while (await peer.ask(f"MAILBOX.QUERY.{name}"))["error"] == "":
            await asyncio.sleep(0.05)
    gone = f"mailbox {name} does not exist"
    assert set(await peer.ask(f"MAILBOX.QUERY.{private['mail_id']}")) == {"error"}
    assert await peer.ask(f"MAILBOX.{name}", "late") == {"error": gone}
    assert await peer.ask(f"MSG.FETCH.{name}") == {"error": gone}
    assert await peer.ask(f"MAILBOX.RENEW.{silent['owner']}", {"ttl": 9}) == {
        "error": f"mailbox {silent['owner']} does not exist"
    }
    await peer.query(renewed["mail_id"])
    again = await peer.create(name=name, public=True)
    assert again["is_new"] is True
    assert again["owner"] != silent["owner"]
    assert (await peer.query(name))["messages"] == []
    assert (await peer.send(name, "of the second"))["msg_id"] == 1
    assert bodies(await peer.query(name)) == ["of the second"]


# ---- who may ----


@pytest.mark.parametrize("verb", ["RENEW.{}", "DROP.{}", "DELETE.{}.1"])
async def test_only_the_owner_may(peer: Peer, verb: str) -> None:
    made = await peer.create(name=fresh_name(), public=True)
    await peer.send(made["mail_id"], "x")
    reply = await peer.ask("MAILBOX." + verb.format(made["mail_id"]), {"ttl": 10})
    assert set(reply) == {"error"}
    assert reply["error"].startswith("only the owner may")
    assert bodies(await peer.query(made["mail_id"])) == ["x"]
    assert (await peer.ask("MAILBOX." + verb.format(made["owner"]), {"ttl": 10}))["error"] == ""


async def test_renew_counts_from_now(peer: Peer) -> None:
    name = fresh_name()
    made = await peer.create(name=name, ttl=1000)
    for ttl, expires_in in ((10, 10), (3000, 3000), (0, None)):
        now = time.time()
        assert (await peer.ask(f"MAILBOX.RENEW.{made['owner']}", {"ttl": ttl}))["error"] == ""
        expires_at = (await peer.create(name=name, ttl=1))["expires_at"]
        assert expires_at is None if expires_in is None else abs(expires_at - now - expires_in) < 2


@pytest.mark.parametrize("ttl", [-1, "60", 1.5, True])
async def test_renew_refuses_a_bad_ttl(peer: Peer, ttl: object) -> None:
    made = await peer.create()
    reply = await peer.ask(f"MAILBOX.RENEW.{made['mail_id']}", {"ttl": ttl})
    assert set(reply) == {"error"}
    assert "ttl" in reply["error"]


async def test_dropped_is_gone_at_once_and_for_good(peer: Peer) -> None:
    name = fresh_name()
    made = await peer.create(name=name)
    await peer.send(name, "x")
    assert (await peer.ask(f"MAILBOX.DROP.{made['owner']}"))["error"] == ""
    for address in (name, made["owner"]):
        assert await peer.ask(f"MAILBOX.QUERY.{address}") == {"error": f"mailbox {address} does not exist"}
    assert await peer.ask(f"MAILBOX.{made['send_only']}", "x") == {
        "error": f"mailbox {made['send_only']} does not exist"
    }
    assert (await peer.create(name=name))["is_new"] is True
    assert (await peer.query(name))["messages"] == []


READING = [
    ("MAILBOX.QUERY.{}", None),
    ("MSG.QUERY.{}", None),
    ("MSG.FETCH.{}", {"group_name": "g"}),
    ("MSG.ACK.{}", {"group_name": "g", "msg_ids": [1]}),
    ("MAILBOX.DELETE.{}.1", None),
    ("MSG.DELETE.{}.1", None),
    ("MAILBOX.RENEW.{}", {"ttl": 5}),
    ("MAILBOX.DROP.{}", None),
]


@pytest.mark.parametrize(("verb", "body"), READING, ids=[verb for verb, _ in READING])
async def test_a_send_only_address_only_sends(peer: Peer, verb: str, body: object) -> None:
    made = await peer.create()
    assert (await peer.send(made["send_only"], "in"))["msg_id"] == 1
    refusals = [await peer.ask(verb.format(address), body) for address in (made["send_only"], NOBODY_SEND_ONLY, NOBODY)]
    assert refusals[0] == {"error": f"mailbox {made['send_only']} does not exist"}
    assert refusals[1] == {"error": f"mailbox {NOBODY_SEND_ONLY} does not exist"}
    assert refusals[2] == {"error": f"mailbox {NOBODY} does not exist"}
    assert bodies(await peer.query(made["mail_id"])) == ["in"]


@pytest.mark.parametrize("form", ["MAILBOX.{}", "MAILBOX.{}.urgent", "MAILBOX.{}.*", "MAILBOX.{}.>", "INBOX.{}"])
async def test_a_send_only_address_cannot_be_subscribed(peer: Peer, form: str) -> None:
    made = await peer.create()
    await peer.send(made["send_only"], "in")
    for address in (made["send_only"], NOBODY_SEND_ONLY):
        subject = AI + form.format(address)
        subscription = await peer.listen(subject)
        assert await peer.refused(subject) == f'permissions violation for subscription to "{subject.lower()}"'
        assert subscription.pending_msgs == 0


# ---- kinds ----


async def test_latest_keeps_only_the_newest_whatever_its_tier(peer: Peer) -> None:
    made = await peer.create(type="latest")
    for priority in ("normal", "critical", "low"):
        await peer.ask(f"MAILBOX.{made['mail_id']}.{priority}", priority)
        reply = await peer.query(made["mail_id"])
        assert (bodies(reply), reply["unread"]) == ([priority], 1)
    assert ids(reply) == [3]
    subscription = await peer.listen(f"{AI}INBOX.{made['mail_id']}")
    assert [message.data for message in await take(subscription, 1)] == [b"low"]
    assert subscription.pending_msgs == 0


async def test_memory_storage_ends_with_the_broker(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    disk, memory = [await peer.create(name=f"signals.{kind}", public=True, storage=kind) for kind in ("disk", "memory")]
    private = await peer.create(storage="memory")
    for made in (disk, memory, private):
        await peer.send(made["mail_id"], "x")
        assert bodies(await peer.query(made["mail_id"])) == ["x"]
    await peer.nc.close()
    broker.restart()
    peer = await connect(broker)
    assert bodies(await peer.query("signals.disk")) == ["x"]
    for gone in ("signals.memory", private["mail_id"]):
        assert await peer.ask(f"MAILBOX.QUERY.{gone}") == {"error": f"mailbox {gone} does not exist"}
    listed = (await peer.ask("PUBLIC.LIST"))["mailboxes"]
    assert [mailbox["mail_id"] for mailbox in listed] == ["signals.disk"]
    assert (await peer.create(name="signals.memory", storage="memory"))["is_new"] is True


# ---- requests that are not ----

NOT_OBJECTS = [b"[]", b"5", b'"x"', b"null", b"true", b"{bad", b'{"ttl":', b"{} {}", b"\xff\xfe"]


@pytest.mark.parametrize("body", NOT_OBJECTS)
@pytest.mark.parametrize("verb", ["MAILBOX.CREATE", "MAILBOX.QUERY.{}", "MSG.FETCH.{}", "MSG.ACK.{}", "PUBLIC.LIST"])
async def test_requests_must_be_json_objects(peer: Peer, verb: str, body: bytes) -> None:
    made = await peer.create()
    reply = await peer.ask(verb.format(made["mail_id"]), body)
    assert set(reply) == {"error"}
    assert reply["error"] != ""


async def test_a_request_without_a_reply_subject_is_refused_aloud(peer: Peer) -> None:
    subject = AI + "MAILBOX.CREATE"
    await peer.nc.publish(subject, b'{"ttl":-1}')
    assert await peer.refused(subject) == f'permissions violation for publish to "{subject.lower()}"'
    assert peer.nc.is_connected


async def test_the_reply_is_compact_json(peer: Peer) -> None:
    reply = await peer.nc.request(AI + "MAILBOX.CREATE", b"")
    assert reply.data == json.dumps(json.loads(reply.data), separators=(",", ":")).encode()
