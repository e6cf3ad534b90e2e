"""Core publish and subscribe: who hears a message, and the frames that bring it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from mq9_broker import wire
from mq9_broker.session import Session, Subscription
from mq9_broker.subjects import SubscriptionTree

if TYPE_CHECKING:
    from mq9_broker.hub import Hub

_NO_RESPONDERS = b"NATS/1.0 503\r\n"
#: Bytes of core messages after which a turn ends early: many subscribers must not multiply a chunk in memory.
_MAX_PUSHED = 33_554_432


class Router:
    """All ordinary subscriptions, in a `tree`. `chance` (0 to 1) says whose turn it is in a queue group."""

    def __init__(self, hub: Hub, chance: Callable[[], float]) -> None:
        self.tree: SubscriptionTree[Subscription] = SubscriptionTree()
        self.chance = chance
        self._hub = hub
        self._pushed = 0

    def route(self, session: Session, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> int:
        """Core pub/sub: to every plain subscription and to one member of each queue group; gives to how many."""
        plain, queues = self.tree.match(subject)
        heard = 0
        if len(plain) > 1:
            others = plain if session.echo else [each for each in plain if each.session is not session]
            self._deliver_all(others, subject, reply, len(header), [header + payload])
            heard = len(others)
        else:
            for subscription in plain:
                if subscription.session is not session or session.echo:
                    self._deliver(subscription, subject, reply, header, payload)
                    heard = 1
        if queues:
            for members in queues.values():
                able = members if session.echo else [member for member in members if member.session is not session]
                if able:
                    self._deliver(able[int(self.chance() * len(able))], subject, reply, header, payload)
                    heard += 1
        if not heard and reply and session.no_responders:
            self._no_responders(session, subject, reply)
        return heard

    def route_run(self, session: Session, subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]) -> int:
        """Several messages of one subject and size: what `route` does with each, at once where nobody can tell. Gives
        how many the sender's share was enough for."""
        plain, queues = self.tree.match(subject)
        everybody = [*plain, *chain.from_iterable(queues.values())]
        sessions = {subscription.session for subscription in everybody}
        # one by one for who hears it twice, for a limit that may be reached in between, for who hears no echo, and for
        # a sender that is told each time that nobody is there
        if (
            len(sessions) < len(everybody)
            or any(subscription.limit for subscription in everybody)
            or (session in sessions and not session.echo)
            or (not everybody and reply)
        ):
            for number, body in enumerate(bodies, 1):
                if self.route(session, subject, reply, body[:header_size], body[header_size:]) > 1 and self._hub.late:
                    return number
            return len(bodies)
        self._deliver_all(plain, subject, reply, header_size, bodies)
        for members in queues.values():
            shares: dict[Subscription, list[bytes]] = {}
            for body in bodies:
                shares.setdefault(members[int(self.chance() * len(members))], []).append(body)
            for member, share in shares.items():
                self._deliver_all((member,), subject, reply, header_size, share)
        return len(bodies)

    def _deliver(self, subscription: Subscription, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        hub, session = self._hub, subscription.session
        size = len(payload)
        if header and session.headers:
            frame = wire.headed_message(subject, subscription.sid, reply, header, payload)
            size += len(header)
        elif reply:
            frame = wire.message(subject, subscription.sid, reply, payload)
        else:
            frame = b"MSG %b %b %d\r\n%b\r\n" % (subject, subscription.sid, size, payload)
        if not session.out:
            hub.touched.append(session)
        session.out.append(frame)
        session.out_bytes += size
        subscription.delivered += 1
        if subscription.delivered == subscription.limit:
            session.end(subscription)

    def _deliver_all(
        self, plain: Sequence[Subscription], subject: bytes, reply: bytes, header_size: int, bodies: list[bytes]
    ) -> None:
        """Messages of one size to subscriptions that get all of them. None of these reaches its limit before the last;
        those with the same sid share the bytes that are written."""
        payloads = [body[header_size:] for body in bodies] if header_size else bodies
        count, size = len(bodies), len(bodies[0])
        headed: dict[bytes, bytes] = {}
        bare: dict[bytes, bytes] = {}
        hub, pushed = self._hub, self._pushed
        for subscription in plain:
            sid, session = subscription.sid, subscription.session
            if session.closing:
                # it did not take what a turn that ended below gave it
                continue
            if header_size and session.headers:
                frames = headed.get(sid)
                if frames is None:
                    frames = headed[sid] = wire.headed_messages(subject, sid, reply, header_size, bodies)
                session.out_bytes += count * size
            else:
                frames = bare.get(sid)
                if frames is None:
                    frames = bare[sid] = wire.messages(subject, sid, reply, payloads)
                session.out_bytes += count * (size - header_size)
            if not session.out:
                hub.touched.append(session)
            session.out.append(frames)
            subscription.delivered += count
            if subscription.delivered == subscription.limit:
                session.end(subscription)
            pushed += len(frames)
            if pushed > _MAX_PUSHED:
                # (if a batch is on its way it can't be written: then those who send wait, and who does not read goes)
                hub.taken += pushed
                pushed = 0
                headed.clear()
                bare.clear()
                hub.end_turn()
                hub.wake_up()
        self._pushed = pushed

    def _no_responders(self, session: Session, subject: bytes, reply: bytes) -> None:
        """Tell the sender that nobody is there. It is no message (the answer may still come): neither UNSUB's max nor
        the counters know of it."""
        for subscription in self.tree.match(reply)[0]:
            if subscription.session is session:
                header = _NO_RESPONDERS + b"Nats-Subject: " + subject + b"\r\n\r\n"
                session.send(wire.headed_message(reply, subscription.sid, b"", header, b""))
                return

    def heard_by(self, session: Session, subject: bytes) -> list[Subscription]:
        """The ordinary subscriptions of one client that cover a subject."""
        plain, queues = self.tree.match(subject)
        return [each for each in chain(plain, *queues.values()) if each.session is session]
