"""One client: what it announced, what it subscribed to, and what waits to be written to it. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from mq9_broker import subjects, wire
from mq9_broker.errors import ProtocolError
from mq9_broker.model import PREFIX, Limits
from mq9_broker.wire import LONGEST_ROW

if TYPE_CHECKING:
    from mq9_broker.feeds import Feed
    from mq9_broker.group import Group
    from mq9_broker.hub import Hub


_PREFIX = PREFIX.encode()

#: Bytes that feeds write to a client before they look at its socket again, at the least, and to all at the most where
#: that is more: what is written can't be overtaken, and others wait meanwhile.
SLICE, LARGEST_SLICE = 65_536, 262_144
#: What a client has taken without making us wait, divided by this, it is given at once.
_TAKEN_PER_SLICE = 4


class Transport(Protocol):
    """The way to the client. None of these raises, whatever became of the client."""

    def write(self, data: bytes) -> None: ...
    def buffered(self) -> int: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def info(self) -> dict[str, Any]: ...
    def announced(self, options: dict[str, Any]) -> None: ...


class Subscription:
    """One SUB of one client. `limit` is UNSUB's max (0 none); `feed` is set when it is not plain pub/sub."""

    __slots__ = ("delivered", "feed", "limit", "queue", "session", "sid", "subject")

    def __init__(self, session: Session, subject: bytes, queue: bytes, sid: bytes) -> None:
        self.session = session
        self.subject = subject
        self.queue = queue
        self.sid = sid
        self.limit = 0
        self.delivered = 0
        self.feed: Feed | None = None


_LONGEST_NAME = 256
#: Seconds that it takes to commit a message: of many in a row as long as to take them.
_COMMITTED = 0.000_001

#: Messages of a group that were pushed to a member.
Confirmation = tuple["Group", list[int], Subscription]


