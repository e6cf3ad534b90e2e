"""Core NATS: what every client library expects of a server, byte for byte the same as from nats-server."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from e2e.harness import Broker, Connect, Peer, Wire, eventually, payloads, pub, take, waiting

pytestmark = pytest.mark.anyio

NATS_SERVER = Path(sys.executable).with_name("nats-server")


class NatsServer:
    """The real server on a free port, for the proof that ours says the same."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        assert eventually(self._listens, within=10)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def nats_server() -> Iterator[NatsServer]:
    if not NATS_SERVER.exists():
        pytest.skip("nats-server is not installed beside this Python")
    server = NatsServer()
    yield server
    server.stop()


@pytest.fixture(params=["mq9", "nats-server"])
def any_server(request: pytest.FixtureRequest) -> Broker | NatsServer:
    return request.getfixturevalue("server" if request.param == "mq9" else "nats_server")


@pytest.fixture
async def client(connect: Connect, any_server: Broker | NatsServer) -> Peer:
    return await connect(any_server)


# ---- byte for byte, both servers ----

QUIET = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
PEDANTIC = b'CONNECT {"verbose":false,"pedantic":true}\r\n'
LOUD = b'CONNECT {"verbose":true,"pedantic":true}\r\n'
HEADERS = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
BLOCK = b"NATS/1.0\r\nA: b\r\nA:c\r\n\r\n"
HPUB = b"HPUB h re %d %d\r\n%bhi\r\n" % (len(BLOCK), len(BLOCK) + 2, BLOCK)
MAX = b"x" * 1048576

