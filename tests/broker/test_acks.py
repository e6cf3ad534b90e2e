"""Explicit acknowledgements: what a member of a queue says to the subject that came with a message."""

from __future__ import annotations

from random import Random

import pytest

from broker.inprocess import AI, Broker, Client, FaultyStore, Frame, entries, fetching, pub
from mq9_broker.model import Limits

ACK = AI + "ACK."
FULL = "No space left on device"


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def broker(store: FaultyStore) -> Broker:
    return Broker(store)


@pytest.fixture
def client(broker: Broker) -> Client:
    client = broker.client()
    client.create(name="graveyard", ttl=0)
    client.create(name="box", ttl=0, ack="explicit", ack_wait=20, max_deliver=3, dead_letter="graveyard")
    return client


def put(client: Client, *bodies: object, box: str = "box") -> None:
    for body in bodies:
        client.put(box, str(body))


def member(broker: Broker, box: str = "box", group: str = "g") -> Client:
    """A client that is in the group; what it got waits in its frames."""
    new = broker.client()
    new.subscribe(f"INBOX.{box}", group)
    return new


def given(client: Client) -> list[Frame]:
    return [frame for frame in client.take() if frame.verb in ("MSG", "HMSG")]


def told(frames: list[Frame]) -> list[tuple[str, str]]:
    """(payload, deliveries) of each."""
    return [(frame.body, frame.headers["mq9-deliveries"]) for frame in frames]


def say(client: Client, frame: Frame, word: str = "") -> str:
    """Acknowledge with a request; the error."""
    error = client.request(f"={frame.reply}", word)["error"]
    assert isinstance(error, str)
    return error


