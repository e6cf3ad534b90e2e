"""Plain subscriptions to mailboxes, and queue groups with a stored position."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from e2e.harness import (
    AI,
    NOBODY,
    WORDS,
    Broker,
    Connect,
    Frame,
    Peer,
    Wire,
    fresh_name,
    ids,
    payloads,
    pub,
    take,
    waiting,
)

pytestmark = pytest.mark.anyio

BOX = AI + "MAILBOX."
FIRST_HIGHEST = ["critical", "high", "urgent", "normal", "notify", "low"]
URGENT, LOW, NOT_NORMAL = ["high", "urgent"], ["notify", "low"], [word for word in FIRST_HIGHEST if word != "normal"]

FORMS = {
    # the subscription: the words of the messages it gets, the subject each of them comes with
    "MAILBOX.{}": (["normal"], "MAILBOX.{}"),
    "MAILBOX.{}.normal": (["normal"], "MAILBOX.{}.normal"),
    "MAILBOX.{}.critical": (["critical"], "MAILBOX.{}.*"),
    "MAILBOX.{}.urgent": (URGENT, "MAILBOX.{}.*"),
    "MAILBOX.{}.high": (URGENT, "MAILBOX.{}.*"),
    "MAILBOX.{}.low": (LOW, "MAILBOX.{}.*"),
    "MAILBOX.{}.notify": (LOW, "MAILBOX.{}.*"),
    "MAILBOX.{}.*": (NOT_NORMAL, "MAILBOX.{}.*"),
    "MAILBOX.{}.>": (FIRST_HIGHEST, "MAILBOX.{}.*"),
    "INBOX.{}": (FIRST_HIGHEST, "INBOX.{}.*"),
    "INBOX.{}.normal": (["normal"], "INBOX.{}.*"),
    "INBOX.{}.urgent": (URGENT, "INBOX.{}.*"),
    "INBOX.{}.*": (FIRST_HIGHEST, "INBOX.{}.*"),
    "INBOX.{}.>": (FIRST_HIGHEST, "INBOX.{}.*"),
}


# ---- forms ----


@pytest.mark.parametrize("address", ["mail_id", "name"])
@pytest.mark.parametrize("form", FORMS)
async def test_each_form_gets_its_tiers_stored_and_live(peer: Peer, form: str, address: str) -> None:
    made = await (peer.create() if address == "mail_id" else peer.create(name=fresh_name("a.b")))
    words, subject = FORMS[form]
    for word in reversed(WORDS):
        await peer.send(f"{made['send_only']}.{word}", word)
    subscription = await peer.listen(AI + form.format(made["mail_id"]))
    assert payloads(await waiting(peer, subscription)) == words
    for word in WORDS:
        await peer.send(f"{made['send_only']}.{word}", word)
    live = await take(subscription, len(words))
    assert payloads(live) == [word for word in WORDS if word in words]
    assert await waiting(peer, subscription) == []
    for message in live:
        word = message.data.decode()
        assert message.subject == AI + subject.format(made["mail_id"]).replace("*", word)
        assert message.headers is not None
        assert message.headers["mq9-priority"] == word
        assert set(message.headers) == {"mq9-msg-id", "mq9-priority", "mq9-time"}
    assert peer.errors == []


async def test_bare_and_star_together_are_everything_once(peer: Peer) -> None:
    made = await peer.create()
    for word in WORDS:
        await peer.send(f"{made['send_only']}.{word}", word)
    bare, star = await peer.listen(BOX + made["mail_id"]), await peer.listen(BOX + made["mail_id"] + ".*")
    got = payloads(await waiting(peer, bare)) + payloads(await waiting(peer, star))
    assert Counter(got) == Counter(WORDS)


@pytest.mark.parametrize("queue", ["", "workers"])
@pytest.mark.parametrize("form", FORMS)
async def test_no_such_mailbox(server: Broker, wire: Callable[..., Wire], form: str, queue: str) -> None:
    client = wire(server)
    for address in ("never.made", NOBODY):
        subject = AI + form.format(address)
        (error,) = client.settle(f"SUB {subject} {queue} 1\r\n")
        using = f' using queue "{queue}"' if queue else ""
        assert error == Frame("-ERR", f"'Permissions Violation for Subscription to \"{subject}\"{using}'")


async def test_a_reader_by_name_never_sees_the_owner(server: Broker, wire: Callable[..., Wire]) -> None:
    owner, reader = wire(server), wire(server)
    made = owner.ask("MAILBOX.CREATE", {"name": fresh_name(), "public": True})
    reader.send(f"SUB {BOX}{made['mail_id']}.> 1\r\n")
    reader.settle()
    owner.send(f"SUB {BOX}{made['owner']}.> 1\r\n")
    owner.settle(pub(f"{BOX}{made['owner']}", b"x", headers=f"mq9-from: {made['owner']}\r\n".encode()))
    (message,) = reader.messages(1)
    assert message.args == f"{BOX}{made['mail_id']}.normal"
    assert made["owner"].encode() not in message.headers
    assert message.header("mq9-from") == made["mail_id"]


async def test_a_client_without_headers_gets_plain_messages(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server, connect={"verbose": False, "headers": False})
    made = client.ask("MAILBOX.CREATE")
    client.send(pub(BOX + made["mail_id"], b"stored") + f"SUB {BOX}{made['mail_id']} 7\r\n".encode())
    (message,) = client.messages(1)
    assert message == Frame("MSG", BOX + made["mail_id"], "7", "", b"", b"stored")


# ---- backlog and live ----


async def test_no_gap_and_no_repeat_between_stored_and_live(connect: Connect, server: Broker) -> None:
    sender, reader = await connect(server), await connect(server)
    address = (await reader.create())["mail_id"]
    for number in range(3000):
        await sender.nc.publish(f"{BOX}{address}.{WORDS[number % 6]}", str(number).encode())
        if number == 1500:
            await sender.flush()
            subscriptions = [await reader.nc.subscribe(f"{BOX}{address}.>") for _ in range(3)]
    await sender.flush()
    for subscription in subscriptions:
        got = await take(subscription, 3000)
        assert Counter(payloads(got)) == Counter(map(str, range(3000)))
        for word in ("critical", "normal", "low"):
            of_word = [int(message.data) for message in got if (message.headers or {})["mq9-priority"] == word]
            assert of_word == sorted(of_word)
        assert await waiting(reader, subscription) == []


async def test_subscribing_again_delivers_everything_again(connect: Connect, broker: Broker) -> None:
    peer = await connect(broker)
    made = await peer.create(name="a")
    for word in ("low", "normal", "urgent"):
        await peer.send(f"a.{word}", word)
    for _ in range(2):
        subscription = await peer.listen(made["inbox"])
        assert payloads(await waiting(peer, subscription)) == ["urgent", "normal", "low"]
        await subscription.unsubscribe()
    await peer.nc.close()
    broker.restart()
    peer = await connect(broker)
    assert payloads(await take(await peer.listen(made["inbox"]), 3)) == ["urgent", "normal", "low"]


async def test_unsubscribe_after_a_maximum(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(5 * pub(BOX + address, b"x"))
    assert len(client.settle(f"SUB {BOX}{address} 1\r\nUNSUB 1 7\r\n")) == 5
    assert len(client.settle(5 * pub(BOX + address, b"y"))) == 2


async def test_no_echo_does_not_apply(connect: Connect, server: Broker) -> None:
    peer = await connect(server, no_echo=True)
    made = await peer.create()
    subscription = await peer.listen(made["inbox"])
    await peer.nc.publish(BOX + made["mail_id"], b"own")
    assert payloads(await take(subscription, 1)) == ["own"]


# ---- the end of a mailbox ----

ENDS = ["dropped", "expired"]


@pytest.mark.parametrize("end", ENDS)
async def test_subscribers_are_told_of_the_end_once(server: Broker, wire: Callable[..., Wire], end: str) -> None:
    client, bare = wire(server), wire(server, connect={"verbose": False, "headers": False})
    made = client.ask("MAILBOX.CREATE", {"name": fresh_name(), "ttl": 1 if end == "expired" else 60})
    name = made["mail_id"]
    client.publish(BOX + name, b"stored")
    client.settle(f"SUB {BOX}{name}.> all\r\nSUB {BOX}{name} q members\r\nSUB {BOX}{name}.urgent urgent\r\n")
    bare.settle(f"SUB {BOX}{name} 1\r\n")
    if end == "dropped":
        other = wire(server)
        assert other.ask(f"MAILBOX.DROP.{made['owner']}")["error"] == ""
    last = client.messages(3)
    assert {message.sid for message in last} == {"all", "members", "urgent"}
    for message in last:
        assert (message.headers, message.payload) == (b"NATS/1.0 410 Mailbox Expired\r\n\r\n", b"")
    assert client.ask("MAILBOX.CREATE", {"name": name})["is_new"] is True
    assert client.settle(pub(f"{BOX}{name}.urgent", b"second life")) == []
    assert bare.settle() == []


async def test_creating_a_name_again_ends_the_old_life_first(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    made = client.ask("MAILBOX.CREATE", {"name": fresh_name(), "ttl": 60})
    client.settle(f"SUB {BOX}{made['mail_id']}.> old\r\n")
    assert client.ask(f"MAILBOX.DROP.{made['owner']}")["error"] == ""
    again = client.ask("MAILBOX.CREATE", {"name": made["mail_id"]})
    assert (again["is_new"], again["owner"] != made["owner"]) == (True, True)
    got = client.settle(f"SUB {BOX}{made['mail_id']}.> new\r\n" + pub(BOX + made["mail_id"], b"x").decode())
    assert [(message.sid, message.payload) for message in got if not message.status] == [("new", b"x")]


# ---- queue groups ----


async def test_equal_members_take_turns(connect: Connect, server: Broker) -> None:
    sender, *members = [await connect(server) for _ in range(4)]
    address = (await sender.create())["mail_id"]
    subscriptions = [await member.listen(f"{BOX}{address}.>", queue="g") for member in members]
    plain = await members[0].listen(f"{BOX}{address}.>")
    other = await members[0].listen(BOX + address, queue="other")
    for number in range(30):
        await sender.send(address, str(number))
    shares = [payloads(await take(subscription, 10)) for subscription in subscriptions]
    assert Counter(text for share in shares for text in share) == Counter(map(str, range(30)))
    for subscription in (plain, other):
        assert payloads(await take(subscription, 30)) == [str(number) for number in range(30)]


def member_of(wire: Wire, address: str, group: str = "g", sid: str = "q") -> None:
    wire.send(f"SUB {BOX}{address}.> {group} {sid}\r\n")


def deliveries(client: Wire) -> list[str]:
    """What a round trip brings, a PING of the broker not counted."""
    return [frame.payload.decode() for frame in client.settle() if frame.op == "HMSG"]


def confirm(client: Wire) -> None:
    """Answers the PING that the broker sends after what it delivered."""
    while (frame := client.frame()) is not None and frame.op != "PING":
        pass
    client.settle()


async def test_an_answered_ping_confirms_and_the_position_is_stored(broker: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(broker)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 11)))
    member = wire(broker)
    member_of(member, address)
    assert [message.payload for message in member.messages(10)] == [b"%d" % n for n in range(1, 11)]
    confirm(member)
    member.close()
    client.publish(f"{BOX}{address}.urgent", b"11")
    second = wire(broker)
    member_of(second, address)
    assert [message.payload for message in second.messages(1)] == [b"11"]
    confirm(second)
    broker.restart(hard=True)
    third = wire(broker)
    member_of(third, address)
    assert deliveries(third) == []
    assert third.ask(f"MSG.FETCH.{address}", {"group_name": "g", "config": {"max_wait_ms": 0}})["messages"] == []
    assert third.ask(f"MAILBOX.QUERY.{address}")["unread"] == 11


async def test_at_most_64_are_unconfirmed_and_come_back(server: Broker, wire: Callable[..., Wire]) -> None:
    client, silent = wire(server), wire(server, pongs=False)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 101)))
    member_of(silent, address)
    assert [int(text) for text in deliveries(silent)] == list(range(1, 65))
    silent.settle()
    silent.pong()
    assert [int(message.payload) for message in silent.messages(36)] == list(range(65, 101))
    silent.close()
    member_of(client, address)
    back = client.messages(36)
    assert [int(message.payload) for message in back] == list(range(65, 101))
    assert {message.header("mq9-deliveries") for message in back} == {"2"}


async def test_unsubscribing_returns_the_unconfirmed(server: Broker, wire: Callable[..., Wire]) -> None:
    first, second = wire(server, pongs=False), wire(server)
    address = first.ask("MAILBOX.CREATE")["mail_id"]
    first.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 4)))
    member_of(first, address)
    assert deliveries(first) == ["1", "2", "3"]
    member_of(second, address)
    assert deliveries(second) == []
    first.settle("UNSUB q\r\n")
    assert [message.payload for message in second.messages(3)] == [b"1", b"2", b"3"]


async def test_fetch_and_every_view_share_the_position(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 7)) + pub(f"{BOX}{address}.urgent", b"7"))
    got = client.ask(f"MSG.FETCH.{address}", {"group_name": "g", "config": {"num_msgs": 3}})
    assert ids(got) == [7, 1, 2]
    assert client.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": ids(got)})["error"] == ""
    client.send(f"SUB {BOX}{address} g bare\r\nSUB {AI}INBOX.{address} g inbox\r\n")
    messages = client.messages(4)
    assert sorted(message.payload for message in messages) == [b"3", b"4", b"5", b"6"]
    client.publish(f"{BOX}{address}.low", b"8")  # only one of the two views covers it
    assert [(message.sid, message.payload) for message in client.messages(1)] == [("inbox", b"8")]


async def test_what_fetch_has_leased_comes_back_to_the_members(server: Broker, wire: Callable[..., Wire]) -> None:
    fetching, member = wire(server), wire(server)
    address = fetching.ask("MAILBOX.CREATE")["mail_id"]
    fetching.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 6)))
    assert ids(fetching.ask(f"MSG.FETCH.{address}", {"group_name": "g", "config": {"num_msgs": 3}})) == [1, 2, 3]
    member_of(member, address)
    assert deliveries(member) == ["4", "5"]
    fetching.close()
    assert [message.payload for message in member.messages(3)] == [b"1", b"2", b"3"]


async def test_what_was_not_confirmed_before_a_crash_is_delivered_again(
    broker: Broker, wire: Callable[..., Wire]
) -> None:
    client, silent = wire(broker), wire(broker, pongs=False)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(b"".join(pub(BOX + address, b"%d" % n) for n in range(1, 4)))
    member_of(silent, address)
    assert deliveries(silent) == ["1", "2", "3"]
    broker.restart(hard=True)
    client = wire(broker)
    member_of(client, address)
    assert deliveries(client) == ["1", "2", "3"]


async def test_a_member_that_reads_nothing_is_passed_over(server: Broker, wire: Callable[..., Wire]) -> None:
    sender, stuck, working = wire(server), wire(server, pongs=False, receive_buffer=4096), wire(server)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    member_of(stuck, address)
    stuck.settle()
    member_of(working, address)
    working.settle()
    sender.settle(b"".join(pub(BOX + address, b"%04d" % n + bytes(2000)) for n in range(400)))
    got = [int(message.payload[:4]) for message in working.messages(336)]
    assert len(set(got)) == 336
    stuck.close()
    rest = [int(message.payload[:4]) for message in working.messages(64)]
    assert sorted(got + rest) == list(range(400))


async def test_groups_work_through_nats_py(connect: Connect, server: Broker) -> None:
    first, second = await connect(server), await connect(server)
    address = (await first.create())["mail_id"]
    for number in range(200):
        await first.nc.publish(BOX + address, str(number).encode())
    await first.flush()
    subscription = await first.listen(BOX + address, queue="g")
    assert payloads(await take(subscription, 200)) == [str(number) for number in range(200)]
    async with asyncio.timeout(5):
        while (await first.query(address, group_name="g", limit=1))["waiting"]["normal"]:
            await asyncio.sleep(0.01)
    await first.flush()
    await first.nc.close()
    again = await second.listen(BOX + address, queue="g")
    await second.send(address, "new")
    assert payloads(await take(again, 1)) == ["new"]
