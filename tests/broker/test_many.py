"""What many mailboxes cost those who have nothing to do with them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from broker.inprocess import Broker, entries, pub
from mq9_broker import mailboxes
from mq9_broker.connection import Connection
from mq9_broker.dialects import native
from mq9_broker.group import Group
from mq9_broker.mailboxes import Mailbox
from mq9_broker.session import Session, Subscription


class Counted(dict[str, Any]):
    """Counts how many values are looked at, one by one."""

    looked_at = 0

    def values(self) -> Any:
        for value in super().values():
            Counted.looked_at += 1
            yield value


@pytest.mark.parametrize("listened", [0, 400, 2000])
def test_mailboxes_in_use_are_looked_through_rarely_and_those_nobody_listens_to_go(
    monkeypatch: pytest.MonkeyPatch, listened: int
) -> None:
    monkeypatch.setattr(mailboxes, "_IN_USE", 64)
    broker = Broker()
    client = broker.client()
    kept = broker.hub.mailboxes._in_use = Counted(broker.hub.mailboxes._in_use)
    Counted.looked_at = 0
    for number in range(listened):
        client.create(name=f"busy{number}")
        client.subscribe(f"INBOX.busy{number}")
    for number in range(3000):
        client.send(pub("MAILBOX.CREATE", {"name": f"idle{number}"}))
    assert Counted.looked_at < 4 * (listened + 3000)
    assert len(kept) <= 64 + 2 * listened
    assert all(f"busy{number}" in kept for number in range(listened))
    # and nobody misses anything
    client.put("idle0", "x")
    assert client.query("idle0") == [(1, "x")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for few mailboxes in use."""
    monkeypatch.setattr(mailboxes, "_IN_USE", 16)


@pytest.mark.usefixtures("few")
def test_a_late_acknowledgement_finds_the_mailbox_that_the_others_use() -> None:
    broker = Broker()
    client, worker = broker.client(), broker.client()
    client.create(name="box", ack="explicit", ack_wait=5)
    others = [client.mailbox() for _ in range(40)]
    client.put("box", "one")
    sid = worker.subscribe("INBOX.box", "g")
    (given,) = worker.take(sid)
    worker.send(f"UNSUB {sid}\r\n")
    broker.advance(10)
    for other in others:
        client.query(other)
    client.put("box", "two")
    for other in others:
        client.query(other)
    assert worker.request(f"={given.reply}", "+ACK") == {"error": ""}
    for other in others:
        client.query(other)
    assert client.put("box", "three") == 3
    assert client.query("box") == [(1, "one"), (2, "two"), (3, "three")]
    assert entries(client.fetch("box", "g")) == [(2, "two"), (3, "three")]


@pytest.mark.usefixtures("few")
def test_a_mailbox_that_is_pushed_out_in_the_middle_of_a_command_is_the_same_for_the_next() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", retain="ack")
    home = client.mailbox()
    others = [client.mailbox() for _ in range(15)]
    client.put("box", "one", **{"from": home, "receipt": "acked"})
    client.fetch("box", "g")
    client = broker.restart().client()
    for address in ("box", *others):
        client.query(address)
    # the receipt goes to a mailbox for which there is no room
    client.ask("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]})
    client.put("box", "two")
    answer = client.request("MAILBOX.QUERY.box")
    assert (entries(answer), answer["unread"]) == ([(2, "two")], 1)


@pytest.fixture
def no_garbage_is_looked_for() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.mark.usefixtures("few", "no_garbage_is_looked_for")
def test_a_mailbox_that_is_pushed_out_is_freed_with_its_groups_at_once() -> None:
    broker = Broker()
    client = broker.client()
    boxes = [client.mailbox() for _ in range(60)]
    before = living(Group)
    for number in (1, 2, 3):
        for box in boxes:
            client.put(box, "x")
            assert entries(client.fetch(box, "g", ack=[number])) == []
    assert living(Group) - before <= 20
    assert living(Mailbox) <= 40
    # and each goes on where it stood
    for box in boxes:
        client.put(box, "y")
        assert entries(client.fetch(box, "g")) == [(4, "y")]


@pytest.mark.usefixtures("no_garbage_is_looked_for")
@pytest.mark.parametrize("ended", ["expired", "dropped"])
def test_a_mailbox_that_ended_is_freed_with_its_groups_at_once(ended: str) -> None:
    broker = Broker()
    client = broker.client()
    before = living(Group)
    for _ in range(10):
        box = client.mailbox(ttl=10, ack="explicit", ack_wait=1)
        client.put(box, "x")
        client.fetch(box, "g")
        sid = client.subscribe(f"INBOX.{box}", "h")
        assert len(client.take(sid)) == 1
        if ended == "dropped":
            client.request(f"MAILBOX.DROP.{box}")
    broker.advance(20)
    broker.advance(20)
    assert living(Group) == before


@pytest.mark.usefixtures("no_garbage_is_looked_for")
def test_a_client_that_is_gone_is_freed_at_once() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ack="explicit")
    before = living(Session), living(Connection), living(Subscription)
    for _ in range(10):
        other = broker.client()
        for subject, queue in [("=foo", ""), ("INBOX.box", ""), ("INBOX.box", "g"), ("PUBLIC.LIST", "")]:
            other.subscribe(subject, queue)
        other.subscribe("BROADCAST.>")
        client.put("box", "x")
        other.fetch("box", "f")
        other.ask("MSG.FETCH.box", {"group_name": "f", "config": {"max_wait_ms": 5000}})
        other.transport.close()
        broker.settle()
        broker.clients.remove(other)
        vars(other).clear()
    broker.advance(1)
    assert (living(Session), living(Connection), living(Subscription)) == before


def test_what_subjects_mean_is_remembered_of_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_ROUTES", 16)
    parsed: list[bytes] = []
    parse = native.Native._parse
    monkeypatch.setattr(
        native.Native, "_parse", lambda self, subject: (parsed.append(subject), parse(self, subject))[1]
    )
    broker = Broker()
    client = broker.client()
    places = [client.create(name=f"box{number}")["mail_id"] for number in range(40)]
    for number in range(3):
        assert [client.put(place, "x") for place in places] == [number + 1] * 40
    parsed.clear()
    for place in places[-12:]:
        client.put(place, "x")
    assert parsed == []
    assert all(client.query(place)[-1][1] == "x" for place in places)
