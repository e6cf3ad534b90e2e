"""QUERY, FETCH and ACK: reading in JSON."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

import orjson

from mq9_broker import headers, keys
from mq9_broker.dialects.fields import Fields
from mq9_broker.errors import Mq9Error
from mq9_broker.group import MAX_WAITING, Group
from mq9_broker.groups import check_acknowledge, check_group
from mq9_broker.hub import Hub
from mq9_broker.mailboxes import Mailbox
from mq9_broker.messages import ROW, TAGS, Look, watched
from mq9_broker.model import TIER_NAMES, TIERS, WORDS, Message
from mq9_broker.session import Session
from mq9_broker.timers import Timer

MAX_WAIT_MS = 300_000
_REST = 512  # what a reply holds beside its messages
_MAX_ID = 1 << 62
_WAITING = ',"waiting":{' + ",".join(f'"{name}":%d' for name in TIER_NAMES) + "}"


class Fetch:
    """One FETCH: what it asks for, and where it stands while it waits."""

    __slots__ = (
        "_after",
        "_reader",
        "_wanted",
        "given",
        "group",
        "grouped",
        "holder",
        "mailbox",
        "named",
        "reply",
        "session",
        "shown",
        "timer",
        "unfinished",
        "wait_ms",
    )

    def __init__(
        self,
        reader: Reader,
        session: Session,
        reply: bytes,
        mailbox: Mailbox,
        shown: str,
        fields: Fields,
        now: int,
    ) -> None:
        self._reader = reader
        self.session = session
        self.reply = reply
        self.mailbox = mailbox
        self.shown = shown
        self.timer: Timer | None = None
        config = fields.nested("config")
        #: 0 asks whether there is something, and takes none of it
        self._wanted = config.integer("num_msgs", 100, 0, _MAX_ID)
        self.wait_ms = config.integer("max_wait_ms", 500, 0, MAX_WAIT_MS)
        deliver = fields.choice("deliver", ("earliest", "latest", "from_id"))
        if deliver == "from_id" and not fields.has("from_id"):
            raise Mq9Error("deliver from_id needs from_id, the msg_id to start at")
        first = fields.integer("from_id", 1, 0, _MAX_ID)
        after = {"earliest": 0, "latest": mailbox.last_id, "from_id": max(first - 1, 0)}[deliver]
        self._after = [after] * len(TIERS)
        #: whether the last look ended before it had seen everything
        self.unfinished = False
        most = reader.hub.limits.max_fetches
        if self.wait_ms and len(session.waiters) >= most:
            raise Mq9Error(
                f"this connection has {most} FETCHes that wait, the most it may have: wait for an answer to one of "
                "them, or ask with max_wait_ms 0"
            )
        name, member = fields.text("group_name", limit=4096), fields.text("member", limit=256)
        done = fields.ids("ack") or []
        self.named, self.grouped = bool(member), bool(name)
        #: what the last look leased
        self.given: list[int] = []
        self.holder = (session, member)
        self.group: Group | None = None
        if name:
            existing = reader.groups.find(mailbox, check_group(name))
            check_acknowledge(existing, mailbox, done, self.holder)
            # (to look for something begins no group)
            if existing is not None or self._wanted or done:
                self.group = reader.groups.open(mailbox, name, after, now)
                session.take_from(self.group)
            if done and self.group is not None:
                self.group.acknowledge(done, now)
        elif done:
            raise Mq9Error("ack needs group_name: without a group nothing is recorded")

    def collect(self, upto: int, now: int) -> tuple[list[bytes], bool]:
        """(messages in JSON, whether there are more), nothing above the id `upto`."""
        return self._of_group(self.group, upto, now) if self.group is not None else self._plain(upto, now)

    def settles(self, found: list[bytes], more: bool) -> bool:
        """Whether what `collect` gave is worth an answer before the wait is over."""
        return bool(found) or (more and not self._wanted and not self.unfinished)

    def _plain(self, upto: int, now: int) -> tuple[list[bytes], bool]:
        reader = self._reader
        page, look = Page(reader.room, self._wanted), Look()
        self.unfinished = False
        for tier in TIERS:
            for ids, values in reader.rows(self.mailbox, tier, self._after[tier], upto, page, look):
                last = ids[-1]
                ids, values = reader.messages.living(ids, values, now)
                fit = page.add(ids, values, [0] * len(ids))
                reader.delivered(self.mailbox, "", ids[:fit], values[:fit])
                if fit < len(ids):
                    return page.found, True
                if not page.found:
                    # the next look does not come by it again
                    self._after[tier] = last
            if look.over:
                self.unfinished = True
                return page.found, True
        return page.found, False

    def _of_group(self, group: Group, upto: int, now: int) -> tuple[list[bytes], bool]:
        page = Page(self._reader.room, self._wanted)
        self.given = []
        self.unfinished = False
        leases = group.leases
        deadline = now + self.mailbox.settings.ack_wait * 1000
        if self.named:
            for _, msg_id, value in group.held(self.holder, upto, now, deadline):
                if not page.add([msg_id], [value], leases.deliveries([msg_id])):
                    return page.found, True
        wanted = min(page.left + 1, group.room)
        for tier, ids, values in group.take(TIERS, wanted, upto, now, page.room):
            fit = page.add(ids, values, leases.deliveries(ids))
            leases.begin(ids[:fit], tier, self.holder, deadline)
            self.given += ids[:fit]
            self._reader.delivered(self.mailbox, group.name, ids[:fit], values[:fit])
            if fit < len(ids):
                group.give_back(tier, *ids[fit:])
                return self._leased(group, page, deadline), True
        self.unfinished = group.unfinished
        more = self.unfinished or (self._wanted > 0 >= group.room and group.has_more(TIERS, upto, now))
        return self._leased(group, page, deadline), more

    def _leased(self, group: Group, page: Page, deadline: int) -> list[bytes]:
        if page.found:
            self._reader.hub.watch_leases(group, deadline)
        return page.found

    def try_again(self, now: int) -> bytes | None:
        """The answer, if there is something by now."""
        found, more = self.collect(self.mailbox.visible, now)
        if self.settles(found, more):
            return self._reader.fetched(self, found, more, self.mailbox.visible, now)
        if self.unfinished:
            self._reader.hub.stir(self.mailbox)
        return None

    def answer(self, now: int) -> bytes:
        """The answer when the wait is over."""
        return self._reader.fetched(self, [], False, self.mailbox.visible, now)


class Page:
    """Messages that fit into one reply: at most `limit`, and the bytes there are. One alone always fits."""

    __slots__ = ("found", "left", "room")

    def __init__(self, room: int, limit: int) -> None:
        self.room = room
        self.left = limit
        self.found: list[bytes] = []

    def add(self, ids: Sequence[int], values: list[bytes], deliveries: list[int]) -> int:
        """How many of these messages found a place."""
        shown = as_json(ids[: self.left], values[: self.left], deliveries[: self.left])
        if not shown:
            return 0
        whole = orjson.dumps(shown)[1:-1]
        if len(whole) < self.room or len(shown) == 1:
            return self._put(whole, len(shown))
        for at, message in enumerate(shown):
            if not self._put(orjson.dumps(message), 1):
                return at
        return len(shown)

    def _put(self, messages: bytes, count: int) -> int:
        if self.found and len(messages) >= self.room:
            return 0
        self.room -= len(messages) + 1
        self.left -= count
        self.found.append(messages)
        return count


class Reader:
    """The reading verbs."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.messages = hub.messages
        self.groups = hub.groups
        self.room = hub.limits.max_payload - _REST

    def query(self, mailbox: Mailbox, fields: Fields, now: int) -> bytes:
        key, tags = fields.text("key", limit=65_536).encode(), fields.texts("tags", 100)
        limit = fields.integer("limit", 100, 0, 1000)
        since = fields.integer("since", 0, 0, _MAX_ID) * 1000
        tier, after = _cursor(fields.text("after", limit=64))
        name = fields.text("group_name", limit=4096)
        waiting = ""
        if name:
            group = self.groups.find(mailbox, check_group(name))
            counts = group.waiting(mailbox.last_id, now) if group else self._stored(mailbox, now)
            waiting = _waiting(counts)
        page, look = Page(self.room, limit), Look()
        following = ""
        only = self.messages.by_key(mailbox, key) if key else None
        while tier < len(TIERS) and limit and not following and (only or not key):
            last = after
            start, upto = after, mailbox.last_id
            if only is not None:
                start, upto = (max(after, only[1] - 1), only[1]) if tier == only[0] else (0, 0)
            for looked_at, values in self.rows(mailbox, tier, start, upto, page, look):
                ids, values = self.messages.living(looked_at, values, now)
                if since or tags:
                    kept = [
                        at
                        for at, value in enumerate(values)
                        if keys.created_of(value) >= since and (not tags or _tagged(value, tags))
                    ]
                    ids, values = [ids[at] for at in kept], [values[at] for at in kept]
                fit = page.add(ids, values, [0] * len(ids))
                self.delivered(mailbox, "", ids[:fit], values[:fit])
                if fit < len(ids):
                    place = looked_at.index(ids[fit])
                    following = f"{tier}.{looked_at[place - 1] if place else last}"
                    break
                last = looked_at[-1]
            if look.over:
                following = f"{tier}.{last}"
            tier, after = tier + 1, 0
        tail = f',"next":"{following}"' if following else ""
        return _reply(page.found, f'"unread":{self.messages.count(mailbox, now)}{tail}{waiting}')

    def rows(
        self, mailbox: Mailbox, tier: int, after: int, upto: int, page: Page, look: Look
    ) -> Iterator[tuple[Sequence[int], list[bytes]]]:
        """(ids, encoded messages) of a tier with after < id <= upto, expired ones included, as the page has room."""
        found = self.messages.scan(mailbox, tier, after, upto)
        least = 0
        while (row := look.cut(found, max(page.left + 1, least), page.room))[0]:
            yield row
            # (where some did not count, many more in a row may not)
            least = ROW

    def delivered(self, mailbox: Mailbox, group: str, ids: Sequence[int], values: list[bytes]) -> None:
        """These are written to a reader; some may be watched."""
        for msg_id, value in watched(ids, values):
            self.hub.delivered(mailbox, group, msg_id, value)

    def fetch(self, fetch: Fetch, now: int) -> bytes | None:
        """The answer, or None when it comes later."""
        upto = fetch.mailbox.last_id
        if not fetch.reply:
            return None  # nothing is leased to nobody
        found, more = fetch.collect(upto, now)
        if fetch.group is not None and fetch.given:
            self.hub.leased.append((fetch.group, fetch.given))
        if not fetch.wait_ms or fetch.settles(found, more):
            return self.fetched(fetch, found, more, upto, now)
        self.hub.wait(fetch, now + fetch.wait_ms)
        if fetch.unfinished:
            self.hub.stir(fetch.mailbox)
        return None

    def fetched(self, fetch: Fetch, found: list[bytes], more: bool, upto: int, now: int) -> bytes:
        waiting = ""
        if fetch.grouped:
            group = fetch.group
            waiting = _waiting(group.waiting(upto, now) if group is not None else self._stored(fetch.mailbox, now))
        return _reply(found, f'"more":{"true" if more else "false"}{waiting}')

    def ack(self, session: Session, mailbox: Mailbox, fields: Fields, now: int) -> bytes:
        name, member = fields.text("group_name", limit=4096), fields.text("member", limit=256)
        if not name:
            raise Mq9Error("ACK needs group_name: without a group nothing is recorded")
        listed, upto = fields.ids("msg_ids"), fields.integer("msg_id", 0, 1, _MAX_ID)
        if (listed is None) == (not upto):
            raise Mq9Error("ACK needs either msg_ids, a list, or msg_id, up to which all is acknowledged")
        group = self.groups.find(mailbox, check_group(name))
        if group is None:
            raise Mq9Error(f"group {name} does not exist: it begins with a FETCH or a queue subscription")
        holder = (session, member)
        if listed is None:
            group.acknowledge_upto(upto, holder, now)
        else:
            check_acknowledge(group, mailbox, listed, holder)
            group.acknowledge(listed, now)
        self.hub.stir(mailbox)
        return b'{"error":""}'

    def _stored(self, mailbox: Mailbox, now: int) -> list[int]:
        return [min(count, MAX_WAITING) for count in self.messages.counts(mailbox, now)]


