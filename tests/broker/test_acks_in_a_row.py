"""Acknowledgements that come in a row: at once or one by one, everybody gets the same."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import OPTIONS, Broker, Client, FaultyStore, Frame, entries, pub

#: What a member says of which message: (number of a delivered one, beyond them a subject that means nothing; word).
Word = tuple[int, bytes]

_COUNT = 12
_TOKEN = re.compile(rb"[0-9a-f]{32}")


def pushed(client: Client) -> list[Frame]:
    return [frame for frame in client.take() if frame.verb in ("MSG", "HMSG")]


class World:
    """Two mailboxes whose members acknowledge. `worker` is in the groups of both, `other` in that of the first."""

    def __init__(self, options: dict[str, object] = OPTIONS, retain: str = "ttl") -> None:
        self.store = FaultyStore()
        self.broker = Broker(self.store)
        self.owner = self.broker.client()
        self.worker = self.broker.client(connect=options)
        for name in ("one", "two"):
            self.owner.create(name=name, ack="explicit", ack_wait=30, ttl=60 if name == "two" else 0, retain=retain)
            self.worker.subscribe(f"INBOX.{name}", "g")
        for number in range(_COUNT):
            self.owner.put("one" if number % 3 else "two", str(number))
        self.given = pushed(self.worker)
        self.other = self.broker.client()
        self.other.subscribe("INBOX.one", "g")
        for client in (self.owner, self.worker, self.other):
            client.raw.clear()

    def frames(self, words: list[Word]) -> list[bytes]:
        subjects = [frame.reply for frame in self.given] + ["$mq9.AI.ACK." + "0" * 32, "$mq9.AI.ACK.", "core.subject"]
        return [pub("=" + subjects[number % len(subjects)], word) for number, word in words]

    def came_of_it(self) -> list[object]:
        """What was told, what is left for whoever comes, and what is remembered."""
        told = [_TOKEN.sub(b"-", bytes(client.raw)) for client in (self.worker, self.other, self.owner)]
        counted = [
            (client.session.in_msgs, client.session.in_bytes, client.session.out_msgs, len(client.session.claims))
            for client in (self.worker, self.other)
        ]
        self.worker.hang_up()
        self.other.hang_up()
        asked = [("MSG.FETCH", {"group_name": "g", "config": {"num_msgs": 100, "max_wait_ms": 0}}), ("MSG.QUERY", {})]
        rest = [self.broker.client().request(f"{ask}.{name}", body) for ask, body in asked for name in ("one", "two")]
        return [told, counted, rest]


_word = st.tuples(
    st.integers(0, _COUNT + 2), st.sampled_from([b"", b"", b"+ACK", b"+ACK", b"-NAK", b"+WPI", b"oops", b"+TERM"])
)


#: What mostly comes: each message is done once.
_done = st.permutations([(number, (b"", b"+ACK")[number % 2]) for number in range(_COUNT)])


@settings(max_examples=200)
@given(
    st.lists(_word, max_size=20) | _done,
    st.sampled_from([{}, {}, {"verbose": True}, {"pedantic": True}]),
    st.sampled_from(["", "late", "fetched", "expired", "refusing", "failing"]),
    st.sampled_from(["ttl", "ack"]),
)
def test_whether_they_come_at_once_or_one_by_one_makes_no_difference(
    words: list[Word], changes: dict[str, object], before: str, retain: str
) -> None:
    came = []
    for at_once in (True, False):
        world = World({**OPTIONS, **changes}, retain)
        if before in ("late", "fetched"):
            world.other.hang_up()
            world.worker.send("UNSUB s1\r\n", "UNSUB s2\r\n")
            world.broker.advance(31)
        if before == "fetched":
            assert len(entries(world.owner.fetch("one", "g", limit=3))) == 3
        elif before == "expired":
            world.broker.advance(59)
            world.broker.clock.advance(2000)
        elif before:
            world.store.failing = "disk full"
        if before == "refusing":
            world.owner.request("MAILBOX.one", b"refused")
        stream = world.frames(words)
        for chunk in [b"".join(stream)] if at_once else stream or [b""]:
            world.worker.feed(chunk)
        world.broker.settle()
        world.store.failing = ""
        world.broker.advance(2)
        came.append(world.came_of_it())
    assert came[0] == came[1]


def test_all_of_a_row_are_one_commit_and_done_for_good() -> None:
    store = FaultyStore()
    broker = Broker(store)
    client, worker = broker.client(), broker.client()
    client.create(name="box", ttl=0, ack="explicit", ack_wait=30)
    for number in range(600):
        client.put("box", str(number))
    worker.subscribe("INBOX.box", "g")
    frames = pushed(worker)
    before = store.commits
    worker.feed(
        b"".join(pub("=" + frame.reply, word) for frame, word in zip(frames, [b"", b"+ACK"] * 300, strict=False))
    )
    broker.settle()
    assert (len(frames), store.commits, worker.session.claims) == (600, before + 1, {})
    broker = broker.restart(store.crash())
    assert entries(broker.client().fetch("box", "g")) == []


def test_a_commit_that_fails_is_told_for_each_and_what_was_acknowledged_comes_again() -> None:
    world = World()
    world.store.failing = "disk full"
    stream = b"".join(world.frames([(number, b"") for number in range(_COUNT)]))
    frames = world.worker.send(stream)
    errors = [frame for frame in frames if frame.verb == "-ERR"]
    assert len(errors) == _COUNT
    world.store.failing = ""
    world.broker.advance(2)
    again = [frame for client in (world.worker, world.other) for frame in pushed(client)]
    assert sorted(int(frame.body) for frame in again) == list(range(_COUNT))


# ---- giving out in rows ----


@pytest.mark.parametrize("ack", ["explicit", "none"])
def test_members_take_turns_message_by_message_whatever_they_read(ack: str) -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0, ack=ack)
    several = [broker.client() for _ in range(4)]
    for member, tier in zip(several, ["*", "*", "*", "urgent"], strict=True):
        member.subscribe(f"MAILBOX.box.{tier}", "g")
    random = Random(5)
    body = 0
    for _ in range(30):
        client.send(*(pub("MAILBOX.box.low", str(body := body + 1)) for _ in range(random.randint(1, 7))))
    shares = [[int(frame.body) for frame in pushed(member)] for member in several]
    assert sorted(number for share in shares for number in share) == list(range(1, body + 1))
    assert shares[3] == []
    assert shares[:3] == [list(range(first, body + 1, 3)) for first in (1, 2, 3)]


def test_members_of_one_connection_get_what_is_urgent_first() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0)
    for number in range(30):
        client.ask(f"MAILBOX.box.{['low', 'normal', 'urgent'][number % 3]}", str(number))
    both, other = broker.client(), broker.client()
    both.feed(b"SUB $mq9.AI.MAILBOX.box.* g all\r\nSUB $mq9.AI.MAILBOX.box.normal g some\r\n")
    other.feed(b"SUB $mq9.AI.MAILBOX.box.low g 1\r\n")
    broker.settle()
    ranks = [("urgent", "normal", "low").index(frame.headers["mq9-priority"]) for frame in pushed(both)]
    assert ranks == sorted(ranks)
    assert len(ranks) + len(pushed(other)) == 30


def test_a_member_that_wants_a_few_gets_no_more_and_its_turn_is_over() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0)
    for number in range(10):
        client.put("box", str(number))
    few, many = broker.client(), broker.client()
    few.feed(b"SUB $mq9.AI.INBOX.box g 1\r\nUNSUB 1 2\r\n")
    many.feed(b"SUB $mq9.AI.INBOX.box g 1\r\n")
    broker.settle()
    assert (len(pushed(few)), len(pushed(many))) == (2, 8)


def test_what_is_alike_and_what_is_not_are_written_as_they_are() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0, ack="explicit", ack_wait=30)
    messages = [(b"x" * (number % 3), {"A": "b"} if number % 11 == 0 else {}) for number in range(300)]
    for payload, header in messages:
        client.ask("MAILBOX.box", payload, header or None)
    worker = broker.client()
    worker.subscribe("INBOX.box", "g")
    frames = pushed(worker)
    assert [(frame.body.encode(), frame.headers.get("A", "")) for frame in frames] == [
        (payload, header.get("A", "")) for payload, header in messages
    ]
    assert [frame.headers["mq9-msg-id"] for frame in frames] == [str(number) for number in range(1, 301)]
    assert len({frame.reply for frame in frames}) == 300


def test_what_was_given_out_before_says_so_beside_what_was_not() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0, ack="explicit", ack_wait=30)
    for count in (300, 40):
        client.feed(pub("MAILBOX.box", b"x") * count)
        broker.settle()
        worker = broker.client()
        worker.subscribe("INBOX.box", "g")
        told = [(frame.headers["mq9-msg-id"], frame.headers["mq9-deliveries"]) for frame in pushed(worker)]
        worker.hang_up()
    assert told == [(str(number), "2" if number <= 300 else "1") for number in range(1, 341)]


def test_a_member_that_takes_no_headers_gets_none() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0, ack="explicit")
    client.feed(pub("MAILBOX.box", b"x") * 300)
    worker = broker.client(headers=False, no_responders=False)
    worker.subscribe("INBOX.box", "g")
    assert [(frame.verb, frame.body) for frame in worker.take()] == [("MSG", "x")] * 300
