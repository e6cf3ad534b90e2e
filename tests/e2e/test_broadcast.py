"""Broadcasts, which are live only, and the capability board, which remembers."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from nats.aio.msg import Msg

from e2e.harness import AI, Broker, Connect, Peer, bodies, fresh_name, payloads, take, waiting

pytestmark = pytest.mark.anyio

BROADCAST = AI + "BROADCAST."
BOARD = BROADCAST + "system.capability"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("pipe.done", ["pipe.done"]),
        ("pipe.*", ["pipe.done", "pipe.failed"]),
        ("*.done", ["pipe.done", "other.done"]),
        (">", ["pipe.done", "pipe.failed", "other.done", "pipe.step.done"]),
        ("pipe.>", ["pipe.done", "pipe.failed", "pipe.step.done"]),
    ],
)
async def test_patterns(connect: Connect, server: Broker, pattern: str, expected: list[str]) -> None:
    sender, listener = await connect(server), await connect(server)
    subscription = await listener.listen(BROADCAST + pattern)
    for event in ("pipe.done", "pipe.failed", "other.done", "pipe.step.done"):
        await sender.nc.publish(BROADCAST + event, event.encode(), headers={"A": "b", "mq9-priority": "anything"})
    await sender.flush()
    got = await waiting(listener, subscription)
    assert [message.subject for message in got] == [BROADCAST + event for event in expected]
    assert payloads(got) == expected
    assert all(message.headers == {"A": "b", "mq9-priority": "anything"} for message in got)
    assert sender.errors == listener.errors == []


async def test_nothing_is_stored_or_created(peer: Peer) -> None:
    await peer.nc.publish(BROADCAST + "late.news", b"missed")
    await peer.flush()
    subscription = await peer.listen(BROADCAST + "late.news")
    assert await waiting(peer, subscription) == []
    assert await peer.ask("MAILBOX.QUERY.late.news") == {"error": "mailbox late.news does not exist"}


async def test_queue_groups(connect: Connect, server: Broker) -> None:
    sender, *members = [await connect(server) for _ in range(3)]
    subscriptions = [await member.listen(BROADCAST + "jobs.>", queue="q") for member in members]
    for number in range(100):
        await sender.nc.publish(BROADCAST + "jobs.new", str(number).encode())
    await sender.flush()
    shares = [payloads(await waiting(m, sub)) for m, sub in zip(members, subscriptions, strict=True)]
    assert Counter(text for share in shares for text in share) == Counter(map(str, range(100)))
    assert min(map(len, shares)) > 10


async def test_a_broadcast_can_ask(connect: Connect, server: Broker) -> None:
    asker, helper = await connect(server), await connect(server)

    async def answer(message: Msg) -> None:
        await message.respond(b"here: " + message.data)

    await helper.nc.subscribe(BROADCAST + "who.can", cb=answer)
    await helper.flush()
    assert (await asker.nc.request(BROADCAST + "who.can", b"help", timeout=5)).data == b"here: help"


async def test_no_echo_applies_to_broadcasts(connect: Connect, server: Broker) -> None:
    silent, other = await connect(server, no_echo=True), await connect(server)
    own, theirs = await silent.listen(BROADCAST + "echo.x"), await other.listen(BROADCAST + "echo.x")
    await silent.nc.publish(BROADCAST + "echo.x", b"x")
    assert payloads(await take(theirs, 1)) == ["x"]
    assert await waiting(silent, own) == []


async def test_a_mailbox_as_reply_subject_collects_the_answers(peer: Peer) -> None:
    box = await peer.create()
    subscription = await peer.listen(BROADCAST + "poll.open")
    await peer.nc.publish(BROADCAST + "poll.open", b"?", reply=f"{AI}INBOX.{box['send_only']}")
    (message,) = await take(subscription, 1)
    await message.respond(b"yes")
    await peer.flush()
    assert bodies(await peer.query(box["mail_id"])) == ["yes"]


# ---- the capability board ----


def declaration(sender: str, can: str) -> bytes:
    return json.dumps({"from": sender, "capabilities": [can]}).encode()


async def on_the_board(peer: Peer) -> list[Any]:
    subscription = await peer.listen(BOARD)
    seen = [json.loads(message.data) for message in await waiting(peer, subscription)]
    await subscription.unsubscribe()
    return sorted(seen, key=lambda one: str(one["from"]))


async def test_the_board_remembers_the_newest_of_each(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    made = [await peer.create(name=name, public=True) for name in ("ann", "bob")]
    private = await peer.create()
    live = await peer.listen(BOARD)
    for sender, can in (("ann", "old"), ("bob", "sing"), ("ann", "new"), (private["send_only"], "hide"), ("else", "x")):
        await peer.nc.publish(BOARD, declaration(sender, can))
    for unremembered in (b"not json", b"[]", b'{"no":"from"}', b""):
        await peer.nc.publish(BOARD, unremembered)
    assert len(await waiting(peer, live)) == 9
    assert peer.errors == []
    remembered = [
        {"from": "ann", "capabilities": ["new"]},
        {"from": "bob", "capabilities": ["sing"]},
        {"from": "else", "capabilities": ["x"]},
        {"from": private["send_only"], "capabilities": ["hide"]},
    ]
    assert await on_the_board(peer) == remembered
    await peer.nc.close()
    broker.restart(hard=True)
    peer = await connect(broker)
    assert await on_the_board(peer) == remembered
    # a declaration lives as long as its mailbox
    assert (await peer.ask(f"MAILBOX.DROP.{made[0]['owner']}"))["error"] == ""
    assert (await peer.ask(f"MAILBOX.DROP.{private['mail_id']}"))["error"] == ""
    assert await on_the_board(peer) == remembered[1:3]


async def test_remembered_first_then_live(connect: Connect, server: Broker) -> None:
    sender, listener = await connect(server), await connect(server)
    name = fresh_name()
    await sender.nc.publish(BOARD, declaration(name, "before"))
    await sender.flush()
    subscription = await listener.listen(BOARD)
    await sender.nc.publish(BOARD, declaration(name, "after"))
    await sender.flush()
    seen = [json.loads(message.data) for message in await waiting(listener, subscription)]
    assert [one["capabilities"] for one in seen if one["from"] == name] == [["before"], ["after"]]
    assert {message.subject for message in await waiting(listener, subscription)} <= {BOARD}