def as_json(ids: Sequence[int], values: list[bytes], deliveries: list[int]) -> list[dict[str, object]]:
    """Stored messages as JSON shows them; `deliveries` says how often each was given out, 0 that nobody counts."""
    blocks = {count: {"mq9-deliveries": str(count)} if count else None for count in {*deliveries}}
    if {value[9:27] for value in values} == {keys.PLAIN}:
        # nothing but a priority and a payload: no need to take them apart
        try:
            return [
                {
                    "msg_id": msg_id,
                    "payload": value[27:].decode(),
                    "priority": word,
                    "headers": blocks[count],
                    "create_time": second,
                }
                for msg_id, value, count, (word, second) in zip(ids, values, deliveries, _heads(values), strict=False)
            ]
        except UnicodeDecodeError:
            pass
    return [
        _shown(msg_id, keys.decode_message(value), count)
        for msg_id, value, count in zip(ids, values, deliveries, strict=True)
    ]


def _heads(values: list[bytes]) -> Iterable[tuple[str, int]]:
    """(priority, time in seconds) of each of these encoded messages."""
    # (the least and the most by their first bytes, which are the priority and the time: mostly the same)
    least, most = _head(min(values)), _head(max(values))
    return repeat(least) if least == most else map(_head, values)


def _head(value: bytes) -> tuple[str, int]:
    return WORDS[value[0]], keys.created_of(value) // 1000