class Session:
    """The state of one connection. It receives the parser's calls and answers by `send`; the committer writes."""

    __slots__ = (
        "_by_subject",
        "_claims",
        "_connected",
        "_groups",
        "_in_msgs_before",
        "_max_pending",
        "_max_subscriptions",
        "_other_wildcards",
        "_out_msgs_of_ended",
        "_pings",
        "_protocol",
        "_unanswered",
        "behind",
        "client_id",
        "client_version",
        "closed",
        "closing",
        "echo",
        "gone",
        "headers",
        "hub",
        "in_bytes",
        "in_msgs",
        "informed",
        "lang",
        "late_pongs",
        "name",
        "no_responders",
        "out",
        "out_bytes",
        "owed",
        "paused",
        "pedantic",
        "pinged",
        "pings_out",
        "pushed_to",
        "rtt",
        "stirring",
        "subscriptions",
        "taken",
        "talkative",
        "transport",
        "unconfirmed",
        "verbose",
        "waiters",
    )

    def __init__(self, hub: Hub, transport: Transport, client_id: int, limits: Limits) -> None:
        self.hub = hub
        self.transport = transport
        self.client_id = client_id
        self._max_subscriptions = limits.max_subscriptions
        self._max_pending = limits.max_pending
        self.verbose = True
        self.pedantic = True
        self.talkative = True
        self.echo = True
        self.headers = False
        self.no_responders = False
        self._connected = False
        self._protocol = 0
        # from its CONNECT to the first PONG behind it
        self._unanswered = False
        self.informed = False
        self.name = self.lang = self.client_version = ""
        self.closing = False
        self.closed = False
        #: its client is not there any more, although what it sent may still have to be done
        self.gone = False
        self.stirring = False
        self.paused = False
        self.out: list[bytes] = []
        # PONGs that wait for what the turn pushes to this client: after `flush()` it has seen its own doing
        self.late_pongs = 0
        #: bytes of answers and of stored messages since the last write
        self.owed = 0
        #: bytes that its socket has taken since it last made us wait
        self.taken = 0
        self.pushed_to = False
        self.subscriptions: dict[bytes, Subscription] = {}
        self._by_subject: dict[bytes, dict[Subscription, None]] = {}
        self._other_wildcards = 0
        #: feeds that have something to read from the store
        self.behind: dict[Feed, None] = {}
        self._groups: WeakSet[Group] | None = None
        self._claims: dict[bytes, tuple[Group, int]] | None = None
        self.waiters: dict[Any, None] = {}
        self._pings: deque[list[Confirmation]] | None = None
        #: when it was pinged last, in seconds of the hub's stopwatch, and how often since it answered
        self.pinged: float | None = None
        self.pings_out = 0
        self._in_msgs_before = 0
        #: how long the client took to answer, in ms; None before it has
        self.rtt: float | None = None
        self.unconfirmed: list[Confirmation] = []
        #: messages published by this client, and bytes of headers and payloads each way
        self.in_msgs = 0
        self.in_bytes = 0
        self.out_bytes = 0
        self._out_msgs_of_ended = 0

    # (what most clients never need is made when it is needed first)

    @property
    def groups(self) -> Iterable[Group]:
        """Groups it was given something from; those that nobody has in use go by themselves."""
        return self._groups or ()

    def take_from(self, group: Group) -> None:
        """It is given something from this group, or may be."""
        if self._groups is None:
            self._groups = WeakSet()
        self._groups.add(group)

    @property
    def claims(self) -> dict[bytes, tuple[Group, int]]:
        """What it may acknowledge by subject: token to (group, msg_id)."""
        if self._claims is None:
            self._claims = {}
        return self._claims

    @property
    def pings(self) -> deque[list[Confirmation]]:
        """Each PING that is out, with the group messages written before it."""
        if self._pings is None:
            self._pings = deque()
        return self._pings

    @property
    def out_msgs(self) -> int:
        """Messages delivered to this client."""
        return self._out_msgs_of_ended + sum(subscription.delivered for subscription in self.subscriptions.values())

    @property
    def spare(self) -> int:
        """Bytes that may be written to it yet without it being closed for what it leaves unread."""
        return self._max_pending - self.transport.buffered() - self.owed

    @property
    def room(self) -> int:
        """Bytes that feeds may write to it yet before they look at its socket again. As with TCP, who takes what is
        written is given more at once, and who makes us wait little: what is urgent would have to wait behind it."""
        most = LARGEST_SLICE // max(len(self.hub.draining), 1)
        size = max(min(self.taken // _TAKEN_PER_SLICE, most), SLICE)
        return min(size, (self._max_pending - self.transport.buffered()) // 2) - self.owed

    def pause(self) -> None:
        """Its socket takes no more for now."""
        self.paused = True
        self.taken = 0

    def send(self, frame: bytes) -> None:
        """Give a frame to the client at the end of the turn."""
        if not self.out:
            self.hub.touch(self)
        self.out.append(frame)

    # what the parser calls

    def on_publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bool:
        if self.owed > self._max_pending:
            # (a turn's worth of requests can ask for gigabytes: no more is answered than may be pending)
            raise ProtocolError(None)
        self.in_msgs += 1
        self.in_bytes += len(payload)
        if header:
            self.in_bytes += len(header)
        if self.talkative:
            if self.pedantic and not subjects.valid_subject(subject):
                self.send(wire.error("Invalid Publish Subject"))
            if self.verbose:
                self.send(wire.OK)
        if subject[:8] == _PREFIX:
            return self.hub.publish(self, subject, reply, header, payload)
        hub = self.hub
        # (one delivery costs no more than its message)
        return hub.router.route(self, subject, reply, header, payload) > 1 and hub.elapsed() >= hub.until

    def on_run(self, subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> int:
        if self.talkative or subject[:8] == _PREFIX:
            stored = 0
            while not reply and not header_size and self._store(subject, [], bodies[stored : stored + LONGEST_ROW]):
                stored += LONGEST_ROW
                if stored >= len(bodies) or self.hub.late:
                    return min(stored, len(bodies))
            # each one is answered, or may raise
            for number, body in enumerate(bodies[stored:], stored + 1):
                if self.on_publish(subject, reply, body[:header_size], body[header_size:]):
                    return number
            return len(bodies)
        if self.owed > self._max_pending:
            raise ProtocolError(None)
        self.in_msgs += len(bodies)
        self.in_bytes += len(bodies) * len(bodies[0])
        return self.hub.router.route_run(self, subject, reply, header_size, bodies)

    def on_requests(self, subject: bytes, replies: list[bytes], bodies: list[bytes]) -> int:
        if self._store(subject, replies, bodies):
            return len(bodies)
        for number, (reply, body) in enumerate(zip(replies or repeat(b""), bodies, strict=False), 1):
            if self.on_publish(subject, reply, b"", body):
                return number
        return len(bodies)

    def _store(self, subject: bytes, replies: list[bytes], bodies: list[bytes]) -> bool:
        """Store what comes in a row, each with its reply subject or all without one; False when it has to be published
        one by one."""
        if self.talkative or subject[:8] != _PREFIX or self.owed > self._max_pending:
            return False
        if replies:
            listener = self._sole_listener(replies)
            stored = listener is not None and self.hub.store(listener, subject, replies, bodies)
        else:
            stored = self.hub.keep(self, subject, bodies)
        if stored:
            self.in_msgs += len(bodies)
            self.in_bytes += sum(map(len, bodies))
            self.hub.until -= len(bodies) * _COMMITTED
        return stored

    def on_signals(self, signals: list[tuple[bytes, bytes]]) -> int:
        if not self.talkative and self.owed <= self._max_pending and self.hub.acknowledge(self, signals):
            self.in_msgs += len(signals)
            self.in_bytes += sum(len(payload) for _, payload in signals)
            return len(signals)
        for number, (subject, payload) in enumerate(signals, 1):
            if self.on_publish(subject, b"", b"", payload):
                return number
        return len(signals)

    def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> bool:
        self.stirring = True
        if len(self.subscriptions) >= self._max_subscriptions:
            self.send(wire.error("maximum subscriptions exceeded"))
            return False
        if sid not in self.subscriptions:
            if not subjects.valid_pattern(subject):
                self.send(wire.error("Invalid Subject"))
                return False
            subscription = Subscription(self, subject, queue, sid)
            if not self.hub.subscribe(subscription):
                return self.hub.late
            self.subscriptions[sid] = subscription
            self._by_subject.setdefault(subject, {})[subscription] = None
            if _is_other_wildcard(subject):
                self._other_wildcards += 1
        if self.verbose:
            self.send(wire.OK)
        return self.hub.late

    def on_unsubscribe(self, sid: bytes, max_messages: int) -> bool:
        self.stirring = True
        subscription = self.subscriptions.get(sid)
        if subscription is not None:
            subscription.limit = max_messages
            if not max_messages or subscription.delivered >= max_messages:
                self.end(subscription, returned=True)
        if self.verbose:
            self.send(wire.OK)
        return self.hub.late

    def on_connect(self, options: dict[str, Any]) -> None:
        if self._connected:
            # it begins anew, and keeps what it does not say again
            for subscription in list(self.subscriptions.values()):
                self.end(subscription, returned=True)
        else:
            self._connected = self._unanswered = True
        if options.get("account") or options.get("new_account"):
            raise ProtocolError("Authorization Violation")
        protocol = options.get("protocol", self._protocol)
        if protocol not in (0, 1):
            raise ProtocolError("invalid client protocol")
        self._protocol = protocol
        self.verbose = options.get("verbose", self.verbose)
        self.pedantic = options.get("pedantic", self.pedantic)
        self.talkative = self.verbose or self.pedantic
        self.echo = options.get("echo", self.echo)
        self.headers = options.get("headers", self.headers)
        self.no_responders = options.get("no_responders", self.no_responders)
        if self.no_responders and not self.headers:
            raise ProtocolError("no responders requires headers support")
        self.name, self.lang, self.client_version = (
            options.get(field, before)[:_LONGEST_NAME]
            for field, before in (("name", self.name), ("lang", self.lang), ("version", self.client_version))
        )
        self.transport.announced(options)
        if self.verbose:
            self.send(wire.OK)

    def on_ping(self) -> None:
        self.stirring = True
        if self._unanswered:
            self._unanswered = False
            if self._protocol == 1:
                # clients of protocol 1 are told where they are once they listen
                self.informed = True
                self.send(wire.PONG + wire.info(self.transport.info() | {"connect_info": True}))
                return
        if not self.pushed_to:
            self.send(wire.PONG)
            return
        if not self.out:
            self.hub.touch(self)
        self.late_pongs += 1

    def ping(self) -> None:
        """Ask whether the client is there."""
        self.send(wire.PING)
        self.pings.append([])
        self.pinged = self.hub.elapsed()
        self.pings_out += 1

    def stirred(self) -> bool:
        """Whether it published, subscribed or pinged since this was asked last."""
        stirred = self.stirring or self.in_msgs > self._in_msgs_before
        self.stirring = False
        self._in_msgs_before = self.in_msgs
        return stirred

    def on_pong(self) -> None:
        self.pings_out = 0
        if self._pings:
            if self.pinged is not None:
                self.rtt = round((self.hub.elapsed() - self.pinged) * 1000, 3)
            confirmed = self._pings.popleft()
            if not self._pings:
                self._pings = None
            if confirmed:
                self.hub.confirm(confirmed)

    # subscriptions

    def end(self, subscription: Subscription, returned: bool = False) -> None:
        """The subscription is over. `returned`: what a group gave it and it has not confirmed goes back."""
        if self.subscriptions.pop(subscription.sid, None) is None:
            return
        self._out_msgs_of_ended += subscription.delivered
        same = self._by_subject[subscription.subject]
        del same[subscription]
        if not same:
            del self._by_subject[subscription.subject]
        if _is_other_wildcard(subscription.subject):
            self._other_wildcards -= 1
        self.hub.unsubscribe(subscription, returned)

    def count(self, subscription: Subscription, deliveries: int = 1) -> bool:
        """Count deliveries; whether that was the last one, after which the subscription is over."""
        subscription.delivered += deliveries
        if subscription.limit and subscription.delivered >= subscription.limit:
            self.end(subscription)
            return True
        return False

    def reply(self, subject: bytes, payload: bytes) -> None:
        """Answer a request of this client: only its own subscriptions are looked at, so no other sees an answer."""
        by_subject = self._by_subject
        # client libraries ask with one subscription to inbox.*
        found = [*by_subject.get(subject.rpartition(b".")[0] + b".*", ())]
        if self._other_wildcards:
            found = self.hub.router.heard_by(self, subject)
        elif subject in by_subject and subject[-2:] != b".*":
            found += by_subject[subject]
        for subscription in found:
            if subscription.feed is None:
                size = len(payload)
                self.owed += size
                self.out_bytes += size
                if not self.out:
                    self.hub.touch(self)
                self.out.append(b"MSG %b %b %d\r\n%b\r\n" % (subject, subscription.sid, size, payload))
                subscription.delivered += 1
                if subscription.limit and subscription.delivered >= subscription.limit:
                    self.end(subscription)

    def reply_all(self, listener: Subscription, subjects: list[bytes], payloads: list[bytes]) -> None:
        """Answer several requests, as `reply` does each, to the one subscription that hears all the answers."""
        if not self.out:
            self.hub.touch(self)
        sid, size = listener.sid, sum(map(len, payloads))
        self.owed += size
        self.out_bytes += size
        listener.delivered += len(payloads)
        self.out += [
            b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(payload), payload)
            for subject, payload in zip(subjects, payloads, strict=True)
        ]

    def _sole_listener(self, subjects: list[bytes]) -> Subscription | None:
        """The subscription that hears all of these, when no other hears any of them and it has no end. (Where many do,
        each answer is written many times: that takes its time, and may be more than may be pending.)"""
        heads = {subject.rpartition(b".")[0] for subject in subjects}
        if len(heads) > 1 or self._other_wildcards or not self._by_subject.keys().isdisjoint(subjects):
            return None
        found = self._by_subject.get(heads.pop() + b".*", ())
        sole = next(iter(found), None)
        return sole if len(found) == 1 and sole is not None and not sole.limit and sole.feed is None else None


def _is_other_wildcard(subject: bytes) -> bool:
    return subjects.is_wildcard(subject) and (b"*" in subject[:-1] or not subject.endswith(b".*"))
