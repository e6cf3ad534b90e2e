"""One scenario: a broker, agents, a clock and a store that fails, driven by one stream of random choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from random import Random
from typing import Any

from broker.inprocess import AI, Broker, FaultyStore
from mq9_broker.clock import ManualClock
from simulation.ledger import DEDUP_MS, NEVER, RANK, Box, Group, Identity, Ledger, Rank, Sent, require
from simulation.link import LISTENER, Held, Link, Subscription, tiers_of

AGENTS = 3
_EVENTS = ("delivered", "acked", "expired", "dead")
_WORDS = tuple(RANK)


class Stopwatch(ManualClock):
    """A clock on whose stopwatch `step` seconds pass with each look, so that shares of a turn end in the middle."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step
        self._looks = 0

    def elapsed(self) -> float:
        self._looks += 1
        return super().elapsed() + self._looks * self.step


class World:
    """What happens under a seed. `trace` says it in words."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Stopwatch(self.random.choice((0, 0, 0.0004, 0.003)))
        self.ledger = Ledger()
        self.trace: list[str] = []
        self.written = blake2b(digest_size=8)
        self.syncing = self.random.random() < 0.6
        self.store = FaultyStore()
        self.broker = self._broker(self.store)
        self.links: list[Link] = []
        self.boxes: list[Box] = []
        self.homes: list[Box] = []
        self._whose: Link | None = None
        # most of what happens meets at one mailbox
        self._focus = self.random.randrange(4)

    def run(self) -> None:
        """Everything, to the reckoning. Raises Broken."""
        self._connect_all()
        self._settle_in()
        self.store.by_hand = self.syncing
        for _ in range(self.random.randint(40, 120)):
            self._choose()()
            if (chance := self.random.random()) < 0.4:
                self.broker.settle()
            elif chance < 0.8:
                self.broker.loop.turn()
            if self.syncing and self.random.random() < 0.5:
                self.land()
        self.reckon()

    def say(self, text: str) -> None:
        self.trace.append(f"{self.clock.now() - 1_800_000_000_000:>8} {text}")

    # the stage

    def _broker(self, store: FaultyStore) -> Broker:
        return Broker(store, clock=self.clock, seed=self.random.randrange(1 << 32))

    def _connect_all(self) -> None:
        self.links = [self._connect(agent) for agent in range(AGENTS)]
        self.listener = self._connect(LISTENER)
        self.listener.feed(b"SUB > w1\r\nSUB $mq9.> w2\r\nSUB _INBOX.> w3\r\n")

    def _connect(self, agent: int) -> Link:
        return Link(self.broker, self.ledger, agent, self.say, self.written.update)

    def _settle_in(self) -> None:
        everybody = frozenset(range(AGENTS))
        for agent in range(AGENTS):
            self._create(agent, {"ttl": 0}, frozenset({agent}), self.homes)
        dead: list[Box] = []
        self._create(0, {"ttl": 0, "name": "dead"}, frozenset({0}), dead)
        self.broker.settle()
        self.boxes.append(dead[0])
        for number in range(self.random.randint(2, 4)):
            fields = self._fields()
            if number == 0:
                fields |= {"subscribe": ["alerts.*"], "name": "watcher"}
            elif self.random.random() < 0.3:
                fields |= {"name": f"box{number}", "public": self.random.random() < 0.5}
            knows = everybody if self.random.random() < 0.7 else frozenset({0})
            self._create(0, fields, knows, self.boxes)
        self.broker.settle()

    def _fields(self) -> dict[str, Any]:
        chance = self.random.random
        fields: dict[str, Any] = {"ttl": 20 if chance() < 0.15 else 0, "ack_wait": self.random.choice((2, 30))}
        fields["max_deliver"] = self.random.choice((0, 1, 2, 5))
        if chance() < 0.65:
            fields["ack"] = "explicit"
        if chance() < 0.4:
            fields["dead_letter"] = "dead"
        if chance() < 0.2:
            fields["retain"] = "ack"
        if chance() < 0.2:
            fields["max_msgs"] = self.random.randint(1, 8)
        if chance() < 0.1:
            fields["type"] = "latest"
        if chance() < 0.1:
            fields["storage"] = "memory"
        return fields

    def _create(self, agent: int, fields: Mapping[str, Any], knows: frozenset[int], boxes: list[Box]) -> None:
        now = self.clock.now()

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                require(self.store_had_faults, "refused, and there is no reason:", fields, answer)
                return
            mail_id = answer["mail_id"]
            until = now + fields["ttl"] * 1000 if fields["ttl"] else NEVER
            owner = answer.get("owner", mail_id)
            if "name" in fields:
                box = Box(mail_id, mail_id, owner, fields, until, frozenset({agent}))
            else:
                box = Box(mail_id, answer["send_only"], owner, fields, until, knows)
            dead = [other for other in self.boxes if other.kept == "dead"]
            if fields.get("dead_letter"):
                box.dead_letter = dead[0]
            self.ledger.add(box)
            boxes.append(box)

        # (who creates is told the secret before anybody can know whose it is)
        self.links[agent].ask("MAILBOX.CREATE", fields, answered)

    # choices

    def _choose(self) -> Callable[[], None]:
        actions: list[tuple[int, Callable[[], None]]] = [
            (24, self.send),
            (5, self.send_in_a_row),
            (9, self.fetch),
            (8, self.handle),
            (3, self.acknowledge),
            (4, self.work_long),
            (5, self.subscribe),
            (5, self.join),
            (2, self.unsubscribe),
            (4, self.query),
            (2, self.delete),
            (2, self.broadcast),
            (2, self.ping),
            (1, self.trespass),
            (1, self.create),
            (1, self.renew_or_drop),
            (6, self.pass_time),
            (3, self.stall),
            (4, self.read_on),
            (2, self.hang_up),
            (1, self.cut),
            (1, self.restart),
            (3 if self.store.flights else 1, self.crash),
            (2, self.store_fails),
            (2, self.store_recovers),
        ]
        return self.random.choices([action for _, action in actions], [weight for weight, _ in actions])[0]

    @property
    def store_had_faults(self) -> bool:
        return self.ledger.troubled

    def _link(self) -> Link:
        for link in self.links:
            link.react()
        link = self._whose or self.random.choice(self.links)
        if not link.client.transport.reading:
            # (what it said before waits for its turn: what it says now counts from when that has come)
            self.broker.settle()
        return link

    def _readable(self, link: Link) -> tuple[Box, str] | None:
        """A mailbox that the agent may read, and its address."""
        found = [box for box in self.boxes if link.agent in box.knows or not box.mail_id.startswith("m-")]
        if not found:
            return None
        box = self._box(found)
        return box, box.mail_id

    def _box(self, boxes: list[Box]) -> Box:
        if self.random.random() < 0.6:
            return boxes[self._focus % len(boxes)]
        return self.random.choice(boxes)

    # what agents do

    def send(self) -> None:
        link, chance = self._link(), self.random.random
        box = self._box(self.boxes)
        address = box.mail_id if box.mail_id[:2] != "m-" or (link.agent in box.knows and chance() < 0.5) else box.kept
        word = self.random.choice(_WORDS) if chance() < 0.7 else "normal"
        headers: dict[str, object] = {}
        family = self.random.choice(("MAILBOX", "INBOX", "MSG.SEND"))
        subject = f"{family}.{address}"
        if family != "MSG.SEND" and chance() < 0.5:
            subject += f".{word}"
        elif word != "normal":
            headers["mq9-priority"] = word
        now = self.clock.now()
        sent = Sent(len(self.ledger.sent), box, RANK[word], now, NEVER)
        if chance() < 0.15:
            headers["mq9-ttl"] = ttl = self.random.choice((1, 5, 30))
            sent.expires = now + ttl * 1000
        if chance() < 0.05:
            headers["mq9-delay"] = self.random.choice((1, 4))
            sent.delayed = True
        if chance() < 0.15:
            sent.key = headers["mq9-key"] = self.random.choice("ab")  # type: ignore[assignment]
        if chance() < 0.15:
            sent.dedup = headers["Nats-Msg-Id"] = f"d{self.random.randrange(6)}"  # type: ignore[assignment]
        if chance() < 0.3 and not sent.delayed:
            if chance() < 0.3:
                headers["mq9-ttl"] = 5
                sent.expires = now + 5000
            sent.home = self.homes[link.agent]
            sent.asked = frozenset(event for event in _EVENTS if chance() < 0.6) or frozenset({"acked"})
            headers["mq9-from"] = sent.home.mail_id
            headers["mq9-receipt"] = ",".join(event for event in _EVENTS if event in sent.asked)
        elif chance() < 0.1:
            headers["mq9-from"] = self.homes[link.agent].mail_id
        payload = f"{sent.number} " + "x" * (40_000 if chance() < 0.1 else 0)
        first = [other for other in box.sent if sent.dedup and other.dedup == sent.dedup and not other.refused]
        filled = self._filled(box)
        self.ledger.sent.append(sent)
        box.sent.append(sent)
        if chance() < 0.2:
            reply = f"{AI}INBOX.{self.homes[link.agent].mail_id}.low" if chance() < 0.3 else ""
            link.publish(subject, payload, sent if not sent.dedup and not box.max_msgs else None, reply, headers)
            return
        must_repeat = any(other.kept and now < other.at + DEDUP_MS for other in first) and not box.may_have_ended(now)

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                self._refused(sent, answer["error"], filled)
            elif answer.get("duplicate"):
                sent.refused = True
                # (of those sent later, too: another client's may have had its turn before)
                same = [other for other in box.sent if other.dedup == sent.dedup and not other.refused]
                same = [other for other in same if abs(now - other.at) < DEDUP_MS]
                ids = {-1 if other.delayed else other.msg_id for other in same}
                require(0 in ids or answer["msg_id"] in ids, "no duplicate:", sent, answer)
            else:
                require(not must_repeat, "a repeat was stored:", sent, answer)
                require(sent.delayed == (answer["msg_id"] < 0), "an id for what is delayed, or none:", sent, answer)
                sent.kept = True
                if not sent.delayed:
                    self.ledger.confirm(sent, answer["msg_id"], box)

        link.ask(subject, payload, answered, headers or None)

    def send_in_a_row(self) -> None:
        """Sends of nothing but a payload to one mailbox, and other words between them, in one chunk."""
        link = self._link()
        box = self._box(self.boxes)
        subject, word = f"INBOX.{box.kept}", self.random.choice(_WORDS)
        # (what ends in the middle of a chunk leaves the rest for later: only what may come later may follow)
        between = [self.send, self.ping]
        if not self.clock.step:
            between += [self.fetch, self.handle, self.acknowledge, self.query, self.delete, self.renew_or_drop]
            between += [self.subscribe, self.join, self.unsubscribe, self.broadcast]
        link.kept_back = chunk = bytearray()
        self._whose = link
        for _ in range(self.random.randint(2, 30)):
            if self.random.random() < 0.1:
                self.random.choice(between)()
            else:
                self._send_plain(link, box, subject if word == "normal" else f"{subject}.{word}", RANK[word])
        self._whose = link.kept_back = None
        at = self.random.choice((0, self.random.randint(0, len(chunk))))
        for part in (chunk[:at], chunk[at:]):
            link.feed(bytes(part))

    def _send_plain(self, link: Link, box: Box, subject: str, tier: int) -> None:
        sent, filled = Sent(len(self.ledger.sent), box, tier, self.clock.now(), NEVER), self._filled(box)
        self.ledger.sent.append(sent)
        box.sent.append(sent)

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                self._refused(sent, answer["error"], filled)
            else:
                sent.kept = True
                self.ledger.confirm(sent, answer["msg_id"], box)

        link.ask(subject, f"{sent.number} ", answered)

    def _refused(self, sent: Sent, error: str, filled: int) -> None:
        """A send came to nothing. (Those of a row may be handled behind what is said later, or be refused.)"""
        sent.refused = True
        if "store cannot write" in error:
            sent.failed = self.clock.now()
        self._check_refusal(sent.box, error, max(filled, self._filled(sent.box)))

    def _filled(self, box: Box) -> int:
        """How many may take up its room, or may have until now."""
        return sum(not other.refused or other.failed == self.clock.now() for other in box.sent)

    def _check_refusal(self, box: Box, error: str, filled: int = 0) -> None:
        """An error must have its reason. (A read that shares its turn with a write that fails fails with it.)"""
        if "is full" in error:
            require(0 < box.max_msgs <= filled, "full, and it is not:", box, error)
        elif "does not exist" in error:
            require(box.may_have_ended(self.clock.now()), "gone, and it is not:", box, error)
        else:
            require("store cannot write" in error and self.store_had_faults, "refused for nothing:", box, error)

    def query(self) -> None:
        link = self._link()
        if found := self._readable(link):
            self._look(link, *found)

    def _look(self, link: Link, box: Box, address: str, into: dict[Box, dict[Identity, Rank]] | None = None) -> None:
        look = self.ledger.look(box, self.clock.now())

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                self._check_refusal(box, answer["error"])
                return
            found = self.ledger.check_page(look, answer["messages"], "next" not in answer, self.clock.now())
            require("next" in answer or answer["unread"] == len(found), "counted wrongly:", box, answer["unread"])
            require(not box.max_msgs or answer["unread"] <= box.max_msgs, "above max_msgs:", box, answer["unread"])
            if into is not None:
                into[box] = found

        link.ask(f"MAILBOX.QUERY.{address}", {"limit": 1000}, answered)

    def fetch(self) -> None:
        link, chance = self._link(), self.random.random
        if not (found := self._readable(link)):
            return
        box, _ = found
        limit, wait = self.random.choice((1, 2, 100)), self.random.choice((0, 0, 2000))
        if chance() < 0.15:
            self._read(link, box, limit, wait)
            return
        name = "g" if box.retain_ack else self.random.choice("gh")
        member = "m" if chance() < 0.4 else ""
        held = [each for each in link.held if each.group.box is box and each.group.name == name and not each.subject]
        done = [each for each in held if each.member == member] if chance() < 0.5 else []
        self._fetch(link, box.group(name), member, limit, wait, done)

    def _read(self, link: Link, box: Box, limit: int, wait: int) -> None:
        look = self.ledger.look(box, self.clock.now())

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                self._check_refusal(box, answer["error"])
                return
            full = len(answer["messages"]) < limit and not answer["more"]
            self.ledger.check_page(look, answer["messages"], full, self.clock.now())

        config = {"num_msgs": limit, "max_wait_ms": wait}
        link.ask(f"MSG.FETCH.{box.mail_id}", {"config": config}, answered)

    def _fetch(self, link: Link, group: Group, member: str, limit: int, wait: int, done: list[Held]) -> None:
        box, now = group.box, self.clock.now()
        acks = [each.msg_id for each in done]
        look = self.ledger.look(box, now, self._available(group) if not acks and not member else {})
        link.fetching[group] = link.fetching.get(group, 0) + 1
        self._note_acks(link, group, acks, member)

        def answered(answer: dict[str, Any]) -> None:
            link.fetching[group] -= 1
            if answer["error"]:
                if not acks or "message" not in answer["error"]:
                    self._check_refusal(box, answer["error"])
                return
            self._acked(group, acks, now)
            messages = answer["messages"]
            require(len(messages) <= limit, "more than asked for:", group, len(messages))
            for message in messages:
                headers = message["headers"] or {}
                self.ledger.observe(
                    box, message["msg_id"], message["priority"], message["payload"], headers, self.clock.now()
                )
            if not member:
                full = len(messages) < limit and not answer["more"]
                self.ledger.check_page(look, messages, full, self.clock.now())
            for message in messages:
                deliveries = int(message["headers"]["mq9-deliveries"])
                group.give(
                    link,
                    (link, member, ""),
                    message["msg_id"],
                    deliveries,
                    now,
                    self.clock.now(),
                    self.store_had_faults,
                )

        fields = {"group_name": group.name, "config": {"num_msgs": limit, "max_wait_ms": wait}}
        if member:
            fields["member"] = member
        if acks:
            fields["ack"] = acks
        reply = link.ask(f"MSG.FETCH.{box.mail_id}", fields, answered)
        link.watch_fetch(reply, group, member)

    def _note_acks(self, link: Link, group: Group, acks: list[int], member: str) -> None:
        for msg_id in acks:
            group.maybe.add(msg_id)
            lease = group.leases.get(msg_id)
            if lease is not None and lease.holder == (link, member, ""):
                lease.over = True
        link.held = [each for each in link.held if each.group is not group or each.msg_id not in acks]

    @staticmethod
    def _acked(group: Group, msg_ids: list[int], asked: int) -> None:
        for msg_id in msg_ids:
            group.acked.setdefault(msg_id, asked)

    def _available(self, group: Group) -> dict[Identity, Rank]:
        """What a FETCH must give now, as far as that is sure."""
        at_rest = self.broker.loop.resting and not self.store.flights and not self.broker.hub.refusing
        members = any(
            each.group is group and not each.over for link in self.links for each in link.subscriptions.values()
        )
        waiting = any(link.fetching.get(group) for link in self.links)
        if not at_rest or members or waiting or self.store.failing:
            return {}
        return self._untaken(group)

    def _untaken(self, group: Group) -> dict[Identity, Rank]:
        """What nobody has or may have handled."""
        found = {}
        for identity, rank in self.ledger.required(group.box, self.clock.now()).items():
            lease, msg_id = group.leases.get(rank[1]), rank[1]
            free = lease is None or lease.over or lease.link.client.transport.lost or lease.link.gone
            taken = msg_id in group.maybe or msg_id in group.put_off or group.may_be_dead(msg_id)
            if free and msg_id != NEVER and not taken:
                found[identity] = rank
        return found

    def acknowledge(self) -> None:
        """ACK what a FETCH gave: each, or up to one."""
        link = self._link()
        held = [each for each in link.held if not each.subject]
        if not held:
            return
        group, member = (one := self.random.choice(held)).group, one.member
        mine = [each.msg_id for each in held if each.group is group and each.member == member]
        # (what a FETCH that is on its way was given counts as read, too, and nobody here has seen it)
        upto = self.random.random() < 0.3 and not link.awaits(group, member)
        acks = mine if upto else [one.msg_id]
        self._note_acks(link, group, acks, member)
        now = self.clock.now()

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                return
            self._acked(group, [one.msg_id] if upto else acks, now)

        fields: dict[str, object] = {"group_name": group.name, "member": member}
        fields |= {"msg_id": one.msg_id} if upto else {"msg_ids": acks}
        link.ask(f"MSG.ACK.{group.box.mail_id}", fields, answered)

    def handle(self) -> None:
        """A word about a message that was pushed."""
        link = self._link()
        held = [each for each in link.held if each.subject]
        if not held:
            return
        one = self.random.choice(held)
        if self.random.random() < 0.8:
            link.held.remove(one)
        words = ("+ACK", "-NAK", '-NAK {"delay":3000000000}', "+WPI", "+TERM lost")
        self._say(link, one, self.random.choices(words, (8, 3, 2, 2, 1))[0])

    def work_long(self) -> None:
        """A member needs more time than it has, says so, and takes it."""
        link = self._link()
        if held := [each for each in link.held if each.subject]:
            self.pass_time()
            self._say(link, self.random.choice(held), "+WPI")
            self.pass_time()

    def _say(self, link: Link, one: Held, word: str) -> None:
        group, msg_id, now = one.group, one.msg_id, self.clock.now()
        lease = group.leases.get(msg_id)
        mine = lease if lease is not None and lease.link is link else None
        if word == "+ACK":
            group.maybe.add(msg_id)
        elif word == "+TERM lost":
            group.termed.add(msg_id)
        elif word == '-NAK {"delay":3000000000}':
            group.put_off[msg_id] = now + 3000
        if mine is not None:
            mine.over |= word != "+WPI"

        def answered(answer: dict[str, Any]) -> None:
            if answer["error"]:
                return
            if word == "+ACK":
                self._acked(group, [msg_id], now)
            elif word == "+WPI" and mine is not None and group.leases.get(msg_id) is mine:
                mine.until = max(mine.until, now + group.box.ack_wait)

        link.ask(one.subject.removeprefix(AI), word, answered)

    def subscribe(self) -> None:
        self._subscribe(grouped=False)

    def join(self) -> None:
        self._subscribe(grouped=True)

    def _subscribe(self, grouped: bool) -> None:
        link = self._link()
        if not (found := self._readable(link)):
            return
        box, address = found
        form = self.random.choice(("INBOX", "INBOX", "INBOX.>", "MAILBOX", "MAILBOX.*", "MAILBOX.>", "INBOX.high"))
        last, tiers = tiers_of(form)
        name = "g" if box.retain_ack else self.random.choice("gh")
        subject = f"{form.partition('.')[0]}.{address}" + (f".{last}" if last else "")
        link.subscribe(box, subject, tiers, box.group(name) if grouped else None)

    def unsubscribe(self) -> None:
        link = self._link()
        if sids := [sid for sid, each in link.subscriptions.items() if not each.over]:
            link.unsubscribe(self.random.choice(sids))

    def delete(self) -> None:
        link = self._link()
        mine = [sent for sent in self.ledger.sent if sent.msg_id > 0 and link.agent in sent.box.knows]
        if not mine:
            return
        sent = self.random.choice(mine)
        sent.deleting = True

        def answered(answer: dict[str, Any]) -> None:
            sent.deleted |= not answer["error"]

        link.ask(f"MAILBOX.DELETE.{sent.box.owner}.{sent.msg_id}", None, answered)

    def broadcast(self) -> None:
        link, now = self._link(), self.clock.now()
        watcher = next((box for box in self.boxes if box.kept == "watcher"), None)
        if watcher is None:
            return
        sent = Sent(len(self.ledger.sent), watcher, RANK["normal"], now, NEVER)
        self.ledger.sent.append(sent)
        watcher.sent.append(sent)
        sure = not watcher.max_msgs and not self.broker.hub.refusing
        headers = {"mq9-from": self.homes[link.agent].mail_id} if self.random.random() < 0.5 else None
        link.publish("BROADCAST.alerts.fire", f"{sent.number} ", sent if sure else None, "", headers)

    def ping(self) -> None:
        self._link().ping()

    def create(self) -> None:
        link = self._link()
        knows = frozenset(range(AGENTS)) if self.random.random() < 0.7 else frozenset({link.agent})
        self._create(link.agent, self._fields(), knows, self.boxes)

    def renew_or_drop(self) -> None:
        link, now = self._link(), self.clock.now()
        mine = [box for box in self.boxes if link.agent in box.knows and box.kept != "dead"]
        if not mine:
            return
        box = self.random.choice(mine)
        if self.random.random() < 0.3:
            box.dropping = True
            link.ask(f"MAILBOX.DROP.{box.owner}", None, lambda answer: None)
            return
        if box.sure_until == NEVER:
            return
        until = now + 100_000

        def answered(answer: dict[str, Any]) -> None:
            if not answer["error"]:
                box.sure_until = max(box.sure_until, until)

        link.ask(f"MAILBOX.RENEW.{box.owner}", {"ttl": 100}, answered)

    def trespass(self) -> None:
        """What must be refused: reading by a send-only address, dropping by a name, acknowledging for another one."""
        link = self._link()
        box = self.random.choice(self.boxes)

        def answered(answer: dict[str, Any]) -> None:
            require(answer["error"], "allowed to a stranger:", box, answer)

        others = [each for other in self.links if other is not link for each in other.held if each.subject]
        if others and self.random.random() < 0.5:
            link.ask(self.random.choice(others).subject.removeprefix(AI), "+ACK", answered)
        elif box.kept.startswith("s-"):
            link.ask(f"{self.random.choice(('MAILBOX.QUERY', 'MSG.FETCH', 'MAILBOX.DROP'))}.{box.kept}", {}, answered)
        else:
            link.ask(f"MAILBOX.{self.random.choice(('DROP', 'RENEW'))}.{box.kept}", {}, answered)

    # time, sockets, and the store

    def pass_time(self) -> None:
        seconds = self.random.choice((0.05, 0.5, 1, 1.5, 2, 5, 15))
        self.say(f"{seconds} s pass")
        self.broker.advance(seconds)

    def stall(self) -> None:
        link = self._link()
        self.say(f"{link.agent} reads no more")
        link.client.transport.stalled = True

    def read_on(self) -> None:
        link = self.random.choice(self.links)
        size = self.random.choice((1, 100, 20_000, None))
        if link.alive and link.client.transport.stalled:
            self.say(f"{link.agent} reads {size}")
            link.read(size)

    def hang_up(self) -> None:
        self._replace(self._link())

    def _replace(self, link: Link) -> None:
        """The connection is gone, the agent comes again."""
        self.say(f"{link.agent} hangs up")
        link.hang_up()
        if self.random.random() < 0.5:
            self.broker.loop.turn()
        self.links[self.links.index(link)] = self._connect(link.agent)

    def cut(self) -> None:
        """The connection breaks in the middle of what the agent says."""
        link = self._link()
        link.kept_back = kept_back = bytearray()
        self._whose = link
        self.random.choice((self.send, self.fetch, self.handle, self.acknowledge))()
        self._whose = link.kept_back = None
        if kept_back:
            at = self.random.randint(0, len(kept_back))
            self.say(f"only {at} of {len(kept_back)} bytes")
            link.feed(bytes(kept_back[:at]))
            self._replace(link)

    def land(self, surely: bool = False) -> None:
        if not self.store.flights:
            return
        if not surely and self.random.random() < 0.05:
            self.say("a sync fails")
            self.ledger.troubled = True
            self.store.land("Input/output error")
        else:
            self.store.land()

    def store_fails(self) -> None:
        if not self.store.failing and self.random.random() < 0.5:
            self.say("the disk is full")
            self.ledger.troubled = True
            self.store.failing = "No space left on device"

    def store_recovers(self) -> None:
        if self.store.failing:
            self.say("there is room again")
            self.store.failing = ""

    def restart(self) -> None:
        self.say("restart")
        self.broker.settle()
        while self.store.flights:
            self.land(surely=True)
            self.broker.settle()
        self._begin_again(self.store)

    def crash(self) -> None:
        self.say("crash")
        self._begin_again(self.store.crash())

    def _begin_again(self, store: FaultyStore) -> None:
        for link in [*self.links, self.listener]:
            link.react()
            link.gone = True
        self.ledger.restart()
        store.by_hand, store.failing = False, ""
        self.store = store
        self.broker = self._broker(store)
        self._connect_all()
        store.by_hand = self.syncing

    # the end

    def _calm(self) -> None:
        self.broker.settle()
        self.store.failing = ""
        while self.store.flights:
            self.land(surely=True)
            self.broker.settle()
        self.store.by_hand = False
        self.broker.advance(3)
        for link in self.links:
            if link.alive and link.client.transport.stalled:
                link.read(None)
            self.broker.settle()
        self.broker.advance(1)
        for link in self.links:
            link.react()

    def reckon(self) -> None:
        """Faults end, everybody reads, everybody goes: then everything must be accounted for."""
        self.say("the reckoning")
        if (chance := self.random.random()) < 0.25:
            self.crash()
        elif chance < 0.4:
            self.restart()
        self._calm()
        for link in self.links:
            require(not link.alive or not link.unanswered, "never answered:", link.agent, link.unanswered)
        shown: dict[Box, dict[Identity, Rank]] = {}
        subscriptions = [each for link in self.links if link.alive for each in link.subscriptions.values()]
        auditor = self._connect(0)
        for box in [*self.boxes, *self.homes]:
            self._audit(auditor, box, shown)
        for each in subscriptions:
            if not each.over and each.group is None and each.box in shown:
                self._check_delivered(each, shown[each.box])
        self._check_members()
        for link in self.links:
            link.hang_up()
        self.broker.settle()
        left: dict[Group, set[int]] = {}
        for moment in range(2):
            for box in self.boxes:
                for group in box.groups.values():
                    self._empty(group, left.setdefault(group, set()))
            if not moment:
                self.broker.advance(4)
        shown.clear()
        auditor.react()
        for box in [*self.boxes, *self.homes]:
            self._audit(auditor, box, shown)
        self.ledger.reckon(shown, left, self.clock.now())

    def _check_delivered(self, subscription: Subscription, shown: Mapping[Identity, Rank]) -> None:
        """A subscription has had everything that is there. (It may have passed over what was replaced or deleted as it
        read, and came back because that could not be stored.)"""
        for identity, rank in shown.items():
            if rank[0] in subscription.tiers and identity not in subscription.seen:
                sent = self.ledger.sent[identity[1]] if identity[0] == "sent" else None
                passed = sent is not None and self.ledger.troubled and sent.may_have_been_gone(self.clock.now())
                require(passed, "never delivered:", subscription.box, subscription.subject, identity)

    def _check_members(self) -> None:
        """Nothing waits for a reader that is there."""
        for link in self.links:
            for each in link.subscriptions.values() if link.alive else ():
                if each.group is not None and not each.over:
                    for identity, (tier, msg_id) in self._untaken(each.group).items():
                        require(
                            tier not in each.tiers, "not given out, and a member waits:", each.group, identity, msg_id
                        )

    def _audit(self, auditor: Link, box: Box, into: dict[Box, dict[Identity, Rank]]) -> None:
        if not box.may_have_ended(self.clock.now()):
            auditor.agent = min(box.knows)
            self._look(auditor, box, box.mail_id, into)
            self.broker.settle()

    def _empty(self, group: Group, left: set[int]) -> None:
        """What a new reader of the group is given now."""
        box = group.box
        if box.may_have_ended(self.clock.now()):
            return
        reader = self._connect(min(box.knows))
        self.links.append(reader)
        self._fetch(reader, group, "", 1000, 0, [])
        self.broker.settle()
        reader.react()
        left.update(each.msg_id for each in reader.held)
