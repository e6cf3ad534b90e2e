"""Mailboxes as they fill: everything once, in order, through restarts and slow readers."""

from __future__ import annotations

import asyncio

import pytest

from e2e.harness import Broker, fresh_name
from mq9_mcp.client import AsyncMailbox, Message
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.live import Stream

pytestmark = pytest.mark.anyio


async def take(messages: Stream[Message], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [(await anext(messages)).text for _ in range(count)]


async def over(messages: Stream[Message]) -> bool:
    async with asyncio.timeout(10):
        return await anext(messages, None) is None


async def test_what_waits_comes_first_then_what_arrives(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    await mq9.send(made.send_only, "low", priority="low")
    await mq9.send(made.send_only, "critical", priority="critical")
    messages = mq9.messages(made.mail_id)
    assert await take(messages, 2) == ["critical", "low"]
    await mq9.send(made.send_only, "new")
    assert await take(messages, 1) == ["new"]
    await messages.aclose()
    assert (await mq9.query(made.mail_id)).unread == 3


async def test_everyone_without_a_group_gets_everything(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    readers = [mq9.messages(made.mail_id) for _ in range(3)]
    await mq9.send(made.send_only, "x")
    for reader in readers:
        assert await take(reader, 1) == ["x"]
        await reader.aclose()


async def test_it_ends_with_the_mailbox(mq9: AsyncMailbox) -> None:
    for group in (None, "g"):
        made = await mq9.create()
        await mq9.send(made.send_only, "last")
        messages = mq9.messages(made.mail_id, group=group)
        assert await take(messages, 1) == ["last"]
        ending = asyncio.create_task(over(messages))
        await asyncio.sleep(0)
        await mq9.drop(made.mail_id)
        assert await ending


async def test_a_group_shares_the_mail(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for number in range(4):
        await mq9.send(made.send_only, str(number))
    first, second = mq9.messages(made.mail_id, group="g"), mq9.messages(made.mail_id, group="g")
    got = await take(first, 1) + await take(second, 1) + await take(first, 1) + await take(second, 1)
    assert got == ["0", "1", "2", "3"]
    await first.aclose()
    await second.aclose()


async def test_what_was_not_finished_comes_again(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for body in ("done", "begun"):
        await mq9.send(made.send_only, body)
    messages = mq9.messages(made.mail_id, group="g")
    assert await take(messages, 2) == ["done", "begun"]
    await messages.aclose()
    assert await take(mq9.messages(made.mail_id, group="g"), 1) == ["begun"]


async def test_a_reader_that_was_cancelled_loses_nothing(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    messages = mq9.messages(made.mail_id, group="g")
    waiting = asyncio.create_task(take(messages, 1))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await mq9.send(made.send_only, "x")
    assert await take(mq9.messages(made.mail_id, group="g"), 1) == ["x"]


@pytest.mark.parametrize("group", [None, "g"])
async def test_nothing_twice_and_nothing_lost_when_the_broker_restarts(broker: Broker, group: str | None) -> None:
    again = Broker(broker.data_dir, "--port", str(broker.port))
    async with await AsyncMailbox.connect(broker.url) as client:
        made = await client.create()
        for body in ("1", "2"):
            await client.send(made.send_only, body)
        await client.send(made.send_only, "0", priority="high")
        messages = client.messages(made.mail_id, group=group)
        assert await take(messages, 3) == ["0", "1", "2"]
        coming = asyncio.create_task(take(messages, 2))
        await client.query(made.mail_id)
        broker.kill()
        try:
            await asyncio.to_thread(again.start)
            for body in ("3", "4"):
                await client.send(made.send_only, body)
            got = await coming
            # What a group's reader had begun and the broker had not heard the end of may come again.
            assert [body for body in got if body != "2"] == ["3", "4"][: len(got) - got.count("2")]
            assert group or got == ["3", "4"]
            await messages.aclose()
        finally:
            again.kill()


async def test_the_end_during_an_outage(broker: Broker) -> None:
    again = Broker(broker.data_dir, "--port", str(broker.port))
    async with await AsyncMailbox.connect(broker.url) as client:
        made = await client.create(storage="memory")
        messages = client.messages(made.mail_id)
        await client.send(made.send_only, "x")
        assert await take(messages, 1) == ["x"]
        ending = asyncio.create_task(over(messages))
        broker.kill()
        try:
            await asyncio.to_thread(again.start)
            assert await ending
        finally:
            again.kill()


async def test_a_slow_reader_gets_everything_from_a_bounded_buffer(
    mq9: AsyncMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mq9_mcp.feed.BUFFER", 5000)
    made = await mq9.create()
    for number in range(50):
        await mq9.send(made.send_only, f"{number:03}" + "x" * 500)
    messages = mq9.messages(made.mail_id)
    got = []
    for _ in range(50):
        got += await take(messages, 1)
        await asyncio.sleep(0.001)
    assert [body[:3] for body in got] == [f"{number:03}" for number in range(50)]
    await mq9.send(made.send_only, "live again")
    assert await take(messages, 1) == ["live again"]
    await messages.aclose()


async def test_a_name_with_a_new_life_is_not_taken_for_the_old_one(mq9: AsyncMailbox) -> None:
    name = fresh_name("lives")
    old = await mq9.create(name=name, public=True)
    await mq9.send(name, "old")
    messages = mq9.messages(name)
    assert await take(messages, 1) == ["old"]
    assert old.owner is not None
    await mq9.drop(old.owner)
    await mq9.create(name=name, public=True)
    await mq9.send(name, "new")
    assert await over(messages)
    assert await take(mq9.messages(name), 1) == ["new"]


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_reader_outwaits_any_outage(broker: Broker, monkeypatch: pytest.MonkeyPatch, group: str | None) -> None:
    monkeypatch.setattr("mq9_mcp.connection.RECONNECT_WITHIN", 0.2)
    again = Broker(broker.data_dir, "--port", str(broker.port))
    async with await AsyncMailbox.connect(broker.url) as client:
        made = await client.create()
        coming = asyncio.create_task(take(client.messages(made.mail_id, group=group), 1))
        await client.query(made.mail_id)
        broker.kill()
        await asyncio.sleep(0.7)
        try:
            await asyncio.to_thread(again.start)
            monkeypatch.undo()
            await client.send(made.send_only, "x")
            assert await coming == ["x"]
        finally:
            again.kill()


async def test_a_sender_cannot_end_a_mailbox_for_its_readers(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    messages = mq9.messages(made.mail_id)
    await mq9.send(made.send_only, "not the end", headers={"Status": "410"})
    await mq9.send(made.send_only, "after it")
    assert await take(messages, 2) == ["not the end", "after it"]
    await messages.aclose()


@pytest.mark.parametrize("group", [None, "g"])
async def test_closing_the_client_ends_what_it_reads(server: Broker, group: str | None) -> None:
    async with AsyncMailbox(server.url) as client:
        made = await client.create()
        messages = client.messages(made.mail_id, group=group)
        await client.send(made.send_only, "x")
        assert await take(messages, 1) == ["x"]
        coming = asyncio.create_task(take(messages, 1))
        await client.query(made.mail_id)
    async with asyncio.timeout(5):
        with pytest.raises(BrokerUnavailable):
            await coming


async def test_who_stops_in_the_middle_leaves_it_to_others(mq9: AsyncMailbox) -> None:
    made = await mq9.create(ack_wait=600)
    for body in ("done", "begun"):
        await mq9.send(made.send_only, body)
    async for message in mq9.messages(made.mail_id, group="g"):
        if message.text == "begun":
            break
    (message,) = (await mq9.fetch(made.mail_id, group="g", wait=10)).messages
    assert (message.text, message.deliveries) == ("begun", 2)
    async with mq9.messages(made.mail_id, group="other") as waiting, asyncio.timeout(10):
        assert await take(waiting, 2) == ["done", "begun"]
    assert [message.text for message in (await mq9.fetch(made.mail_id, group="other", wait=10))] == ["begun"]
