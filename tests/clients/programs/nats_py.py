"""The checks of `tests/clients/checks.py` with nats-py."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeout

AI = "$mq9.AI."
MIB = 1 << 20
ALL_BYTES = bytes(range(256))
SECONDS = 30

CHECKS: dict[str, Callable[[], Awaitable[None]]] = {}


def check(function: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


class Peer(Client):
    """A client that remembers what its callbacks were told."""

    opened: list[Peer] = []  # noqa: RUF012  all of this program's

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.events: list[str] = []
        Peer.opened.append(self)

    async def flush(self, timeout: int = 10) -> None:
        # the first PING may overtake what the client still holds
        await super().flush(timeout)
        await super().flush(timeout)

    async def ask(self, verb: str, body: object = None, **headers: str) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        reply = await self.request(AI + verb, data, timeout=10, headers=headers or None)
        return json.loads(reply.data)

    async def create(self, **fields: Any) -> dict[str, Any]:
        made = await self.ask("MAILBOX.CREATE", {"ttl": 600, **fields})
        assert made["error"] == "", made
        return made

    async def send(self, to: str, payload: bytes) -> None:
        said = await self.ask(f"INBOX.{to}", payload)
        assert said["error"] == "", said

    async def works(self) -> None:
        """One request and its answer, over this very connection."""
        subject = fresh()

        async def answer(message: Msg) -> None:
            await message.respond(message.data.upper())

        listening = await self.subscribe(subject, cb=answer)
        reply = await self.request(subject, b"hello", timeout=5)
        assert reply.data == b"HELLO", reply.data
        await listening.unsubscribe()


async def connect(url: str = "", **options: Any) -> Peer:
    peer = Peer()

    async def failed(error: Exception) -> None:
        peer.errors.append(str(error).lower())

    def note(event: str) -> Callable[[], Awaitable[None]]:
        async def told() -> None:
            peer.events.append(event)

        return told

    callbacks = {f"{event}_cb": note(event) for event in ("disconnected", "reconnected", "closed")}
    defaults = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": 200, "connect_timeout": 5}
    await peer.connect(url or os.environ["PLAIN_URL"], error_cb=failed, **callbacks, **(defaults | options))
    return peer


def fresh() -> str:
    return f"py.{uuid.uuid4().hex[:12]}"


async def take(subscription: Subscription, count: int) -> list[Msg]:
    return [await subscription.next_msg(timeout=10) for _ in range(count)]


async def left(peer: Peer, subscription: Subscription) -> list[bytes]:
    """What is waiting after a round trip: for what must not have come."""
    await peer.flush()
    return [message.data for message in await take(subscription, subscription.pending_msgs)]


async def until(true: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)
    assert true(), what


def equal(found: object, expected: object) -> None:
    assert found == expected, f"{found!r:.300}, not {expected!r:.300}"


def restart_server() -> Awaitable[str]:
    print("# restart", flush=True)
    return asyncio.to_thread(sys.stdin.readline)


# ---- connect options ----


@check
async def name() -> None:
    await (await connect(name="a client with a name")).works()


@check
async def verbose() -> None:
    await (await connect(verbose=True)).works()


@check
async def pedantic() -> None:
    await (await connect(pedantic=True)).works()


@check
async def no_echo() -> None:
    quiet, other = await connect(no_echo=True), await connect()
    subject = fresh()
    heard = await quiet.subscribe(subject)
    await quiet.publish(subject, b"mine")
    await quiet.flush()
    await other.publish(subject, b"theirs")
    await other.flush()
    equal([message.data for message in await take(heard, 1)], [b"theirs"])
    equal(await left(quiet, heard), [])


@check
async def inbox_prefix() -> None:
    nc = await connect(inbox_prefix="_INBOX_mine")
    subject, replies = fresh(), []

    async def answer(message: Msg) -> None:
        replies.append(message.reply)
        await message.respond(b"yes")

    await nc.subscribe(subject, cb=answer)
    equal((await nc.request(subject, b"", timeout=5)).data, b"yes")
    assert replies[0].startswith("_INBOX_mine."), replies


@check
async def connect_timeout() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        await connect(f"nats://127.0.0.1:{port}", connect_timeout=0.2, allow_reconnect=False)
    except (TimeoutError, NoServersError):
        return
    finally:
        silent.close()
    raise AssertionError("a server that says nothing was taken for one")


@check
async def request_timeout() -> None:
    nc = await connect()
    subject = fresh()
    await nc.subscribe(subject)
    try:
        await nc.request(subject, b"", timeout=0.2)
    except NatsTimeout:
        return await nc.works()
    raise AssertionError("nobody answered, and yet there was an answer")


@check
async def no_responders() -> None:
    nc = await connect()
    try:
        await nc.request(fresh(), b"", timeout=10)
    except NoRespondersError:
        return await nc.works()
    raise AssertionError("nobody listened, and yet there was an answer")


@check
async def client_pings() -> None:
    nc = await connect(ping_interval=0.05, max_outstanding_pings=2)
    await asyncio.sleep(0.5)
    equal(nc.events, [])
    await nc.works()


# ---- messages ----


@check
async def pub_sub() -> None:
    publisher, subscriber = await connect(), await connect()
    subject = fresh()
    heard = await subscriber.subscribe(subject)
    await subscriber.flush()
    sent = [str(n).encode() for n in range(1000)]
    for payload in sent:
        await publisher.publish(subject, payload)
    equal([message.data for message in await take(heard, 1000)], sent)


@check
async def wildcards() -> None:
    nc = await connect()
    root = fresh()
    star, rest, other = [await nc.subscribe(f"{root}.{tail}") for tail in ("*.c", "a.>", "*.*.*.*")]
    for tail in ("a.c", "b.c", "a.b.c", "a", "x.y"):
        await nc.publish(f"{root}.{tail}", tail.encode())
    equal(sorted(await left(nc, star)), [b"a.c", b"b.c"])
    equal(sorted(await left(nc, rest)), [b"a.b.c", b"a.c"])
    equal(await left(nc, other), [])


@check
async def queue_group() -> None:
    peers = [await connect() for _ in range(3)]
    subject = fresh()
    members = [await peer.subscribe(subject, queue="workers") for peer in peers]
    everything = await peers[0].subscribe(subject)
    for peer in peers:
        await peer.flush()
    sent = [str(n).encode() for n in range(300)]
    for payload in sent:
        await peers[0].publish(subject, payload)
    await peers[0].flush()
    equal([message.data for message in await take(everything, 300)], sent)
    await until(lambda: sum(member.pending_msgs for member in members) >= 300, "300 messages for the group")
    shares = [await left(peer, member) for peer, member in zip(peers, members, strict=True)]
    equal(Counter(payload for share in shares for payload in share), Counter(sent))
    assert all(shares), f"shares of {[len(share) for share in shares]}"


@check
async def auto_unsubscribe() -> None:
    nc = await connect()
    subject = fresh()
    heard = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    subscription = await nc.subscribe(subject, cb=hear)
    await subscription.unsubscribe(3)
    for n in range(5):
        await nc.publish(subject, b"%d" % n)
    await nc.flush()
    await until(lambda: len(heard) >= 3, "three messages")
    equal(heard, [b"0", b"1", b"2"])


@check
async def request_one() -> None:
    await (await connect()).works()


@check
async def request_old_style() -> None:
    nc = await connect()
    subject = fresh()

    async def answer(message: Msg) -> None:
        await message.respond(b"yes")

    await nc.subscribe(subject, cb=answer)
    equal((await nc.request(subject, b"", timeout=5, old_style=True)).data, b"yes")
    try:
        await nc.request(fresh(), b"", timeout=10, old_style=True)
    except NoRespondersError:
        return await nc.works()
    raise AssertionError("nobody listened, and yet there was an answer")


@check
async def request_many() -> None:
    asker, answerers = await connect(), [await connect() for _ in range(3)]
    subject = fresh()
    for number, peer in enumerate(answerers):

        async def answer(message: Msg, number: int = number) -> None:
            await message.respond(b"%d" % number)

        await peer.subscribe(subject, cb=answer)
        await peer.flush()
    inbox = asker.new_inbox()
    replies = await asker.subscribe(inbox)
    await asker.publish(subject, b"who is there?", reply=inbox)
    equal(sorted(message.data for message in await take(replies, 3)), [b"0", b"1", b"2"])


@check
async def headers() -> None:
    nc = await connect()
    heard = await nc.subscribe(fresh())
    sent = {"x-ODD-case": "kept", "Colon": "a: b"}
    await nc.publish(heard.subject, b"body", headers=sent)
    (message,) = await take(heard, 1)
    equal((message.data, message.headers), (b"body", sent))


@check
async def headers_empty() -> None:
    nc = await connect()
    heard = await nc.subscribe(fresh())
    sent = {"Empty": "", "Last": "one"}
    await nc.publish(heard.subject, b"body", headers=sent)
    (message,) = await take(heard, 1)
    equal((message.data, message.headers), (b"body", sent))


@check
async def binary_payload() -> None:
    nc = await connect()
    heard = await nc.subscribe(fresh())
    payload = ALL_BYTES + b"\r\nPING\r\n" + ALL_BYTES
    await nc.publish(heard.subject, payload)
    equal((await take(heard, 1))[0].data, payload)


@check
async def empty_payload() -> None:
    nc = await connect()
    heard = await nc.subscribe(fresh())
    await nc.publish(heard.subject)
    await nc.publish(heard.subject, headers={"a": "b"})
    plain, headed = await take(heard, 2)
    equal((plain.data, plain.headers), (b"", None))
    equal((headed.data, headed.headers), (b"", {"a": "b"}))


@check
async def large_payload() -> None:
    publisher, subscriber = await connect(), await connect()
    heard = await subscriber.subscribe(fresh())
    await subscriber.flush()
    payload = ALL_BYTES * (MIB // 256)
    for _ in range(3):
        await publisher.publish(heard.subject, payload)
    for message in await take(heard, 3):
        assert message.data == payload, f"{len(message.data)} bytes that differ"


@check
async def max_payload_client() -> None:
    nc = await connect()
    equal(nc.max_payload, MIB)
    try:
        await nc.publish(fresh(), bytes(MIB + 1))
    except MaxPayloadError:
        return await nc.works()
    raise AssertionError("nats-py took more than max_payload")


@check
async def max_payload_server() -> None:
    nc = await connect(os.environ["GENEROUS_URL"])
    await nc.publish(fresh(), bytes(MIB + 1))
    # nats-py closes for good where other libraries connect again
    await until(lambda: nc.is_closed, "the connection to be closed")
    assert "maximum payload violation" in str(nc.last_error).lower(), nc.last_error


# ---- the life of a connection ----


@check
async def flush() -> None:
    publisher, subscriber = await connect(), await connect()
    heard = await subscriber.subscribe(fresh())
    await subscriber.flush()
    await publisher.publish(heard.subject, b"x")
    await publisher.flush()
    equal(await left(subscriber, heard), [b"x"])


@check
async def drain_subscription() -> None:
    nc, heard = await connect(), []

    async def hear(message: Msg) -> None:
        await asyncio.sleep(0.001)
        heard.append(message.data)

    subscription = await nc.subscribe(fresh(), cb=hear)
    sent = [b"%d" % n for n in range(50)]
    for payload in sent:
        await nc.publish(subscription.subject, payload)
    await nc.flush()
    await subscription.drain()
    await nc.publish(subscription.subject, b"too late")
    await nc.flush()
    equal(heard, sent)
    await nc.works()


@check
async def drain_connection() -> None:
    nc, other, heard = await connect(), await connect(), []

    async def hear(message: Msg) -> None:
        await asyncio.sleep(0.001)
        heard.append(message.data)

    subscription = await nc.subscribe(fresh(), cb=hear)
    await nc.flush()
    sent = [b"%d" % n for n in range(50)]
    for payload in sent:
        await other.publish(subscription.subject, payload)
    await other.flush()
    await nc.flush()
    await nc.drain()
    equal(heard, sent)
    assert nc.is_closed, "the connection is open"
    equal(nc.events[-1], "closed")


@check
async def reconnect() -> None:
    nc, other = await connect(), await connect()
    subject = fresh()
    plain = await nc.subscribe(subject)
    member = await nc.subscribe(f"{subject}.*", queue="workers")
    limited = await nc.subscribe(f"{subject}.limited")
    await limited.unsubscribe(2)
    await nc.publish(limited.subject, b"first")
    await take(limited, 1)
    await take(member, 1)
    await restart_server()
    for peer in (nc, other):
        await until(lambda peer=peer: "reconnected" in peer.events, "to connect again")
        await peer.flush()
    await other.publish(subject, b"after")
    for n in range(2):
        await other.publish(f"{subject}.limited", b"%d" % n)
    await other.flush()
    equal([message.data for message in await take(plain, 1)], [b"after"])
    equal([message.data for message in await take(member, 2)], [b"0", b"1"])
    equal(await left(nc, limited), [b"0"])
    await nc.works()


@check
async def thousand_connections() -> None:
    subject = fresh()
    peers: list[Peer] = []
    while len(peers) < 1000:
        peers += await asyncio.gather(*(connect() for _ in range(50)))
    heard = [await peer.subscribe(subject) for peer in peers]
    await asyncio.gather(*(peer.flush() for peer in peers))
    await peers[0].publish(subject, b"to all")
    for subscription in heard:
        equal((await take(subscription, 1))[0].data, b"to all")


# ---- mailboxes ----

ORDER = ["critical", "urgent", "high", "normal", "low", "notify"]


@check
async def mailbox_subscribe() -> None:
    sender, reader = await connect(), await connect()
    made = await reader.create()
    for word in reversed(ORDER):
        said = await sender.ask(
            f"INBOX.{made['send_only']}", word.encode(), **{"mq9-priority": word, "x-Trace": "7: f"}
        )
        assert said["error"] == "", said
    backlog = await reader.subscribe(made["inbox"])
    found = await take(backlog, 6)
    equal([message.data.decode() for message in found], ["critical", "high", "urgent", "normal", "notify", "low"])
    for message in found:
        equal(message.headers["mq9-priority"].encode(), message.data)
        equal(message.headers["x-Trace"], "7: f")
        equal(message.subject, f"{made['inbox']}.{message.data.decode()}")


@check
async def mailbox_live_and_drain() -> None:
    sender, reader = await connect(), await connect()
    made, heard = await reader.create(), []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    subscription = await reader.subscribe(made["inbox"], cb=hear)
    await reader.flush()
    sent = [b"%d" % n for n in range(50)]
    for payload in sent:
        await sender.send(made["send_only"], payload)
    await reader.flush()
    await subscription.drain()
    equal(heard, sent)
    await sender.send(made["send_only"], b"for the next reader")
    again = await reader.subscribe(made["inbox"])
    equal(len(await take(again, 51)), 51)
    equal(len(heard), 50)


@check
async def mailbox_old_style() -> None:
    nc = await connect()
    reply = await nc.request(f"{AI}MAILBOX.CREATE", b'{"ttl":600}', timeout=10, old_style=True)
    made = json.loads(reply.data)
    equal(made["error"], "")
    reply = await nc.request(f"{AI}INBOX.{made['send_only']}", b"x", timeout=10, old_style=True)
    equal(json.loads(reply.data), {"error": "", "msg_id": 1})


@check
async def mailbox_queue_group() -> None:
    sender, one, two = [await connect() for _ in range(3)]
    made = await sender.create()
    members = [await peer.subscribe(made["inbox"], queue="workers") for peer in (one, two)]
    await one.flush()
    await two.flush()
    sent = [b"%d" % n for n in range(40)]
    for payload in sent:
        await sender.send(made["send_only"], payload)
    await until(lambda: sum(member.pending_msgs for member in members) >= 40, "40 messages for the group")
    shares = [await left(peer, member) for peer, member in zip((one, two), members, strict=True)]
    equal(Counter(payload for share in shares for payload in share), Counter(sent))
    assert all(shares), f"shares of {[len(share) for share in shares]}"
    await one.close()
    await two.close()
    late = await connect()
    last = await late.subscribe(made["inbox"], queue="workers")
    await sender.send(made["send_only"], b"new")
    equal((await take(last, 1))[0].data, b"new")


@check
async def mailbox_fetch_and_ack() -> None:
    nc = await connect()
    made = await nc.create()
    for payload in (b"one", ALL_BYTES, b"three"):
        await nc.send(made["send_only"], payload)
    fetch, ask = f"MSG.FETCH.{made['mail_id']}", {"group_name": "g", "member": "a", "config": {"num_msgs": 2}}
    first = await nc.ask(fetch, ask)
    equal([message["msg_id"] for message in first["messages"]], [1, 2])
    equal((first["messages"][0]["payload"], first["messages"][1]["encoding"]), ("one", "base64"))
    said = await nc.ask(f"MSG.ACK.{made['mail_id']}", {"group_name": "g", "member": "a", "msg_ids": [1, 2]})
    equal(said["error"], "")
    second = await nc.ask(fetch, ask)
    equal([message["payload"] for message in second["messages"]], ["three"])
    waiting = asyncio.create_task(nc.ask(fetch, ask | {"ack": [3], "config": {"max_wait_ms": 5000}}))
    await nc.flush()
    await nc.send(made["send_only"], b"four")
    equal([message["payload"] for message in (await waiting)["messages"]], ["four"])


@check
async def mailbox_acknowledge() -> None:
    nc = await connect()
    dead = await nc.create()
    made = await nc.create(ack="explicit", retain="ack", dead_letter=dead["send_only"])
    for payload in (b"slow", b"again", b"hopeless", b"asked"):
        await nc.send(made["send_only"], payload)
    member = await nc.subscribe(made["inbox"], queue="workers")
    slow, again, hopeless, asked = await take(member, 4)
    await slow.in_progress()
    await slow.ack()
    await again.nak()
    (again,) = await take(member, 1)
    equal((again.data, again.headers["mq9-deliveries"]), (b"again", "2"))
    await again.ack()
    await hopeless.term()
    equal(json.loads((await asked.ack_sync(timeout=10)).data), {"error": ""})
    equal((await nc.ask(f"MAILBOX.QUERY.{made['mail_id']}"))["unread"], 0)
    (letter,) = (await nc.ask(f"MAILBOX.QUERY.{dead['mail_id']}"))["messages"]
    equal((letter["payload"], letter["headers"]["mq9-dead-reason"]), ("hopeless", "terminated"))
    equal((await left(nc, member), nc.errors), ([], []))


@check
async def mailbox_reply_address() -> None:
    asker, answerer = await connect(), await connect()
    question, answers = await answerer.create(), await asker.create()
    await asker.publish(f"{AI}INBOX.{question['send_only']}", b"how?", reply=f"{AI}INBOX.{answers['send_only']}.urgent")
    asked = await answerer.subscribe(question["inbox"])
    (message,) = await take(asked, 1)
    await message.respond(b"so")
    got = await asker.subscribe(answers["inbox"])
    (answer,) = await take(got, 1)
    equal((answer.data, answer.headers["mq9-priority"]), (b"so", "urgent"))


async def refused(nc: Peer, what: str, subject: str) -> None:
    await nc.flush()
    await until(lambda: nc.errors, "a permissions error")
    assert f'permissions violation for {what} to "{subject}"'.lower() in nc.errors[0], nc.errors
    await nc.works()
    equal(nc.events, [])


@check
async def mailbox_refused_wildcard() -> None:
    nc = await connect()
    await nc.subscribe(f"{AI}MAILBOX.*")
    await refused(nc, "subscription", f"{AI}MAILBOX.*")


@check
async def mailbox_refused_publish() -> None:
    nc = await connect()
    await nc.publish(f"{AI}INBOX.nobody-has-this", b"lost?")
    await refused(nc, "publish", f"{AI}INBOX.nobody-has-this")


@check
async def mailbox_dropped() -> None:
    nc = await connect()
    made = await nc.create()
    subscription = await nc.subscribe(made["inbox"])
    await nc.flush()
    equal((await nc.ask(f"MAILBOX.DROP.{made['mail_id']}"))["error"], "")
    (last,) = await take(subscription, 1)
    equal((last.data, last.headers["Status"]), (b"", "410"))
    assert "Mailbox Expired" in last.headers["Description"], last.headers
    await nc.works()


@check
async def mailbox_broadcast() -> None:
    one, two = await connect(), await connect()
    domain = uuid.uuid4().hex[:8]
    heard = await one.subscribe(f"{AI}BROADCAST.{domain}.*")
    await one.flush()
    await two.publish(f"{AI}BROADCAST.{domain}.done", b"all of it", headers={"a": "b"})
    (message,) = await take(heard, 1)
    equal((message.data, message.headers, message.subject), (b"all of it", {"a": "b"}, f"{AI}BROADCAST.{domain}.done"))


@check
async def mailbox_directory() -> None:
    nc = await connect()
    public = f"py-{uuid.uuid4().hex[:8]}"
    made = await nc.create(name=public, public=True, desc="for a check")
    listed = await nc.ask("PUBLIC.LIST", {"prefix": public})
    equal([(box["mail_id"], box["desc"]) for box in listed["mailboxes"]], [(public, "for a check")])
    equal((await nc.ask(f"MAILBOX.DROP.{made['owner']}"))["error"], "")


@check
async def mailbox_restart() -> None:
    nc = await connect()
    made = await nc.create()
    await nc.send(made["send_only"], b"before")
    subscription = await nc.subscribe(made["inbox"])
    equal([message.data for message in await take(subscription, 1)], [b"before"])
    await restart_server()
    await until(lambda: "reconnected" in nc.events, "to connect again")
    await nc.send(made["send_only"], b"after")
    equal([message.data for message in await take(subscription, 2)], [b"before", b"after"])


# ---- ways in ----


@check
async def tls() -> None:
    nc = await connect(os.environ["TLS_URL"], tls=ssl.create_default_context(cafile=os.environ["TLS_CA"]))
    await nc.works()
    heard = await nc.subscribe(fresh())
    await nc.publish(heard.subject, bytes(MIB))
    equal(len((await take(heard, 1))[0].data), MIB)


async def is_refused(url: str, because: tuple[str, ...], **options: Any) -> None:
    try:
        # nats-py takes the end of a connection for a beginning
        await (await connect(url, allow_reconnect=False, **options)).works()
    except Exception as error:
        said = f"{error} {error.__cause__} {Peer.opened[-1].errors}".lower()
        assert any(word in said for word in because), said
    else:
        raise AssertionError("the connection was made")


@check
async def tls_untrusted() -> None:
    await is_refused(os.environ["TLS_URL"], ("certificate",), tls=ssl.create_default_context())


@check
async def tls_client() -> None:
    url, context = os.environ["MUTUAL_URL"], ssl.create_default_context(cafile=os.environ["TLS_CA"])
    # what became of the handshake shows in many ways later: any will do
    await is_refused(url, ("",), tls=context)
    context.load_cert_chain(os.environ["TLS_CERT"])
    await (await connect(url, tls=context)).works()


@check
async def user_password() -> None:
    await (await connect(os.environ["USERS_URL"], user="agent", password=os.environ["PASSWORD"])).works()


@check
async def wrong_password() -> None:
    await is_refused(os.environ["USERS_URL"], ("authorization violation",), user="agent", password="wrong")


@check
async def nkey() -> None:
    await (await connect(os.environ["USERS_URL"], nkeys_seed=os.environ["NKEY_FILE"])).works()


@check
async def token() -> None:
    await (await connect(os.environ["TOKEN_URL"], token=os.environ["TOKEN"])).works()
    await is_refused(os.environ["TOKEN_URL"], ("authorization violation",), token="wrong")


async def main() -> None:
    print(f"# nats-py {version('nats-py')}, Python {sys.version.split()[0]}", flush=True)
    for called in sys.argv[1:]:
        try:
            async with asyncio.timeout(SECONDS):
                await CHECKS[called]()
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"not ok - {called} - {said}", flush=True)
        else:
            print(f"ok - {called}", flush=True)
        opened, Peer.opened[:] = list(Peer.opened), []
        # after a failed handshake nats-py would wait for ever
        closing = (asyncio.wait_for(peer.close(), 1) for peer in opened)
        await asyncio.gather(*closing, return_exceptions=True)


asyncio.run(main())