TRANSCRIPTS = {
    # what the client says: what the server answers, up to the PONG or to the end of the connection
    "ping": (QUIET, b"PONG\r\n"),
    "connect-defaults-are-verbose": (b"CONNECT {}\r\n", b"+OK\r\nPONG\r\n"),
    "no-connect-is-verbose": (b"SUB foo 1\r\n", b"+OK\r\nPONG\r\n"),
    "verbose-order": (
        LOUD + b"SUB f 1\r\nPUB f 1\r\nx\r\nUNSUB 1\r\n",
        b"+OK\r\n+OK\r\n+OK\r\nMSG f 1 1\r\nx\r\n+OK\r\nPONG\r\n",
    ),
    "lower-case": (QUIET + b"sub foo 1\r\npub foo 2\r\nhi\r\n", b"MSG foo 1 2\r\nhi\r\nPONG\r\n"),
    "tabs-and-spaces": (QUIET + b"SUB\tfoo\t 1 \r\nPUB foo  2\r\nhi\r\n", b"MSG foo 1 2\r\nhi\r\nPONG\r\n"),
    "empty-payload": (QUIET + b"SUB f 1\r\nPUB f 0\r\n\r\n", b"MSG f 1 0\r\n\r\nPONG\r\n"),
    "payload-with-line-ends": (QUIET + b"SUB f 1\r\nPUB f 6\r\n\r\nPING\r\n", b"MSG f 1 6\r\n\r\nPING\r\nPONG\r\n"),
    "reply-subject": (QUIET + b"SUB f 1\r\nPUB f re.ply 1\r\nx\r\n", b"MSG f 1 re.ply 1\r\nx\r\nPONG\r\n"),
    "star-matches-one-token": (
        QUIET + b"SUB a.*.c 1\r\nPUB a.b.c 1\r\nx\r\nPUB a.c 1\r\ny\r\n",
        b"MSG a.b.c 1 1\r\nx\r\nPONG\r\n",
    ),
    "tail-matches-one-or-more": (
        QUIET + b"SUB a.> 1\r\nPUB a.b.c 1\r\nx\r\nPUB a 1\r\ny\r\n",
        b"MSG a.b.c 1 1\r\nx\r\nPONG\r\n",
    ),
    "star-inside-a-token-is-literal": (
        QUIET + b"SUB a* 1\r\nPUB a* 1\r\nx\r\nPUB ab 1\r\ny\r\n",
        b"MSG a* 1 1\r\nx\r\nPONG\r\n",
    ),
    "same-sid-twice-is-one": (QUIET + b"SUB f 1\r\nSUB f 1\r\nPUB f 1\r\nx\r\n", b"MSG f 1 1\r\nx\r\nPONG\r\n"),
    "unsub": (QUIET + b"SUB f 1\r\nUNSUB 1\r\nPUB f 1\r\nx\r\n", b"PONG\r\n"),
    "unsub-unknown": (QUIET + b"UNSUB 99\r\n", b"PONG\r\n"),
    "unsub-max": (
        QUIET + b"SUB f 1\r\nUNSUB 1 2\r\n" + 3 * b"PUB f 1\r\nx\r\n",
        2 * b"MSG f 1 1\r\nx\r\n" + b"PONG\r\n",
    ),
    "unsub-max-counts-what-came-before": (
        QUIET + b"SUB f 1\r\nPUB f 1\r\nx\r\nPUB f 1\r\ny\r\nUNSUB 1 1\r\nPUB f 1\r\nz\r\n",
        b"MSG f 1 1\r\nx\r\nMSG f 1 1\r\ny\r\nPONG\r\n",
    ),
    "unsub-max-in-a-queue": (
        QUIET + b"SUB q w 1\r\nUNSUB 1 1\r\n" + 2 * b"PUB q 0\r\n\r\n",
        b"MSG q 1 0\r\n\r\nPONG\r\n",
    ),
    "echo-off": (b'CONNECT {"verbose":false,"echo":false}\r\nSUB f 1\r\nPUB f 1\r\nx\r\n', b"PONG\r\n"),
    "queue-member-and-plain": (
        QUIET + b"SUB a q 1\r\nSUB a q 1\r\nSUB b 3\r\nPUB a 1\r\nx\r\n",
        b"MSG a 1 1\r\nx\r\nPONG\r\n",
    ),
    "headers-as-they-came": (HEADERS + b"SUB h 1\r\n" + HPUB, b"HMSG h 1 re 23 25\r\n" + BLOCK + b"hi\r\nPONG\r\n"),
    "runs": (
        HEADERS + b"SUB h 1\r\nSUB f 2\r\n" + 3 * HPUB + 3 * b"PUB f 1\r\nx\r\n" + 2 * b"PUB f re 1\r\ny\r\n",
        3 * (b"HMSG h 1 re 23 25\r\n" + BLOCK + b"hi\r\n")
        + 3 * b"MSG f 2 1\r\nx\r\n"
        + 2 * b"MSG f 2 re 1\r\ny\r\n"
        + b"PONG\r\n",
    ),
    "a-run-that-breaks": (
        QUIET + b"SUB f 1\r\n" + 3 * b"PUB f 1\r\nx\r\n" + b"PUB f 1\r\nxyz\r\n" + b"PUB f 1\r\nx\r\n",
        3 * b"MSG f 1 1\r\nx\r\n" + b"-ERR 'Unknown Protocol Operation'\r\n",
    ),
    "headers-that-are-empty": (
        HEADERS + b"SUB f 1\r\nHPUB f 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"HMSG f 1 12 12\r\nNATS/1.0\r\n\r\n\r\nPONG\r\n",
    ),
    "no-responders": (
        HEADERS + b"SUB r 1\r\nPUB none r 0\r\n\r\n",
        b"HMSG r 1 36 36\r\nNATS/1.0 503\r\nNats-Subject: none\r\n\r\n\r\nPONG\r\n",
    ),
    "no-responders-do-not-count-as-messages": (
        HEADERS + b"SUB r 1\r\nUNSUB 1 1\r\n" + 2 * b"PUB none r 0\r\n\r\n" + 2 * b"PUB r 1\r\nx\r\n",
        2 * b"HMSG r 1 36 36\r\nNATS/1.0 503\r\nNats-Subject: none\r\n\r\n\r\n" + b"MSG r 1 1\r\nx\r\nPONG\r\n",
    ),
    "no-responders-not-announced": (QUIET + b"SUB r 1\r\nPUB none r 0\r\n\r\n", b"PONG\r\n"),
    "max-payload": (QUIET + b"PUB f 1048576\r\n" + MAX + b"\r\n", b"PONG\r\n"),
    "client-says-ok-pong-info": (QUIET + b"+OK\r\nPONG\r\nINFO {}\r\n", b"PONG\r\n"),
    # what is wrong, and whether the connection survives it
    "invalid-subscribe": (
        QUIET + b"SUB foo. 1\r\nSUB a..b 2\r\nSUB .a 3\r\nSUB a.>.b 4\r\n",
        4 * b"-ERR 'Invalid Subject'\r\n" + b"PONG\r\n",
    ),
    "invalid-publish": (QUIET + b"SUB > 1\r\nPUB a..b 1\r\nx\r\n", b"PONG\r\n"),
    "wildcard-publish": (QUIET + b"SUB > 1\r\nPUB a.* 1\r\nx\r\n", b"MSG a.* 1 1\r\nx\r\nPONG\r\n"),
    "invalid-publish-pedantic": (
        PEDANTIC + b"PUB a. 1\r\nx\r\nPUB a.* 1\r\nx\r\n",
        2 * b"-ERR 'Invalid Publish Subject'\r\n" + b"PONG\r\n",
    ),
    "invalid-publish-verbose": (
        LOUD + b"PUB a.* 0\r\n\r\n",
        b"+OK\r\n-ERR 'Invalid Publish Subject'\r\n+OK\r\nPONG\r\n",
    ),
    "unknown-operation": (QUIET + b"FOO\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
    "server-operation": (QUIET + b"MSG a 1 1\r\nx\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
    "empty-line": (QUIET + b"\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
    "payload-longer-than-said": (QUIET + b"PUB f 2\r\nabcd\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
    "too-large": (QUIET + b"PUB f 1048577\r\n", b"-ERR 'Maximum Payload Violation'\r\n"),
    "control-line-4096": (QUIET + b"SUB " + b"a" * 4094 + b" 1\r\n", b"PONG\r\n"),
    "control-line-4097": (QUIET + b"SUB " + b"a" * 4095 + b" 1\r\n", b"-ERR 'maximum control line exceeded'\r\n"),
    "control-line-connect": (
        b'CONNECT {"name":"' + b"a" * 4096 + b'"}\r\n',
        b"-ERR 'maximum control line exceeded'\r\n",
    ),
    "protocol-7": (b'CONNECT {"verbose":false,"protocol":7}\r\n', b"-ERR 'invalid client protocol'\r\n"),
    "no-responders-without-headers": (
        b'CONNECT {"verbose":false,"headers":false,"no_responders":true}\r\n',
        b"-ERR 'no responders requires headers support'\r\n",
    ),
    # closed without a word
    "sub-without-sid": (QUIET + b"SUB foo\r\n", b""),
    "sub-with-too-many": (QUIET + b"SUB foo q 1 2\r\n", b""),
    "pub-without-size": (QUIET + b"PUB foo\r\n", b""),
    "pub-size-not-a-number": (QUIET + b"PUB foo x\r\n", b""),
    "pub-size-negative": (QUIET + b"PUB foo -1\r\n", b""),
    "hpub-not-announced": (QUIET + HPUB, b""),
    "hpub-header-longer-than-total": (HEADERS + b"HPUB f 50 10\r\n", b""),
    "hpub-without-sizes": (HEADERS + b"HPUB f 1\r\n", b""),
    "connect-not-json": (b"CONNECT {bad\r\n", b""),
    "connect-not-an-object": (b"CONNECT []\r\n", b""),
}


@pytest.mark.parametrize("case", TRANSCRIPTS)
def test_says_what_nats_server_says(any_server: Broker | NatsServer, wire: Callable[..., Wire], case: str) -> None:
    said, answered = TRANSCRIPTS[case]
    assert wire(any_server, connect=None).raw(said + b"PING\r\n") == answered


def test_every_subscription_that_matches_gets_it_once(
    any_server: Broker | NatsServer, wire: Callable[..., Wire]
) -> None:
    patterns = ["a.b.c", "a.*.c", "a.>", ">", "*.*.*", "*.b.>", "a.b", "a.b.c.*", "b.>"]
    subscribe = "".join(f"SUB {pattern} {pattern}\r\n" for pattern in patterns)
    got = wire(any_server).settle(subscribe.encode() + pub("a.b.c", b"x"))
    assert sorted(message.sid for message in got) == sorted(patterns[:6])


def test_an_info_that_libraries_can_use(any_server: Broker | NatsServer, wire: Callable[..., Wire]) -> None:
    info = wire(any_server).info
    assert info["headers"] is True
    assert info["max_payload"] == 1048576
    assert info["proto"] == 1
    assert info["port"] == any_server.port
    for name in ("server_id", "server_name", "version", "host", "client_id"):
        assert info[name], name


def test_protocol_1_clients_get_an_info_after_the_first_pong(
    any_server: Broker | NatsServer, wire: Callable[..., Wire]
) -> None:
    client = wire(any_server, connect={"verbose": False, "protocol": 1})
    client.send(b"PING\r\n")
    frames = [client.frame(), client.frame()]
    assert [frame and frame.op for frame in frames] == ["PONG", "INFO"]


def test_only_this_broker_says_mq9(server: Broker, wire: Callable[..., Wire]) -> None:
    from mq9_broker import __version__

    assert wire(server).info["mq9"] == __version__
    assert server.banner == f"mq9 broker {__version__} listening on nats://127.0.0.1:{server.port}"


# ---- through nats-py, both servers ----


async def test_publish_and_subscribe_between_connections(
    connect: Connect, any_server: Broker | NatsServer, client: Peer
) -> None:
    other = await connect(any_server)
    exact, star, tail = [await other.listen(subject) for subject in ("t.a.b", "t.*.b", "t.>")]
    for subject in ("t.a.b", "t.x.b", "t.x", "u.a.b"):
        await client.nc.publish(subject, subject.encode())
    await client.nc.publish("t.end", b"t.end")
    await client.flush()
    assert payloads(await take(tail, 4)) == ["t.a.b", "t.x.b", "t.x", "t.end"]
    assert payloads(await waiting(other, exact)) == ["t.a.b"]
    assert payloads(await waiting(other, star)) == ["t.a.b", "t.x.b"]


@pytest.mark.parametrize("payload", [b"", b"\0", b"\r\n", bytes(range(256)) * 64, MAX], ids=len)
async def test_payloads_arrive_unchanged(client: Peer, payload: bytes) -> None:
    subscription = await client.listen("bin")
    await client.nc.publish("bin", payload)
    (message,) = await take(subscription, 1)
    assert message.data == payload
    assert client.errors == []


async def test_queue_groups_get_each_message_once(
    connect: Connect, any_server: Broker | NatsServer, client: Peer
) -> None:
    members = [await connect(any_server) for _ in range(3)]
    first = [await member.listen("jobs.*", queue="workers") for member in members]
    second = await members[0].listen("jobs.>", queue="auditors")
    for number in range(300):
        await client.nc.publish(f"jobs.{number % 2}", str(number).encode())
    everything = Counter(map(str, range(300)))
    assert Counter(payloads(await take(second, 300))) == everything
    shares = [payloads(await waiting(member, sub)) for member, sub in zip(members, first, strict=True)]
    assert sum(map(Counter, shares), Counter()) == everything
    assert min(map(len, shares)) > 50


async def test_request_and_reply(connect: Connect, any_server: Broker | NatsServer, client: Peer) -> None:
    responder = await connect(any_server)

    async def answer(message: Msg) -> None:
        await message.respond(message.data.upper())

    await responder.nc.subscribe("shout", cb=answer)
    await responder.flush()
    replies = await asyncio.gather(*(client.nc.request("shout", f"n{n}".encode(), timeout=5) for n in range(50)))
    assert payloads(replies) == [f"N{n}" for n in range(50)]


async def test_a_request_nobody_serves_fails_at_once(client: Peer) -> None:
    with pytest.raises(NoRespondersError):
        await client.nc.request("nobody.home", b"?", timeout=5)


async def test_a_request_that_is_only_heard_times_out(client: Peer) -> None:
    await client.listen("deaf")
    with pytest.raises(NatsTimeout):
        await client.nc.request("deaf", b"?", timeout=0.1)


async def test_headers(client: Peer) -> None:
    subscription = await client.listen("h")
    await client.nc.publish("h", b"x", headers={"Some-Name": "value with: colon", "mq9-priority": "not ours here"})
    (message,) = await take(subscription, 1)
    assert message.headers == {"Some-Name": "value with: colon", "mq9-priority": "not ours here"}


async def test_unsubscribe_after_a_maximum(client: Peer) -> None:
    subscription = await client.listen("few")
    await subscription.unsubscribe(limit=2)
    for number in range(5):
        await client.nc.publish("few", str(number).encode())
    assert payloads(await waiting(client, subscription)) == ["0", "1"]


async def test_drain_delivers_what_came_before(client: Peer) -> None:
    got: list[bytes] = []

    async def keep(message: Msg) -> None:
        got.append(message.data)

    await client.nc.subscribe("d", cb=keep)
    await client.flush()
    for number in range(500):
        await client.nc.publish("d", str(number).encode())
    await client.nc.drain()
    assert got == [str(number).encode() for number in range(500)]
    assert client.nc.is_closed


async def test_no_echo(connect: Connect, any_server: Broker | NatsServer, client: Peer) -> None:
    silent = await connect(any_server, no_echo=True)
    subscription = await silent.listen("e")
    await silent.nc.publish("e", b"own")
    await silent.flush()
    await client.nc.publish("e", b"other")
    assert payloads(await take(subscription, 1)) == ["other"]


async def test_a_verbose_and_pedantic_client_works(connect: Connect, any_server: Broker | NatsServer) -> None:
    careful = await connect(any_server, verbose=True, pedantic=True)
    subscription = await careful.listen("v")
    await careful.nc.publish("v", json.dumps({"a": 1}).encode())
    assert payloads(await take(subscription, 1)) == ['{"a": 1}']
