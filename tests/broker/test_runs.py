"""Runs of publishes with the same control line: at once or one by one, everybody gets the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import OPTIONS, Broker, Client, FaultyStore, pub
from mq9_broker import router
from mq9_broker.model import Limits

LINES = b"A: b\r\n"
HEADER = b"NATS/1.0\r\n" + LINES + b"\r\n"
PLAIN = {"verbose": False, "pedantic": False}


def run(subject: str, count: int, size: int = 3, reply: str = "", block: bytes | None = None) -> bytes:
    """Frames with the same control line and numbers as payloads."""
    return b"".join(pub(f"={subject}", b"%0*d" % (size, number), reply, block) for number in range(count))


def heard(
    stream: bytes,
    step: int,
    subscriptions: Iterable[tuple[dict[str, object], str]] = (),
    publisher: tuple[dict[str, object], str] = (OPTIONS, ""),
) -> list[bytes]:
    """What each client gets (the publisher first) when a stream arrives `step` bytes at a time. Clients are what they
    announce and the commands they begin with."""
    broker = Broker()
    clients = []
    for options, commands in (publisher, *subscriptions):
        client = broker.client(connect=options)
        client.send(commands.replace(";", "\r\n"))
        client.raw.clear()
        clients.append(client)
    sender = clients[0]
    for at in range(0, len(stream), step):
        sender.feed(stream[at : at + step])
    broker.settle()
    for client in clients:
        counted(client)
    return [bytes(client.raw) for client in clients]


def counted(client: Client) -> None:
    """The counters of a session are the messages its client got; that nobody is there is none."""
    messages = [frame for frame in client.frames if frame.verb in ("MSG", "HMSG") and frame.status != "503"]
    assert client.session.out_msgs == len(messages)
    blocks = sum(
        len(f"NATS/1.0{' ' + frame.status if frame.status else ''}\r\n\r\n")
        + sum(len(f"{name}: {value}\r\n") for name, value in frame.headers.items())
        for frame in messages
        if frame.verb == "HMSG"
    )
    assert client.session.out_bytes == sum(len(frame.payload) for frame in messages) + blocks


STREAMS = {
    "one subject": run("a", 9),
    "subjects in turns": run("a", 3) + run("b", 3) + run("a", 3),
    "sizes in turns": run("a", 3) + run("a", 3, size=4) + run("a", 1) + run("a", 2, size=30),
    "empty payloads": 5 * b"PUB a 0\r\n\r\n",
    "one alone between runs": run("a", 3) + run("b", 1) + run("a", 2),
    "payloads like control lines": 4 * b"PUB a 15\r\nx\r\nPUB a 15\r\n\r\n\r\n" + b"PING\r\n",
    "other letter case": 3 * b"pub\ta  2\r\nhi\r\n" + 3 * b"PUB a 2\nhi\r\n",
    "a ping between": run("a", 3) + b"PING\r\n" + run("a", 3),
    "headers": run("a", 4, block=LINES) + run("a", 2) + run("b", 3, block=LINES),
    "headers and replies": run("a", 4, reply="x.y", block=LINES),
    "replies": run("a", 4, reply="x.y"),
    "nobody there": run("none", 3) + run("none", 3, reply="r") + run("a", 2),
    "a wrong end within a run": run("a", 3) + b"PUB a 3\r\n00x\n\n" + run("a", 3),
    "too long within a run": run("a", 3) + b"PUB a 3\r\n0000\r\n" + run("a", 3),
    "nonsense behind a run": run("a", 3) + b"PUB a x\r\n" + run("a", 3),
    "a mailbox that is none": run("$mq9.AI.MAILBOX.nothing", 3) + run("$mq9.AI.MAILBOX.nothing", 2, reply="r"),
    "broadcasts": run("$mq9.AI.BROADCAST.a.b", 3),
    "subscribing between": run("a", 2) + b"SUB a own\r\n" + run("a", 2) + b"UNSUB own\r\n" + run("a", 2),
    "a maximum between": run("a", 2) + b"SUB a own\r\nUNSUB own 3\r\n" + run("a", 5),
}
PUBLISHERS = {
    "": (OPTIONS, ""),
    "who hears himself": (OPTIONS, "SUB a p;SUB r r2;"),
    "who hears himself twice": (OPTIONS, "SUB a p;SUB > q;"),
    "without echo": (OPTIONS | {"echo": False}, "SUB a p;SUB r r2;"),
    "verbose": (OPTIONS | {"verbose": True}, "SUB a p;"),
    "pedantic": (OPTIONS | {"pedantic": True}, "SUB a p;"),
    "without headers": (PLAIN, "SUB a p;SUB r r2;"),
}
LISTENERS = [
    (OPTIONS, "SUB a 1;"),
    (OPTIONS, "SUB a 1;SUB a 2;"),
    (PLAIN, "SUB a 1;SUB b 2;"),
    (OPTIONS, "SUB > 1;"),
    (PLAIN, "SUB $mq9.AI.BROADCAST.> 1;"),
    (OPTIONS, "SUB b 1;UNSUB 1 2;"),
    (OPTIONS, "SUB b workers 1;"),
]


@pytest.mark.parametrize("publisher", PUBLISHERS)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_heard_the_same_wherever_it_is_cut(stream: str, publisher: str) -> None:
    for listeners in ([], LISTENERS[:1], LISTENERS[2::-2], LISTENERS):
        whole, single, pieces = (
            heard(STREAMS[stream], step, listeners, PUBLISHERS[publisher]) for step in (1 << 20, 1, 29)
        )
        assert whole == single
        assert whole == pieces


_frames = st.builds(
    run,
    st.sampled_from(["a", "b", "a.b", "none", "$mq9.AI.BROADCAST.x"]),
    st.integers(1, 5),
    st.integers(3, 5),
    st.sampled_from(["", "", "r"]),
    st.sampled_from([None, None, LINES]),
)
_commands = st.sampled_from([b"PING\r\n", b"SUB a x\r\n", b"UNSUB x 3\r\n", b"UNSUB x\r\n", b"SUB *.b y\r\n"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(_frames | _commands, max_size=6).map(b"".join),
    st.sampled_from(sorted(PUBLISHERS)),
    st.lists(st.sampled_from(LISTENERS), max_size=4),
    st.integers(1, 60),
)
def test_any_stream_is_heard_the_same_wherever_it_is_cut(
    stream: bytes, publisher: str, listeners: list[tuple[dict[str, object], str]], step: int
) -> None:
    whole = heard(stream, 1 << 20, listeners, PUBLISHERS[publisher])
    assert whole == heard(stream, step, listeners, PUBLISHERS[publisher])


def test_what_came_before_what_is_wrong_is_delivered() -> None:
    for wrong in (b"PUB a 3\r\n0000\r\n", b"PUB a 3\r\n000\n\n", b"PUB a -3\r\n", b"PUB a 9999999999\r\n"):
        said, got = heard(run("a", 5) + wrong + run("a", 5), 1 << 20, [(OPTIONS, "SUB a 1;")])
        assert got == b"".join(b"MSG a 1 3\r\n%03d\r\n" % number for number in range(5))
        assert b"MSG" not in said


def test_a_maximum_is_kept_within_a_run() -> None:
    _, got = heard(run("a", 9), 1 << 20, [(OPTIONS, "SUB a 1;UNSUB 1 4;")])
    assert got == b"".join(b"MSG a 1 3\r\n%03d\r\n" % number for number in range(4))


@pytest.mark.parametrize("block", [None, LINES], ids=["", "headers"])
def test_members_of_a_group_share_a_run(block: bytes | None) -> None:
    """Each message goes to one of them, each gets its own in order, and none of them is left out."""
    broker = Broker()
    sender = broker.client()
    members = [broker.client(connect=options) for options in (OPTIONS, PLAIN, OPTIONS)]
    for member in members:
        member.subscribe("=jobs", "workers")
    audit = broker.client()
    audit.subscribe("=jobs", "auditors")
    sender.send(run("jobs", 600, block=block))
    shares = [member.bodies() for member in members]
    everything = [f"{number:03}" for number in range(600)]
    assert sum(map(Counter, shares), Counter()) == Counter(everything)
    assert all(share == sorted(share) for share in shares)
    assert min(map(len, shares)) > 100
    assert audit.bodies() == everything


def test_a_member_that_hears_no_echo_is_not_chosen() -> None:
    broker = Broker()
    sender, other = broker.client(connect=OPTIONS | {"echo": False}), broker.client()
    sender.subscribe("=jobs", "workers")
    other.subscribe("=jobs", "workers")
    sender.send(run("jobs", 50))
    assert sender.bodies() == []
    assert len(other.bodies()) == 50


def test_a_run_into_a_mailbox_is_stored_one_by_one() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box")
    client.send(run("$mq9.AI.MAILBOX.box", 50))
    assert client.query("box") == [(number + 1, f"{number:03}") for number in range(50)]


def test_what_clients_send_and_get_is_counted() -> None:
    broker = Broker()
    sender, listener = broker.client(), broker.client()
    listener.send("SUB a 1\r\nSUB > 2\r\n")
    assert (sender.session.in_msgs, sender.session.in_bytes) == (0, 0)
    sender.send(run("a", 5), run("a", 2, block=LINES), pub("=a", b"xy", "r", LINES), pub("=b", b"x"))
    assert (sender.session.in_msgs, sender.session.in_bytes) == (9, 15 + 2 * 3 + 3 * len(HEADER) + 2 + 1)
    assert (listener.session.out_msgs, listener.session.out_bytes) == (17, 2 * sender.session.in_bytes - 1)
    listener.send("UNSUB 1\r\nUNSUB 2\r\n")
    assert listener.session.out_msgs == 17


@pytest.mark.parametrize("options", [OPTIONS, PLAIN], ids=["", "without headers"])
def test_stored_messages_are_counted(options: dict[str, object]) -> None:
    broker = Broker()
    sender, listener = broker.client(), broker.client(connect=options)
    owner = sender.create(name="box", public=True)["owner"]
    sender.put("box", "one")
    sender.put("box", "two", priority="high")
    listener.subscribe("INBOX.box")
    listener.subscribe("INBOX.box.>", "workers")
    listener.subscribe("PUBLIC.LIST")
    sender.put("box", "three", ttl=50)
    sender.request(f"MAILBOX.DROP.{owner}")
    assert len(listener.frames) > 7
    counted(listener)
    for frame in sender.frames:
        assert frame.verb in ("MSG", "INFO")
    counted(sender)


@pytest.mark.parametrize("count", [1, 40], ids=["one", "a run"])
def test_many_subscribers_do_not_multiply_a_chunk_in_memory(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What was said is written on the way; everybody gets all of it, once and in order."""
    monkeypatch.setattr(router, "_MAX_PUSHED", 5000)
    broker = Broker()
    sender, *listeners = (broker.client() for _ in range(21))
    for number, listener in enumerate(listeners):
        listener.send(f"SUB a {number}\r\n")
        listener.raw.clear()
    chunk = run("a", count, size=1000) + run("b", 1) + run("a", count, size=1000) + b"PING\r\n"
    sender.feed(chunk)
    waiting = sum(len(frame) for listener in listeners for frame in listener.session.out)
    assert waiting < 5000 + 1100 * count
    broker.settle()
    for number, listener in enumerate(listeners):
        frames = [b"MSG a %d 1000\r\n%01000d\r\n" % (number, text) for text in range(count)]
        assert bytes(listener.raw) == b"".join(frames + frames)
        counted(listener)
    assert sender.raw.endswith(b"PONG\r\n")


