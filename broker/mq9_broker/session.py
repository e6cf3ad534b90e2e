"""One client: what it announced, what it subscribed to, and what waits to be written to it. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mq9_broker import subjects, wire
from mq9_broker.errors import ProtocolError

if TYPE_CHECKING:
    from mq9_broker.feeds import Feed
    from mq9_broker.groups import Group
    from mq9_broker.hub import Hub


class Transport(Protocol):
    """The way to the client. None of these raises, whatever became of the client."""

    def write(self, data: bytes) -> None: ...
    def buffered(self) -> int: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


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


Confirmation = tuple["Group", int, Subscription]


class Session:
    """The state of one connection. It receives the parser's calls and answers by `send`; the committer writes."""

    def __init__(self, hub: Hub, transport: Transport, client_id: int, max_subscriptions: int) -> None:
        self.hub = hub
        self.transport = transport
        self.client_id = client_id
        self._max_subscriptions = max_subscriptions
        self.name = ""
        self.verbose = True
        self.pedantic = True
        self.echo = True
        self.headers = False
        self.no_responders = False
        self.connected = False
        self.closing = False
        self.closed = False
        self.heard = True
        self.paused = False
        self.out: list[bytes] = []
        self.subscriptions: dict[bytes, Subscription] = {}
        self._by_subject: dict[bytes, list[Subscription]] = {}
        self._other_wildcards = 0
        self.feeds: set[Feed] = set()
        self.groups: set[Group] = set()
        self.waiters: set[Any] = set()
        # each PING that is out, with the group messages written before it
        self.pings: deque[list[Confirmation]] = deque()
        self.unconfirmed: list[Confirmation] = []

    def send(self, frame: bytes) -> None:
        """Give a frame to the client at the end of the turn."""
        if not self.out:
            self.hub.touch(self)
        self.out.append(frame)

    # what the parser calls

    def on_publish(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        if self.verbose:
            self.send(wire.OK)
        if self.pedantic and not subjects.valid_subject(subject):
            self.send(wire.error("Invalid Publish Subject"))
            return
        self.hub.publish(self, subject, reply, header, payload)

    def on_subscribe(self, subject: bytes, queue: bytes, sid: bytes) -> None:
        if not subjects.valid_pattern(subject):
            self.send(wire.error("Invalid Subject"))
            return
        if sid not in self.subscriptions:
            if len(self.subscriptions) >= self._max_subscriptions:
                raise ProtocolError("maximum subscriptions exceeded")
            subscription = Subscription(self, subject, queue, sid)
            if not self.hub.subscribe(subscription):
                return
            self.subscriptions[sid] = subscription
            self._by_subject.setdefault(subject, []).append(subscription)
            if _is_other_wildcard(subject):
                self._other_wildcards += 1
        if self.verbose:
            self.send(wire.OK)

    def on_unsubscribe(self, sid: bytes, max_messages: int) -> None:
        subscription = self.subscriptions.get(sid)
        if subscription is not None:
            subscription.limit = max_messages
            if not max_messages or subscription.delivered >= max_messages:
                self.end(subscription, returned=True)
        if self.verbose:
            self.send(wire.OK)

    def on_connect(self, options: dict[str, Any]) -> None:
        self.verbose = options.get("verbose") is not False
        self.pedantic = options.get("pedantic") is not False
        self.echo = options.get("echo") is not False
        self.headers = options.get("headers") is True
        self.no_responders = self.headers and options.get("no_responders") is True
        name = options.get("name")
        self.name = name if isinstance(name, str) else ""
        self.connected = True
        if self.verbose:
            self.send(wire.OK)

    def on_ping(self) -> None:
        self.send(wire.PONG)

    def on_pong(self) -> None:
        if self.pings:
            confirmed = self.pings.popleft()
            if confirmed:
                self.hub.confirm(confirmed)

    # subscriptions

    def end(self, subscription: Subscription, returned: bool = False) -> None:
        """The subscription is over. `returned`: what a group gave it and it has not confirmed goes back."""
        if self.subscriptions.pop(subscription.sid, None) is None:
            return
        same = self._by_subject[subscription.subject]
        same.remove(subscription)
        if not same:
            del self._by_subject[subscription.subject]
        if _is_other_wildcard(subscription.subject):
            self._other_wildcards -= 1
        self.hub.unsubscribe(subscription, returned)

    def count(self, subscription: Subscription) -> bool:
        """Count a delivery; whether it was the last one, after which the subscription is over."""
        subscription.delivered += 1
        if subscription.limit and subscription.delivered >= subscription.limit:
            self.end(subscription)
            return True
        return False

    def reply(self, subject: bytes, payload: bytes) -> None:
        """Answer a request of this client: only its own subscriptions are looked at, so no other sees an answer."""
        subscription = self._own(subject)
        if subscription is not None:
            self.send(wire.message(subject, subscription.sid, b"", payload))
            if subscription.limit:
                self.count(subscription)

    def _own(self, subject: bytes) -> Subscription | None:
        found = self._by_subject.get(subject)
        if found is None:
            # the form that client libraries use: one subscription to inbox.*
            found = self._by_subject.get(subject[: subject.rfind(b".") + 1] + b"*")
            if found is None and self._other_wildcards:
                for pattern, subscriptions in self._by_subject.items():
                    if subjects.matches(pattern, subject):
                        found = subscriptions
                        break
        for subscription in found or ():
            if subscription.feed is None:
                return subscription
        return None


def _is_other_wildcard(subject: bytes) -> bool:
    return subjects.is_wildcard(subject) and (b"*" in subject[:-1] or not subject.endswith(b".*"))
