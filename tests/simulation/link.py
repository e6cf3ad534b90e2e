"""One connection of an agent: what it asks, and what the ledger learns from what is written to it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.inprocess import AI, OPTIONS, Broker, Client, Decoder, Frame, Headers, pub
from simulation.ledger import NEVER, RANK, Box, Group, Identity, Lease, Ledger, Rank, Sent, require

LISTENER = -1
_ERR_PUBLISH = "'Permissions Violation for Publish to \""
_ERR_SUBSCRIBE = "'Permissions Violation for Subscription to \""


@dataclass(eq=False)
class Subscription:
    """A subscription to a mailbox. `before` is what was there when it began and came so far, by the newest rank."""

    box: Box
    subject: str
    tiers: frozenset[int]
    group: Group | None
    required: Mapping[Identity, Rank]
    seen: dict[Identity, Rank] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)
    backlog: Rank = (-1, 0)
    over: bool = False


@dataclass
class Held:
    """A message that this connection was given: `subject` is where it is acknowledged, empty after a FETCH."""

    group: Group
    member: str
    msg_id: int
    subject: str = ""


class Link:
    """A connection of agent number `agent`, LISTENER for who listens to everything."""

    def __init__(
        self, broker: Broker, ledger: Ledger, agent: int, say: Callable[[str], None], digest: Callable[[bytes], None]
    ) -> None:
        self.agent = agent
        self.ledger = ledger
        self.clock = broker.clock
        self.broker = broker
        self.held: list[Held] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.refused: list[str] = []
        self.gone = False
        self.fetching: dict[Group, int] = {}
        #: what it says goes here instead, while this is not None
        self.kept_back: bytearray | None = None
        self._say = say
        self._digest = digest
        self._unconfirmed: list[Lease] = []
        self._answers: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._fetched: dict[str, tuple[Group, str]] = {}
        self._numbers = iter(range(1 << 62))
        self._unflushed: list[tuple[str, Sent | None]] = []
        self._pings: deque[list[tuple[str, Sent | None]]] = deque()
        self._decoder = Decoder()
        self._pushed: list[tuple[Group, Rank]] = []
        self.client = Client(broker, 1000 + agent, None, True)
        transport = self.client.transport
        write = transport.write

        def written(data: bytes) -> None:
            self._written(data)
            write(data)

        transport.write = written  # type: ignore[method-assign]
        self.feed(f"CONNECT {json.dumps(OPTIONS)}\r\nSUB _INBOX.a{agent}.* r\r\n".encode())

    @property
    def alive(self) -> bool:
        return not (self.gone or self.client.transport.lost or self.client.transport.closing)

    @property
    def unanswered(self) -> list[str]:
        """The reply subjects of requests that it still waits for."""
        return [*self._answers]

    # what it says

    def feed(self, data: bytes) -> None:
        if self.kept_back is not None:
            self.kept_back += data
        elif self.alive:
            self.client.feed(data)

    def hang_up(self) -> None:
        """Without a word; the broker notices in its next turn."""
        self.react()
        if self.gone:
            return
        # what the broker gives it from now on nobody sees
        members = [each.group for each in self.subscriptions.values() if each.group is not None]
        for group in [*members, *(group for group, pending in self.fetching.items() for _ in range(pending))]:
            group.hidden += 1
        self.gone = True
        self.client.transport.abort()

    def ask(
        self, subject: str, fields: object, answered: Callable[[dict[str, Any]], None], headers: Headers = None
    ) -> str:
        reply = f"_INBOX.a{self.agent}.{next(self._numbers)}"
        self._answers[reply] = answered
        self._say(f"{self.agent}: {subject} {fields!r:.120} {headers or ''}")
        self.feed(pub(subject, fields, reply, headers))
        return reply

    def publish(
        self, subject: str, payload: object, sent: Sent | None, reply: str = "", headers: Headers = None
    ) -> None:
        """Without an answer: a later PONG says that it is stored."""
        self._unflushed.append((AI + subject, sent))
        self._say(f"{self.agent}: {subject} {payload!r:.60} {reply} {headers or ''}")
        self.feed(pub(subject, payload, reply, headers))

    def ping(self) -> None:
        self._pings.append(self._unflushed)
        self._unflushed = []
        self._say(f"{self.agent}: PING")
        self.feed(b"PING\r\n")

    def subscribe(self, box: Box, form: str, tiers: frozenset[int], group: Group | None) -> None:
        sid = f"s{next(self._numbers)}"
        subject = AI + form
        required = {} if group else self.ledger.required(box, self.clock.now())
        self.subscriptions[sid] = Subscription(box, subject, tiers, group, required)
        self._say(f"{self.agent}: SUB {form} {group.name if group else ''} {sid}")
        self.feed(f"SUB {subject} {group.name if group else ''} {sid}\r\n".encode())

    def unsubscribe(self, sid: str) -> None:
        subscription = self.subscriptions[sid]
        subscription.over = True
        if subscription.group is not None and not subscription.box.explicit:
            self._give_up(subscription.group, sid)
        self._say(f"{self.agent}: UNSUB {sid}")
        self.feed(f"UNSUB {sid}\r\n".encode())

    def _give_up(self, group: Group, sid: str) -> None:
        for lease in group.leases.values():
            lease.over |= lease.holder == (self, sid)

    # what it hears

    def _written(self, data: bytes) -> None:
        """The broker wrote this to its socket."""
        if self.gone:
            return
        self._digest(data)
        self.ledger.check_secrets(self, data)
        self._pushed = []
        for frame in self._decoder.feed(data):
            if frame.verb == "PONG":
                for _, sent in self._pings.popleft():
                    if sent is not None and not sent.refused:
                        sent.kept = True
            elif frame.verb == "-ERR":
                self._refused(frame.text)
            elif frame.sid == "r":
                answered = self._answers.pop(frame.subject, None)
                require(answered is not None, "an answer that nobody asked for, or a second one:", frame)
                assert answered is not None
                answered(frame.json)
            elif frame.sid:
                self._message(frame)
        for group in {id(group): group for group, _ in self._pushed}.values():
            ranks = [rank for other, rank in self._pushed if other is group]
            require(ranks == sorted(ranks), "pushed out of order:", group, ranks)

    def _refused(self, text: str) -> None:
        if text.startswith(_ERR_SUBSCRIBE):
            subject = text[len(_ERR_SUBSCRIBE) :].split('"')[0]
            for subscription in self.subscriptions.values():
                if subscription.subject == subject and subscription.box.may_have_ended(self.clock.now()):
                    return
            require(False, "refused, and there is no reason:", text)
        require(text.startswith(_ERR_PUBLISH), "an error that nobody caused:", text)
        subject = text[len(_ERR_PUBLISH) :].split('"')[0]
        # one of these was not stored
        for unflushed in (self._unflushed, *self._pings):
            unflushed[:] = [entry for entry in unflushed if entry[0] != subject]

    def _message(self, frame: Frame) -> None:
        if self.agent == LISTENER:
            require(
                not frame.subject.startswith(AI) or frame.subject.startswith(AI + "BROADCAST."), "overheard:", frame
            )
            require(not frame.subject.startswith("_INBOX."), "overheard:", frame)
            return
        subscription = self.subscriptions.get(frame.sid)
        if subscription is None:
            return
        require(not subscription.over, "after the end of the subscription:", frame)
        now, box = self.clock.now(), subscription.box
        if frame.status:
            require(box.may_have_ended(now), "told its end, and it lives:", box)
            subscription.over = True
            return
        headers = frame.headers
        msg_id = int(headers["mq9-msg-id"])
        identity = self.ledger.observe(box, msg_id, headers["mq9-priority"], frame.body, headers, now)
        self.ledger.check_living(identity, now, identity in self.ledger.deleted(box))
        tier, _ = rank = box.ranks[identity]
        require(tier in subscription.tiers, "not what was subscribed to:", subscription.subject, identity)
        if subscription.group is not None:
            deliveries = int(headers["mq9-deliveries"])
            subscription.group.give(self, (self, frame.sid), msg_id, deliveries, now, now, self.ledger.troubled)
            if not box.explicit:
                # it is this member's until the client has answered a PING
                lease = subscription.group.leases[msg_id]
                lease.until, lease.over = NEVER, not self.client.transport.stalled
                self._unconfirmed.append(lease)
            self._pushed.append((subscription.group, rank))
            return
        require(identity not in subscription.seen, "twice to one subscription:", box, identity)
        require(msg_id > subscription.newest.get(tier, 0), "out of order:", box, identity)
        if identity in subscription.required:
            # (what seemed gone until a commit failed comes when it is back)
            back = self.ledger.troubled and box.seemed_gone(msg_id, now)
            require(rank > subscription.backlog or back, "out of tier order:", box, identity, subscription.backlog)
            subscription.backlog = max(rank, subscription.backlog)
        subscription.seen[identity] = rank
        subscription.newest[tier] = msg_id

    def read(self, size: int | None) -> None:
        """Stalled, it reads so many bytes, or all and goes on."""
        for lease in self._unconfirmed:
            lease.over = True
        self.client.transport.drain(size)

    def react(self) -> None:
        """Look at what arrived: what a member was given it may handle."""
        frames, self.client.frames = self.client.frames, []
        for frame in frames:
            subscription = self.subscriptions.get(frame.sid)
            if subscription is not None and subscription.group is not None and frame.headers.get("mq9-msg-id"):
                group, msg_id = subscription.group, int(frame.headers["mq9-msg-id"])
                if subscription.box.explicit:
                    self.held.append(Held(group, "", msg_id, frame.reply))
                else:
                    group.maybe.add(msg_id)
            elif frame.sid == "r" and frame.subject in self._fetched:
                group, member = self._fetched.pop(frame.subject)
                self.held += [Held(group, member, message["msg_id"]) for message in frame.json.get("messages", [])]

    def awaits(self, group: Group, member: str) -> bool:
        """Whether a FETCH of this member has no answer yet."""
        return (group, member) in self._fetched.values()

    def watch_fetch(self, reply: str, group: Group, member: str) -> None:
        self._fetched[reply] = group, member


def tiers_of(form: str) -> tuple[str, frozenset[int]]:
    """(what follows the address, tiers) of a form such as `INBOX`, `MAILBOX.*` or `INBOX.high`."""
    family, _, last = form.partition(".")
    if last in RANK:
        return last, frozenset({RANK[last]})
    if family == "INBOX" or last == ">":
        return last, frozenset({0, 1, 2, 3})
    return last, frozenset({0, 1, 3}) if last == "*" else frozenset({2})