def test_a_message_carries_where_it_is_acknowledged(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    one, two = given(member(broker))
    assert one.reply.startswith(ACK)
    token = one.reply.removeprefix(ACK)
    assert len(token) == 32
    assert int(token, 16) >> 64
    assert one.reply != two.reply
    # nothing is known of them elsewhere: FETCH and plain subscriptions have no use for it
    plain = broker.client()
    sid = plain.subscribe("INBOX.box")
    assert [frame.reply for frame in plain.take(sid)] == ["", ""]


@pytest.mark.parametrize("word", ["", "+ACK"])
def test_what_is_acknowledged_is_done(broker: Broker, client: Client, word: str) -> None:
    put(client, 1, 2)
    worker = member(broker)
    one, _two = given(worker)
    assert say(worker, one, word) == ""
    worker.hang_up()
    assert told(given(member(broker))) == [("2", "2")]
    assert entries(broker.restart().client().fetch("box", "g")) == [(2, "2")]


def test_a_word_without_a_reply_is_heard_too(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert worker.send(pub(f"={one.reply}", b"+ACK")) == []
    worker.hang_up()
    assert given(member(broker)) == []
    # a mistake is an error as for any publish
    worker = broker.client()
    assert (
        worker.send(pub(f"={one.reply}", b"+ACK"))[0].text == f"'Permissions Violation for Publish to \"{one.reply}\"'"
    )


def test_an_answer_to_a_ping_is_no_acknowledgement(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    assert told(given(worker)) == [("1", "1")]
    assert b"PING" not in worker.raw
    worker.hang_up()
    assert told(given(member(broker))) == [("1", "2")]


def test_a_lease_ends_after_ack_wait(broker: Broker, client: Client) -> None:
    put(client, 1)
    first, second = member(broker), member(broker)
    assert told(given(first)) == [("1", "1")]
    broker.advance(19.999)
    assert given(second) == []
    broker.advance(0.001)
    assert told(given(second) + given(first)) == [("1", "2")]


def test_not_acknowledged_is_for_the_next(broker: Broker, client: Client) -> None:
    first, second = member(broker), member(broker)
    put(client, 1)
    (one,) = given(first)
    assert say(first, one, "-NAK") == ""
    (again,) = given(second)
    assert told([again]) == [("1", "2")]
    assert again.reply != one.reply
    assert say(first, one) == (
        "nothing can be acknowledged with this subject on this connection: the message is done, was given to another "
        "connection, or never came from here"
    )
    assert say(second, again) == ""


def test_not_acknowledged_with_a_delay(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    worker = member(broker)
    one, _two = given(worker)
    assert say(worker, one, '-NAK {"delay":1500000000}') == ""
    other = member(broker)
    broker.advance(1.499)
    assert given(worker) + given(other) == []
    broker.advance(0.001)
    assert told(given(worker) + given(other)) == [("1", "2")]


def test_what_is_put_off_may_be_put_off_again(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert say(worker, one, '-NAK {"delay":5000000000}') == ""
    assert say(worker, one, '-NAK {"delay":9000000000}') == ""
    broker.advance(8.999)
    assert given(worker) == []
    broker.advance(0.001)
    (again,) = given(worker)
    assert told([again]) == [("1", "2")]
    assert say(worker, again, '-NAK {"delay":5000000000}') == ""
    assert say(worker, again, "-NAK") == ""
    assert told(given(worker)) == [("1", "3")]


def test_what_is_put_off_may_be_done_by_anybody(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    worker = member(broker)
    one, two = given(worker)
    assert say(worker, one, '-NAK {"delay":5000000000}') == ""
    assert say(worker, two, '-NAK {"delay":5000000000}') == ""
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == {"error": ""}
    assert say(worker, two) == ""
    broker.advance(10)
    assert given(worker) == []


def test_still_working_prolongs_the_lease(broker: Broker, client: Client) -> None:
    worker, other = member(broker), member(broker)
    put(client, 1)
    (one,) = given(worker)
    for _ in range(5):
        broker.advance(15)
        assert say(worker, one, "+WPI") == ""
    broker.advance(19.999)
    assert given(other) == []
    broker.advance(0.001)
    assert told(given(other)) == [("1", "2")]
    assert "nothing can be acknowledged" in say(worker, one, "+WPI")


def test_still_working_on_what_was_taken_back(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert say(worker, one, '-NAK {"delay":5000000000}') == ""
    assert say(worker, one, "+WPI") == "the lease of message 1 is over: it goes to the next member"


def test_who_is_late_may_still_say_that_it_is_done(broker: Broker, client: Client) -> None:
    """As long as nobody else has it: the only worker of a group does not do slow work again and again."""
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    broker.advance(20)
    (again,) = given(worker)
    assert told([again]) == [("1", "2")]
    assert again.reply == one.reply
    assert say(worker, one) == ""
    worker.hang_up()
    assert given(member(broker)) == []


def test_who_is_late_for_a_fetch_of_another_is_refused(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    worker.feed(b"UNSUB s1\r\n")
    broker.advance(20)
    assert entries(client.fetch("box", "g")) == [(1, "1")]
    for word in ("", "-NAK", "+WPI", "+TERM"):
        assert say(worker, one, word) == "message 1 is leased to another member of the group by now"


@pytest.mark.parametrize(
    ("word", "reason"), [("+TERM", "terminated"), ("+TERM no such\r\nbranch", "terminated: no such branch")]
)
def test_what_is_terminated_is_not_given_out_again(broker: Broker, client: Client, word: str, reason: str) -> None:
    put(client, 1, 2)
    worker = member(broker)
    one, _two = given(worker)
    assert say(worker, one, word) == ""
    worker.hang_up()
    assert told(given(member(broker))) == [("2", "2")]
    (dead,) = client.request("MAILBOX.QUERY.graveyard")["messages"]
    assert dead["payload"] == "1"
    assert dead["headers"]["mq9-dead-reason"] == reason


def test_an_unsubscribed_member_works_off_what_it_has(broker: Broker, client: Client) -> None:
    """As client libraries do when they drain: its leases end with their time or with the connection."""
    put(client, 1, 2)
    worker, other = member(broker), broker.client()
    one, _two = given(worker)
    worker.feed(b"UNSUB s1\r\n")
    other.subscribe("INBOX.box", "g")
    assert given(other) == []
    assert say(worker, one) == ""
    worker.hang_up()
    assert told(given(other)) == [("2", "2")]


def test_a_member_of_a_counted_subscription_acknowledges_its_last(broker: Broker, client: Client) -> None:
    put(client, 1, 2)
    worker = broker.client()
    (one,) = worker.send(f"SUB {AI}INBOX.box g 7\r\nUNSUB 7 1\r\n")
    assert say(worker, one) == ""
    worker.hang_up()
    assert told(given(member(broker))) == [("2", "1")]


def test_the_address_for_answers_is_a_header(broker: Broker, client: Client) -> None:
    client.feed(pub("INBOX.box", b"x", reply=f"{AI}INBOX.graveyard"))
    put(client, 2)
    one, two = given(member(broker))
    assert one.reply.startswith(ACK)
    assert one.headers["mq9-reply-to"] == f"{AI}INBOX.graveyard"
    assert "mq9-reply-to" not in two.headers


def test_a_client_without_headers_acknowledges_too(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = broker.client(headers=False, no_responders=False)
    worker.subscribe("INBOX.box", "g")
    (one,) = given(worker)
    assert say(worker, one) == ""
    worker.hang_up()
    assert given(member(broker)) == []


# ---- what can't be acknowledged ----


def test_nobody_else_acknowledges_it(broker: Broker, client: Client) -> None:
    """Not another connection that knows the subject, nor one that guesses."""
    put(client, 1)
    worker, thief = member(broker), member(broker)
    (one,) = given(worker)
    for frame in (one, Frame("MSG", reply=ACK + "0" * 32), Frame("MSG", reply=ACK + "a.b")):
        assert "nothing can be acknowledged with this subject on this connection" in say(thief, frame)
    assert "unknown mq9 subject" in say(thief, Frame("MSG", reply=AI + "ACK"))
    worker.hang_up()
    assert told(given(thief)) == [("1", "2")]


def test_ack_subjects_are_heard_by_nobody(broker: Broker, client: Client) -> None:
    watcher = broker.client()
    watcher.subscribe("=>")
    watcher.subscribe("=$mq9.>")
    assert watcher.errors() == []
    watcher.subscribe("ACK.*")
    watcher.subscribe("ACK.>")
    assert len(watcher.errors()) == 2
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert say(worker, one) == ""
    assert given(watcher) == []


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("+OK", "unknown acknowledgement '+OK': use +ACK, -NAK, -NAK {\"delay\":<ns>}, +WPI or +TERM"),
        ("+ACK now", "unknown acknowledgement '+ACK now': use +ACK, -NAK, -NAK {\"delay\":<ns>}, +WPI or +TERM"),
        ("done", "unknown acknowledgement 'done': use +ACK, -NAK, -NAK {\"delay\":<ns>}, +WPI or +TERM"),
        ('-NAK {"delay":-1}', "delay must be from 0 to 86400000000000, not -1"),
        ('-NAK {"delay":"1s"}', 'delay must be an integer, not "1s"'),
        ("-NAK 5", "the request must be a JSON object, not a number"),
        ("-NAK soon", "the request is not valid JSON"),
    ],
)
def test_what_is_no_acknowledgement(broker: Broker, client: Client, word: str, error: str) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert say(worker, one, word) == error
    assert say(worker, one) == ""


def test_twice_is_once(broker: Broker, client: Client) -> None:
    put(client, 1)
    worker = member(broker)
    (one,) = given(worker)
    assert say(worker, one) == ""
    assert "the message is done" in say(worker, one)


def test_acknowledgements_end_with_the_mailbox(broker: Broker, client: Client) -> None:
    owner = client.create(name="short", ttl=5, ack="explicit")["owner"]
    put(client, 1, 2, box="short")
    worker = member(broker, "short")
    one, _two = given(worker)
    assert len(worker.session.claims) == 2
    worker.send(pub(f"MAILBOX.DROP.{owner}"), pub(f"={one.reply}", b"+ACK"))
    assert "nothing can be acknowledged" in say(worker, one)
    assert worker.session.claims == {}


def test_what_can_be_acknowledged_is_what_is_not_done(broker: Broker, client: Client) -> None:
    """Nothing is kept of what is done, however long the connection lives."""
    worker = member(broker)
    for number in range(50):
        put(client, number)
        (frame,) = given(worker)
        if number % 2:
            assert say(worker, frame) == ""
        else:
            assert say(worker, frame, "+TERM") == ""
    assert worker.session.claims == {}


# ---- members that share ----


def test_push_and_fetch_share_a_position(broker: Broker, client: Client) -> None:
    put(client, 1, 2, 3)
    assert entries(client.fetch("box", "g", limit=1)) == [(1, "1")]
    worker = member(broker)
    two, three = given(worker)
    assert told([two, three]) == [("2", "1"), ("3", "1")]
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [2]}) == {
        "error": "message 2 is leased to another member of the group"
    }
    assert say(worker, two) == ""
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == {"error": ""}
    worker.hang_up()
    assert entries(client.fetch("box", "g")) == [(3, "3")]


def test_redelivery_keeps_the_order(broker: Broker, client: Client) -> None:
    """Tier first, then id, whatever was out before."""
    put(client, 1, 2, 3)
    client.put("box", "u1", priority="urgent")
    first = member(broker)
    assert [frame.body for frame in given(first)] == ["u1", "1", "2", "3"]
    client.put("box", "u2", priority="urgent")
    client.put("box", "low", priority="low")
    assert [frame.body for frame in given(first)] == ["u2", "low"]
    first.hang_up()
    assert [frame.body for frame in given(member(broker))] == ["u1", "u2", "1", "2", "3", "low"]


def test_a_thousand_are_out_at_a_time(broker: Broker, client: Client) -> None:
    for number in range(1100):
        client.feed(pub("INBOX.box", str(number)))
    worker = member(broker)
    got = given(worker)
    assert len(got) == 1000
    assert say(worker, got[0]) == ""
    assert [frame.body for frame in given(worker)] == ["1000"]


def test_members_take_turns(broker: Broker, client: Client) -> None:
    members = [member(broker) for _ in range(3)]
    put(client, *range(9))
    assert [len(given(one)) for one in members] == [3, 3, 3]


def test_explicit_or_not_a_fetch_is_acknowledged(broker: Broker, client: Client) -> None:
    waiting = client.ask("MSG.FETCH.box", fetching("g", wait=5000))
    broker.settle()
    put(client, 1)
    assert waiting.now is not None
    assert "reply" not in waiting.now["messages"][0]
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [1]}) == {"error": ""}


# ---- a store that fails ----


def test_a_failed_commit_takes_no_message_from_a_member(broker: Broker, client: Client, store: FaultyStore) -> None:
    """It keeps what it has to the end of the lease: nobody else is given the same meanwhile."""
    put(client, 1, 2, 3)
    worker = member(broker)
    one, two, three = given(worker)
    assert say(worker, one) == ""
    store.failing = FULL
    assert say(worker, two) == f"the store cannot write: {FULL}"
    assert client.request("MAILBOX.box", b"lost")["error"] != ""
    assert say(worker, three) == f"the store cannot write: {FULL}"
    assert say(worker, three, "+WPI") == ""
    store.failing = ""
    broker.advance(2)
    other = member(broker)
    # whose acknowledgement failed has not done it; the third is still being worked on
    assert told(given(worker) + given(other)) == [("2", "1")]
    assert say(worker, three) == ""
    broker.advance(30)
    assert [body for body, _ in told(given(worker) + given(other))] == ["2"]


@pytest.mark.parametrize("word", ["", "-NAK", "+WPI", "+TERM"])
def test_what_was_deleted_meanwhile(broker: Broker, client: Client, store: FaultyStore, word: str) -> None:
    """Returned, deleted, and then a commit fails: a late word about it harms nobody."""
    owner = client.create(name="mine", ttl=0, ack="explicit", ack_wait=5)["owner"]
    put(client, 1, 2, box="mine")
    worker = member(broker, "mine")
    one, two = given(worker)
    worker.feed(b"UNSUB s1\r\n")
    broker.advance(5)
    assert client.request(f"MSG.DELETE.{owner}.1")["error"] == ""
    store.failing = FULL
    client.request("MAILBOX.mine", b"lost")
    store.failing = ""
    broker.advance(2)
    assert say(worker, one, word) in ("", "the lease of message 1 is over: it goes to the next member") or (
        "nothing can be acknowledged" in say(worker, one, word)
    )
    assert not worker.gone
    assert say(worker, two) == ""


def test_nothing_dies_while_the_store_fails(broker: Broker, client: Client, store: FaultyStore) -> None:
    """What was delivered too often is dead when that can be stored, and not before."""
    client.create(name="once", ttl=0, ack="explicit", max_deliver=1, ack_wait=5, dead_letter="graveyard")
    put(client, 1, box="once")
    worker = member(broker, "once")
    assert told(given(worker)) == [("1", "1")]
    store.failing = FULL
    client.request("MAILBOX.box", b"lost")
    for _ in range(10):
        broker.advance(1)
        client.feed(pub("MAILBOX.once", b"lost too"))
    assert client.query("graveyard") == []
    store.failing = ""
    broker.advance(5)
    assert client.query("graveyard") == [(1, "1")]
    assert given(worker) == []


def test_a_fetch_that_failed_gave_nothing(broker: Broker, client: Client, store: FaultyStore) -> None:
    """Its answer never went out: the messages are there at once, and were not delivered."""
    put(client, 1, 2)
    assert entries(client.fetch("box", "g", limit=1)) == [(1, "1")]
    store.failing = FULL
    fetched = client.ask("MSG.FETCH.box", fetching("g"))
    client.feed(pub("MAILBOX.box", b"lost"))
    broker.settle()
    assert fetched.now is not None
    assert fetched.now["error"] == f"the store cannot write: {FULL}"
    store.failing = ""
    broker.advance(2)
    answer = broker.client().fetch("box", "g")
    assert entries(answer) == [(2, "2")]
    assert answer["messages"][0]["headers"]["mq9-deliveries"] == "1"


def test_the_largest_claim_book_is_that_of_the_groups(store: FaultyStore) -> None:
    """Whatever members say or don't, what is kept of them is bounded by what is out."""
    broker = Broker(store, limits=Limits())
    client = broker.client()
    client.create(name="box", ttl=0, ack="explicit", ack_wait=1, max_deliver=0)
    put(client, *range(20))
    worker = member(broker)
    for _ in range(10):
        broker.advance(1)
    assert len(given(worker)) == 220
    assert len(worker.session.claims) == 20


# ---- everything at once ----


class Work:
    """What may be known from outside: who has what until when, what is done, and what must not come again."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.store = FaultyStore()
        self.broker = Broker(self.store)
        self.sender = self.broker.client()
        self.sender.create(name="graveyard", ttl=0)
        self.sender.create(name="box", ttl=0, ack="explicit", ack_wait=30, max_deliver=4, dead_letter="graveyard")
        self.members: list[Client] = []
        #: payload to (client, frame or None for a FETCH, end of the lease)
        self.held: dict[str, tuple[Client, Frame | None, int]] = {}
        self.done: set[str] = set()
        self.sent = 0

    @property
    def now(self) -> int:
        return self.broker.clock.now()

    def note(self, client: Client, body: str, frame: Frame | None) -> None:
        """It was given out: nobody else may have it, and it must not be done."""
        assert body not in self.done, body
        before = self.held.get(body)
        assert before is None or before[2] <= self.now or before[0] is client, (body, before)
        self.held[body] = client, frame, self.now + 30_000

    def look(self) -> None:
        """Take what was pushed, in the order of time."""
        for client in self.members:
            for frame in client.take():
                if frame.verb in ("MSG", "HMSG") and frame.sid != "r":
                    self.note(client, frame.body, frame)

    def gone(self, client: Client) -> None:
        self.held = {body: entry for body, entry in self.held.items() if entry[0] is not client}

    def step(self) -> None:
        random, act = self.random, self.random.random()
        if act < 0.25:
            for _ in range(random.randint(1, 4)):
                word = random.choice(["urgent", "normal", "low"])
                if self.sender.request(f"MAILBOX.box.{word}", str(self.sent + 1))["error"] == "":
                    self.sent += 1
        elif act < 0.35 and len(self.members) < 4:
            self.members.append(self.broker.client())
            self.members[-1].subscribe("INBOX.box", "g")
        elif act < 0.42 and self.members:
            client = self.members.pop(random.randrange(len(self.members)))
            client.hang_up()
            self.gone(client)
        elif act < 0.5 and self.members:
            client = random.choice(self.members)
            answer = client.fetch("box", "g", limit=random.randint(1, 3))
            for _, body in entries(answer) if answer["error"] == "" else ():
                self.note(client, body, None)
        elif act < 0.85 and self.held:
            body = random.choice(sorted(self.held))
            self.acknowledge(body, *self.held[body])
        elif act < 0.93:
            self.pass_time(random.choice([1, 10, 31]))
        elif act < 0.97:
            self.store.failing = "full"
            self.sender.request("MAILBOX.box", b"lost")
        else:
            self.broker = self.broker.restart(self.store)
            self.sender, self.members = self.broker.client(), []
            self.held.clear()
        if self.store.failing and random.random() < 0.5:
            self.store.failing = ""
            self.pass_time(2)
        self.look()

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.broker.advance(1)
            self.look()

    def acknowledge(self, body: str, client: Client, frame: Frame | None, until: int) -> None:
        late = until <= self.now
        if frame is None:
            number = next(i for i, text in self.sender.query("box", limit=1000) if text == body)
            error = client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [number]})["error"]
            word = ""
        else:
            word = self.random.choice(["", "", "", "+ACK", "-NAK", '-NAK {"delay":4000000000}', "+WPI", "+TERM"])
            error = say(client, frame, word)
        if error:
            assert late or "store cannot write" in error, (body, error, late)
            return
        if word in ("", "+ACK", "+TERM"):
            self.done.add(body)
            del self.held[body]
        elif word == "+WPI":
            self.held[body] = client, frame, self.now + 30_000
        else:
            self.held.pop(body)

    def end(self) -> None:
        self.store.failing = ""
        self.pass_time(3)
        for client in self.members:
            client.hang_up()
        self.broker.advance(60)
        last = self.broker.client()
        rest = [body for _, body in entries(last.fetch("box", "g", limit=1000))]
        dead = [body for _, body in last.query("graveyard", limit=1000)]
        assert len(rest) == len(set(rest))
        assert len(dead) == len(set(dead))
        assert not self.done & set(rest)
        assert self.done | set(rest) | set(dead) == set(map(str, range(1, self.sent + 1)))


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_each_message_is_with_one_member_and_done_once(seed: int) -> None:
    work = Work(seed)
    for _ in range(120):
        work.step()
    work.end()
