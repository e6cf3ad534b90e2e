"""Much at once: clients that do not read, storms of subscriptions, too many connections, and frames cut anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from e2e.harness import Wire, eventually, pub
from fidelity.replay import Client
from fidelity.servers import StartServer

OpenWire = Callable[..., Wire]


def test_a_subscriber_that_does_not_read_is_closed_without_a_word(start: StartServer, wire: OpenWire) -> None:
    server = start(max_pending=1_048_576, max_payload=65_536)
    deaf, reading, sender = wire(server, receive_buffer=4096), wire(server), wire(server)
    for client in (deaf, reading):
        client.settle("SUB flood 1\r\n")
    for number in range(300):
        sender.settle(pub("flood", b"%04d" % number + bytes(60_000)))
        assert reading.messages(1)[0].payload[:4] == b"%04d" % number
    said = deaf.rest()
    assert 0 < len(said) < 300 * 60_000
    assert b"-ERR" not in said
    assert sender.settle("SUB after 1\r\n" + pub("after", b"x").decode())[0].payload == b"x"


def test_one_connection_too_many(start: StartServer, wire: OpenWire) -> None:
    server = start(max_connections=2)
    first, second = wire(server), wire(server)
    assert first.settle() == second.settle() == []  # both are in: nats-server counts a client a moment after its INFO
    refused = wire(server, connect=None)
    assert refused.rest().endswith(b"-ERR 'maximum connections exceeded'\r\n")
    assert first.settle() == []
    first.close()

    def is_served() -> bool:
        with Wire(server.port) as client:
            return [frame.op for frame in client.settle(b"SUB f 1\r\n" + pub("f"))] == ["MSG"]

    assert eventually(is_served, within=5)


def test_a_storm_of_subscriptions(start: StartServer, wire: OpenWire) -> None:
    """40,000 of them, literal and with wildcards: they work, they go, and their memory is used again."""
    server = start()
    client = wire(server)
    sizes = []
    began = time.monotonic()
    for _ in range(3):
        for first in range(0, 40_000, 4000):
            numbers = range(first, first + 4000)
            said = client.settle("".join(f"SUB s.{n}.{'*' if n % 4 == 0 else 'x'} {n}\r\n" for n in numbers))
            assert said == []
        got = client.settle(pub("s.7.x", b"a") + pub("s.8.y", b"b") + pub("s.7.y", b"c"))
        assert [(message.sid, message.payload) for message in got] == [("7", b"a"), ("8", b"b")]
        for first in range(0, 40_000, 4000):
            assert client.settle("".join(f"UNSUB {n}\r\n" for n in range(first, first + 4000))) == []
        assert client.settle(pub("s.7.x") + pub("s.8.y")) == []
        sizes.append(server.memory())
    assert time.monotonic() - began < 60
    assert sizes[2] - sizes[0] < 60 * 2**20


def test_subscriptions_that_come_and_go(shared: StartServer, kind: str, wire: OpenWire) -> None:
    """As a client that asks 20,000 times with an inbox of its own each time."""
    client = wire(shared(kind))
    for first in range(0, 20_000, 1000):
        frames = [f"SUB inbox.{n} {n}\r\nUNSUB {n} 1\r\nPUB inbox.{n} 1\r\nx\r\n" for n in range(first, first + 1000)]
        assert len(client.settle("".join(frames))) == 1000


def test_a_client_that_leaves_takes_its_subscriptions_along(shared: StartServer, kind: str, wire: OpenWire) -> None:
    server = shared(kind)
    leaving, asking = wire(server), wire(server)
    leaving.settle("SUB served 1\r\nSUB served q 2\r\n")
    asking.settle("SUB answers 1\r\n")
    assert asking.settle(pub("served", b"?", "answers")) == []
    leaving.close()
    assert eventually(lambda: [m.status for m in asking.settle(pub("served", b"?", "answers"))] == ["503"], within=5)


STREAM = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\nsub  cut.>\t1\r\nSUB cut.* q 2\r\nUNSUB 2 1\r\n'
    b"PUB cut.a 0\r\n\r\nPING\r\nPUB cut.b re.ply 13\r\n\r\nPING\r\n\r\nPUB\r\nUNSUB 2\r\n"
    b"HPUB cut.c.d 18 22\r\nNATS/1.0\r\nA: b\r\n\r\nbody\r\n+OK\r\nPONG\r\nINFO {}\r\nUNSUB 1 4\n"
    b"PUB cut.e 1\r\nx\r\nPING\r\n"
)


def test_a_stream_cut_anywhere_means_the_same(start: StartServer, wire: OpenWire) -> None:
    """A connection for each place, all at once, each on a subject of its own."""
    server = start()
    watch = wire(server)
    told = wire(server, connect=None).raw(STREAM.replace(b"cut", b"all")).replace(b"all", b"cut")
    assert told.count(b"PONG\r\n") == 2
    names = {place: b"%03x" % place for place in range(1, len(STREAM))}
    clients = {place: Client(server.port) for place in names}
    for place, client in clients.items():
        client.say(STREAM.replace(b"cut", names[place])[:place])
    # a round trip of another client: by then the first parts have been read
    watch.settle()
    for place, client in clients.items():
        client.say(STREAM.replace(b"cut", names[place])[place:])
        assert client.hear(told, closed=False, pong=False).replace(names[place], b"cut") == told, STREAM[:place]
        client.hang_up()


@pytest.mark.parametrize("frame", [b"PUB half 5\r\nhello\r\n", b"HPUB half 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"])
def test_half_a_frame_is_nothing(shared: StartServer, kind: str, wire: OpenWire, frame: bytes) -> None:
    server = shared(kind)
    listener = wire(server)
    listener.settle("SUB half 1\r\n")
    for cut in range(1, len(frame)):
        client = wire(server)
        client.settle()
        client.send(frame[:cut])
        client.reset() if cut % 2 else client.close()
    assert listener.settle() == []


@pytest.mark.parametrize("start_of_line", [b"", b"PUB ", b"SUB ", b"CONNECT ", b"PUB a 1"])
def test_100_kb_without_a_line_end(shared: StartServer, kind: str, wire: OpenWire, start_of_line: bytes) -> None:
    client = wire(shared(kind))
    client.settle()
    try:
        client.send(start_of_line + b"A" * 100_000)
    except ConnectionError:
        pass  # closed while we still wrote
    wrong = b"maximum control line exceeded" if start_of_line else b"Unknown Protocol Operation"
    # a reset may overtake the error that explains it
    assert client.rest() in (b"", b"-ERR '%b'\r\n" % wrong)


def test_every_subscription_that_matches_gets_it_once(shared: StartServer, kind: str, wire: OpenWire) -> None:
    patterns = ["a.b.c", "a.*.c", "a.>", ">", "*.*.*", "*.b.>", "a.b", "a.b.c.*", "b.>"]
    subscribe = "".join(f"SUB {pattern} {pattern}\r\n" for pattern in patterns)
    got = wire(shared(kind)).settle(subscribe.encode() + pub("a.b.c", b"x"))
    assert sorted(message.sid for message in got) == sorted(patterns[:6])


def test_a_queue_group_shares(shared: StartServer, kind: str, wire: OpenWire) -> None:
    server = shared(kind)
    members = [wire(server) for _ in range(3)]
    for member in members:
        member.settle("SUB share g 1\r\n")
    wire(server).settle(300 * pub("share", b"x"))
    shares = [len(member.settle()) for member in members]
    assert sum(shares) == 300
    assert min(shares) > 50
