"""A function called for each message: with a group and without, when it fails, when it is stopped."""

from __future__ import annotations

import asyncio
import logging

import pytest

from e2e.harness import NOBODY, Broker
from mq9_mcp.client import AsyncMailbox, Message
from mq9_mcp.errors import MailboxNotFound

pytestmark = pytest.mark.anyio


class Got:
    """A callback that notes what it is called with. `fails` are texts that it raises for, `slow` those it waits for."""

    def __init__(self, *fails: str) -> None:
        self.texts: list[str] = []
        self.fails = fails
        self.more = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        self.texts.append(message.text)
        self.more.set()
        if message.text in self.fails:
            raise ZeroDivisionError("this one fails")

    async def until(self, *texts: str) -> None:
        async with asyncio.timeout(15):
            while self.texts != [*texts]:
                self.more.clear()
                await self.more.wait()


async def unread(mq9: AsyncMailbox, mailbox: str, group: str) -> int:
    return sum(((await mq9.query(mailbox, limit=0, group=group)).waiting or {}).values())


@pytest.mark.parametrize("group", [None, "workers"])
async def test_what_waits_then_what_arrives(mq9: AsyncMailbox, group: str | None) -> None:
    made = await mq9.create()
    await mq9.send(made.send_only, "low", priority="low")
    await mq9.send(made.send_only, "critical", priority="critical")
    got = Got()
    async with mq9.receive(made.mail_id, got, resume=group):
        await got.until("critical", "low")
        await mq9.send(made.send_only, "new")
        await got.until("critical", "low", "new")
    again = Got()
    await mq9.send(made.send_only, "later")
    async with mq9.receive(made.mail_id, again, resume=group):
        await again.until(*(["later"] if group else ["critical", "new", "later", "low"]))


