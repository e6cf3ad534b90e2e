"""What names a mailbox and a message in the client library: addresses, what create() gave, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.harness import Broker, fresh_name
from mq9_mcp import AsyncMailbox, InvalidRequest, Mailbox, MailboxNotFound, MessageNotFound, NotAllowed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("public", [False, True])
async def test_what_create_gave_stands_for_every_address(mq9: AsyncMailbox, public: bool) -> None:
    box = await mq9.create(ttl=60, name=fresh_name() if public else None, public=public)
    face = box.mail_id if public else box.send_only
    sent = await mq9.send(box, "x", sender=box, reply_to=box)
    assert (await mq9.query(box)).unread == 1
    got = await mq9.fetch(box, group="g")
    assert [(message.msg_id, message.sender, message.reply_to) for message in got] == [(sent.msg_id, face, face)]
    await mq9.ack(box, "g", got)
    assert len(await mq9.fetch(box, group="g")) == 0
    async with mq9.messages(box) as live:
        assert (await anext(live)).text == "x"
    await mq9.delete(box, got.messages[0])
    with pytest.raises(MessageNotFound):
        await mq9.delete(box, sent.msg_id)
    await mq9.renew(box, 120)
    await mq9.declare(box, [face])
    assert [one.address for one in await mq9.find(face)] == [face]
    await mq9.drop(box)
    with pytest.raises(MailboxNotFound):
        await mq9.send(box, "x")


async def test_who_joined_a_mailbox_does_not_own_it(mq9: AsyncMailbox) -> None:
    made = await mq9.create(name=fresh_name(), ttl=60)
    joined = await mq9.create(name=made.mail_id)
    with pytest.raises(NotAllowed, match="only the owner"):
        await mq9.drop(joined)
    await mq9.drop(made)


async def test_a_fetch_acknowledges_messages_and_ids(mq9: AsyncMailbox) -> None:
    box = await mq9.create(ttl=60)
    for text in ("a", "b", "c"):
        await mq9.send(box, text)
    one, two, _ = await mq9.fetch(box, group="g", member="m")
    rest = await mq9.fetch(box, group="g", member="m", ack=[one, two.msg_id])
    assert [message.text for message in rest] == ["c"]


def test_a_program_without_an_event_loop_has_the_same(server: Broker) -> None:
    with Mailbox(server.url) as mq9:
        box = mq9.create(ttl=60)
        mq9.send(box, "x")
        seen: list[str] = []
        with mq9.receive(box, lambda message: seen.append(message.text)), mq9.messages(box) as live:
            assert next(live).text == "x"
        mq9.drop(box)


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("send", (None, "x"), "a mailbox is named by its address or by what create() gave: this is None"),
        ("fetch", (7,), "this is of type int"),
        ("send", ("box", 5), "it is of type int, and not bytes, text"),
        ("send", ("box", None), "it is None, and not bytes, text"),
        ("ack", ("box", "g", 1), "messages is of type int: give a list"),
        ("ack", ("box", "g", ["1"]), "this is of type str"),
    ],
)
async def test_what_cannot_be_meant_is_said(
    mq9: AsyncMailbox, method: str, arguments: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await getattr(mq9, method)(*arguments)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"headers": {"Try": 1}}, "the header 'Try' is of type int"),
        ({"headers": {1: "x"}}, "the header 1 is no text"),
        ({"headers": {"Try": "\ud800"}}, "the header 'Try' cannot be written as UTF-8"),
        ({"correlation_id": "\ud800"}, "the header 'Correlation-Id' cannot be written as UTF-8"),
        ({"tags": [1]}, "tags holds what is of type int"),
        ({"receipts": [None]}, "receipts holds what is None"),
    ],
)
async def test_what_is_no_text(mq9: AsyncMailbox, option: dict[str, Any], said: str) -> None:
    box = await mq9.create(ttl=60)
    with pytest.raises(InvalidRequest) as refused:
        await mq9.send(box, "x", **option)
    assert said in str(refused.value)


async def test_what_nobody_can_listen_with(mq9: AsyncMailbox) -> None:
    box = await mq9.create(ttl=60)
    with pytest.raises(InvalidRequest, match="group"):
        await anext(mq9.listen("a.b", group="two words"))
    with pytest.raises(InvalidRequest, match="group_name"):
        await mq9.receive(box, print, resume="two words").begun()
    for receive in (mq9.receive, Mailbox(mq9.url).receive):
        with pytest.raises(InvalidRequest, match="calls a function with each message: this is None"):
            receive(box, None)


@pytest.mark.parametrize("option", [{"tags": "urgent"}, {"receipts": "acked"}])
async def test_a_text_is_no_list_of_its_letters(mq9: AsyncMailbox, option: dict[str, Any]) -> None:
    box = await mq9.create(ttl=60)
    with pytest.raises(InvalidRequest, match="give a list"):
        await mq9.send(box, "x", **option)
    with pytest.raises(InvalidRequest, match="give a list"):
        await mq9.create(subscribe="alert.*")
    with pytest.raises(InvalidRequest, match="give a list"):
        await mq9.query(box, tags="urgent")
    assert (await mq9.query(box)).unread == 0
