"""Acknowledgements with the unchanged calls of nats-py: `msg.ack()`, `nak`, `in_progress`, `term`, `ack_sync`."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import MsgAlreadyAckdError

from e2e.harness import AI, Broker, Connect, Peer, Wire, fresh_name, ids, take

pytestmark = pytest.mark.anyio


async def workers(peer: Peer, **settings: object) -> str:
    """A public mailbox whose messages are acknowledged."""
    name = fresh_name()
    await peer.create(**({"name": name, "ack": "explicit", "ack_wait": 60} | settings))
    return name


async def one(subscription: Subscription) -> Msg:
    (message,) = await take(subscription, 1)
    return message


def deliveries(message: Msg) -> str:
    assert message.headers is not None
    return message.headers["mq9-deliveries"]


async def test_ack(peer: Peer, connect: Connect, server: Broker) -> None:
    name = await workers(peer)
    for body in "abc":
        await peer.send(name, body)
    worker = await connect(server)
    a, b, _c = await take(await worker.nc.subscribe(f"{AI}INBOX.{name}", "g"), 3)
    await a.ack()
    answer = await b.ack_sync()
    assert answer.data == b'{"error":""}'
    with pytest.raises(MsgAlreadyAckdError):
        await a.ack()
    await worker.nc.flush()
    assert worker.errors == []
    await worker.nc.close()
    back = await one(await peer.nc.subscribe(f"{AI}INBOX.{name}", "g"))
    assert (back.data, deliveries(back)) == (b"c", "2")


async def test_nak_term_and_in_progress(peer: Peer) -> None:
    """Their effects show at once: a message that was given back comes again, one that was given up does not."""
    graveyard = fresh_name()
    await peer.create(name=graveyard)
    name = await workers(peer, ack_wait=2, dead_letter=graveyard)
    await peer.send(name, "task")
    subscription = await peer.nc.subscribe(f"{AI}INBOX.{name}", "g")
    first = await one(subscription)
    await first.nak()
    second = await one(subscription)
    assert deliveries(second) == "2"
    started = asyncio.get_running_loop().time()
    await second.nak(delay=0.5)
    third = await one(subscription)
    assert asyncio.get_running_loop().time() - started >= 0.5
    assert deliveries(third) == "3"
    for _ in range(3):  # beyond ack_wait
        await asyncio.sleep(1)
        await third.in_progress()
    await peer.nc.flush()
    assert subscription.pending_msgs == 0
    await third.term()
    await peer.nc.flush()
    dead = (await peer.ask(f"MAILBOX.QUERY.{graveyard}"))["messages"]
    assert [(message["payload"], message["headers"]["mq9-dead-reason"]) for message in dead] == [("task", "terminated")]
    assert peer.errors == []


async def test_a_drained_subscription_works_off_what_it_has(peer: Peer, connect: Connect, server: Broker) -> None:
    name = await workers(peer)
    worker = await connect(server)
    done = []

    async def work(message: Msg) -> None:
        await asyncio.sleep(0.02)
        await message.ack()
        done.append(message.data)

    subscription = await worker.nc.subscribe(f"{AI}INBOX.{name}", "g", cb=work)
    await worker.nc.flush()
    for number in range(10):
        await peer.send(name, str(number))
    await subscription.drain()
    await worker.nc.flush()
    other = await peer.nc.subscribe(f"{AI}INBOX.{name}", "g")
    await peer.nc.flush()
    assert len(done) == 10
    assert other.pending_msgs == 0
    assert worker.errors == []


async def test_one_who_dies_costs_no_message(broker: Broker, connect: Connect) -> None:
    """Members that vanish with what they have, and a broker that is killed: what was acknowledged is done, once."""
    sender = await connect(broker)
    name = await workers(sender, max_deliver=0)
    for number in range(30):
        await sender.send(name, str(number))
    done: list[str] = []
    for hard in (False, True, False):
        wire = Wire(broker.port)
        wire.send(f"SUB {AI}INBOX.{name} g 1\r\n")
        for frame in wire.messages(30 - len(done))[:5]:
            wire.publish(frame.reply, b"+ACK")
            done.append(frame.payload.decode())
        assert wire.settle() == []
        if hard:
            broker.restart(hard=True)
            sender = await connect(broker)
        wire.reset()
    rest = await sender.ask(f"MSG.FETCH.{name}", {"group_name": "g", "config": {"num_msgs": 1000, "max_wait_ms": 5000}})
    assert sorted(done + [message["payload"] for message in rest["messages"]], key=int) == list(map(str, range(30)))
    assert len(ids(rest)) == 15
