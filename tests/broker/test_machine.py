"""The whole broker against a page of plain Python, by Hypothesis: all commands, time, and restarts, on every store.

`MQ9_MACHINE_EXAMPLES=5000` runs longer than the tests do.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.inprocess import AI, Broker, Client, Frame, fetching, pub
from broker.model import NEVER, PUT_OFF, RANK, Box, Group, Message, Model, Subscription
from mq9_broker.store import Store, collection, rocks, valuelog
from mq9_broker.store.memory import MemoryStore
from mq9_broker.store.rocks import RocksStore

EXAMPLES = int(os.environ.get("MQ9_MACHINE_EXAMPLES", "120"))
FORMS = {
    "INBOX.{}": range(4),
    "MAILBOX.{}": (2,),
    "MAILBOX.{}.*": (0, 1, 3),
    "INBOX.{}.high": (1,),
    "MAILBOX.{}.>": range(4),
}
which = st.integers(0, 2)
group_names = st.sampled_from("gh")
words = st.sampled_from(list(RANK))


class Machine(RuleBasedStateMachine):
    """What is asked of the broker is asked of the model; both must say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.disk = self.open_store()
        self.broker = Broker(self.disk)
        self.model = Model(self.broker.clock.now())
        self.owners: dict[str, str] = {}
        self.number = 0
        self.life = 0
        self.connect_all()
        self.home = self.clients[0].create(ttl=0)["mail_id"]
        self.clients[0].create(name="dead", ttl=0)
        self.receipts: Counter[tuple[object, ...]] = Counter()

    def open_store(self) -> Store:
        return MemoryStore()

    def connect_all(self) -> None:
        self.clients = [self.broker.client() for _ in range(3)]
        self.subscriptions: list[tuple[Client, str, str, Subscription]] = []
        self.pushed: list[tuple[Client, Box, Group, int, str]] = []
        self.watcher = self.broker.client()
        self.directory = self.watcher.subscribe("PUBLIC.LIST")
        self.changes: Counter[tuple[str, str]] = Counter(
            ("created", frame.json["mail_id"]) for frame in self.watcher.take(self.directory)
        )
        living = [box.address for box in self.model.boxes.values() if box.fields["public"]] if self.life else []
        assert self.changes == Counter(("created", address) for address in living)
        self.changes.clear()
        self.life += 1

    def teardown(self) -> None:
        self.disk.close()
        self.folder.cleanup()

    def box(self, number: int) -> Box | None:
        found = list(self.model.boxes.values())
        return found[number % len(found)] if found else None

    def ask(self, client: Client, subject: str, fields: object = None, headers: Any = None) -> dict[str, Any]:
        answer = client.request(subject, fields, headers)
        self.pass_time(0)
        return answer

    # mailboxes

    @rule(
        who=which,
        name=st.sampled_from("abc"),
        fields=st.fixed_dictionaries(
            {
                "ttl": st.sampled_from([0, 0, 10, 60]),
                "public": st.booleans(),
                "type": st.sampled_from(["standard"] * 5 + ["latest"]),
                "storage": st.sampled_from(["disk"] * 5 + ["memory"]),
                "retain": st.sampled_from(["ttl", "ttl", "ack"]),
                "ack": st.sampled_from(["none", "explicit", "explicit"]),
                "ack_wait": st.sampled_from([2, 30]),
                "max_deliver": st.sampled_from([0, 1, 2]),
                "dead_letter": st.sampled_from(["", "dead"]),
                "max_msgs": st.sampled_from([0, 0, 3]),
                "subscribe": st.sampled_from([[], ["alerts.*"], ["alerts.>", "alerts.fire"]]),
            }
        ),
    )
    def create(self, who: int, name: str, fields: dict[str, Any]) -> None:
        self.pass_time(0.5)  # mailboxes end at other moments than messages
        answer = self.ask(self.clients[who], "MAILBOX.CREATE", fields | {"name": name})
        assert answer["is_new"] is self.model.create(name, fields)
        self.owners[name] = answer.get("owner", self.owners.get(name, ""))
        self.pass_time(0.5)

    @rule(who=which, number=which, ttl=st.sampled_from([0, 20]))
    def renew(self, who: int, number: int, ttl: int) -> None:
        if (box := self.box(number)) is None:
            return
        self.pass_time(0.5)
        if box.address in self.model.boxes:
            assert self.ask(self.clients[who], f"MAILBOX.RENEW.{self.owners[box.address]}", {"ttl": ttl})["error"] == ""
            box.expires = self.model.now + ttl * 1000 if ttl else NEVER
        self.pass_time(0.5)

    @rule(who=which, number=which, owner=st.booleans())
    def drop(self, who: int, number: int, owner: bool) -> None:
        if (box := self.box(number)) is None:
            return
        address = self.owners[box.address] if owner else box.address
        answer = self.ask(self.clients[who], f"MAILBOX.DROP.{address}")
        assert (answer["error"] == "") is owner
        if owner:
            self.model.end(box, "dropped")

    # messages

    @rule(
        who=which,
        number=which,
        word=words,
        ttl=st.sampled_from([0, 0, 0, 3, 7]),
        delay=st.sampled_from([0, 0, 0, 0, 4]),
        key=st.sampled_from(["", "", "", "k", "l"]),
        dedup=st.sampled_from(["", "", "", "x", "y"]),
        asked=st.sets(st.sampled_from(["delivered", "acked", "expired", "dead"])),
    )
    def send(
        self, who: int, number: int, word: str, ttl: int, delay: int, key: str, dedup: str, asked: set[str]
    ) -> None:
        if (box := self.box(number)) is None:
            return
        self.number += 1
        headers = {"mq9-priority": word} | ({"mq9-ttl": ttl} if ttl else {}) | ({"mq9-key": key} if key else {})
        if delay:
            headers["mq9-delay"], asked = delay, set()
        if dedup:
            headers["Nats-Msg-Id"] = dedup
        if asked:
            headers |= {"mq9-from": self.home, "mq9-receipt": ",".join(sorted(asked))}
        message = Message(0, word, str(self.number), self.model.now + ttl * 1000 if ttl else NEVER, key, set(asked))
        expected = self.model.send(box, message, delay, dedup)
        answer = self.ask(self.clients[who], f"MAILBOX.{box.address}", str(self.number), headers)
        if expected is None:
            assert "max_msgs" in answer["error"]
        else:
            msg_id, duplicate = expected
            assert answer == {"error": "", "msg_id": msg_id} | ({"duplicate": True} if duplicate else {})

    @rule(who=which, number=which, row=st.lists(words, min_size=2, max_size=8), same=st.booleans())
    def send_in_a_row(self, who: int, number: int, row: list[str], same: bool) -> None:
        if (box := self.box(number)) is None:
            return
        row = row[:1] * len(row) if same else row
        payloads = [str(self.number + place) for place in range(1, len(row) + 1)]
        self.number += len(row)
        expected = self.model.send_row(box, [Message(0, *each) for each in zip(row, payloads, strict=True)])
        sends = [
            pub(f"INBOX.{box.address}.{word}", payload, f"row.{place}")
            for place, (word, payload) in enumerate(zip(row, payloads, strict=True))
        ]
        client = self.clients[who]
        client.feed(b"SUB row.* row\r\n" + b"".join(sends) + b"UNSUB row\r\n")
        self.pass_time(0)
        answers = client.take("row")
        assert [answer.subject for answer in answers] == [f"row.{place}" for place in range(len(row))]
        for answer, msg_id in zip(answers, expected, strict=True):
            said = answer.json
            assert said == {"error": "", "msg_id": msg_id} if msg_id is not None else "max_msgs" in said["error"], said

    @rule(who=which, event=st.sampled_from(["alerts.fire", "alerts.fire.hot", "other.thing"]))
    def broadcast(self, who: int, event: str) -> None:
        self.number += 1
        for box in list(self.model.boxes.values()):
            patterns = box.fields["subscribe"]
            if (event == "alerts.fire" and patterns) or (event == "alerts.fire.hot" and "alerts.>" in patterns):
                self.model.send(box, Message(0, "normal", str(self.number)))
        self.clients[who].feed(pub(f"BROADCAST.{event}", str(self.number)))
        self.pass_time(0)

    @rule(who=which, number=which, back=st.integers(0, 3), owner=st.booleans())
    def delete(self, who: int, number: int, back: int, owner: bool) -> None:
        if (box := self.box(number)) is None:
            return
        msg_id = max(box.last_id - back, 0)
        address = self.owners[box.address] if owner else box.address
        answer = self.ask(self.clients[who], f"MAILBOX.DELETE.{address}.{msg_id}")
        assert (answer["error"] == "") is (owner and self.model.delete(box, msg_id))

    # reading

    @rule(who=which, number=which, limit=st.sampled_from([1, 2, 100]), key=st.sampled_from(["", "", "k"]))
    def query(self, who: int, number: int, limit: int, key: str) -> None:
        if (box := self.box(number)) is None:
            return
        answer = self.ask(self.clients[who], f"MAILBOX.QUERY.{box.address}", {"limit": limit, "key": key})
        there = [message for message in box.there() if not key or message.key == key]
        assert answer["unread"] == len(box.messages)
        assert seen(answer) == [(m.msg_id, m.payload, m.word) for m in there[:limit]]
        assert ("next" in answer) is (len(there) > limit)
        for message in there[:limit]:
            self.model.shown(box, message)

    @rule(who=which, number=which, deliver=st.sampled_from(["earliest", "latest"]), limit=st.sampled_from([1, 100]))
    def read(self, who: int, number: int, deliver: str, limit: int) -> None:
        if (box := self.box(number)) is None:
            return
        fields = fetching(limit=limit, deliver=deliver)
        answer = self.ask(self.clients[who], f"MSG.FETCH.{box.address}", fields)
        there = box.there() if deliver == "earliest" else []
        assert seen(answer) == [(m.msg_id, m.payload, m.word) for m in there[:limit]]
        for message in there[:limit]:
            self.model.shown(box, message)

    @rule(
        who=which,
        number=which,
        name=group_names,
        member=st.sampled_from(["", "m"]),
        limit=st.sampled_from([1, 2, 100]),
        deliver=st.sampled_from(["earliest", "earliest", "latest", "from_id"]),
    )
    def fetch(self, who: int, number: int, name: str, member: str, limit: int, deliver: str) -> None:
        if (box := self.box(number)) is None:
            return
        client, model = self.clients[who], self.model
        fields = fetching(name, limit=limit, member=member, deliver=deliver, from_id=2)
        answer = self.ask(client, f"MSG.FETCH.{box.address}", fields)
        group = model.open(box, name, {"earliest": 0, "latest": box.last_id, "from_id": 1}[deliver])
        if group is None:
            assert "retain ack" in answer["error"]
            return
        holder = (client, member)
        given: list[tuple[int, str, str]] = []
        mine = [m for m in box.there() if member and group.out.get(m.msg_id, PUT_OFF)[0] == holder]
        for message in mine[:limit]:
            group.out.pop(message.msg_id)
            group.out[message.msg_id] = holder, model.now + box.ack_wait
            given.append((message.msg_id, message.payload, message.word))
        fresh = box.waiting(group)
        for message in fresh[: limit - len(given)]:
            model.give(box, group, message, holder)
            given.append((message.msg_id, message.payload, message.word))
        assert seen(answer) == given
        assert [m["headers"]["mq9-deliveries"] for m in answer["messages"]] == [
            str(group.counts[msg_id]) for msg_id, _, _ in given
        ]
        assert answer["more"] is (len(mine) + len(fresh) > len(given))
        left = Counter(m.rank[0] for m in box.waiting(group))
        assert answer["waiting"] == {word: left[RANK[word]] for word in ("critical", "urgent", "normal", "low")}

    @rule(who=which, number=which, name=group_names, member=st.sampled_from(["", "m"]), back=st.integers(0, 4))
    def ack(self, who: int, number: int, name: str, member: str, back: int) -> None:
        if (box := self.box(number)) is None:
            return
        msg_id = max(box.last_id - back, 1)
        group = box.groups.get(name)
        fields = {"group_name": name, "member": member, "msg_ids": [msg_id]}
        holder = group.out.get(msg_id, (PUT_OFF, 0))[0] if group is not None else None
        fine = group is not None and msg_id <= box.last_id and holder in (PUT_OFF, (self.clients[who], member))
        if fine and group is not None:
            self.model.acknowledge(box, group, [msg_id])
        answer = self.ask(self.clients[who], f"MSG.ACK.{box.address}", fields)
        assert (answer["error"] == "") is fine, answer

    # subscribing

    @rule(who=which, number=which, form=st.sampled_from(list(FORMS)))
    def subscribe(self, who: int, number: int, form: str) -> None:
        if (box := self.box(number)) is None:
            return
        reader = Subscription(self.clients[who], frozenset(FORMS[form]))
        for message in box.there():
            self.model.read(box, reader, message)
        box.readers.append(reader)
        sid = self.clients[who].subscribe(form.format(box.address))
        self.subscriptions.append((self.clients[who], sid, "", reader))

    @rule(who=which, number=which, name=group_names, form=st.sampled_from(list(FORMS)))
    def join(self, who: int, number: int, name: str, form: str) -> None:
        """One member at a time: whose turn it is among several is the simulation's to check."""
        if (box := self.box(number)) is None:
            return
        group = self.model.open(box, name, 0)
        if group is None or group.member is not None:
            return
        group.member = Subscription(self.clients[who], frozenset(FORMS[form]))
        self.model.settle()
        sid = self.clients[who].subscribe(form.format(box.address), name)
        self.subscriptions.append((self.clients[who], sid, name, group.member))

    @precondition(lambda self: self.subscriptions)
    @rule(number=st.integers(0, 20))
    def unsubscribe(self, number: int) -> None:
        self.look()
        client, sid, name, gone = self.subscriptions.pop(number % len(self.subscriptions))
        client.feed(f"UNSUB {sid}\r\n".encode())
        self.broker.settle()
        for box in self.model.boxes.values():
            box.readers = [reader for reader in box.readers if reader is not gone]
            if name in box.groups and box.groups[name].member is gone:
                box.groups[name].member = None

    @precondition(lambda self: self.pushed)
    @rule(
        number=st.integers(0, 20),
        who=which,
        word=st.sampled_from(["+ACK", "", "-NAK", '-NAK {"delay":3000000000}', "+WPI", "+TERM", "+NONSENSE"]),
    )
    def say(self, number: int, who: int, word: str) -> None:
        client, box, group, msg_id, subject = self.pushed[-1 - number % len(self.pushed)]
        speaker = client if who else self.clients[0]
        model = self.model
        if self.model.boxes.get(box.address) is box and msg_id not in box.messages:
            return  # what may be said of what is gone is no promise
        living = self.model.boxes.get(box.address) is box and group.claims.get(msg_id) is speaker
        latest = [each[4] for each in self.pushed if each[:2] == (client, box) and each[2:4] == (group, msg_id)][-1]
        fine = living and latest == subject and word != "+NONSENSE"
        holder = group.out[msg_id][0] if msg_id in group.out else None
        mine = isinstance(holder, tuple) and holder[0] is speaker
        fine = fine and (mine or holder is None or holder == PUT_OFF) and (mine or word != "+WPI")
        if fine and word in ("+ACK", ""):
            model.acknowledge(box, group, [msg_id])
        elif fine and word == "+WPI":
            group.out.pop(msg_id)
            group.out[msg_id] = holder, model.now + box.ack_wait  # type: ignore[assignment]
        elif fine and word == "+TERM":
            model.kill(box, group, msg_id, "terminated")
        elif fine and word.startswith("-NAK") and holder is not None:
            model.release(box, group, msg_id)
            if "delay" in word and mine and msg_id not in group.done:
                group.out[msg_id] = PUT_OFF, model.now + 3000
        model.settle()
        answer = self.ask(speaker, subject.removeprefix(AI), word)
        assert (answer["error"] == "") is fine, answer

    # the world

    @rule(seconds=st.sampled_from([1, 1, 2, 5, 30, 130]))
    def wait(self, seconds: int) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        self.model.advance(seconds)
        self.broker.advance(seconds)

    @rule(who=which)
    def hang_up(self, who: int) -> None:
        self.look()
        client = self.clients[who]
        self.model.leave(client)
        client.hang_up()
        self.subscriptions = [each for each in self.subscriptions if each[0] is not client]
        self.pushed = [each for each in self.pushed if each[0] is not client]
        self.clients[who] = self.broker.client()

    @rule()
    def restart(self) -> None:
        self.look()
        self.disk = self.reopen(self.disk)
        # (each life has its own chance: secrets must differ)
        self.broker = Broker(self.disk, clock=self.broker.clock, seed=100 + self.life)
        self.model.restart()
        self.connect_all()

    def reopen(self, disk: Store) -> Store:
        return disk

    # what both must agree on

    @invariant()
    def look(self) -> None:
        """Pushes, receipts, dead letters, the directory, and what is stored."""
        for client, sid, name, subscription in self.subscriptions:
            frames = [frame for frame in client.take(sid) if not frame.status]
            got = [(int(f.headers["mq9-msg-id"]), f.body, int(f.headers.get("mq9-deliveries", 0))) for f in frames]
            assert got == subscription.expected, (got, subscription.expected, name)
            subscription.expected = []
            self.note_pushes(client, name, subscription, frames)
        changed = Counter((frame.json["event"], frame.json["mail_id"]) for frame in self.watcher.take(self.directory))
        assert {c: n for c, n in changed.items() if c[0] != "renewed"} == self.model.changes
        self.model.changes.clear()
        listed = self.watcher.request("PUBLIC.LIST")["mailboxes"]
        public = sorted(box.address for box in self.model.boxes.values() if box.fields["public"])
        assert [entry["mail_id"] for entry in listed] == public
        self.look_at_home()

    def look_at_home(self) -> None:
        told = self.watcher.request(f"MAILBOX.QUERY.{self.home}", {"limit": 1000})["messages"]
        found = Counter(
            (said["event"], said["mail_id"], said["msg_id"], said.get("group", ""), said.get("reason", ""))
            for said in (json.loads(message["payload"]) for message in told)
        )
        assert found == self.model.receipts
        letters = self.watcher.request("MAILBOX.QUERY.dead", {"limit": 1000})["messages"]
        assert self.model.letters == Counter(
            (
                letter["headers"]["mq9-dead-from"],
                int(letter["headers"]["mq9-dead-id"]),
                letter["headers"]["mq9-dead-group"],
                letter["headers"]["mq9-dead-reason"],
                letter["payload"],
            )
            for letter in letters
        )

    def note_pushes(self, client: Client, name: str, subscription: Subscription, frames: list[Frame]) -> None:
        for box in self.model.boxes.values():
            group = box.groups.get(name)
            if group is not None and group.member is subscription and box.explicit:
                for frame in frames:
                    self.pushed.append((client, box, group, int(frame.headers["mq9-msg-id"]), frame.reply))


def seen(answer: dict[str, Any]) -> list[tuple[int, str, str]]:
    assert answer["error"] == "", answer
    return [(message["msg_id"], message["payload"], message["priority"]) for message in answer["messages"]]


class OnDisk(Machine):
    """Every message stands in a file, and these are small."""

    @rule(steps=st.integers(1, 30))
    def tidy(self, steps: int) -> None:
        for _ in range(steps):
            self.disk.tidy()

    def open_store(self) -> Store:
        return RocksStore(Path(self.folder.name) / "store", sync=False)

    def reopen(self, disk: Store) -> Store:
        disk.close()
        return self.open_store()


@pytest.mark.parametrize(("machine", "examples"), [(Machine, EXAMPLES), (OnDisk, max(EXAMPLES // 5, 1))])
def test_the_broker_does_what_the_model_does(
    machine: type[Machine], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocks, "LARGE", 30)
    monkeypatch.setattr(valuelog, "FULL", 300)
    monkeypatch.setattr(collection, "WORTH", 200)
    monkeypatch.setattr(collection, "STEP", 0.0)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=EXAMPLES == 120,
        suppress_health_check=list(HealthCheck),
    )
    case = machine.TestCase()
    case.settings = chosen
    case.runTest()
