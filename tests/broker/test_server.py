"""Connections: who is there, who is not, and how the broker says goodbye."""

from __future__ import annotations

import json
import socket
import ssl

import pytest

from broker.inprocess import Broker, Client, FaultyStore, pub
from mq9_broker import __version__, subjects
from mq9_broker.model import Limits


@pytest.fixture
def broker() -> Broker:
    return Broker()


def pings(client: Client) -> int:
    """How many PINGs came since the last look."""
    found = client.raw.count(b"PING\r\n")
    client.raw.clear()
    return found


def test_the_greeting_says_what_it_is(broker: Broker) -> None:
    client = broker.client(connect=None)
    (greeting,) = client.frames
    assert json.loads(greeting.text) == {
        "server_id": broker.server.id,
        "server_name": broker.server.id,
        "version": "2.11.0",
        "mq9": __version__,
        "proto": 1,
        "host": "127.0.0.1",
        "port": 4222,
        "headers": True,
        "max_payload": 1_048_576,
        "client_id": 1,
        "client_ip": "127.0.0.1",
    }


@pytest.mark.anyio
async def test_a_system_that_refuses_an_option_of_its_sockets_is_served(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "TCP_NOTSENT_LOWAT", 9999, raising=False)
    broker.server.port = 0
    await broker.server.listen()
    try:
        socket.create_connection(("127.0.0.1", broker.server.port)).close()
    finally:
        await broker.server.stop(0)


def test_a_silent_client_is_asked_after_two_seconds_and_then_every_two_minutes(broker: Broker) -> None:
    client = broker.client()
    client.raw.clear()
    broker.advance(1.999)
    assert pings(client) == 0
    broker.advance(0.001)
    assert pings(client) == 1
    broker.advance(119.999)
    assert pings(client) == 0
    broker.advance(0.001)
    assert pings(client) == 1
    broker.advance(1200)
    assert pings(client) == 10
    assert not client.gone


def test_one_that_does_not_answer_is_closed(broker: Broker) -> None:
    client = broker.client(pong=False)
    client.raw.clear()
    broker.advance(2 + 2 * 120 - 0.001)
    assert bytes(client.raw) == b"PING\r\n" * 2
    broker.advance(0.001)
    assert bytes(client.raw) == b"PING\r\n" * 2 + b"-ERR 'Stale Connection'\r\n"
    assert client.gone
    assert broker.hub.timers.next is None or broker.hub.timers.next > broker.clock.now()


@pytest.mark.parametrize("sign", [pub("=nowhere"), b"SUB a 1\r\n", b"UNSUB 1\r\n", b"PING\r\n"])
def test_one_that_does_something_is_not_asked(broker: Broker, sign: bytes) -> None:
    client = broker.client(pong=False)
    broker.advance(2)
    assert pings(client) == 1
    for _ in range(20):
        broker.advance(100)
        client.send(sign)
    assert client.raw.count(b"PING\r\n") == 0
    assert not client.gone


def test_the_time_of_a_round_trip_is_measured_each_hour(broker: Broker) -> None:
    client = broker.client()
    client.raw.clear()
    for _ in range(80):
        broker.advance(100)
        client.send(pub("=nowhere"))
    assert pings(client) == 3


def test_a_pong_alone_is_no_sign_of_life(broker: Broker) -> None:
    client = broker.client(pong=False)
    client.raw.clear()
    for _ in range(10):
        broker.advance(100)
        client.send(b"PONG\r\n")
    assert pings(client) == 9
    assert not client.gone


def test_the_limits_are_the_operators() -> None:
    broker = Broker(limits=Limits(ping_interval=5, max_pings_out=1))
    client = broker.client(pong=False)
    broker.advance(6.999)
    assert not client.gone
    broker.advance(0.001)
    assert client.gone


def test_what_a_client_does_not_take_when_it_is_closed_is_not_kept(broker: Broker) -> None:
    client = broker.client()
    client.transport.stalled = True
    client.send(b"NONSENSE\r\n")
    assert client.transport.closing
    assert not client.gone
    broker.advance(1)
    assert client.gone


def test_nothing_is_heard_of_a_client_that_is_being_closed(broker: Broker) -> None:
    other, client = broker.client(), broker.client()
    other.create(name="box")
    client.transport.stalled = True
    client.send(b"NONSENSE\r\n", pub("MAILBOX.box", b"x"))
    client.send(pub("MAILBOX.box", b"y"))
    assert other.query("box") == []


def test_the_last_client_that_leaves_is_noted(broker: Broker) -> None:
    one, two = broker.client(), broker.client()
    assert broker.server.empty_since is None
    one.hang_up()
    assert broker.server.empty_since is None
    broker.advance(5)
    two.hang_up()
    assert broker.server.empty_since == broker.clock.now()
    assert broker.server.connections == set()
    broker.client()
    assert broker.server.empty_since is None


def test_a_goodbye_comes_after_everything_else() -> None:
    """What is on its way to the disk is answered first."""
    store = FaultyStore()
    broker = Broker(store)
    client, idle = broker.client(protocol=1), broker.client(protocol=1)
    for each in (client, idle):
        each.send(b"PING\r\n")
    client.create(name="box")
    store.by_hand = True
    sent = client.ask("MAILBOX.box", b"x")
    broker.settle()
    broker.committer.begin()
    for connection in (client.connection, idle.connection):
        connection.warn()
        connection.finish(None)
    broker.settle()
    assert sent.now is None
    store.land()
    broker.settle()
    assert sent.now == {"error": "", "msg_id": 1}
    for each in (client, idle):
        assert each.gone
        assert each.frames[-1].verb == "INFO"
        assert '"ldm":true' in each.frames[-1].text


def test_many_subscriptions_are_a_limit() -> None:
    broker = Broker(limits=Limits(max_subscriptions=3))
    client = broker.client()  # which has one for its answers
    client.send(b"SUB a 1\r\nSUB b 2\r\nSUB b 2\r\n")
    assert not client.gone
    client.send(b"SUB c 3\r\n")
    assert client.frames == []
    assert bytes(client.raw).endswith(b"-ERR 'maximum subscriptions exceeded'\r\n")
    assert not client.gone


def test_a_connection_that_ends_has_no_cipher_any_more(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    client = broker.client()
    ended = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a")
    assert ended.version() is None
    monkeypatch.setattr(client.transport, "get_extra_info", {"ssl_object": ended}.get)
    assert client.connection.tls() == ("", "")


def test_an_answer_is_not_compared_with_what_does_not_match(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client with many wildcards must not cost everybody's time with each request."""
    client = broker.client()
    client.send(*(b"SUB *.other.%d %d\r\n" % (number, number) for number in range(1000)))
    client.send(b"SUB *.mine.> m\r\nSUB a.mine.* q g\r\n")
    compared: list[bytes] = []
    matches = subjects.matches

    def counted(pattern: bytes, subject: bytes) -> bool:
        compared.append(pattern)
        return matches(pattern, subject)

    monkeypatch.setattr(subjects, "matches", counted)
    client.send(pub("MAILBOX.QUERY.nobody", {}, "a.mine.b"))
    assert bytes(client.raw).count(b"MSG a.mine.b") == 2
    assert len(compared) < 10
