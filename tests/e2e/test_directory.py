"""The directory of public mailboxes: asked for, and followed as it changes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from nats.aio.subscription import Subscription

from e2e.harness import AI, Broker, Connect, Peer, fresh_name, take, waiting

pytestmark = pytest.mark.anyio

LIST = AI + "PUBLIC.LIST"


async def next_events(subscription: Subscription, count: int, **options: float) -> list[dict[str, Any]]:
    messages = await take(subscription, count, **options)
    assert {message.subject for message in messages} <= {LIST}
    return [json.loads(message.data) for message in messages]


async def events_now(peer: Peer, subscription: Subscription) -> list[dict[str, Any]]:
    return [json.loads(message.data) for message in await waiting(peer, subscription)]


async def test_a_listing_says_what_each_public_mailbox_is(peer: Peer) -> None:
    name = fresh_name("listing")
    made = await peer.create(name=name, public=True, desc="what it is for", ttl=60)
    endless = await peer.create(name=name + ".endless", public=True, desc="stays", ttl=0)
    await peer.create(name=name + ".unlisted", desc="a name, but not in the directory")
    await peer.create(name=name + ".too", public=False)
    reply = await peer.ask("PUBLIC.LIST", {"prefix": name})
    assert reply == {
        "error": "",
        "mailboxes": [
            {"mail_id": name, "desc": "what it is for", "ttl": 60, "expires_at": made["expires_at"]},
            {"mail_id": endless["mail_id"], "desc": "stays", "ttl": 0, "expires_at": None},
        ],
    }
    assert (await peer.ask("PUBLIC.LIST", {"prefix": name + "x"}))["mailboxes"] == []


async def test_listings_go_on_where_they_stopped(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    assert await peer.ask("PUBLIC.LIST") == {"error": "", "mailboxes": []}
    names = sorted(["a", "a-b", "a.b", "ab", "b", "b.1", "b.10", "b.2", "c"])
    for name in reversed(names):
        await peer.create(name=name, public=True)

    async def walk(**fields: Any) -> list[list[str]]:
        pages, after = [], None
        while True:
            reply = await peer.ask("PUBLIC.LIST", {"limit": 2, "after": after, **fields})
            assert reply["error"] == ""
            pages.append([mailbox["mail_id"] for mailbox in reply["mailboxes"]])
            after = reply.get("next")
            if after is None:
                return pages

    assert await walk() == [names[0:2], names[2:4], names[4:6], names[6:8], names[8:]]
    assert await walk(prefix="b.") == [["b.1", "b.10"], ["b.2"]]
    assert await walk(prefix="a", limit=4) == [["a", "a-b", "a.b", "ab"]]


@pytest.mark.parametrize(
    "body", [{"limit": -1}, {"limit": "2"}, {"prefix": 5}, {"after": 5}], ids=lambda body: next(iter(body))
)
async def test_a_listing_refuses_bad_fields_by_name(peer: Peer, body: dict[str, Any]) -> None:
    reply = await peer.ask("PUBLIC.LIST", body)
    assert set(reply) == {"error"}
    assert next(iter(body)) in reply["error"]


async def test_following_the_directory(connect: Connect, broker: Broker) -> None:
    peer, follower = await connect(broker), await connect(broker)
    early = await peer.create(name="early", public=True, desc="was there", ttl=60)
    await peer.create(name="unlisted", ttl=60)
    subscription = await follower.listen(LIST)
    line = {"mail_id": "early", "desc": "was there", "ttl": 60, "expires_at": early["expires_at"]}
    assert await events_now(follower, subscription) == [{"event": "created", **line}]
    short = await peer.create(name="short", public=True, desc="soon over", ttl=1)
    late = await peer.create(name="late", public=True, desc="came", ttl=60)
    created = [
        {"event": "created", "mail_id": "short", "desc": "soon over", "ttl": 1, "expires_at": short["expires_at"]},
        {"event": "created", "mail_id": "late", "desc": "came", "ttl": 60, "expires_at": late["expires_at"]},
    ]
    assert await next_events(subscription, 2) == created
    assert (await peer.ask(f"MAILBOX.DROP.{late['owner']}"))["error"] == ""
    (dropped,) = await next_events(subscription, 1)
    assert (dropped["event"], dropped["mail_id"]) == ("dropped", "late")
    (expired,) = await next_events(subscription, 1, timeout=8)  # nobody asks for it: the sweep finds it by itself
    assert (expired["event"], expired["mail_id"]) == ("expired", "short")
    listed = (await peer.ask("PUBLIC.LIST"))["mailboxes"]
    assert listed == [line]
    # a name again is a new life
    await peer.create(name="late", public=True, desc="came again", ttl=60)
    (again,) = await next_events(subscription, 1)
    assert (again["event"], again["mail_id"], again["desc"]) == ("created", "late", "came again")
    assert await events_now(follower, subscription) == []


async def test_the_directory_outlives_the_broker(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    await peer.create(name="kept", public=True, desc="d", ttl=60)
    before = await peer.ask("PUBLIC.LIST")
    await peer.nc.close()
    broker.restart(hard=True)
    peer = await connect(broker)
    assert await peer.ask("PUBLIC.LIST") == before
    assert [event["mail_id"] for event in await next_events(await peer.listen(LIST), 1)] == ["kept"]


async def test_renewals_are_told_once_per_tenth_of_the_ttl(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    made = await peer.create(name="busy", public=True, ttl=10)
    subscription = await peer.listen(LIST)
    assert [event["event"] for event in await events_now(peer, subscription)] == ["created"]
    started, renewals = time.monotonic(), []
    while time.monotonic() - started < 2.5:
        assert (await peer.ask(f"MAILBOX.RENEW.{made['owner']}", {"ttl": 10}))["error"] == ""
        renewals += await events_now(peer, subscription)
        await asyncio.sleep(0.05)
    assert {(event["event"], event["mail_id"]) for event in renewals} == {("renewed", "busy")}
    assert 2 <= len(renewals) <= 3
    # joining the mailbox keeps it alive and is a renewal as well
    await asyncio.sleep(1.05)
    joined = await peer.create(name="busy", public=True, ttl=10)
    (renewed,) = await next_events(subscription, 1)
    assert (renewed["event"], renewed["expires_at"]) == ("renewed", joined["expires_at"])


async def test_nobody_else_writes_into_the_directory(connect: Connect, broker: Broker) -> None:
    peer, follower = await connect(broker), await connect(broker)
    subscription, everything = await follower.listen(LIST), await follower.listen(">")
    forged = {"event": "created", "mail_id": "forged", "desc": "", "ttl": 0, "expires_at": None}
    await peer.nc.publish(LIST, json.dumps(forged).encode())
    await peer.nc.publish(LIST, json.dumps(forged).encode(), reply="some.where")
    await peer.flush()
    assert (await peer.ask("PUBLIC.LIST", forged))["mailboxes"] == []
    await peer.create(name="real", public=True)
    (event,) = await next_events(subscription, 1)
    assert event["mail_id"] == "real"
    assert await waiting(follower, everything) == []


@pytest.mark.parametrize("subject", ["$mq9.AI.PUBLIC.*", "$mq9.AI.PUBLIC.>", "$mq9.AI.*.LIST"])
async def test_the_directory_is_followed_by_its_literal_subject_only(peer: Peer, subject: str) -> None:
    subscription = await peer.listen(subject)
    await peer.create(name=fresh_name(), public=True)
    assert await waiting(peer, subscription) == []
