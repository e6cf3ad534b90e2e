"""`mq9 check`: a whole store is whole, each kind of damage is seen and named, and repaired where it can be."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from random import Random

import pytest

from broker.inprocess import Broker, Client, fetching, pub
from mq9_broker import addresses, keys
from mq9_broker.check import Check
from mq9_broker.model import NORMAL
from mq9_broker.store import Batch
from mq9_broker.store.memory import MemoryStore

EVERYTHING = b"", b"\xff" * 64


@pytest.fixture
def broker() -> Broker:
    """A broker whose store holds a record of every kind."""
    broker = Broker()
    client = broker.client()
    sender = client.create(name="sender", ttl=0)
    client.create(name="box", public=True, desc="d", ttl=1000)
    client.create(name="events", ttl=0, subscribe=["build.*"])
    client.create(name="state", ttl=0, type="latest")
    private = client.mailbox(ttl=0)
    client.put("box", "plain")
    client.put("box", "ends", ttl=500, priority="urgent")
    client.put("box", "keyed", key="k")
    client.put("box", "watched", receipt="expired,acked", ttl=600, **{"from": sender["owner"]})
    client.put("box", "once", id="one")
    client.request("MAILBOX.box", "later", {"mq9-delay": 700})
    client.put("state", "first", key="x")
    client.put("state", "second", key="x", ttl=100)
    client.put(private, "private")
    client.fetch("box", "crew", limit=2)
    client.send(pub("BROADCAST.build.done", b"x"))
    client.send(pub("BROADCAST.system.capability", b'{"from":"nobody"}'))
    client.send(pub("BROADCAST.system.capability", b'{"from":"box"}'))
    return broker


def check(broker: Broker, *, repair: bool = False) -> list[str]:
    said: list[str] = []
    found = Check(broker.disk, said.append, repair=repair, now=broker.clock.now())
    found.run()
    assert found.wrong == len(said)
    return said


def incarnation(broker: Broker, name: str) -> int:
    mailbox = broker.find(name)
    assert mailbox is not None
    return mailbox.incarnation


def only(broker: Broker, start: bytes, end: bytes = b"") -> bytes:
    """The one key of a range, or of a prefix."""
    (key,) = [key for key, _ in broker.disk.scan(start, end or start + b"\xff" * 40)]
    return key


def test_a_whole_store(broker: Broker) -> None:
    before = dict(broker.disk.scan(*EVERYTHING))
    assert {key[9:10] for key in before if key[:1] == b"I"} == {b"a", b"d", b"g", b"k", b"l", b"m", b"s", b"z"}
    assert {key[:1] for key in before} == {b"!", b"A", b"B", b"C", b"E", b"I", b"M", b"P"}
    assert check(broker) == []
    assert check(broker, repair=True) == []
    assert dict(broker.disk.scan(*EVERYTHING)) == before


def test_it_is_whole_at_every_time_of_its_life(broker: Broker) -> None:
    client = broker.client()
    for seconds in (10, 110, 300, 100, 200, 200, 200, 3000, 90_000, 8 * 86_400):
        broker.advance(seconds)
        assert check(broker) == []
        client.put("events", "more", id="again", key="k")
        assert check(broker) == []
    big = client.create(name="big", ttl=0)
    client.send(pub("MAILBOX.big", b"x") * 1200)
    client.feed(pub(f"MAILBOX.DROP.{big['owner']}"))
    broker.loop.turn()
    assert check(broker) == []


def test_whatever_a_broker_does_its_store_is_whole() -> None:
    """Random commands and times, the store looked at after each turn."""
    random = Random(5)
    broker = Broker()
    clients = [broker.client() for _ in range(3)]
    owners: list[str] = []
    for number in range(12):
        retain = "ack" if number % 3 == 0 else "ttl"
        kind = "latest" if number % 4 == 1 else "standard"
        owner = clients[0].create(
            name=f"b{number}",
            public=number % 2 == 0,
            ttl=random.choice([0, 60, 600]),
            type=kind,
            retain=retain,
            ack=random.choice(["none", "explicit"]),
            max_msgs=random.choice([0, 5]),
            subscribe=["e.*"] if number % 5 == 0 else [],
        )["owner"]
        owners.append(owner)

    def act(client: Client) -> None:
        name = f"b{random.randrange(12)}"
        headers = {
            "mq9-priority": random.choice(["critical", "normal", "low"]),
            "mq9-ttl": random.choice([0, 5, 50]),
            "mq9-delay": random.choice([0, 0, 0, 9]),
            "mq9-receipt": "expired,acked,delivered",
            "mq9-from": random.choice(owners),
            "Nats-Msg-Id": str(random.randrange(5)),
        }
        if random.random() < 0.5:
            headers["mq9-key"] = str(random.randrange(3))
        kept = {header: value for header, value in headers.items() if random.random() < 0.6 and value}
        if "mq9-from" not in kept:
            kept.pop("mq9-receipt", None)
        deeds: list[Callable[[], object]] = [
            lambda: client.feed(pub(f"MAILBOX.{name}", b"x", headers=kept)),
            lambda: client.feed(pub(f"MAILBOX.{name}", b"x", headers=kept)),
            lambda: client.ask(f"MSG.FETCH.{name}", fetching(random.choice(["g", ""]), ack=[1, 2])),
            lambda: client.feed(pub(f"MAILBOX.DELETE.{random.choice(owners)}.{random.randrange(9)}")),
            lambda: client.feed(pub("BROADCAST.e.x", b"x")),
            lambda: client.feed(pub(f"MAILBOX.RENEW.{random.choice(owners)}", {"ttl": random.choice([0, 20])})),
            lambda: client.feed(f"SUB $mq9.AI.INBOX.{name} q s{random.randrange(4)}\r\n".encode()),
            lambda: client.feed(pub("BROADCAST.system.capability", {"from": random.choice([name, "x"])})),
        ]
        random.choice(deeds)()

    for turn in range(600):
        act(random.choice(clients))
        broker.settle()
        if random.random() < 0.1:
            broker.advance(random.choice([1, 10, 100]))
        if turn % 5 == 0:
            assert check(broker) == [], turn


Damage = Callable[[Broker], dict[bytes, bytes | None]]


def gone(*found: Callable[[Broker], bytes]) -> Damage:
    return lambda broker: {find(broker): None for find in found}


def of(name: str, rest: bytes) -> Callable[[Broker], bytes]:
    return lambda broker: only(broker, b"I" + keys.u64(incarnation(broker, name)) + rest)


def due(kind: bytes, name: str = "") -> Callable[[Broker], bytes]:
    def find(broker: Broker) -> bytes:
        entries = [
            key
            for key, value in broker.disk.scan(b"E", b"F")
            if keys.split_due(key)[1] == kind and (not name or value == name.encode())
        ]
        return entries[0]

    return find


DERIVABLE: dict[str, tuple[Damage, str]] = {
    "an owner address": (gone(lambda broker: only(broker, b"A" + broker.find("box").owner.encode())), "owner address"),  # type: ignore[union-attr]
    "a name": (gone(lambda _: b"Pbox"), "box is missing in the directory"),
    "a pattern": (gone(lambda _: keys.broadcasts("build.*", "events")), "events would miss the broadcasts build.*"),
    "the end of a mailbox": (gone(due(keys.DUE_MAILBOX)), "mailbox box would never be removed"),
    "the end of a message": (gone(due(keys.DUE_MESSAGE, "box")), "message 2 of box would never be removed"),
    "the end of a watched message": (gone(due(keys.DUE_WATCHED, "box")), "message 4 of box would never be removed"),
    "a message that is waited for": (gone(of("box", b"a")), "nobody would hear of the end of message 4 of box"),
    "a key": (gone(of("box", b"k")), "message 3 of box is not found by its mq9-key"),
    "the end of a Nats-Msg-Id": (gone(due(keys.DUE_DEDUP)), "a Nats-Msg-Id of box would never be forgotten"),
    "the time of a delayed message": (gone(due(keys.DUE_DELAYED)), "a delayed message to box would never be delivered"),
    "the end of a capability": (gone(due(keys.DUE_CAPABILITY)), "a capability would never be forgotten"),
    "counters": (gone(of("box", b"s")), "mailbox box: it counts 0 urgent messages, there are 1"),
    "a message": (gone(of("box", b"m\x01")), "mailbox box: it counts 1 urgent messages, there are 0"),
    "a group": (gone(of("box", b"g")), "it counts 1 groups, there are 0"),
    "a delayed message": (gone(of("box", b"z")), "it counts 1 delayed messages, there are 0"),
    "a mailbox": (gone(lambda _: b"Mbox"), "there are records of a mailbox that does not exist"),
    "a number": (lambda _: {keys.INCARNATION_KEY: keys.u64(2)}, "would be given to a mailbox again"),
    "a purge": (lambda broker: {keys.purge(incarnation(broker, "box")): b""}, "were to be removed"),
    "a false name": (lambda _: {b"Pevents": b""}, "the directory has 'events', which is no public mailbox"),
    "a false owner": (lambda _: {b"As-" + b"a" * 26: b"box"}, "is the owner address of 'box', which is not its"),
    "a false pattern": (lambda _: {keys.broadcasts("x.y", "box"): b""}, "broadcasts x.y would be stored in 'box'"),
    "a false key": (
        lambda broker: {keys.keyed(incarnation(broker, "box"), b"z"): b"\2" + keys.u64(99)},
        "a mq9-key of box leads to no message",
    ),
    "a false end": (lambda _: {keys.due(9, keys.DUE_MAILBOX, b"box"): b""}, "ends a mailbox that does not end then"),
    "an unknown kind": (
        lambda broker: {keys.due(9, b"?", keys.u64(incarnation(broker, "box"))): b"box"},
        "has the unknown kind b'?'",
    ),
}


@pytest.mark.parametrize("name", DERIVABLE)
def test_what_is_derivable_is_repaired(broker: Broker, name: str) -> None:
    damage, words = DERIVABLE[name]
    broker.disk.commit(Batch(damage(broker)))
    before = dict(broker.disk.scan(*EVERYTHING))
    said = check(broker)
    assert any(words in line for line in said), said
    assert dict(broker.disk.scan(*EVERYTHING)) == before
    repaired = check(broker, repair=True)
    assert all(line.endswith(": repaired") for line in repaired), repaired
    assert check(broker) == []
    after = broker.restart()
    after.advance(10_000)
    assert check(after) == []


def test_a_delayed_message_without_a_time_is_delivered_at_once(broker: Broker) -> None:
    broker.disk.commit(Batch({due(keys.DUE_DELAYED)(broker): None}))
    check(broker, repair=True)
    after = broker.restart()
    after.advance(1)
    assert "later" in [text for _, text in after.client().query("box")]


OTHERS: dict[str, tuple[dict[bytes, bytes], str]] = {
    "a mailbox that can't be read": ({b"Mx": b"{"}, "the record of a mailbox can't be read"),
    "a mailbox of another kind": ({b"Mx": b"[]"}, "the record of a mailbox can't be read"),
    "a key of no family": ({b"Z9": b""}, "the key b'Z9' is none of this version's"),
    "a key before all": ({b"\x01": b""}, "is none of this version's"),
    "a key behind all": ({b"\xf0": b""}, "is none of this version's"),
    "a key of the broker": ({b"!new": b""}, "the key b'!new' is none of this version's"),
    "a short capability": ({b"C" + bytes(16): b"x"}, "a capability can't be read"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_derivable_is_named_and_left(broker: Broker, name: str) -> None:
    damage, words = OTHERS[name]
    broker.disk.commit(Batch(dict(damage)))
    for repair in (False, True):
        said = check(broker, repair=repair)
        assert any(words in line and not line.endswith("repaired") for line in said), said
    for key, value in damage.items():
        assert broker.disk.get(key) == value


@pytest.mark.parametrize("rest", [b"m\2" + keys.u64(1), b"g" + b"crew", b"q", b"d" + bytes(16)])
def test_a_record_that_cannot_be_read_is_named_with_its_mailbox(broker: Broker, rest: bytes) -> None:
    broker.disk.commit(Batch({b"I" + keys.u64(incarnation(broker, "box")) + rest: b"\xff"}))
    assert any(("mailbox box" in line and "can't be read" in line) or "none of this" in line for line in check(broker))


def test_nothing_that_is_said_names_a_secret(broker: Broker) -> None:
    client = broker.client()
    secret = client.mailbox(ttl=100)
    client.put(secret, "x", ttl=50, key="k")
    kept = addresses.send_only(secret)
    number = keys.u64(incarnation(broker, kept))
    for key in [key for key, _ in broker.disk.scan(b"E", b"J") if number in key or kept.encode() in key]:
        broker.disk.commit(Batch({key: None}))
    said = "\n".join(check(broker))
    assert kept in said
    assert secret not in said


def test_its_memory_does_not_grow_with_the_store() -> None:
    def used(count: int) -> int:
        store = MemoryStore()
        client = Broker(store).client()
        address = client.mailbox(ttl=0)
        number = 1
        value = keys.encode_plain(NORMAL, 1, b"x")
        store.commit(Batch({keys.messages(number, 2) + keys.u64(msg_id): value for msg_id in range(1, count + 1)}))
        assert address
        tracemalloc.start()
        check = Check(store, lambda _: None, repair=False, now=1)
        check.run()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert check.looked_at["messages"] == count
        return peak

    assert used(20_000) < used(1000) + 20_000