async def test_an_ordinary_function_will_do(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    texts: list[str] = []

    def note(message: Message) -> None:
        texts.append(message.text)
        if len(texts) == 2:
            receiver.halt()

    receiver = mq9.receive(made.mail_id, note)
    await mq9.send(made.send_only, "1")
    await mq9.send(made.send_only, "2")
    async with asyncio.timeout(10):
        await receiver
    assert texts == ["1", "2"]
    assert not receiver.running


async def test_receivers_share_the_work_and_leave_nothing_behind(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for number in range(40):
        await mq9.send(made.send_only, str(number))
    done: list[str] = []
    all_done = asyncio.Event()

    async def work(message: Message) -> None:
        await asyncio.sleep(0.001)
        done.append(message.text)
        if len(done) == 40:
            all_done.set()

    async with mq9.receive(made.mail_id, work, resume="g"), mq9.receive(made.mail_id, work, resume="g"):
        await asyncio.wait_for(all_done.wait(), 10)
    assert sorted(done, key=int) == [str(number) for number in range(40)]
    assert await unread(mq9, made.mail_id, "g") == 0


async def test_a_failure_is_logged_and_the_message_comes_again(
    mq9: AsyncMailbox, caplog: pytest.LogCaptureFixture
) -> None:
    grave = await mq9.create()
    made = await mq9.create(ack_wait=1, max_deliver=2, dead_letter=grave.send_only)
    for body in ("poison", "fine"):
        await mq9.send(made.send_only, body)
    got = Got("poison")
    async with mq9.receive(made.mail_id, got, resume="g") as receiver:
        await got.until("poison", "fine", "poison")
        assert receiver.running
        (dead,) = (await mq9.fetch(grave.mail_id, wait=10)).messages
    assert (dead.text, dead.headers["mq9-dead-reason"]) == ("poison", "max_deliver")
    errors = [record for record in caplog.records if record.name == "mq9.client"]
    assert [record.levelno for record in errors] == [logging.ERROR] * 2
    said = errors[0].getMessage()
    assert "failed on message 1" in said
    assert "ZeroDivisionError: this one fails" in said
    assert "comes again when its lease ends" in said
    assert made.mail_id not in caplog.text


async def test_a_callback_that_waits_for_what_was_cancelled_has_failed(
    mq9: AsyncMailbox, caplog: pytest.LogCaptureFixture
) -> None:
    made = await mq9.create()
    await mq9.send(made.send_only, "x")

    async def work(_: Message) -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        other.cancel()
        await other

    async with mq9.receive(made.mail_id, work) as receiver:
        async with asyncio.timeout(10):
            while not caplog.text:
                await asyncio.sleep(0.01)
        assert receiver.running
    assert "CancelledError" in caplog.text


async def test_a_failure_without_a_group_loses_nothing(mq9: AsyncMailbox, caplog: pytest.LogCaptureFixture) -> None:
    made = await mq9.create()
    for body in ("1", "2"):
        await mq9.send(made.send_only, body)
    got = Got("1")
    async with mq9.receive(made.mail_id, got):
        await got.until("1", "2")
    assert "nothing was consumed" in caplog.text
    assert (await mq9.query(made.mail_id)).unread == 2


async def test_stopping_lets_the_callback_finish(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    await mq9.send(made.send_only, "long")
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(_: Message) -> None:
        begun.set()
        await go_on.wait()
        done.set()

    receiver = mq9.receive(made.mail_id, work, resume="g")
    await begun.wait()
    stopping = asyncio.create_task(receiver.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    go_on.set()
    async with asyncio.timeout(10):
        await stopping
    assert done.is_set()
    assert await unread(mq9, made.mail_id, "g") == 0
    assert (await mq9.fetch(made.mail_id, group="g")).messages == []


async def test_what_was_begun_goes_back_at_once(mq9: AsyncMailbox) -> None:
    """Also when nothing had come yet: the broker does not wait with the next message for who has gone."""
    made = await mq9.create(ack_wait=600)
    begun = asyncio.Event()

    async def work(_: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    for end in ("cancelled", "in vain"):
        receiver = mq9.receive(made.mail_id, work, resume="g")
        if end == "cancelled":
            await mq9.send(made.send_only, end)
            await begun.wait()
            await receiver.cancel()
        else:
            await receiver.begun()
            await receiver.stop()
            await mq9.send(made.send_only, end)
        (message,) = (await mq9.fetch(made.mail_id, group="g", wait=10)).messages
        assert message.text == end
        await mq9.ack(made.mail_id, "g", [message.msg_id])


async def test_a_long_callback_keeps_its_message(mq9: AsyncMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq9_mcp.work.KEEP_EVERY", 0.2)
    made = await mq9.create(ack_wait=1)
    await mq9.send(made.send_only, "long")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(_: Message) -> None:
        begun.set()
        await go_on.wait()

    async with mq9.receive(made.mail_id, work, resume="g"):
        await begun.wait()
        assert (await mq9.fetch(made.mail_id, group="g", wait=2.5)).messages == []
        go_on.set()
    assert await unread(mq9, made.mail_id, "g") == 0


async def test_it_ends_with_the_mailbox(mq9: AsyncMailbox) -> None:
    for group in (None, "g"):
        made = await mq9.create()
        receiver = mq9.receive(made.mail_id, Got(), resume=group)
        await receiver.begun()
        await mq9.drop(made.mail_id)
        async with asyncio.timeout(10):
            await receiver


async def test_a_callback_may_end_it_all(mq9: AsyncMailbox, caplog: pytest.LogCaptureFixture) -> None:
    made = await mq9.create()
    await mq9.send(made.send_only, "the last")

    async def work(_: Message) -> None:
        await mq9.drop(made.mail_id)
        await receiver.stop()

    receiver = mq9.receive(made.mail_id, work, resume="g")
    async with asyncio.timeout(10):
        await receiver
    assert caplog.text == ""


async def test_who_waits_is_told_what_ended_it(mq9: AsyncMailbox, caplog: pytest.LogCaptureFixture) -> None:
    for group in (None, "g"):
        with pytest.raises(MailboxNotFound):
            await mq9.receive(NOBODY, Got(), resume=group)
        with pytest.raises(MailboxNotFound):
            async with mq9.receive(NOBODY, Got(), resume=group):
                pass
    assert caplog.text == ""
    lonely = mq9.receive(NOBODY, Got())
    await lonely.stop()
    lonely = mq9.receive(NOBODY, Got())
    async with asyncio.timeout(10):
        while lonely.running:
            await asyncio.sleep(0.01)
    assert "has ended: mailbox m-aaaa… does not exist" in caplog.text
    assert NOBODY not in caplog.text


async def test_closing_the_client_ends_its_receivers(server: Broker) -> None:
    async with AsyncMailbox(server.url) as mq9:
        made = await mq9.create()
        receivers = [mq9.receive(made.mail_id, Got(), resume=group) for group in (None, "g")]
        await asyncio.gather(*(receiver.begun() for receiver in receivers))
    assert [receiver.running for receiver in receivers] == [False, False]


async def test_waiting_has_an_end(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    receiver = mq9.receive(made.mail_id, Got())
    assert not await receiver.wait(0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await receiver
    assert not receiver.running
