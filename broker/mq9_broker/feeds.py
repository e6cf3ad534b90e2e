"""Feeds: what a subscription to something stored has had and what comes next.

A feed holds a cursor, not a queue. It drains the store as the socket takes it; at the end of what is stored it is live
and gets what is committed, as it is committed. Both move the same cursor, so there is no gap and no repeat.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from mq9_broker import headers, keys, wire
from mq9_broker.board import SUBJECT
from mq9_broker.model import NEVER, WATCHED, WORDS, Change

if TYPE_CHECKING:
    from mq9_broker.board import Board
    from mq9_broker.group import Group
    from mq9_broker.mailboxes import Mailbox, Mailboxes
    from mq9_broker.messages import Messages
    from mq9_broker.session import Subscription

#: Bytes that feeds write to a client before they look at its socket again: what is written can't be overtaken.
SLICE = 65_536
#: Records that a feed looks at before others have their turn, whether they are written or not.
_LOOKED_AT = 1000
MAX_UNCONFIRMED = 64
_ACK = b"$mq9.AI.ACK."
#: Where the payload of a message begins that has nothing but a priority and a payload.
_HEAD = 9 + len(keys.PLAIN)


class Feed(Protocol):
    """What hangs on a subscription that is more than pub/sub."""

    live: bool

    def drain(self, now: int) -> bool:
        """Write a slice of what is stored; whether there is more."""
        ...

    def close(self) -> None:
        """The subscription is over."""
        ...


def frame(
    subscription: Subscription,
    form: bytes,
    bare: bool,
    msg_id: int,
    value: bytes,
    deliveries: int = 0,
    ack: bytes = b"",
) -> bytes:
    """The MSG or HMSG of an encoded message. `form` is the subscriber's subject without the priority word, `ack` where
    it is to be acknowledged: the address for answers then is a header."""
    if subscription.session.headers and value[9:27] == keys.PLAIN:
        # nothing but a priority and a payload: no need to take it apart
        word, head = _PLAIN[value[0]]
        lines = head % (msg_id, keys.created_of(value))
        if deliveries:
            lines = b"%bmq9-deliveries: %d\r\n\r\n" % (lines[:-2], deliveries)
        subscription.session.out_bytes += len(lines) + len(value) - 27
        return wire.headed_message(form if bare else form + word, subscription.sid, ack, lines, value[27:])
    message = keys.decode_message(value)
    word = WORDS[message.code].encode()
    subject = form if bare else form + b"." + word
    session = subscription.session
    session.out_bytes += len(message.payload)
    if not session.headers:
        return wire.message(subject, subscription.sid, ack or message.reply, message.payload)
    lines = b"%b%bmq9-msg-id: %d\r\nmq9-priority: %b\r\nmq9-time: %d\r\n" % (
        headers.FIRST_LINE,
        message.lines,
        msg_id,
        word,
        message.created,
    )
    if message.expires:
        lines += b"mq9-expires: %d\r\n" % message.expires
    if message.sender:
        lines += b"mq9-from: %b\r\n" % message.sender
    if message.hops is not None:
        lines += b"mq9-hops: %d\r\n" % message.hops
    if deliveries:
        lines += b"mq9-deliveries: %d\r\n" % deliveries
    if ack and message.reply:
        lines += b"mq9-reply-to: %b\r\n" % message.reply
    session.out_bytes += len(lines) + 2
    return wire.headed_message(subject, subscription.sid, ack or message.reply, lines + b"\r\n", message.payload)


def frames(
    subscription: Subscription,
    form: bytes,
    bare: bool,
    ids: list[int],
    values: list[bytes],
    deliveries: list[int],
    acks: list[bytes],
) -> list[bytes]:
    """`frame` of each of several."""
    times = [keys.created_of(value) for value in values]
    kinds = {(value[0], value[9:_HEAD], len(value)) for value in values}
    code, rest, size = next(iter(kinds))
    if not (
        len(kinds) == 1 < len(ids)
        and subscription.session.headers
        and rest == keys.PLAIN
        and min(deliveries) == max(deliveries)
        and max(ids) in _as_long_as(min(ids))
        and max(times) in _as_long_as(min(times))
    ):
        return [frame(subscription, form, bare, *one) for one in zip(ids, values, deliveries, acks, strict=True)]
    # nothing but a priority and a payload, and all as long: what they have in common is put together once
    word, lines = _PLAIN[code]
    if deliveries[0]:
        lines = b"%bmq9-deliveries: %d\r\n\r\n" % (lines[:-2], deliveries[0])
    head = len(lines % (ids[0], times[0]))
    whole = head + size - _HEAD
    subscription.session.out_bytes += whole * len(ids)
    start = b"HMSG %b %b " % (form if bare else form + word, subscription.sid)
    pattern = start.replace(b"%", b"%%") + b"%b" + b"%d %d\r\n" % (head, whole) + lines + b"%b\r\n"
    replies = [ack and ack + b" " for ack in acks]
    payloads = [value[_HEAD:] for value in values]
    return [pattern % one for one in zip(replies, ids, times, payloads, strict=True)]


_PLAIN = tuple(
    (b"." + word, headers.FIRST_LINE + b"mq9-msg-id: %d\r\nmq9-priority: " + word + b"\r\nmq9-time: %d\r\n\r\n")
    for word in map(str.encode, WORDS)
)


class _Row:
    """Frames of messages in a row that have nothing but a priority and a payload, for a client that takes headers: what
    they have in common is put together once."""

    __slots__ = ("_bare", "_code", "_form", "_ids", "_pattern", "_sid", "_size", "_times", "size")

    def __init__(self, form: bytes, bare: bool, sid: bytes) -> None:
        self._form = form
        self._bare = bare
        self._sid = sid
        self._code = self._size = self.size = 0
        self._ids = self._times = range(0)
        self._pattern = b""

    def frame(self, msg_id: int, value: bytes) -> bytes:
        """The HMSG of an encoded message; `size` then is what its headers and payload have."""
        created = int.from_bytes(value[1:9], "big")
        if not (msg_id in self._ids and created in self._times and len(value) == self._size and value[0] == self._code):
            self._begin(msg_id, created, value)
        return self._pattern % (msg_id, created, value[27:])

    def _begin(self, msg_id: int, created: int, value: bytes) -> None:
        self._code, self._size = value[0], len(value)
        self._ids, self._times = _as_long_as(msg_id), _as_long_as(created)
        word, lines = _PLAIN[self._code]
        head = len(lines % (msg_id, created))
        self.size = head + self._size - 27
        subject = self._form if self._bare else self._form + word
        start = b"HMSG %b %b %d %d\r\n" % (subject, self._sid, head, self.size)
        self._pattern = start.replace(b"%", b"%%") + lines + b"%b\r\n"


def _as_long_as(number: int) -> range:
    """The numbers with as many digits."""
    digits = len(str(number))
    return range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


class MailboxFeed:
    """A plain subscription to a mailbox: everything stored, in order, then what arrives."""

    __slots__ = ("bare", "cursors", "form", "live", "mailbox", "messages", "subscription", "tiers")

    def __init__(
        self,
        subscription: Subscription,
        mailbox: Mailbox,
        messages: Messages,
        form: bytes,
        bare: bool,
        tiers: tuple[int, ...],
    ) -> None:
        self.subscription = subscription
        self.mailbox = mailbox
        self.messages = messages
        self.form = form
        self.bare = bare
        self.tiers = tiers
        self.cursors = [0, 0, 0, 0]
        self.live = False
        mailbox.watchers[self] = None

    def drain(self, now: int) -> bool:
        mailbox, cursors = self.mailbox, self.cursors
        if mailbox.expires <= now:
            return False
        subscription = self.subscription
        session = subscription.session
        in_a_row = session.headers and not subscription.limit
        row = _Row(self.form, self.bare, subscription.sid)
        expired = 0
        for tier in self.tiers:
            for msg_id, value in self.messages.read(mailbox, tier, cursors[tier], mailbox.visible):
                cursors[tier] = msg_id
                if in_a_row and value[9:27] == keys.PLAIN:
                    session.send(row.frame(msg_id, value))
                    session.out_bytes += row.size
                    session.owed += len(value)
                    subscription.delivered += 1
                    if session.owed >= SLICE:
                        return True
                elif (keys.expires_of(value) or NEVER) > now:
                    if self._send(msg_id, value):
                        return False
                    if session.owed >= SLICE:
                        return True
                else:
                    expired += 1
                    if expired >= _LOOKED_AT:
                        return True
        # what gathers behind a batch on its way may have come before this subscription: it is drained when it is kept
        self.live = mailbox.visible == mailbox.last_id
        return not self.live

    def push(self, fresh: list[tuple[int, int, bytes]]) -> None:
        """Write what was just committed: (tier, id, encoded), in order."""
        for tier, msg_id, value in fresh:
            if tier in self.tiers and msg_id > self.cursors[tier]:
                self.cursors[tier] = msg_id
                if self._send(msg_id, value):
                    return

    def close(self) -> None:
        del self.mailbox.watchers[self]

    def end(self) -> None:
        """The mailbox is gone: one last empty message says so."""
        subscription = self.subscription
        if subscription.session.headers:
            status = b"NATS/1.0 410 Mailbox Expired\r\n\r\n"
            subscription.session.send(wire.headed_message(self.form, subscription.sid, b"", status, b""))
            subscription.session.out_bytes += len(status)
            subscription.delivered += 1
        subscription.session.end(subscription)

    def _send(self, msg_id: int, value: bytes) -> bool:
        subscription = self.subscription
        session = subscription.session
        session.owed += len(value)
        session.send(frame(subscription, self.form, self.bare, msg_id, value))
        if value[0] >= WATCHED:
            session.hub.delivered(self.mailbox, "", msg_id, value)
        return session.count(subscription)


class Member(MailboxFeed):
    """A queue subscription to a mailbox: one of the members of a group. What it was given counts as read once the
    client has answered a PING sent after it, or, where acknowledgements are explicit, has acknowledged it."""

    __slots__ = ("explicit", "group", "out")

    def __init__(
        self,
        subscription: Subscription,
        group: Group,
        messages: Messages,
        form: bytes,
        bare: bool,
        tiers: tuple[int, ...],
    ) -> None:
        super().__init__(subscription, group.mailbox, messages, form, bare, tiers)
        self.group = group
        self.explicit = group.mailbox.settings.explicit
        #: how many are unconfirmed
        self.out = 0
        self.live = True  # the group drains, not its members
        group.members[self] = None
        subscription.session.take_from(group)

    @property
    def ready(self) -> bool:
        """Whether it can take a message now."""
        session = self.subscription.session
        return self.out < MAX_UNCONFIRMED and not session.paused and session.owed < SLICE

    @property
    def ready_soon(self) -> bool:
        """Whether it can take a message once what it has been given this turn is written."""
        return self.out < MAX_UNCONFIRMED and not self.subscription.session.paused

    def drain(self, now: int) -> bool:
        return False

    def push(self, fresh: list[tuple[int, int, bytes]]) -> None:
        return

    def give(self, row: list[tuple[int, int, bytes]], now: int) -> None:
        """Write messages that the group took for it, (tier, id, encoded) each; their bytes are owed already."""
        subscription, group = self.subscription, self.group
        session = subscription.session
        ids = [msg_id for _, msg_id, _ in row]
        if self.explicit:
            acks = [_ACK + token for token in group.leases.claim(group, ids, session)]
            deadline = now + self.mailbox.settings.ack_wait * 1000
            session.hub.watch_leases(group, deadline)
        else:
            acks, deadline = [b""] * len(row), NEVER
            self.out += len(row)
            session.unconfirmed.append((group, ids, subscription))
        holder = session, subscription
        deliveries = [group.leases.begin(msg_id, tier, holder, deadline) for tier, msg_id, _ in row]
        values = [value for _, _, value in row]
        for written in frames(subscription, self.form, self.bare, ids, values, deliveries, acks):
            session.send(written)
        for msg_id, value in zip(ids, values, strict=True):
            if value[0] >= WATCHED:
                session.hub.delivered(self.mailbox, group.name, msg_id, value)
        session.count(subscription, len(row))

    def close(self) -> None:
        super().close()
        del self.group.members[self]


class Hand:
    """The messages that a member is given at once, (tier, id, encoded) each: `most`, if it can take as many."""

    __slots__ = ("_room", "_session", "member", "messages")

    def __init__(self, member: Member, most: int) -> None:
        subscription = member.subscription
        self.member = member
        self.messages: list[tuple[int, int, bytes]] = []
        self._session = subscription.session
        self._room = min(most, MAX_UNCONFIRMED - member.out)
        if subscription.limit:
            self._room = min(self._room, subscription.limit - subscription.delivered)

    def take(self, message: tuple[int, int, bytes]) -> bool:
        """Add a message; whether the member can take another one after it."""
        self.messages.append(message)
        self._session.owed += len(message[2])
        return self._session.owed < SLICE and len(self.messages) < self._room


class DirectoryFeed:
    """A subscription to the directory: a line for each public mailbox, then changes as they happen."""

    __slots__ = ("_after", "_mailboxes", "live", "subscription")

    def __init__(self, subscription: Subscription, mailboxes: Mailboxes) -> None:
        self.subscription = subscription
        self._mailboxes = mailboxes
        self._after = ""
        self.live = False

    def drain(self, now: int) -> bool:
        session = self.subscription.session
        # what is only just being created is told when it is kept
        created = {change.name for change in self._mailboxes.changes if change.event == "created"}
        for number, (name, change) in enumerate(self._mailboxes.listed("", self._after, now), 1):
            self._after = name
            if change is not None and name not in created and self.push(change):
                return False
            if session.owed >= SLICE or number >= _LOOKED_AT:
                return True
        self.live = True
        return False

    def push(self, change: Change) -> bool:
        """Write one line; whether the subscription is over with it."""
        subscription = self.subscription
        event = {"event": change.event} | listing(change)
        payload = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        subscription.session.owed += len(payload)
        subscription.session.out_bytes += len(payload)
        subscription.session.send(wire.message(subscription.subject, subscription.sid, b"", payload))
        return subscription.session.count(subscription)

    def close(self) -> None:
        self.live = False


class BoardFeed:
    """A plain subscription that covers the capability board: what is remembered first; live ones are broadcasts."""

    __slots__ = ("_after", "_board", "_upto", "live", "subscription")

    def __init__(self, subscription: Subscription, board: Board) -> None:
        self.subscription = subscription
        self._board = board
        self._upto = board.serial
        self._after = b""
        self.live = False

    def drain(self, now: int) -> bool:
        subscription = self.subscription
        session = subscription.session
        for number, (key, payload) in enumerate(self._board.remembered(self._after, self._upto, now), 1):
            self._after = key
            if payload:
                session.owed += len(payload)
                session.out_bytes += len(payload)
                session.send(wire.message(SUBJECT, subscription.sid, b"", payload))
                if session.count(subscription):
                    return False
            if session.owed >= SLICE or number >= _LOOKED_AT:
                return True
        self.live = True
        return False

    def close(self) -> None:
        self.live = False


def listing(change: Change) -> dict[str, str | int | None]:
    """A public mailbox as the directory shows it; `expires_at` in seconds."""
    expires = None if change.expires >= NEVER else change.expires // 1000
    return {"mail_id": change.name, "desc": change.desc, "ttl": change.ttl, "expires_at": expires}
