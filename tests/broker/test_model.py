"""The whole broker against a model of one mailbox and one group that fits on a page."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.inprocess import Broker, Client, entries
from mq9_broker.clock import ManualClock

TIER = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
ACK_WAIT = 20
FAR = 1 << 62


@dataclass
class Model:
    """A mailbox: messages with an end, some of them still to come, and a group with what it has and has done."""

    last_id: int = 0
    messages: dict[int, tuple[str, str, int]] = field(default_factory=dict)  # id: word, body, expires
    coming: list[tuple[int, int, str, str, int]] = field(default_factory=list)  # due, serial, word, body, expires
    leased: dict[int, int] = field(default_factory=dict)  # id: deadline
    done: set[int] = field(default_factory=set)

    def send(self, word: str, body: str, expires: int) -> int:
        self.last_id += 1
        self.messages[self.last_id] = word, body, expires
        return self.last_id

    def at(self, now: int) -> None:
        """Let everything happen that is due by `now`."""
        for due, _, word, body, expires in sorted(self.coming):
            if due <= now < expires:
                self.send(word, body, expires)
        self.coming = [entry for entry in self.coming if entry[0] > now]
        self.messages = {number: entry for number, entry in self.messages.items() if entry[2] > now}
        self.leased = {number: deadline for number, deadline in self.leased.items() if deadline > now}

    def stored(self) -> list[tuple[int, str]]:
        return [(i, body) for i, (word, body, _) in sorted(self.messages.items(), key=lambda e: (TIER[e[1][0]], e[0]))]

    def waiting(self) -> list[tuple[int, str]]:
        return [entry for entry in self.stored() if entry[0] not in self.leased and entry[0] not in self.done]


class MailboxMachine(RuleBasedStateMachine):
    """Commands and time in any order; after each of them the broker and the model know the same."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.broker = Broker(clock=self.clock)
        self.model = Model()
        self.serial = 0
        self.client: Client = self.broker.client()
        self.owner = self.client.create(name="box", ttl=0, ack_wait=ACK_WAIT, max_deliver=0)["owner"]
        self.watcher: Client = self.broker.client()
        self.sid = self.watcher.subscribe("INBOX.box")
        self.watched: set[str] = set()

    @property
    def now(self) -> int:
        return self.clock.now()

    @rule(
        word=st.sampled_from(sorted(TIER)),
        ttl=st.sampled_from([0, 0, 0, 1, 5, 30]),
        delay=st.sampled_from([0, 0, 0, 2, 15]),
        number=st.integers(1, 3),
    )
    def send(self, word: str, ttl: int, delay: int, number: int) -> None:
        for _ in range(number):
            self.serial += 1
            body = f"m{self.serial}"
            expires = self.now + ttl * 1000 if ttl else FAR
            if delay:
                self.model.coming.append((self.now + delay * 1000, self.serial, word, body, expires))
                assert self.client.put("box", body, priority=word, ttl=ttl, delay=delay) == -1
            else:
                expected = self.model.send(word, body, expires)
                assert self.client.put("box", body, priority=word, ttl=ttl) == expected

    @rule(which=st.integers(1, 40))
    def delete(self, which: int) -> None:
        answer = self.client.request(f"MAILBOX.DELETE.{self.owner}.{which}")
        there = self.model.messages.pop(which, None) is not None
        assert (answer["error"] == "") is there

    @rule(seconds=st.sampled_from([0.5, 1, 2, 7, 19.999, 20, 31]))
    def wait(self, seconds: float) -> None:
        until = self.now + round(seconds * 1000)
        for due in sorted({entry[0] for entry in self.model.coming if entry[0] <= until}):
            self.model.at(due)
        self.broker.advance(seconds)

    @rule(seconds=st.sampled_from([1, 20]))
    def wait_without_a_look(self, seconds: float) -> None:
        """The machine sleeps: all that falls due meanwhile happens at the end, together."""
        self.clock.advance(seconds)
        self.broker.advance(0)

    @rule(limit=st.integers(1, 6))
    def fetch(self, limit: int) -> None:
        self.model.at(self.now)
        answer = self.client.fetch("box", "g", limit=limit)
        expected = self.model.waiting()
        assert entries(answer) == expected[:limit]
        assert answer["more"] is (len(expected) > limit)
        for number, _ in expected[:limit]:
            self.model.leased[number] = self.now + ACK_WAIT * 1000

    @rule(which=st.lists(st.integers(1, 40), min_size=1, max_size=3))
    def acknowledge(self, which: list[int]) -> None:
        self.model.at(self.now)
        answer = self.client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": which})
        if "does not exist: it begins with" in answer["error"]:
            return
        assert (answer["error"] == "") is (max(which) <= self.model.last_id)
        if not answer["error"]:
            self.model.done |= {
                number for number in which if number in self.model.messages or number in self.model.leased
            }
            for number in which:
                self.model.leased.pop(number, None)

    @rule()
    def acknowledge_what_is_leased(self) -> None:
        self.model.at(self.now)
        leased = [number for number in self.model.leased if number in self.model.messages]
        if leased:
            assert self.client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": leased}) == {"error": ""}
            self.model.done |= set(leased)
            for number in leased:
                del self.model.leased[number]

    @precondition(lambda self: self.serial > 2)
    @rule()
    def restart(self) -> None:
        self.broker = self.broker.restart()
        self.client = self.broker.client()
        self.watcher = self.broker.client()
        self.sid = self.watcher.subscribe("INBOX.box")
        self.watched.clear()
        self.model.leased.clear()

    @invariant()
    def both_know_the_same(self) -> None:
        self.model.at(self.now)
        stored = self.model.stored()
        answer = self.client.request("MAILBOX.QUERY.box", {"group_name": "g"})
        assert entries(answer) == stored
        assert answer["unread"] == len(stored)
        waiting = [0, 0, 0, 0]
        for number, _ in self.model.waiting():
            waiting[TIER[self.model.messages[number][0]]] += 1
        assert list(answer["waiting"].values()) == waiting
        # a subscription made now gets the same, and so does a read from the middle
        reader = self.broker.client()
        assert reader.bodies(reader.subscribe("INBOX.box")) == [body for _, body in stored]
        middle = self.model.last_id // 2 + 1
        found = entries(reader.fetch("box", deliver="from_id", from_id=middle))
        assert found == [entry for entry in stored if entry[0] >= middle]
        reader.hang_up()
        # and the one that was there all the time got everything, and nothing twice
        fresh = [frame.headers["mq9-msg-id"] for frame in self.watcher.take(self.sid)]
        assert len(fresh) == len(set(fresh))
        assert not self.watched & set(fresh)
        self.watched |= set(fresh)
        assert set(map(str, self.model.messages)) <= self.watched


MailboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestMailbox = MailboxMachine.TestCase
