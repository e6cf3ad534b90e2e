"""The client library against a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.client import Client
from pydantic import BaseModel

import mq9_mcp
from e2e.harness import NOBODY, Broker, StartBroker, fresh_name
from mq9_mcp.client import AsyncMailbox, BrokerUnavailable, Created, MailboxError, MailboxNotFound, Message
from mq9_mcp.connection import RECONNECT_WITHIN, Connection
from mq9_mcp.errors import (
    InvalidPayload,
    InvalidRequest,
    LeaseLost,
    MailboxFull,
    MessageNotFound,
    Misused,
    NoAnswer,
    NotAllowed,
    PayloadTooLarge,
    mask,
)

pytestmark = pytest.mark.anyio


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages]


async def test_the_package_gives_out_the_client() -> None:
    assert mq9_mcp.AsyncMailbox is AsyncMailbox
    assert mq9_mcp.MailboxError is MailboxError
    for name in mq9_mcp.__all__:
        assert getattr(mq9_mcp, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Letterbox'"):
        _ = mq9_mcp.Letterbox


async def test_a_private_mailbox(mq9: AsyncMailbox) -> None:
    made = await mq9.create(ttl=60)
    assert made.mail_id.startswith("m-")
    assert made.send_only.startswith("s-")
    assert made.inbox == f"$mq9.AI.INBOX.{made.mail_id}"
    assert (made.is_new, made.ttl, made.owner) == (True, 60, None)
    assert made.expires_at is not None
    assert abs(made.expires_at - time.time() - 60) < 5
    assert made.mail_id not in repr(made)


async def test_a_mailbox_that_never_expires(mq9: AsyncMailbox) -> None:
    assert (await mq9.create(ttl=0)).expires_at is None


async def test_a_public_mailbox_is_joined_by_the_second(mq9: AsyncMailbox) -> None:
    name = fresh_name("public")
    first = await mq9.create(name=name, public=True, desc="what it is for", ttl=60)
    again = await mq9.create(name=name, public=True)
    assert (first.mail_id, first.is_new) == (name, True)
    assert first.owner is not None
    assert (again.mail_id, again.is_new, again.owner) == (name, False, None)
    (listed,) = (await mq9.list(name)).mailboxes
    assert (listed.mail_id, listed.desc, listed.ttl) == (name, "what it is for", 60)
    await mq9.drop(first.owner)
    assert (await mq9.list(name)).mailboxes == []


async def test_the_directory_is_read_page_by_page(mq9: AsyncMailbox) -> None:
    prefix = fresh_name("pages")
    for number in range(5):
        await mq9.create(name=f"{prefix}.{number}", public=True)
    found, after = [], None
    while True:
        page = await mq9.list(prefix, limit=2, after=after)
        found += [listed.mail_id for listed in page.mailboxes]
        after = page.next
        if after is None:
            break
    assert found == [f"{prefix}.{number}" for number in range(5)]


class Report(BaseModel):
    done: bool
    note: str


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        (b"\x00\xff bytes", b"\x00\xff bytes"),
        ("text, naïve", "text, naïve".encode()),
        ({"a": [1, "ü"]}, '{"a":[1,"ü"]}'.encode()),
        ([1, None], b"[1,null]"),
        (Report(done=True, note="x"), b'{"done":true,"note":"x"}'),
        (b"", b""),
    ],
)
async def test_payloads(mq9: AsyncMailbox, payload: bytes | str | dict[str, object] | BaseModel, stored: bytes) -> None:
    made = await mq9.create()
    sent = await mq9.send(made.send_only, payload)
    assert (sent.msg_id, sent.duplicate) == (1, False)
    (message,) = (await mq9.fetch(made.mail_id)).messages
    assert message.payload == stored
    assert abs(message.create_time - time.time()) < 5


async def test_what_a_message_carries(mq9: AsyncMailbox) -> None:
    me, you = await mq9.create(), await mq9.create()
    await mq9.send(
        you.send_only,
        {"n": 1},
        priority="urgent",
        sender=me.mail_id,
        reply_to=me.send_only,
        ttl=60,
        headers={"Trace": "añb"},
    )
    fetched = (await mq9.fetch(you.mail_id)).messages
    queried = (await mq9.query(you.mail_id)).messages
    live = mq9.messages(you.mail_id)
    pushed = await anext(live)
    await live.aclose()
    for message in (*fetched, *queried, pushed):
        assert (message.msg_id, message.priority, message.json()) == (1, "urgent", {"n": 1})
        assert (message.sender, message.reply_to) == (me.send_only, me.send_only)
        assert message.headers["Trace"] == "añb"
        assert me.mail_id not in repr(message)
    assert len(fetched) == len(queried) == 1


async def test_a_reply_subject_of_a_plain_client_is_an_address_too(mq9: AsyncMailbox) -> None:
    me, you = await mq9.create(), await mq9.create()
    await mq9.nats.publish(you.inbox, b"question", reply=f"$mq9.AI.MAILBOX.{me.send_only}.high")
    await mq9.nats.flush()
    live = mq9.messages(you.mail_id)
    assert (await anext(live)).reply_to == me.send_only
    await live.aclose()


async def test_an_answer_goes_to_the_subject_that_was_given(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    await mq9.send(made.inbox, "by its subject")
    await mq9.send(f"$mq9.AI.MAILBOX.{made.send_only}.low", "by another, whose priority is not the address's")
    assert texts((await mq9.fetch(made.inbox)).messages)[0] == "by its subject"


async def test_a_repeated_id_is_stored_once(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    first = await mq9.send(made.send_only, "x", dedup_id="same")
    again = await mq9.send(made.send_only, "x", dedup_id="same")
    assert (again.msg_id, again.duplicate) == (first.msg_id, True)
    assert (await mq9.query(made.mail_id)).unread == 1


async def test_receipts_tell_of_the_events_asked_for(mq9: AsyncMailbox) -> None:
    me, other = await mq9.create(), await mq9.create()
    await mq9.send(other.send_only, "order", sender=me.mail_id, receipts=("delivered", "acked"))
    (order,) = (await mq9.fetch(other.mail_id, group="g")).messages
    await mq9.fetch(other.mail_id, group="g", ack=[order.msg_id])
    told = (await mq9.query(me.mail_id)).messages
    assert [(message.headers["mq9-receipt"], message.sender) for message in told] == [
        ("delivered", other.send_only),
        ("acked", other.send_only),
    ]
    with pytest.raises(MailboxError, match="mq9-receipt needs mq9-from"):
        await mq9.send(other.send_only, "order", receipts=("acked",))


async def test_a_delayed_message_has_no_id_yet(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    assert (await mq9.send(made.send_only, "later", delay=3600)).msg_id == -1
    assert (await mq9.query(made.mail_id)).unread == 0


async def test_a_group_reads_each_message_once(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for body in ("1", "2", "3"):
        await mq9.send(made.send_only, body)
    first = await mq9.fetch(made.mail_id, group="g", limit=2)
    assert (texts(first.messages), first.more) == (["1", "2"], True)
    assert texts((await mq9.fetch(made.mail_id, group="g")).messages) == ["3"]
    await mq9.ack(made.mail_id, "g", [1, 2, 3])
    assert (await mq9.fetch(made.mail_id, group="g")).messages == []
    assert len((await mq9.fetch(made.mail_id)).messages) == 3


async def test_a_member_gets_again_what_it_did_not_acknowledge(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for body in ("1", "2"):
        await mq9.send(made.send_only, body)
    for _ in range(2):
        assert texts((await mq9.fetch(made.mail_id, group="g", member="a", limit=1)).messages) == ["1"]
    assert texts((await mq9.fetch(made.mail_id, group="g", member="a", limit=1, ack=[1])).messages) == ["2"]


async def test_where_a_read_starts(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for body in ("1", "2", "3"):
        await mq9.send(made.send_only, body)
    assert texts((await mq9.fetch(made.mail_id, from_id=2)).messages) == ["2", "3"]
    assert (await mq9.fetch(made.mail_id, group="late", deliver="latest")).messages == []


async def test_a_long_poll_ends_with_the_message_or_the_time(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    begun = time.monotonic()
    poll = asyncio.create_task(mq9.fetch(made.mail_id, wait=20))
    await mq9.send(made.send_only, "here")
    assert texts((await poll).messages) == ["here"]
    assert time.monotonic() - begun < 5
    empty = await mq9.create()
    assert (await mq9.fetch(empty.mail_id, wait=0.2)).messages == []


async def test_a_wait_longer_than_a_broker_waits(mq9: AsyncMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq9_mcp.client.LONGEST_POLL", 0.05)
    made = await mq9.create()
    begun = time.monotonic()
    assert (await mq9.fetch(made.mail_id, wait=0.3)).messages == []
    assert 0.29 < time.monotonic() - begun < 5
    poll = asyncio.create_task(mq9.fetch(made.mail_id, wait=20))
    await asyncio.sleep(0.2)
    await mq9.send(made.send_only, "here")
    assert texts((await poll).messages) == ["here"]


async def test_a_query_goes_on_where_it_stopped(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for number in range(5):
        await mq9.send(made.send_only, str(number))
    page = await mq9.query(made.mail_id, limit=2, group="g")
    assert (texts(page.messages), page.unread) == (["0", "1"], 5)
    assert page.waiting is not None
    assert page.waiting["normal"] == 5
    rest = await mq9.query(made.mail_id, after=page.next)
    assert texts(rest.messages) == ["2", "3", "4"]
    assert (await mq9.query(made.mail_id, since=int(time.time()) + 60)).messages == []


async def test_delete_renew_and_drop(mq9: AsyncMailbox) -> None:
    made = await mq9.create(ttl=60)
    await mq9.send(made.send_only, "1")
    await mq9.send(made.send_only, "2")
    await mq9.delete(made.mail_id, 1)
    assert texts((await mq9.query(made.mail_id)).messages) == ["2"]
    await mq9.renew(made.mail_id, 3600)
    await mq9.drop(made.mail_id)
    with pytest.raises(MailboxNotFound):
        await mq9.query(made.mail_id)


async def test_a_broadcast_reaches_who_listens(mq9: AsyncMailbox) -> None:
    event = fresh_name("pipeline")
    heard = await mq9.nats.subscribe(f"$mq9.AI.BROADCAST.{event}.*")
    await mq9.nats.flush()
    await mq9.broadcast(f"{event}.done", {"ok": True}, headers={"Trace": "1"})
    message = await heard.next_msg(timeout=5)
    assert json.loads(message.data) == {"ok": True}
    assert message.headers == {"Trace": "1"}


@pytest.mark.parametrize("event", ["one", "a.*", "a.>", "a..b", ".a", "a b.c", "", "a.b\r\nPUB x 1"])
async def test_a_broadcast_needs_an_event(mq9: AsyncMailbox, event: str) -> None:
    with pytest.raises(MailboxError, match="no broadcast event"):
        await mq9.broadcast(event, "x")


@pytest.mark.parametrize(
    "call",
    [
        lambda mq9: mq9.send(NOBODY, "x"),
        lambda mq9: mq9.fetch(NOBODY),
        lambda mq9: mq9.fetch(NOBODY, group="g", wait=5),
        lambda mq9: mq9.ack(NOBODY, "g", [1]),
        lambda mq9: mq9.query(NOBODY),
        lambda mq9: mq9.delete(NOBODY, 1),
        lambda mq9: mq9.renew(NOBODY, 60),
        lambda mq9: mq9.drop(NOBODY),
        lambda mq9: anext(mq9.messages(NOBODY)),
        lambda mq9: anext(mq9.messages(NOBODY, group="g")),
    ],
)
async def test_a_mailbox_that_does_not_exist(
    mq9: AsyncMailbox, call: Callable[[AsyncMailbox], Awaitable[object]]
) -> None:
    with pytest.raises(MailboxNotFound) as caught:
        await call(mq9)
    assert caught.value.address == NOBODY
    assert NOBODY not in str(caught.value)
    assert "create it" in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["", "Name", "a b", "a..b", ".a", "a.", "-a", "reports.high", "*", "a.>", "a" * 129, "a\r\nPUB b 0", "$mq9.AI.X.y"],
)
async def test_what_is_no_address_is_not_sent(mq9: AsyncMailbox, address: str) -> None:
    for call in (mq9.send(address, "x"), mq9.fetch(address), mq9.drop(address), mq9.query(address)):
        with pytest.raises(MailboxError, match="is no mailbox address"):
            await call


async def test_a_refusal_keeps_the_brokers_reason(mq9: AsyncMailbox) -> None:
    name = fresh_name("owned")
    await mq9.create(name=name, public=True)
    with pytest.raises(MailboxError, match="only the owner may"):
        await mq9.drop(name)
    made = await mq9.create()
    with pytest.raises(MailboxError, match="whenever"):
        await mq9.send(made.send_only, "x", priority="whenever")


async def test_what_cannot_be_sent_as_it_is(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    with pytest.raises(MailboxError, match="more than one line"):
        await mq9.send(made.send_only, "x", headers={"A": "b\r\nmq9-ttl: 1"})
    with pytest.raises(MailboxError, match="header name"):
        await mq9.send(made.send_only, "x", headers={"A: b": "c"})
    with pytest.raises(MailboxError, match="JSON"):
        await mq9.send(made.send_only, {"a": object()})
    with pytest.raises(MailboxError, match="UTF-8"):
        await mq9.send(made.send_only, "\ud800")
    with pytest.raises(MailboxError, match=r"has 1048\d+ bytes, the broker takes at most 1048576"):
        await mq9.send(made.send_only, b"x" * (1 << 20))
    assert (await mq9.query(made.mail_id)).unread == 0


async def test_private_addresses_are_shortened() -> None:
    assert mask(f"mailbox {NOBODY} and $mq9.AI.INBOX.{NOBODY}.low") == "mailbox m-aaaa… and $mq9.AI.INBOX.m-aaaa….low"
    assert [mask(NOBODY[:-1]), mask(NOBODY + "a"), mask(NOBODY + "X")] == ["m-aaaa…", "m-aaaa…", "m-aaaa…X"]
    assert mask("m-nothing s-" + "a" * 26) == "m-nothing s-" + "a" * 26


async def test_a_server_that_is_no_mq9_broker() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576}\r\n')
        await reader.read()
        writer.close()

    plain = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with plain:
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port} is no mq9 broker"):
            await AsyncMailbox.connect(f"nats://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["nats://:4222", "nats://h:port", "nats://[::1"])
async def test_an_url_that_is_none(url: str) -> None:
    with pytest.raises(BrokerUnavailable, match="no broker address"):
        await AsyncMailbox.connect(url)


async def test_nobody_listens() -> None:
    with pytest.raises(BrokerUnavailable, match=r"no broker answers at nats://127.0.0.1:1 .*`mq9 broker`") as caught:
        await AsyncMailbox.connect("nats://user:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


async def test_the_environment_names_the_broker(server: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_URL", server.url)
    async with await AsyncMailbox.connect() as client:
        assert client.url == server.url
        assert (await client.create()).is_new


async def test_a_closed_client_says_so(server: Broker) -> None:
    client = await AsyncMailbox.connect(server.url)
    await client.close()
    with pytest.raises(BrokerUnavailable, match="this client is closed"):
        await client.create()


async def test_a_cancelled_request_leaves_the_connection_alone(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    poll = asyncio.create_task(mq9.fetch(made.mail_id, wait=30))
    await asyncio.sleep(0.05)
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    assert (await mq9.send(made.send_only, "x")).msg_id == 1


async def test_a_hundred_requests_at_once(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    sent = await asyncio.gather(*(mq9.send(made.send_only, str(number)) for number in range(100)))
    assert sorted(one.msg_id for one in sent) == list(range(1, 101))


async def test_a_request_waits_for_a_broker_that_restarts(broker: Broker) -> None:
    async with await AsyncMailbox.connect(broker.url) as client:
        made = await client.create()
        port = broker.port
        broker.kill()
        sending = asyncio.create_task(client.send(made.send_only, "meanwhile"))
        again = Broker(broker.data_dir, "--port", str(port))
        try:
            await asyncio.to_thread(again.start)
            assert (await sending).msg_id == 1
            assert (await client.query(made.mail_id)).unread == 1
        finally:
            again.kill()


async def test_a_long_poll_survives_a_restart(broker: Broker) -> None:
    async with await AsyncMailbox.connect(broker.url) as client:
        made = await client.create()
        poll = asyncio.create_task(client.fetch(made.mail_id, group="g", wait=20))
        await client.query(made.mail_id)
        again = Broker(broker.data_dir, "--port", str(broker.port))
        broker.kill()
        try:
            await asyncio.to_thread(again.start)
            await client.send(made.send_only, "after")
            assert texts((await poll).messages) == ["after"]
        finally:
            again.kill()


async def test_a_broker_that_stays_away(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq9_mcp.connection.RECONNECT_WITHIN", 0.3)
    async with await AsyncMailbox.connect(broker.url) as client:
        broker.kill()
        calls = [client.create() for _ in range(5)]
        begun = time.monotonic()
        problems = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - begun < 2
        for problem in problems:
            assert isinstance(problem, BrokerUnavailable)
            assert "`mq9 broker`" in str(problem)


async def test_a_connection_that_the_broker_ended_is_made_anew(server: Broker) -> None:
    link = Connection(server.url, home=None, name="test")
    await link.open()
    ended: Client = link.nats
    await ended.close()  # what nats-py does when a server says that it is not wanted
    assert (await link.request("$mq9.AI.MAILBOX.CREATE", b"{}"))["error"] == ""
    assert link.nats is not ended
    await link.close()


async def test_closing_ends_what_waits(broker: Broker) -> None:
    client = await AsyncMailbox.connect(broker.url)
    made = await client.create()
    poll = asyncio.create_task(client.fetch(made.mail_id, wait=60))
    await client.query(made.mail_id)
    broker.kill()
    waiting = asyncio.create_task(client.create())
    await asyncio.sleep(0.05)
    await client.close()
    for task in (poll, waiting):
        async with asyncio.timeout(5):
            with pytest.raises(BrokerUnavailable):
                await task


async def test_a_secret_is_no_address_for_answers(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for secret in (made.mail_id, made.inbox):
        with pytest.raises(MailboxError, match="send_only") as refused:
            await mq9.send(made.send_only, "x", reply_to=secret)
        assert made.mail_id not in str(refused.value)
    assert (await mq9.query(made.mail_id)).unread == 0


async def test_a_sending_subject_keeps_its_priority(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    await mq9.send(f"$mq9.AI.INBOX.{made.send_only}.urgent", "x")
    await mq9.send(f"$mq9.AI.INBOX.{made.send_only}.urgent", "y", priority="low")
    assert [message.priority for message in (await mq9.query(made.mail_id)).messages] == ["urgent", "low"]


async def test_it_connects_when_it_is_first_used(server: Broker) -> None:
    client = AsyncMailbox(server.url)
    assert client.url == server.url
    with pytest.raises(Misused, match="no connection yet"):
        _ = client.nats
    made = await asyncio.gather(*(client.create() for _ in range(5)))
    assert len({mailbox.mail_id for mailbox in made}) == 5
    assert client.nats.is_connected
    await client.close()
    unused = AsyncMailbox(server.url)
    await unused.close()
    with pytest.raises(BrokerUnavailable, match="this client is closed"):
        await unused.create()


def test_another_event_loop_is_noticed(server: Broker) -> None:
    with asyncio.Runner() as first, asyncio.Runner() as second:
        client = AsyncMailbox(server.url)
        first.run(client.create())
        with pytest.raises(Misused, match="another event loop"):
            second.run(client.create())
        first.run(client.close())


async def test_the_settings_of_a_mailbox(mq9: AsyncMailbox) -> None:
    grave = await mq9.create()
    made = await mq9.create(
        type="standard",
        storage="memory",
        max_msgs=2,
        retain="ack",
        ack="explicit",
        ack_wait=1,
        max_deliver=1,
        dead_letter=grave.send_only,
        subscribe=["settings.*"],
    )
    await mq9.broadcast("settings.changed", "stored", headers={"Trace": "1"})
    (stored,) = await mq9.fetch(made.mail_id, group="g", wait=5)
    assert (stored.text, stored.event, stored.deliveries, stored.headers["Trace"]) == (
        "stored",
        "settings.changed",
        1,
        "1",
    )
    await mq9.send(made.send_only, "second")
    with pytest.raises(MailboxFull, match="max_msgs of 2"):
        await mq9.send(made.send_only, "third")
    (dead,) = await mq9.fetch(grave.mail_id, wait=10)
    assert dead.text == "stored"
    assert (await mq9.query(made.mail_id)).unread == 1
    with pytest.raises(InvalidRequest, match="send_only address"):
        await mq9.create(dead_letter=grave.mail_id)


async def test_keys_and_tags(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for body in ("old", "new"):
        await mq9.send(made.send_only, body, key="state", tags=["db", "prod"])
    await mq9.send(made.send_only, "other", tags=["db"], correlation_id="c-1", hops=3)
    assert texts((await mq9.query(made.mail_id, key="state")).messages) == ["new"]
    assert texts((await mq9.query(made.mail_id, tags=["prod", "db"])).messages) == ["new"]
    state, other = await mq9.fetch(made.mail_id)
    assert (state.key, state.tags, state.correlation_id, state.hops) == ("state", ["db", "prod"], None, 0)
    assert (other.key, other.tags, other.correlation_id, other.hops) == (None, ["db"], "c-1", 3)


async def test_refusals_have_their_kinds(mq9: AsyncMailbox) -> None:
    name = fresh_name("kinds")
    await mq9.create(name=name, public=True)
    made = await mq9.create(ack_wait=60)
    sent = await mq9.send(made.send_only, "x")
    for asked, reason in (
        (mq9.create(ttl=-1), "ttl must be from 0"),
        (mq9.create(public=True), "needs a name"),
        (mq9.create(name="Not A Name"), "name 'Not A Name' is not allowed"),
        (mq9.create(dead_letter=fresh_name()), "create that mailbox first"),
        (mq9.create(subscribe=["*.all"]), "must not be a wildcard"),
        (mq9.fetch(made.mail_id, group="two words"), "without spaces"),
        (mq9.query(made.mail_id, limit=1001), "limit must be from 0"),
        (mq9.send(made.send_only, "x", receipts=["lost"]), "unknown event"),
        (mq9.send(made.send_only, "x", ttl=-1), "whole number"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            await asked
    with pytest.raises(NotAllowed, match="only the owner may"):
        await mq9.renew(name)
    with pytest.raises(NotAllowed, match="mq9-from"):
        await mq9.send(made.send_only, "x", sender=name)
    with pytest.raises(MessageNotFound, match="message 9 does not exist"):
        await mq9.delete(made.mail_id, 9)
    await mq9.fetch(made.mail_id, group="g", member="a")
    with pytest.raises(LeaseLost, match="another member"):
        await mq9.ack(made.mail_id, "g", [sent.msg_id], member="b")
    with pytest.raises(PayloadTooLarge) as caught:
        await mq9.send(made.send_only, b"x" * (1 << 20))
    assert caught.value.limit == 1 << 20
    assert caught.value.size > 1 << 20


async def test_renewing_tells_when_it_ends(mq9: AsyncMailbox) -> None:
    made = await mq9.create(ttl=600)
    assert made.expires_at is not None
    longer = await mq9.renew(made.mail_id, 1200)
    assert longer is not None
    assert 595 < longer - made.expires_at < 605
    again = await mq9.renew(made.mail_id)
    assert again is not None
    assert abs(again - made.expires_at) < 5
    assert await mq9.renew(made.mail_id, 0) is None


async def test_payloads_read_as_models(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    for payload in (Report(done=True, note="x"), {"done": "perhaps", "note": "secret"}, "no json", [1, 2]):
        await mq9.send(made.send_only, payload)
    report, wrong, none, numbers = await mq9.fetch(made.mail_id)
    assert report.model(Report) == Report(done=True, note="x")
    assert numbers.model(list[int]) == [1, 2]
    with pytest.raises(
        InvalidPayload, match=r"message 2 is no Report \(done: Input should be a valid boolean"
    ) as caught:
        wrong.model(Report)
    assert "secret" not in str(caught.value)
    assert "perhaps" not in str(caught.value)
    with pytest.raises(InvalidPayload, match="message 3 is no Report"):
        none.model(Report)
    with pytest.raises(InvalidPayload, match="message 3 is no JSON"):
        none.json()


async def test_questions_and_answers(mq9: AsyncMailbox) -> None:
    name = fresh_name("oracle")
    oracle = await mq9.create(name=name)
    assert oracle.owner is not None

    async def answer(message: Message) -> None:
        assert message.correlation_id
        await mq9.answer(message, message.text.upper(), sender=oracle.owner)

    async with mq9.receive(name, answer, resume="g"):
        answers = await asyncio.gather(*(mq9.ask(name, f"question {number}") for number in range(10)))
    assert texts(answers) == [f"QUESTION {number}" for number in range(10)]
    assert {(answer.sender, answer.hops) for answer in answers} == {(name, 1)}


async def test_a_broker_that_says_nothing(server: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq9_mcp.client.ANSWER_WITHIN", 0.3)
    async with AsyncMailbox(server.url) as client:
        made = await client.create()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(BrokerUnavailable, match="did not answer within 0 s"):
                    await client.fetch(made.mail_id)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert (await client.query(made.mail_id)).messages == []  # what comes too late is nobody's


async def test_a_question_that_nobody_answers(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    with pytest.raises(NoAnswer, match=r"did not answer within 0.1 s"):
        await mq9.ask(made.send_only, "anybody?", timeout=0.1)
    (question,) = await mq9.fetch(made.mail_id)
    with pytest.raises(MailboxNotFound):
        await mq9.answer(question, "too late")
    with pytest.raises(MailboxNotFound):
        await mq9.ask(NOBODY, "anybody?")
    await mq9.send(made.send_only, "no question")
    with pytest.raises(InvalidRequest, match="cannot be answered"):
        await mq9.answer((await mq9.fetch(made.mail_id)).messages[1], "an answer")


async def test_the_mailbox_for_an_answer_outlives_an_outage(mq9: AsyncMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    box, made, create = await mq9.create(), [], mq9.create

    async def remembering(ttl: int) -> Created:
        made.append(await create(ttl=ttl))
        return made[-1]

    monkeypatch.setattr(mq9, "create", remembering)
    with pytest.raises(NoAnswer):
        await mq9.ask(box.send_only, "anybody?", timeout=0.1)
    assert [one.ttl for one in made] == [2 + RECONNECT_WITHIN]
    with pytest.raises(MailboxNotFound):
        await mq9.query(made[0].mail_id)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), -1, "soon"])
async def test_a_question_has_an_end(mq9: AsyncMailbox, timeout: float) -> None:
    made = await mq9.create()
    with pytest.raises(InvalidRequest, match=r"timeout is .*give seconds"):
        await mq9.ask(made.send_only, "anybody?", timeout=timeout)
    assert len(await mq9.query(made.mail_id)) == 0


async def asking(client: AsyncMailbox) -> asyncio.Task[Message]:
    """A question that waits for its answer."""
    box = await client.create()
    asked = asyncio.create_task(client.ask(box.send_only, "anybody?", timeout=60))
    await client.fetch(box.mail_id, wait=10)
    await client.list()  # the request for the answer is on its way by now
    return asked


async def test_a_question_to_a_broker_that_goes_away_waits_for_it_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mq9_mcp.connection.RECONNECT_WITHIN", 2.0)
    async with await AsyncMailbox.connect(broker.url) as client:
        asked = await asking(client)
        broker.kill()
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await asked
        assert time.monotonic() - begun < 3.5


async def test_a_broker_that_forgot_who_asked(start_broker: StartBroker) -> None:
    broker = start_broker(store="memory")
    again = Broker(broker.data_dir, "--port", str(broker.port), store="memory")
    async with await AsyncMailbox.connect(broker.url) as client:
        asked = await asking(client)
        broker.kill()
        try:
            await asyncio.to_thread(again.start)
            with pytest.raises(NoAnswer, match="ended before one came"):
                await asked
        finally:
            again.kill()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
async def test_numbers_that_json_does_not_have(mq9: AsyncMailbox, number: float) -> None:
    made = await mq9.create()
    for payload in ({"n": number}, [[number]]):
        with pytest.raises(InvalidRequest, match="the payload cannot be written as UTF-8 text or JSON"):
            await mq9.send(made.send_only, payload)
        with pytest.raises(InvalidRequest, match="the payload cannot be written"):
            await mq9.broadcast("some.event", payload)
    await mq9.send(made.send_only, json.dumps([number]))
    (message,) = await mq9.fetch(made.mail_id)
    with pytest.raises(InvalidPayload, match=r"message 1 is no JSON \(JSON has no -?(NaN|Infinity)\): read it with"):
        message.json()


async def test_words_that_hold_a_comma(mq9: AsyncMailbox) -> None:
    made = await mq9.create()
    with pytest.raises(InvalidRequest, match="tags holds 'a,b': give what stands between commas as texts of their own"):
        await mq9.send(made.send_only, "x", tags=["c", "a,b"])
    with pytest.raises(InvalidRequest, match="tags holds 'a,b'"):
        await mq9.query(made.mail_id, tags=["a,b"])
    assert len(await mq9.query(made.mail_id)) == 0


@pytest.mark.parametrize("sign", ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\x9b"])
async def test_events_with_signs_that_cannot_be_seen(mq9: AsyncMailbox, sign: str) -> None:
    with pytest.raises(InvalidRequest, match="is no broadcast event") as caught:
        await mq9.broadcast(f"pipe{sign}line.done", "x")
    assert sign not in str(caught.value)
    with pytest.raises(InvalidRequest, match="is no pattern of broadcasts"):
        mq9.listen(f"pipe{sign}line.*")


async def test_a_description_that_no_request_holds(mq9: AsyncMailbox) -> None:
    name = fresh_name("described")
    with pytest.raises(InvalidRequest, match=r"desc is too long: with it the request has \d+ bytes"):
        await mq9.create(name=name, public=True, desc="x" * (1 << 21))
    with pytest.raises(InvalidRequest, match="desc has 2000 characters, allowed are 1024"):
        await mq9.create(name=name, public=True, desc="x" * 2000)
    assert len(await mq9.list(name)) == 0


async def test_listening(mq9: AsyncMailbox, server: Broker) -> None:
    event = fresh_name("listening")
    made = await mq9.create()
    async with AsyncMailbox(server.url) as other, mq9.listen(f"{event}.*") as all_of_it:
        shared = [other.listen(f"{event}.>", group="g") for _ in range(2)]
        for listener in shared:
            await listener.__aenter__()
        for number in range(4):
            await mq9.broadcast(
                f"{event}.{number}", {"n": number}, headers={"Reply-To": f"$mq9.AI.INBOX.{made.send_only}"}
            )
        got = [await anext(all_of_it) for _ in range(4)]
        assert [(heard.event, heard.json(), heard.reply_to) for heard in got] == [
            (f"{event}.{number}", {"n": number}, made.send_only) for number in range(4)
        ]
        async with asyncio.timeout(5):
            split = [asyncio.create_task(anext(listener)) for listener in shared]
            await asyncio.wait(split, return_when=asyncio.FIRST_COMPLETED)
        for task, listener in zip(split, shared, strict=True):
            task.cancel()
            await asyncio.wait((task,))
            await listener.aclose()


@pytest.mark.parametrize("pattern", ["", "a..b", "a b", "*x.", "a.>.b", "a.b*", ">x"])
async def test_what_is_no_pattern(mq9: AsyncMailbox, pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="no pattern of broadcasts"):
        mq9.listen(pattern)


async def test_listening_outlives_the_broker(broker: Broker) -> None:
    again = Broker(broker.data_dir, "--port", str(broker.port))
    async with AsyncMailbox(broker.url) as client, client.listen("outage.*") as heard, client.watch() as changes:
        await client.create(name="goes", public=True, storage="memory")
        await client.create(name="stays", public=True)
        assert [(await anext(changes)).mailbox.mail_id for _ in range(2)] == ["goes", "stays"]
        broker.kill()
        try:
            await asyncio.to_thread(again.start)
            await client.create(name="new", public=True)
            await client.broadcast("outage.over", "x")
            async with asyncio.timeout(10):
                assert (await anext(heard)).event == "outage.over"
                told = [await anext(changes) for _ in range(2)]  # what was known already is not told again
            assert {(change.event, change.mailbox.mail_id) for change in told} == {
                ("expired", "goes"),
                ("created", "new"),
            }
        finally:
            again.kill()


async def test_the_directory_as_it_changes(mq9: AsyncMailbox) -> None:
    early, late = fresh_name("watched"), fresh_name("watched")
    first = await mq9.create(name=early, public=True, desc="was there", ttl=600)
    told = []
    async with mq9.watch() as changes, asyncio.timeout(10):
        await mq9.create(name=late, public=True, ttl=600)
        assert first.owner is not None
        await mq9.drop(first.owner)
        async for change in changes:
            if change.mailbox.mail_id in (early, late):
                told.append((change.event, change.mailbox.mail_id, change.mailbox.desc, change.mailbox.ttl))
            if change.event == "dropped":
                break
    assert told == [
        ("created", early, "was there", 600),
        ("created", late, "", 600),
        ("dropped", early, "was there", 600),
    ]


async def test_who_can_do_what(mq9: AsyncMailbox) -> None:
    skill = fresh_name("skill")
    private = await mq9.create()
    name = fresh_name("able")
    able = await mq9.create(name=name)
    await mq9.declare(private.send_only, [skill])
    await mq9.declare(name, ["nothing"])
    await mq9.declare(name, [skill, "more"], details={"model": "x"})
    await mq9.nats.publish("$mq9.AI.BROADCAST.system.capability", b'{"from":"nobody in particular"}')
    found = {capability.address: capability for capability in await mq9.find(skill)}
    assert found.keys() == {private.send_only, name}
    assert (found[name].can, found[name].details) == ((skill, "more"), {"model": "x"})
    assert len(await mq9.find()) >= 2
    assert able.owner is not None
    await mq9.drop(able.owner)
    assert [capability.address for capability in await mq9.find(skill)] == [private.send_only]
    with pytest.raises(InvalidRequest, match="send_only"):
        await mq9.declare(private.mail_id, ["x"])


async def test_a_long_board_is_read_to_its_end(broker: Broker) -> None:
    async with AsyncMailbox(broker.url) as client:
        for number in range(40):
            await client.declare(f"worker-{number}", ["work"], details={"filler": "x" * 30_000})
        assert len(await client.find("work")) == 40