def test_a_slow_consumer_gets_no_more_of_what_it_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may have many subscriptions to a subject: making a large message for each of them takes long."""
    monkeypatch.setattr(router, "_MAX_PUSHED", 5000)
    broker = Broker(limits=Limits(max_pending=8000))
    sender, slow, quick = (broker.client() for _ in range(3))
    slow.send(b"".join(b"SUB a %d\r\n" % number for number in range(1000)))
    quick.subscribe("=a")
    slow.transport.stalled = True
    sender.feed(run("a", 1, size=1000))
    assert slow.session.out_msgs < 20
    broker.settle()
    assert slow.gone
    assert quick.bodies() == ["0" * 1000]


def test_a_turn_that_ends_early_is_stored_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_MAX_PUSHED", 5000)
    store = FaultyStore()
    broker = Broker(store)
    sender, *listeners = (broker.client() for _ in range(4))
    sender.create(name="box")
    for listener in listeners:
        listener.subscribe("=a")
    sender.raw.clear()
    store.by_hand = True
    sender.feed(pub("MAILBOX.box", b"x", "_INBOX.c1.sent") + b"PING\r\n" + run("a", 4, size=1000) * 3 + b"PING\r\n")
    broker.settle()
    assert bytes(sender.raw) == b""
    while store.flights:
        store.land()
        broker.settle()
    assert [frame.verb for frame in sender.frames[-3:]] == ["MSG", "PONG", "PONG"]
    assert [len(listener.bodies()) for listener in listeners] == [12, 12, 12]
