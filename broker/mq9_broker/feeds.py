"""Feeds: what a subscription to something stored has had and what comes next.

A feed holds a cursor, not a queue. It drains the store as the socket takes it; at the end of what is stored it is live
and gets what is committed, as it is committed. Both move the same cursor, so there is no gap and no repeat.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from mq9_broker import headers, keys, wire
from mq9_broker.board import SUBJECT
from mq9_broker.model import NEVER, WATCHED, WORDS, Change
from mq9_broker.session import SLICE

if TYPE_CHECKING:
    from mq9_broker.board import Board
    from mq9_broker.group import Group
    from mq9_broker.mailboxes import Mailbox, Mailboxes
    from mq9_broker.messages import Messages
    from mq9_broker.session import Subscription

#: Records that a feed looks at before others have their turn, whether they are written or not.
_LOOKED_AT = 1000
#: Frames that are written by one pattern at the most (for much more the allocator would ask the system each time), and
#: so many that have their time in common are worth a pattern of their own.
_ROW, _MUCH = 256, 64
MAX_UNCONFIRMED = 64
_ACK = b"$mq9.AI.ACK."
#: Bytes of a frame that are neither in the encoded message nor in its subscriber's subject and sid. With what may be
#: beside a priority and a payload no frame is twice as large as is estimated by that.
_AROUND = 80
#: Where the payload of a message begins that has nothing but a priority and a payload.
_HEAD = 9 + len(keys.PLAIN)
_head, _payload = itemgetter(slice(_HEAD)), itemgetter(slice(_HEAD, None))


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
    if subscription.session.headers and value[9:_HEAD] == keys.PLAIN:
        # nothing but a priority and a payload: no need to take it apart
        word, head = _PLAIN[value[0]]
        lines = head % (msg_id, keys.created_of(value))
        if deliveries:
            lines = b"%bmq9-deliveries: %d\r\n\r\n" % (lines[:-2], deliveries)
        subscription.session.out_bytes += len(lines) + len(value) - _HEAD
        return wire.headed_message(form if bare else form + word, subscription.sid, ack, lines, value[_HEAD:])
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
    ids: Sequence[int],
    values: Sequence[bytes],
    deliveries: int = 0,
    acks: Sequence[bytes] = (),
) -> bytes:
    """`frame` of each of several, back to back, for a client that takes headers; the ids of each priority in order.
    Empty when they differ in more than one pattern allows: when some have more than a priority and a payload, or in
    the priority, or in how many digits their ids or times have."""
    heads = [*map(_head, values)]
    # (much is sent at once, so these are few)
    different, number = {*heads}, int.from_bytes
    times = {head: number(head[1:9], "big") for head in different if head[9:] == keys.PLAIN}
    if len(times) < len(different):
        return b""
    # (the least and the most by their first bytes, which are the priority and the time)
    least, most = min(times), max(times)
    word, lines = _PLAIN[least[0]]
    if deliveries:
        lines = b"%bmq9-deliveries: %d\r\n\r\n" % (lines[:-2], deliveries)
    head = len(lines % (ids[0], times[least]))
    if least[0] != most[0] or head != len(lines % (ids[-1], times[most])):
        return b""
    if least == most:
        lines = lines.replace(b"mq9-time: %d", b"mq9-time: %d" % times[least])
    more, lengths = head - _HEAD, [*map(len, values)]
    alike = lengths.count(lengths[0]) == len(lengths)
    fields: list[Iterable[int | bytes]] = [
        *([acks] if acks else []),
        *([] if alike else [map(more.__add__, lengths)]),
        ids,
        *([] if least == most else [map(times.__getitem__, heads)]),
        map(_payload, values),
    ]
    size = b"%d" % (lengths[0] + more) if alike else b"%d"
    start = b"HMSG %b %b " % (form if bare else form + word, subscription.sid)
    pattern = b"%b%b%d %b\r\n%b%%b\r\n" % (start.replace(b"%", b"%%"), b"%b " if acks else b"", head, size, lines)
    subscription.session.out_bytes += sum(lengths) + more * len(values)
    flat: list[int | bytes] = [0] * (len(fields) * len(values))
    for place, field in enumerate(fields):
        flat[place :: len(fields)] = field
    return pattern * len(values) % tuple(flat)


def _rows(values: list[bytes]) -> Iterator[slice]:
    """Where to cut a slice into what is written by one pattern each: what begins alike by itself, where it is much."""
    begin = 0
    while begin < len(values):
        end = min(begin + _ROW, len(values))
        # (priorities and times are in order, mostly: elsewhere it is less than it could be)
        alike = bisect_right(values, _head(values[begin]), begin, end, key=_head)
        end = alike if alike - begin >= _MUCH else end
        yield slice(begin, end)
        begin = end


_PLAIN = tuple(
    (b"." + word, headers.FIRST_LINE + b"mq9-msg-id: %d\r\nmq9-priority: " + word + b"\r\nmq9-time: %d\r\n\r\n")
    for word in map(str.encode, WORDS)
)


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
        session = self.subscription.session
        room, around = session.room, len(self.form) + len(self.subscription.sid) + _AROUND
        for tier in self.tiers:
            ids, values, size = self.messages.chunk(mailbox, tier, cursors[tier], mailbox.visible, room, around)
            if not values:
                continue
            if size > session.spare // 2 and (session.owed or len(values) > 1):
                # with the last one it may be more than may be pending
                ids, values = ids[:-1], values[:-1]
                if not values:
                    return True
            cursors[tier] = ids[-1]
            for row in _rows(values):
                if self._write(ids[row], values[row], now):
                    return False
            # (what expired is not written, but took its time)
            room -= size
            if room <= 0:
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

    def _write(self, ids: Sequence[int], values: list[bytes], now: int) -> bool:
        """Write encoded messages in order, but for those that have expired; whether the subscription is over."""
        subscription = self.subscription
        others: Sequence[int] = range(len(values))
        if subscription.session.headers and not subscription.limit:
            if self._send_row(ids, values):
                return False
            others = [at for at, value in enumerate(values) if value[9:_HEAD] != keys.PLAIN]
        begin = 0
        for at in (*others, len(values)):
            part = slice(begin, at)
            if not self._send_row(ids[part], values[part]):
                for msg_id, value in zip(ids[part], values[part], strict=True):
                    self._send(msg_id, value)
            begin = at + 1
            if at < len(values) and (keys.expires_of(values[at]) or NEVER) > now and self._send(ids[at], values[at]):
                return True
        return False

    def _send_row(self, ids: Sequence[int], values: list[bytes]) -> bool:
        """Write messages by one pattern, to a client that takes headers and any number of them; False when they are too
        few or differ too much."""
        subscription = self.subscription
        session = subscription.session
        written = frames(subscription, self.form, self.bare, ids, values) if len(values) > 1 else b""
        if not written:
            return False
        session.send(written)
        session.owed += len(written)
        subscription.delivered += len(values)
        return True

    def _send(self, msg_id: int, value: bytes) -> bool:
        subscription = self.subscription
        session = subscription.session
        written = frame(subscription, self.form, self.bare, msg_id, value)
        session.owed += len(written)
        session.send(written)
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
        acks, deadline = [], NEVER
        if self.explicit:
            acks = [_ACK + token for token in group.leases.claim(group, ids, session)]
            deadline = now + self.mailbox.settings.ack_wait * 1000
            session.hub.watch_leases(group, deadline)
        else:
            self.out += len(row)
            session.unconfirmed.append((group, ids, subscription))
        for tier, part in groupby(row, itemgetter(0)):
            group.leases.begin([msg_id for _, msg_id, _ in part], tier, (session, subscription), deadline)
        deliveries = group.leases.deliveries(ids)
        values = [value for _, _, value in row]
        written = b""
        if session.headers and len(row) > 1 == len({*deliveries}):
            written = frames(subscription, self.form, self.bare, ids, values, deliveries[0], acks)
        if written:
            session.send(written)
        else:
            for one in zip(ids, values, deliveries, acks or [b""] * len(row), strict=True):
                session.send(frame(subscription, self.form, self.bare, *one))
        for msg_id, value in zip(ids, values, strict=True):
            if value[0] >= WATCHED:
                session.hub.delivered(self.mailbox, group.name, msg_id, value)
        session.count(subscription, len(row))

    def close(self) -> None:
        super().close()
        del self.group.members[self]


class Hand:
    """The messages that a member is given at once, (tier, id, encoded) each: `most`, if it can take as many."""

    __slots__ = ("_session", "member", "messages", "room")

    def __init__(self, member: Member, most: int) -> None:
        subscription = member.subscription
        self.member = member
        self.messages: list[tuple[int, int, bytes]] = []
        self._session = subscription.session
        self.room = min(most, MAX_UNCONFIRMED - member.out)
        if subscription.limit:
            self.room = min(self.room, subscription.limit - subscription.delivered)

    def take(self, message: tuple[int, int, bytes]) -> bool:
        """Add a message; whether the member can take another one after it."""
        self.messages.append(message)
        self._session.owed += len(message[2])
        return self._session.owed < SLICE and len(self.messages) < self.room


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
            if session.owed >= SLICE or session.room <= 0 or number >= _LOOKED_AT:
                return True
        self.live = True
        return False

    def push(self, change: Change) -> bool:
        """Write one line; whether the subscription is over with it."""
        subscription = self.subscription
        event = {"event": change.event} | listing(change)
        payload = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        line = wire.message(subscription.subject, subscription.sid, b"", payload)
        subscription.session.owed += len(line)
        subscription.session.out_bytes += len(payload)
        subscription.session.send(line)
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
                line = wire.message(SUBJECT, subscription.sid, b"", payload)
                session.owed += len(line)
                session.out_bytes += len(payload)
                session.send(line)
                if session.count(subscription):
                    return False
            if session.owed >= SLICE or session.room <= 0 or number >= _LOOKED_AT:
                return True
        self.live = True
        return False

    def close(self) -> None:
        self.live = False


def listing(change: Change) -> dict[str, str | int | None]:
    """A public mailbox as the directory shows it; `expires_at` in seconds."""
    expires = None if change.expires >= NEVER else change.expires // 1000
    return {"mail_id": change.name, "desc": change.desc, "ttl": change.ttl, "expires_at": expires}
