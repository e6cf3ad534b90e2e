"""Sending: every subject, every header, what a reply says and what an error leaves behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from e2e.harness import (
    AI,
    NOBODY,
    PRIVATE_ID,
    WORDS,
    Broker,
    Connect,
    Peer,
    Wire,
    bodies,
    body_of,
    fresh_name,
    ids,
    pub,
    take,
    waiting,
)

pytestmark = pytest.mark.anyio


def permissions(subject: str) -> str:
    """The error for a refused publish, as nats-py reports it."""
    return f'permissions violation for publish to "{subject.lower()}"'


# ---- subjects and priorities ----

FORMS = ["MAILBOX.{}", "INBOX.{}", "MSG.SEND.{}"]


@pytest.mark.parametrize("address", ["mail_id", "send_only", "name", "owner"])
@pytest.mark.parametrize("form", FORMS)
async def test_every_form_takes_every_address(peer: Peer, form: str, address: str) -> None:
    made = await peer.create() if address in ("mail_id", "send_only") else await peer.create(name=fresh_name("a.b"))
    to = made["mail_id" if address == "name" else address]
    for number in (1, 2):
        assert await peer.ask(form.format(to), str(number)) == {"error": "", "msg_id": number}
    reply = await peer.query(made["mail_id"])
    assert bodies(reply) == ["1", "2"]
    assert [message["priority"] for message in reply["messages"]] == ["normal", "normal"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("form", ["MAILBOX.{}.{}", "INBOX.{}.{}"])
async def test_the_subject_gives_the_priority(peer: Peer, form: str, word: str) -> None:
    made = await peer.create(name=fresh_name("a.b"))
    subject = form.format(made["mail_id"], word)
    assert (await peer.ask(subject, "x"))["msg_id"] == 1
    other = "low" if word == "critical" else "critical"
    assert (await peer.ask(subject, "x", headers={"mq9-priority": other}))["msg_id"] == 2
    assert [message["priority"] for message in (await peer.query(made["mail_id"]))["messages"]] == [word, word]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("form", FORMS)
async def test_the_header_gives_the_priority(peer: Peer, form: str, word: str) -> None:
    made = await peer.create()
    assert (await peer.ask(form.format(made["send_only"]), "x", headers={"mq9-priority": word}))["error"] == ""
    (message,) = (await peer.query(made["mail_id"]))["messages"]
    assert (message["priority"], message["headers"]) == (word, None)


@pytest.mark.parametrize(
    "payload", [b"", b"\0\xff", b"plain", bytes(range(256)), "ünï".encode(), b"x" * 1048576], ids=len
)
async def test_payloads_are_opaque(peer: Peer, payload: bytes) -> None:
    made = await peer.create()
    await peer.send(made["mail_id"], payload)
    (message,) = (await peer.fetch(made["mail_id"]))["messages"]
    assert body_of(message) == payload
    subscription = await peer.listen(made["inbox"])
    assert [got.data for got in await take(subscription, 1)] == [payload]


async def test_a_publish_without_a_reply_subject_is_stored_when_flushed(connect: Connect, server: Broker) -> None:
    sender, reader = await connect(server), await connect(server)
    made = await reader.create()
    for number in range(100):
        await sender.nc.publish(AI + "MAILBOX." + made["send_only"], str(number).encode())
    await sender.flush()
    assert bodies(await reader.query(made["mail_id"])) == [str(number) for number in range(100)]
    assert sender.errors == []


async def test_pipelined_sends_are_stored_and_answered_in_order(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.send("SUB r.* r\r\n")
    client.send(b"".join(pub(f"{AI}MAILBOX.{address}", b"%d" % n, reply=f"r.{n}") for n in range(1, 501)))
    answers = client.messages(500)
    assert [(a.args, a.payload) for a in answers] == [
        (f"r.{n}", b'{"error":"","msg_id":%d}' % n) for n in range(1, 501)
    ]


# ---- what is refused ----

BAD_HEADERS = [
    ({"mq9-priority": "asap"}, ["mq9-priority", "asap"]),
    ({"mq9-priority": "URGENT"}, ["mq9-priority", "URGENT"]),
    ({"mq9-ttl": "-1"}, ["mq9-ttl", "-1"]),
    ({"mq9-ttl": "soon"}, ["mq9-ttl", "soon"]),
    ({"mq9-ttl": "1.5"}, ["mq9-ttl", "1.5"]),
    ({"mq9-delay": "-1"}, ["mq9-delay", "-1"]),
    ({"mq9-delay": "later"}, ["mq9-delay", "later"]),
    ({"mq9-hops": "-1"}, ["mq9-hops", "-1"]),
    ({"mq9-hops": "many"}, ["mq9-hops", "many"]),
    ({"mq9-from": NOBODY}, ["mq9-from"]),
    ({"mq9-from": "someone"}, ["mq9-from", "someone"]),
    ({"mq9-key": ""}, ["mq9-key", "empty"]),
    ({"mq9-tags": ""}, ["mq9-tags"]),
    ({"mq9-tags": "a,,b"}, ["mq9-tags", "a,,b"]),
    ({"mq9-receipt": "read"}, ["mq9-receipt", "read", "delivered, acked, expired, dead"]),
    ({"mq9-receipt": "acked"}, ["mq9-receipt", "mq9-from"]),
]


@pytest.mark.parametrize(("headers", "named"), BAD_HEADERS, ids=[str(headers) for headers, _ in BAD_HEADERS])
async def test_a_bad_header_stores_nothing(peer: Peer, headers: dict[str, str], named: list[str]) -> None:
    made = await peer.create()
    for form in (*FORMS, "MAILBOX.{}.urgent", "INBOX.{}.low"):
        subject = form.format(made["send_only"])
        reply = await peer.ask(subject, "x", headers=headers)
        assert set(reply) == {"error"}, (form, reply)
        assert all(word in reply["error"] for word in named), (form, reply)
        await peer.nc.publish(AI + subject, b"x", headers=headers)
        assert await peer.refused(form) == permissions(AI + subject)
    assert (await peer.query(made["mail_id"]))["unread"] == 0
    assert await peer.ask(f"MAILBOX.{made['mail_id']}", "good") == {"error": "", "msg_id": 1}


@pytest.mark.parametrize(
    "subject",
    [
        "NOPE",
        "NOPE.x",
        "MSG",
        "MSG.NOPE.x",
        "MSG.SEND",
        "MAILBOX",
        "INBOX",
        "BROADCAST",
        "PUBLIC",
        "PUBLIC.LIST.x",
        "AGENT.REGISTER",
        "mailbox.x",
    ],
)
async def test_unknown_subjects(peer: Peer, subject: str) -> None:
    assert await peer.ask(subject, "x") == {"error": f"unknown mq9 subject: {AI}{subject}"}
    await peer.nc.publish(AI + subject, b"x")
    assert await peer.refused(subject) == permissions(AI + subject)
    assert peer.nc.is_connected


@pytest.mark.parametrize("form", [*FORMS, "MAILBOX.{}.urgent", "INBOX.{}.low"])
@pytest.mark.parametrize("address", ["never-made", "never.made", NOBODY, "s-" + "b" * 26])
async def test_no_such_mailbox(peer: Peer, form: str, address: str) -> None:
    subject = form.format(address)
    assert await peer.ask(subject, "x") == {"error": f"mailbox {address} does not exist"}
    await peer.nc.publish(AI + subject, b"x")
    assert await peer.refused(subject) == permissions(AI + subject)


@pytest.mark.parametrize("form", ["MAILBOX.{}.asap", "MAILBOX.{}.URGENT", "INBOX.{}.asap", "MSG.SEND.{}.urgent"])
async def test_a_subject_with_a_word_that_is_no_priority(peer: Peer, form: str) -> None:
    made = await peer.create()
    subject = form.format(made["send_only"])
    reply = await peer.ask(subject, "x")
    assert set(reply) == {"error"}
    assert reply["error"] != ""
    await peer.nc.publish(AI + subject, b"x")
    assert await peer.refused(subject) == permissions(AI + subject)
    assert (await peer.query(made["mail_id"]))["unread"] == 0


async def test_errors_keep_the_subject_as_it_was_sent(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    for subject in ("$mq9.AI.MAILBOX.Some.Name", "$mq9.AI.Nope"):
        (error,) = client.settle(pub(subject, b"x"))
        assert (error.op, error.args) == ("-ERR", f"'Permissions Violation for Publish to \"{subject}\"'")


# ---- time ----


async def test_message_ttl_and_delay(connect: Connect, broker: Broker) -> None:
    """A ttl of its own hides a message; a delayed one has no id until its time, also across a restart."""
    peer = await connect(broker)
    address = (await peer.create())["mail_id"]
    before = time.time()
    assert (await peer.send(address, "short", mq9_ttl="1"))["msg_id"] == 1
    assert (await peer.send(address, "long", mq9_ttl="100"))["msg_id"] == 2
    assert await peer.send(address, "later", mq9_delay="2") == {"error": "", "msg_id": -1}
    assert await peer.send(address, "urgent later", mq9_delay="2", mq9_priority="urgent") == {"error": "", "msg_id": -1}
    assert (await peer.send(address, "never", mq9_delay="2", mq9_ttl="1"))["msg_id"] == -1
    first = await peer.query(address)
    assert time.time() - before > 0.9 or (bodies(first), first["unread"]) == (["short", "long"], 2)
    subscription = await peer.listen(f"{AI}INBOX.{address}")
    await take(subscription, 2)
    got = await take(subscription, 2)
    assert time.time() - before >= 2
    assert sorted(message.data for message in got) == [b"later", b"urgent later"]
    final = await peer.query(address)
    assert bodies(final) == ["urgent later", "long", "later"]
    assert sorted(ids(final)) == [2, 3, 4]
    assert (await peer.send(address, "after a restart", mq9_delay="1"))["msg_id"] == -1
    await peer.nc.close()
    broker.restart(hard=True)
    peer = await connect(broker)
    async with asyncio.timeout(5):
        while "after a restart" not in bodies(await peer.query(address)):
            await asyncio.sleep(0.05)
    assert ids(await peer.query(address))[-1] == 5


# ---- who sent it ----


async def test_a_sender_that_cannot_be_forged(peer: Peer) -> None:
    reader, private = await peer.create(), await peer.create()
    listed, unlisted = [await peer.create(name=fresh_name(), public=public) for public in (True, False)]
    subscription = await peer.listen(reader["inbox"])
    senders = [
        (private["mail_id"], private["send_only"]),
        (listed["owner"], listed["mail_id"]),
        (unlisted["owner"], unlisted["mail_id"]),
    ]
    for secret, shown in senders:
        await peer.send(reader["send_only"], "x", mq9_from=secret)
        (message,) = await take(subscription, 1)
        assert message.headers is not None
        assert message.headers["mq9-from"] == shown
    got = (await peer.query(reader["mail_id"]))["messages"]
    assert [message["headers"] for message in got] == [{"mq9-from": shown} for _, shown in senders]
    for forged in (private["send_only"], listed["mail_id"], listed["send_only"], NOBODY, ""):
        reply = await peer.ask(f"MAILBOX.{reader['send_only']}", "x", headers={"mq9-from": forged})
        assert set(reply) == {"error"}, forged
        assert "mq9-from" in reply["error"]
    assert (await peer.query(reader["mail_id"]))["unread"] == 3


async def test_hops_travel(peer: Peer) -> None:
    made = await peer.create()
    await peer.send(made["send_only"], "x", mq9_hops="7")
    (message,) = (await peer.query(made["mail_id"]))["messages"]
    assert message["headers"] == {"mq9-hops": "7"}


# ---- once ----


async def test_a_repeat_is_stored_once(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    first, second = [(await peer.create(name=name))["mail_id"] for name in ("first", "second")]
    again = {"error": "", "msg_id": 1, "duplicate": True}
    assert await peer.send(first, "one", Nats_Msg_Id="id 1") == {"error": "", "msg_id": 1}
    assert await peer.send(first, "another body", Nats_Msg_Id="id 1") == again
    assert await peer.send(first, "one", Nats_Msg_Id="id 1", mq9_priority="urgent") == again
    assert await peer.send(first, "two", Nats_Msg_Id="id 2") == {"error": "", "msg_id": 2}
    assert await peer.send(second, "one", Nats_Msg_Id="id 1") == {"error": "", "msg_id": 1}
    for hard in (False, True):
        await peer.nc.close()
        broker.restart(hard=hard)
        peer = await connect(broker)
        assert await peer.send(first, "one", Nats_Msg_Id="id 1") == again
    assert bodies(await peer.query(first)) == ["one", "two"]
    (message, _) = (await peer.query(first))["messages"]
    assert message["headers"] is None


async def test_a_repeat_in_the_same_breath_is_stored_once(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.send("SUB r r\r\n")
    client.send(10 * pub(f"{AI}MAILBOX.{address}", b"x", reply="r", headers=b"Nats-Msg-Id: same\r\n"))
    answers = [message.payload for message in client.messages(10)]
    assert answers == [b'{"error":"","msg_id":1}'] + 9 * [b'{"error":"","msg_id":1,"duplicate":true}']
    assert client.ask(f"MAILBOX.QUERY.{address}")["unread"] == 1


# ---- headers on their way ----


async def test_what_only_the_broker_says_is_dropped(peer: Peer) -> None:
    made = await peer.create()
    forged = ["mq9-msg-id", "mq9-time", "mq9-expires", "mq9-deliveries", "mq9-dead-from", "mq9-dead-reason"]
    await peer.ask(f"MAILBOX.{made['mail_id']}", "x", headers={**dict.fromkeys(forged, "77"), "Mine": "kept"})
    (stored,) = (await peer.query(made["mail_id"]))["messages"]
    assert stored["headers"] == {"Mine": "kept"}
    (message,) = await take(await peer.listen(made["inbox"]), 1)
    assert message.headers is not None
    assert set(message.headers) == {"Mine", "mq9-msg-id", "mq9-priority", "mq9-time"}
    assert (message.headers["mq9-msg-id"], message.headers["mq9-priority"]) == ("1", "normal")
    assert abs(int(message.headers["mq9-time"]) / 1000 - time.time()) < 30


async def test_other_headers_arrive_as_they_came(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    made = client.ask("MAILBOX.CREATE")
    lines = b"X-One: a\r\nno-space:b\r\nX-One: c\r\nx-one: lower\r\nColons: a:b: c\r\nmq9-other: kept\r\n"
    consumed = b"mq9-ttl: 100\r\nNats-Msg-Id: abc\r\nmq9-priority: high\r\n"
    client.publish(f"{AI}MAILBOX.{made['mail_id']}", b"x", headers=lines + consumed)
    (stored,) = client.ask(f"MAILBOX.QUERY.{made['mail_id']}")["messages"]
    assert stored["headers"] == {
        "X-One": ["a", "c"],
        "no-space": "b",
        "x-one": "lower",
        "Colons": "a:b: c",
        "mq9-other": "kept",
    }
    client.send(f"SUB {made['inbox']} m\r\n")
    (message,) = client.messages(1)
    assert [line for line in lines.split(b"\r\n") if line not in message.headers.split(b"\r\n")] == []
    assert message.header("mq9-priority") == "high"
    expires, sent = message.header("mq9-expires"), message.header("mq9-time")
    assert expires is not None
    assert sent is not None
    assert int(expires) - int(sent) == 100_000
    assert message.header("mq9-ttl") is None
    assert message.header("Nats-Msg-Id") is None


BAD_BLOCKS = {
    "no-colon": b"NATS/1.0\r\nA: b\r\nno colon\r\n\r\n",
    "no-name": b"NATS/1.0\r\n: x\r\n\r\n",
    "no-version": b"A: b\r\n\r\n",
    "another-version": b"NATS/2.0\r\nA: b\r\n\r\n",
    "no-end": b"NATS/1.0\r\nA: b\r\n",
    # what a reader's library could take for the word of the broker
    "a-status": b"NATS/1.0 410 Mailbox Expired\r\n\r\n",
    "a-line-feed-that-begins-a-line": b"NATS/1.0\r\nA: b\nmq9-from: somebody\r\n\r\n",
    "a-carriage-return": b"NATS/1.0\r\nA: b\rmq9-from: somebody\r\n\r\n",
    "an-end-before-the-end": b"NATS/1.0\r\nA: b\r\n\r\nB: c\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_BLOCKS)
@pytest.mark.parametrize("form", ["MAILBOX.{}", "MAILBOX.{}.low", "MSG.SEND.{}"])
async def test_a_malformed_header_block_is_refused(
    server: Broker, wire: Callable[..., Wire], form: str, case: str
) -> None:
    """A stranger who can send must not be able to spoil the mailbox for its reader, nor speak as the broker."""
    client, block = wire(server), BAD_BLOCKS[case]
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    subject = AI + form.format(address)
    client.send("SUB r r\r\n")
    (answer,) = client.settle(f"HPUB {subject} r {len(block)} {len(block)}\r\n".encode() + block + b"\r\n")
    assert set(json.loads(answer.payload)) == {"error"}
    (error,) = client.settle(f"HPUB {subject} {len(block)} {len(block)}\r\n".encode() + block + b"\r\n")
    assert error.args == f"'Permissions Violation for Publish to \"{subject}\"'"
    assert client.ask(f"MAILBOX.QUERY.{address}") == {"error": "", "messages": [], "unread": 0}


# ---- reply subjects ----

ANSWER_FORMS = ["INBOX.{}", "INBOX.{}.normal", "INBOX.{}.urgent", "MAILBOX.{}", "MAILBOX.{}.low", "MSG.SEND.{}"]


@pytest.mark.parametrize("form", ANSWER_FORMS)
async def test_a_mailbox_as_reply_subject_is_the_address_for_answers(peer: Peer, form: str) -> None:
    asked, answers = await peer.create(), await peer.create()
    reply = AI + form.format(answers["send_only"])
    await peer.nc.publish(AI + "INBOX." + asked["send_only"], b"question", reply=reply)
    (message,) = await take(await peer.listen(asked["inbox"]), 1)
    assert message.reply == reply
    assert (await peer.query(answers["mail_id"]))["unread"] == 0
    await message.respond(b"answer")
    await peer.flush()
    assert bodies(await peer.query(answers["mail_id"])) == ["answer"]
    assert peer.errors == []


@pytest.mark.parametrize("form", ANSWER_FORMS)
@pytest.mark.parametrize("public", [False, True], ids=["private", "public"])
async def test_a_secret_as_address_for_answers_is_not_passed_on(peer: Peer, form: str, public: bool) -> None:
    """CREATE gives an inbox subject with the secret in it: who names that for answers must not give it away."""
    asked = await peer.create()
    answers = await (peer.create(name=fresh_name(), public=True) if public else peer.create())
    secret = answers["owner" if public else "mail_id"]
    await peer.nc.publish(AI + "INBOX." + asked["send_only"], b"question", reply=AI + form.format(secret))
    (message,) = await take(await peer.listen(asked["inbox"]), 1)
    (stored,) = (await peer.query(asked["mail_id"]))["messages"]
    assert PRIVATE_ID.search((message.reply + json.dumps(stored)).encode()) is None
    assert message.reply in [AI + form.format(answers["send_only"]), AI + form.format(answers["mail_id"])]
    await message.respond(b"answer")
    await peer.flush()
    assert bodies(await peer.query(secret)) == ["answer"]


async def test_an_ordinary_reply_subject_is_not_passed_on(peer: Peer) -> None:
    made = await peer.create()
    assert (await peer.send(made["mail_id"], "x"))["msg_id"] == 1
    (message,) = await take(await peer.listen(made["inbox"]), 1)
    assert message.reply == ""


@pytest.mark.parametrize(
    "reply",
    [
        "MAILBOX.CREATE",
        "MAILBOX.QUERY.x",
        "MAILBOX.DROP.x",
        "MSG.FETCH.x",
        "MSG.DELETE.x.1",
        "BROADCAST.a.b",
        "PUBLIC.LIST",
        "NOPE",
        "ACK.x",
        "MAILBOX",
    ],
)
async def test_other_mq9_reply_subjects_are_refused(peer: Peer, reply: str) -> None:
    made = await peer.create()
    subject = AI + "MAILBOX." + made["mail_id"]
    broadcasts = await peer.listen(AI + "BROADCAST.a.>")
    await peer.nc.publish(subject, b"x", reply=AI + reply)
    assert await peer.refused(reply) == permissions(subject)
    assert (await peer.query(made["mail_id"]))["unread"] == 0
    assert await waiting(peer, broadcasts) == []


async def test_subjects_that_only_look_like_ours_are_ordinary(peer: Peer) -> None:
    for subject in ("$mq9.AIx.MAILBOX.CREATE", "$mq9.ai.MAILBOX.CREATE", "$mq9", "$mq9.AI", "mq9.AI.NOPE"):
        subscription = await peer.listen(subject)
        await peer.nc.publish(subject, b"plain")
        assert [message.data for message in await take(subscription, 1)] == [b"plain"]
    assert peer.errors == []