def _shown(msg_id: int, message: Message, deliveries: int) -> dict[str, object]:
    try:
        payload = {"payload": message.payload.decode()}
    except UnicodeDecodeError:
        payload = {"payload": b64encode(message.payload).decode(), "encoding": "base64"}
    return {
        "msg_id": msg_id,
        **payload,
        "priority": WORDS[message.code],
        "headers": _headers(message, deliveries),
        "create_time": message.created // 1000,
    }


def _reply(found: list[bytes], rest: str) -> bytes:
    """`found` is messages in JSON, with commas where one holds several."""
    return b'{"error":"","messages":[%b],%b}' % (b",".join(found), rest.encode())


def _headers(message: Message, deliveries: int) -> dict[str, str | list[str]] | None:
    pairs = headers.parse(message.lines)
    if message.sender:
        pairs.append(("mq9-from", message.sender.decode()))
    if message.reply:
        pairs.append(("mq9-reply-to", message.reply.decode("utf-8", "replace")))
    if message.hops is not None:
        pairs.append(("mq9-hops", str(message.hops)))
    if deliveries:
        pairs.append(("mq9-deliveries", str(deliveries)))
    return headers.as_mapping(pairs)


def _tagged(value: bytes, tags: list[str]) -> bool:
    """Whether an encoded message has all of these."""
    has = keys.field_of(value, TAGS).decode().split(",")
    return all(tag in has for tag in tags)


def _cursor(text: str) -> tuple[int, int]:
    """(tier, id) behind which a QUERY goes on."""
    if not text:
        return 0, 0
    tier, _, after = text.partition(".")
    if not (text.isascii() and tier.isdigit() and after.isdigit() and len(after) <= 18 and int(tier) < len(TIERS)):
        raise Mq9Error(f"after must be the next of an earlier reply, not {text!r}")
    return int(tier), int(after)


def _waiting(counts: list[int]) -> str:
    return _WAITING % tuple(counts)
