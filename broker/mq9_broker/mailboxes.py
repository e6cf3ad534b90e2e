"""Mailboxes: which exist, since when, until when, and what is known of those in use. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any

from mq9_broker import addresses, keys
from mq9_broker.errors import Mq9Error
from mq9_broker.model import NEVER, Change, Limits, Settings
from mq9_broker.patterns import Patterns
from mq9_broker.schedule import Schedule
from mq9_broker.store import Store
from mq9_broker.store.pending import Pending

if TYPE_CHECKING:
    from mq9_broker.group import Group

#: So many mailboxes that nobody listens to stay in memory, of a kilobyte each.
_IN_USE = 16_384


class Mailbox:
    """One mailbox in use. The first block is its stored record, the second its stored counters, the third in memory.

    `expires` in ms. `tails[t]` is the newest id given out in a tier, `heads[t]` no later than the first live one,
    `counts[t]` how many are stored, `delayed` how many wait for their time; `counted` says whether these counters are.
    `visible` is the newest id that is committed: pushes stop there.
    """

    __slots__ = (
        "address",
        "counted",
        "counts",
        "created",
        "delayed",
        "dirty",
        "ended",
        "expires",
        "fresh",
        "group_count",
        "groups",
        "heads",
        "incarnation",
        "last_id",
        "last_serial",
        "latest",
        "max_msgs",
        "owner",
        "pending",
        "removals",
        "renewed",
        "settings",
        "tails",
        "visible",
        "waiters",
        "watchers",
    )

    def __init__(
        self,
        address: str,
        incarnation: int,
        expires: int,
        created: int,
        owner: str,
        renewed: int,
        settings: Settings,
        pending: Pending,
    ) -> None:
        self.address = address
        self.incarnation = incarnation
        self.expires = expires
        self.created = created
        self.owner = owner
        self.renewed = renewed
        self.settings = settings

        self.last_id = 0
        self.tails = [0, 0, 0, 0]
        self.heads = [0, 0, 0, 0]
        self.counts = [0, 0, 0, 0]
        self.group_count = 0
        self.last_serial = 0
        self.delayed = 0
        self.counted = False

        # (of the settings, because every send asks)
        self.latest = settings.latest
        self.max_msgs = settings.max_msgs
        self.pending = pending
        self.visible = 0
        self.removals = 0
        self.dirty = False
        self.ended = ""
        self.watchers: dict[Any, None] = {}
        self.waiters: dict[Any, None] = {}
        self.groups: dict[str, Group] = {}
        # messages of the turn, (tier, id, encoded), kept only while somebody listens
        self.fresh: list[tuple[int, int, bytes]] = []

    @property
    def is_public(self) -> bool:
        """Whether the address is a name (in the directory or not): ended and renewed only by its owner."""
        return bool(self.owner)

    @property
    def count(self) -> int:
        """How many messages are stored."""
        return sum(self.counts)

    @property
    def used(self) -> bool:
        """Whether anything was ever stored in it: else there is nothing to write and nothing to purge."""
        return bool(self.last_id or self.group_count or self.last_serial or self.counted)

    @property
    def listening(self) -> bool:
        """Whether a stored message has to be shown to somebody."""
        return bool(self.watchers or self.waiters or self.groups)

    @property
    def idle(self) -> bool:
        """Whether forgetting it loses nothing."""
        if self.dirty or self.watchers or self.waiters or self.visible != self.last_id:
            return False
        return not (self.groups and any(group.needed for group in self.groups.values()))

    def load_counters(self, value: bytes | None) -> None:
        counters = [*keys.decode_counters(value or b"")]
        self.counted = value is not None
        self.last_id = self.visible = counters[0]
        self.tails = counters[1:5]
        self.heads = counters[5:9]
        self.counts = counters[9:13]
        self.group_count, self.last_serial, self.delayed = counters[13:]

    def counters(self) -> bytes:
        return keys.encode_counters(
            (self.last_id, *self.tails, *self.heads, *self.counts, self.group_count, self.last_serial, self.delayed)
        )


class Mailboxes:
    """All mailboxes of the broker, in two places: `disk` and, for storage memory, `memory` (the same one when the
    broker itself stores in memory). Writes go to what is pending; `seal` closes a turn's writes."""

    def __init__(self, disk: Store, memory: Store, limits: Limits, random: Callable[[int], bytes]) -> None:
        self.disk = Pending(disk)
        self.memory = self.disk if memory is disk else Pending(memory)
        self.places = (self.disk,) if self.memory is self.disk else (self.disk, self.memory)
        self.schedule = Schedule(self.places)
        self.patterns = Patterns(self.places)
        self.limits = limits
        self.random = random
        #: where the records of ended mailboxes begin that still have to go, and whether there are any
        self.remains = dict.fromkeys(self.places, keys.purge(0))
        self.unpurged = True
        self._in_use: dict[str, Mailbox] = {}
        # with so many in use some go, if that is more than _IN_USE
        self._most = 0
        # those that went this turn and have groups
        self._pushed_out: list[Mailbox] = []
        self._incarnation = keys.number(self.disk.get(keys.INCARNATION_KEY) or b"")
        self._stored_incarnation = self._incarnation
        self.dirty: list[Mailbox] = []
        self.changes: list[Change] = []
        self.ended: list[Mailbox] = []

    # finding

    def find(self, kept: str, now: int) -> Mailbox | None:
        """The living mailbox of a send-only address (its owner's too) or a name."""
        found = self._in_use.get(kept)
        if found is None:
            found = self._load(kept)
            if found is None and addresses.is_send_only(kept):
                name = self._get(keys.owner(kept))
                if name is not None:
                    return self.find(name.decode(), now)
        return found if found is not None and found.expires > now else None

    def _get(self, key: bytes) -> bytes | None:
        for place in self.places:
            value = place.get(key)
            if value is not None:
                return value
        return None

    def _load(self, kept: str) -> Mailbox | None:
        for place in self.places:
            record = place.get(keys.mailbox(kept))
            if record is not None:
                mailbox = Mailbox(kept, *keys.decode_mailbox(record), place)
                mailbox.load_counters(place.get(keys.counters(mailbox.incarnation)))
                self._keep(mailbox)
                return mailbox
        return None

    def _keep(self, mailbox: Mailbox) -> None:
        if len(self._in_use) >= max(_IN_USE, self._most):
            self._evict()
        self._in_use[mailbox.address] = mailbox

    def _evict(self) -> None:
        # the oldest go, many at once and not so many that others wait: the cost per look-up stays constant
        oldest = list(islice(self._in_use.values(), len(self._in_use) // 16 + 1))
        for mailbox in oldest:
            del self._in_use[mailbox.address]
            if not mailbox.idle:
                self._in_use[mailbox.address] = mailbox
            elif mailbox.groups:
                self._pushed_out.append(mailbox)
        # (those that are listened to stay, and are not looked through again for each that comes)
        self._most = len(self._in_use) + len(oldest) // 4 + 1

    # living

    def listening(self) -> list[Mailbox]:
        """Those in use that somebody listens to."""
        return [mailbox for mailbox in self._in_use.values() if mailbox.listening]

    def create(self, name: str, settings: Settings, now: int) -> tuple[Mailbox, str]:
        """A new mailbox and its secret; `name` is empty for a private one. The caller made sure that it is free."""
        return self._create(name, addresses.secret_from(self.random(addresses.RANDOM)), settings, now)

    def create_all(self, count: int, settings: Settings, now: int) -> list[tuple[Mailbox, str]]:
        """The same for so many private ones."""
        random, size = self.random(count * addresses.RANDOM), addresses.RANDOM
        secrets = [addresses.secret_from(random[at : at + size]) for at in range(0, len(random), size)]
        return [self._create("", secret, settings, now) for secret in secrets]

    def _create(self, name: str, secret: str, settings: Settings, now: int) -> tuple[Mailbox, str]:
        send_only = addresses.send_only(secret)
        self._incarnation += 1
        expires = now + settings.ttl * 1000 if settings.ttl else NEVER
        mailbox = Mailbox(
            name or send_only,
            self._incarnation,
            expires,
            now,
            send_only if name else "",
            now,
            settings,
            self.memory if settings.memory else self.disk,
        )
        self._keep(mailbox)
        if name:
            mailbox.pending.put(keys.owner(send_only), name.encode())
            if settings.public:
                mailbox.pending.put(keys.public(name), b"")
        if settings.subscribe:
            self.patterns.add(mailbox.pending, mailbox.address, settings.subscribe)
        self._write(mailbox)
        self._announce("created", mailbox)
        return mailbox, secret

    def touch(self, mailbox: Mailbox) -> None:
        """Mark that the counters changed; they are written once per turn."""
        if not mailbox.dirty:
            mailbox.dirty = True
            self.dirty.append(mailbox)
            if not mailbox.ended:
                # (one that was looked up in between may have pushed it out)
                self._in_use.setdefault(mailbox.address, mailbox)

    def renew(self, mailbox: Mailbox, ttl: int, now: int) -> None:
        """Let it end `ttl` seconds from now, 0 never."""
        self._move(mailbox, now + ttl * 1000 if ttl else NEVER, now)

    def prolong(self, mailbox: Mailbox, ttl: int, now: int) -> None:
        """Keep it alive as its creation again does: never shorter, never more than its original ttl from now."""
        own = mailbox.settings.ttl
        ttl = min(ttl or own, own) if own else ttl
        self._move(mailbox, max(mailbox.expires, now + ttl * 1000 if ttl else NEVER), now)

    def _move(self, mailbox: Mailbox, expires: int, now: int) -> None:
        if expires == mailbox.expires:
            return
        self._unschedule(mailbox)
        mailbox.expires = expires
        # a worker that renews every second must not flood those who watch the directory
        if (now - mailbox.renewed) * 10 >= mailbox.settings.ttl * 1000:
            mailbox.renewed = now
            self._announce("renewed", mailbox)
        self._write(mailbox)

    def end(self, mailbox: Mailbox, event: str) -> None:
        """End it: `event` is expired or dropped. Its records go later, in small steps; nothing reads them again."""
        if mailbox.ended:
            return
        self._announce(event, mailbox)
        mailbox.ended = event
        mailbox.expires = 0
        place = mailbox.pending
        place.delete(keys.mailbox(mailbox.address))
        if mailbox.used:
            remains = keys.purge(mailbox.incarnation)
            place.put(remains, b"")
            self.remains[place] = min(self.remains[place], remains)
            self.unpurged = True
        if mailbox.owner:
            place.delete(keys.owner(mailbox.owner))
        if mailbox.settings.public:
            place.delete(keys.public(mailbox.address))
        if mailbox.settings.subscribe:
            self.patterns.remove(place, mailbox.address, mailbox.settings.subscribe)
        self._in_use.pop(mailbox.address, None)
        self.ended.append(mailbox)
        self.touch(mailbox)

    def drop(self, mailbox: Mailbox) -> None:
        """End it now, on request."""
        self._unschedule(mailbox)
        self.end(mailbox, "dropped")

    def expired(self, place: Pending, address: str, when: int) -> None:
        """What stood in the index of expiries fell due: end that mailbox, unless it was renewed since."""
        mailbox = self._in_use.get(address) or self._load(address)
        if mailbox is not None and mailbox.pending is place and mailbox.expires <= when:
            self.end(mailbox, "expired")

    def retire(self, address: str, now: int) -> None:
        """Complete the end of an expired mailbox of this address, if there is one, before its name begins anew."""
        mailbox = self._in_use.get(address) or self._load(address)
        if mailbox is not None and mailbox.expires <= now:
            self._unschedule(mailbox)
            self.end(mailbox, "expired")

    def listed(self, prefix: str, after: str, now: int) -> Iterator[tuple[str, Change | None]]:
        """The directory: (name, what it says) of the public mailboxes whose name starts with `prefix`, in order, from
        behind `after`; of one that is over by now it says nothing."""
        start = max(keys.public(prefix), keys.public(after) + b"\0" if after else b"")
        end = keys.public(prefix) + b"\xff"
        for name, _ in merge(*(place.scan(start, end) for place in self.places)):
            mailbox = self._peek(name[1:].decode())
            living = mailbox is not None and mailbox.expires > now
            yield name[1:].decode(), self._change("created", mailbox) if mailbox is not None and living else None

    def _peek(self, address: str) -> Mailbox | None:
        """As find, but what is only looked at does not push out what is in use."""
        found = self._in_use.get(address)
        if found is None:
            for place in self.places:
                record = place.get(keys.mailbox(address))
                if record is not None:
                    return Mailbox(address, *keys.decode_mailbox(record), place)
        return found

    # a turn's end

    def seal(self) -> list[tuple[Mailbox, int, list[tuple[int, int, bytes]]]]:
        """Write the counters of every mailbox the turn touched. Gives (mailbox, newest id, fresh messages) of each."""
        if self._incarnation != self._stored_incarnation:
            self.disk.put(keys.INCARNATION_KEY, keys.u64(self._incarnation))
            self._stored_incarnation = self._incarnation
        sealed = []
        for mailbox in self.dirty:
            mailbox.dirty = False
            if mailbox.used and not mailbox.ended:
                for group in mailbox.groups.values():
                    group.save()
                mailbox.pending.put(keys.counters(mailbox.incarnation), mailbox.counters())
                mailbox.counted = True
            sealed.append((mailbox, mailbox.last_id, mailbox.fresh))
            mailbox.fresh = []
        self.dirty = []
        # (a group refers to its mailbox: together they would stay until Python looks for garbage, hours later. What is
        # pushed out in the middle of an operation may come back with it)
        for mailbox in self._pushed_out:
            if self._in_use.get(mailbox.address) is not mailbox and mailbox.idle:
                mailbox.groups.clear()
        self._pushed_out = []
        return sealed

    def roll_back(self, touched: list[Mailbox]) -> list[Mailbox]:
        """A commit failed: what is known of these mailboxes, and of those the turn touched since, is again what the
        store knows; gives them all. One that it does not know has ended."""
        touched = touched + self.dirty
        # (what nobody listened to may have been pushed out with its writes on their way, and found again since)
        found = [self._in_use.get(mailbox.address) for mailbox in touched]
        touched += [again for mailbox, again in zip(touched, found, strict=True) if again not in (None, mailbox)]
        self.dirty = []
        self.changes = []
        self.ended = []
        for mailbox in touched:
            mailbox.dirty = False
            if self._in_use.get(mailbox.address) is mailbox:
                del self._in_use[mailbox.address]
            record = mailbox.pending.get(keys.mailbox(mailbox.address))
            if record is None or keys.decode_mailbox(record)[0] != mailbox.incarnation:
                mailbox.ended = "dropped"
                continue
            _, mailbox.expires, mailbox.created, mailbox.owner, mailbox.renewed, mailbox.settings = keys.decode_mailbox(
                record
            )
            mailbox.ended = ""
            mailbox.fresh = []
            mailbox.load_counters(mailbox.pending.get(keys.counters(mailbox.incarnation)))
            mailbox.groups = {name: group for name, group in mailbox.groups.items() if group.roll_back()}
            self._keep(mailbox)
        return touched

    def _write(self, mailbox: Mailbox) -> None:
        mailbox.pending.put(
            keys.mailbox(mailbox.address),
            keys.encode_mailbox(
                mailbox.incarnation,
                mailbox.expires,
                mailbox.created,
                mailbox.owner,
                mailbox.renewed,
                mailbox.settings,
            ),
        )
        if mailbox.expires != NEVER:
            self.schedule.add(mailbox.pending, mailbox.expires, keys.DUE_MAILBOX, mailbox.address.encode())
        self.touch(mailbox)

    def _unschedule(self, mailbox: Mailbox) -> None:
        self.schedule.remove(mailbox.pending, mailbox.expires, keys.DUE_MAILBOX, mailbox.address.encode())

    def _announce(self, event: str, mailbox: Mailbox) -> None:
        if mailbox.settings.public:
            self.changes.append(self._change(event, mailbox))

    @staticmethod
    def _change(event: str, mailbox: Mailbox) -> Change:
        settings = mailbox.settings
        return Change(event, mailbox.address, settings.desc, settings.ttl, mailbox.expires)


def require_ttl(ttl: int, limits: Limits) -> int:
    """`ttl` within the operator's maximum: Mq9Error above it; 0, no expiry, becomes the maximum."""
    if limits.max_ttl and ttl > limits.max_ttl:
        raise Mq9Error(f"ttl {ttl} is above this broker's maximum of {limits.max_ttl} seconds")
    return ttl or limits.max_ttl
