"""Whether a store is whole: that every entry points at something, that counts agree, that every value can be read.

Records are read as they come, one family of keys after the other, and looked up where they point; what is kept of them
in memory is one bit for each mailbox. What can be derived from other records can be repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import error as StructError

from mq9_broker import addresses, keys
from mq9_broker.messages import KEY, due_kind
from mq9_broker.model import CODE, EXPIRED, NEVER, TIER_NAMES, TIER_OF, TIERS, WATCHED, Settings
from mq9_broker.store import Batch, Store

#: The first bytes of all keys.
_FAMILIES = b"!ABCEIMPX"
_OF_BROKER = {keys.FORMAT_KEY, keys.INCARNATION_KEY, b"!probe"}
_BATCH = 1000
_TORN = (ValueError, KeyError, TypeError, IndexError, AttributeError, StructError)

Record = tuple[int, int, int, str, int, Settings]


class Numbers:
    """A set of numbers in about a bit each, as long as they are dense."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}
        self.highest = 0

    def add(self, number: int) -> bool:
        """Whether it is new."""
        self.highest = max(self.highest, number)
        block = self._blocks.setdefault(number >> 16, bytearray(8192))
        place, bit = (number & 0xFFFF) >> 3, 1 << (number & 7)
        new = not block[place] & bit
        block[place] |= bit
        return new

    def __contains__(self, number: int) -> bool:
        block = self._blocks.get(number >> 16)
        return block is not None and bool(block[(number & 0xFFFF) >> 3] & 1 << (number & 7))


class Check:
    """Looks through `store`. `say` gets a sentence for each thing that is wrong. With `repair`, what is derivable is
    written anew, as it goes; `now` in ms."""

    def __init__(self, store: Store, say: Callable[[str], None], *, repair: bool, now: int) -> None:
        self._store = store
        self._say = say
        self._repair = repair
        self._now = now
        self._batch = Batch()
        self._living, self._ended = Numbers(), Numbers()
        self._waking = 0
        #: how many records there are of each kind
        self.looked_at: Counter[str] = Counter()
        #: how many things are wrong, and how many of these can be repaired (or were)
        self.wrong = 0
        self.repairable = 0
        self._record = lru_cache(4096)(self._read_record)

    def run(self) -> None:
        """Look at everything."""
        passes = (self._mailboxes, self._remains, self._spaces, self._broker, self._owners, self._names)
        for look in (*passes, self._patterns, self._board, self._times, self._strangers):
            look()
            self._write()
            self._record.cache_clear()

    # saying and mending

    def _bad(self, what: str, mend: dict[bytes, bytes | None] | None = None) -> None:
        self.wrong += 1
        if mend is not None:
            self.repairable += 1
            if self._repair:
                self._batch.writes.update(mend)
                if len(self._batch.writes) >= _BATCH:
                    self._write()
        self._say(what + (": repaired" if mend is not None and self._repair else ""))

    def _write(self) -> None:
        if self._batch:
            self._store.commit(self._batch)
            self._batch = Batch()

    def _expect(self, key: bytes, value: bytes, what: str) -> None:
        if self._store.get(key) != value:
            self._bad(what, {key: value})

    def _unreadable(self, what: str, key: bytes) -> None:
        self._bad(f"{what} can't be read: its key is {key[:40]!r}")

    def _family(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan(first, bytes((first[0] + 1,)))

    def _read_record(self, address: str) -> Record | None:
        value = self._store.get(keys.mailbox(address))
        try:
            return keys.decode_mailbox(value) if value is not None else None
        except _TORN:
            return None

    # mailboxes

    def _mailboxes(self) -> None:
        for key, value in self._family(b"M"):
            self.looked_at["mailboxes"] += 1
            try:
                address = key[1:].decode()
                record = keys.decode_mailbox(value)
            except _TORN:
                self._unreadable("the record of a mailbox", key)
                continue
            if not addresses.is_send_only(address) and addresses.name_problem(address) is not None:
                self._bad(f"a mailbox is kept under {address[:140]!r}, which is no address")
            if not self._living.add(record[0]):
                self._bad(f"mailbox {address} has the same records as another: both are number {record[0]}")
            self._pointed_at(address, record)
            _Space(self, address, record).look()

    def _pointed_at(self, address: str, record: Record) -> None:
        _, expires, _, owner, _, settings = record
        if owner:
            self._expect(keys.owner(owner), address.encode(), f"the owner address of {address} is not known")
        if settings.public:
            self._expect(keys.public(address), b"", f"{address} is missing in the directory")
        if expires != NEVER:
            due = keys.due(expires, keys.DUE_MAILBOX, address.encode())
            self._expect(due, b"", f"mailbox {address} would never be removed after its end")
        for pattern in settings.subscribe:
            self._expect(keys.broadcasts(pattern, address), b"", f"{address} would miss the broadcasts {pattern}")

    def _remains(self) -> None:
        for key, _ in self._family(b"X"):
            incarnation = keys.number(key[1:])
            self.looked_at["ended mailboxes"] += 1
            if incarnation in self._living:
                self._bad(f"the records of a living mailbox, number {incarnation}, were to be removed", {key: None})
            self._ended.add(incarnation)

    def _spaces(self) -> None:
        """Records that belong to no mailbox."""
        start = keys.space(0)[0]
        while (found := next(self._store.scan(start, b"J"), None)) is not None:
            incarnation = keys.number(found[0][1:9])
            if incarnation not in self._living and incarnation not in self._ended:
                remove: dict[bytes, bytes | None] = {keys.purge(incarnation): b""}
                self._bad(f"there are records of a mailbox that does not exist, number {incarnation}", remove)
                self._ended.add(incarnation)
            if incarnation == (1 << 64) - 1:
                return
            start = keys.space(incarnation)[1]

    def _broker(self) -> None:
        for key, value in self._family(b"!"):
            if key not in _OF_BROKER:
                self._bad(f"the key {key[:40]!r} is none of this version's")
            elif key == keys.INCARNATION_KEY and len(value) != 8:
                self._unreadable("the number of the newest mailbox", key)
        highest = max(self._living.highest, self._ended.highest)
        if keys.number(self._store.get(keys.INCARNATION_KEY) or b"") < highest:
            mend: dict[bytes, bytes | None] = {keys.INCARNATION_KEY: keys.u64(highest)}
            self._bad(f"the number {highest} would be given to a mailbox again", mend)

    # what points at mailboxes

    def _owners(self) -> None:
        for key, value in self._family(b"A"):
            self.looked_at["owner addresses"] += 1
            name, owner = value.decode("utf-8", "replace"), key[1:].decode("utf-8", "replace")
            record = self._record(name)
            if record is None or record[3] != owner:
                self._bad(f"{owner} is the owner address of {name[:140]!r}, which is not its mailbox", {key: None})

    def _names(self) -> None:
        for key, _ in self._family(b"P"):
            self.looked_at["names in the directory"] += 1
            name = key[1:].decode("utf-8", "replace")
            record = self._record(name)
            if record is None or not record[5].public:
                self._bad(f"the directory has {name[:140]!r}, which is no public mailbox", {key: None})

    def _patterns(self) -> None:
        for key, _ in self._family(b"B"):
            self.looked_at["patterns of broadcasts"] += 1
            try:
                pattern, address = keys.split_broadcasts(key)
            except _TORN:
                self._unreadable("a pattern", key)
                continue
            record = self._record(address)
            if record is None or pattern not in record[5].subscribe:
                self._bad(f"broadcasts {pattern} would be stored in {address[:140]!r}, which did not ask", {key: None})

    def _board(self) -> None:
        for key, value in self._family(b"C"):
            self.looked_at["capabilities"] += 1
            if len(key) != 17 or len(value) < 17 or len(value) < 17 + value[16]:
                self._unreadable("a capability", key)
            elif not value[16]:
                due = keys.due(keys.number(value[8:16]), keys.DUE_CAPABILITY, key[1:])
                self._expect(due, b"", "a capability would never be forgotten")

    # what falls due

    def _times(self) -> None:
        waking = 0
        for key, value in self._family(b"E"):
            self.looked_at["times"] += 1
            when, kind, rest = keys.split_due(key)
            try:
                problem = self._time(when, kind, rest, value.decode())
            except _TORN:
                problem = "can't be read"
            if problem:
                self._bad(f"an entry of the index of times {problem}", {key: None})
            elif kind == keys.DUE_DELAYED and keys.number(rest[:8]) in self._living:
                waking += 1
        if waking != self._waking:
            self._wake()

    def _time(self, when: int, kind: bytes, rest: bytes, address: str) -> str:
        """What is wrong with an entry. Those of mailboxes that ended stay until they are due."""
        if kind == keys.DUE_MAILBOX:
            record = self._record(rest.decode())
            return "" if record is not None and record[1] == when else "ends a mailbox that does not end then"
        if kind == keys.DUE_CAPABILITY:
            return "" if len(rest) == 16 else "is of no capability"
        incarnation = keys.number(rest[1:9] if kind == keys.DUE_DEDUP else rest[:8])
        if incarnation not in self._living:
            return ""
        if kind == keys.DUE_DEDUP:
            seen = self._store.get(rest)
            return "" if seen is not None and keys.number(seen[8:]) >= when else "is of no Nats-Msg-Id"
        record = self._record(address)
        if record is None or record[0] != incarnation:
            return f"is of a mailbox that is not {address[:140]}"
        if kind == keys.DUE_DELAYED:
            there = self._store.get(keys.delayed(incarnation, keys.number(rest[8:]))) is not None
            return "" if there else f"delivers a message to {address} that is not there"
        if kind == keys.DUE_GROUP:
            return ""  # a group may be gone before it is looked at
        if kind not in (keys.DUE_MESSAGE, keys.DUE_WATCHED):
            return f"has the unknown kind {kind!r}"
        message = self.message(record, rest[8], keys.number(rest[9:]))
        if message is None or keys.expires_of(message) != when or kind != due_kind(message):
            return f"ends a message of {address} that is not there, or does not end then"
        return ""

    def _wake(self) -> None:
        """Some delayed messages have no time: which (in memory, because it does not happen)."""
        awaited = {rest for _, kind, rest in self._all_times() if kind == keys.DUE_DELAYED}
        for key, value in self._family(b"M"):
            record = self._record(key[1:].decode("utf-8", "replace"))
            if record is None or not value:
                continue
            first, last = keys.delayed(record[0], 0), keys.delayed(record[0], (1 << 64) - 1)
            for delayed, _ in self._store.scan(first, last):
                rest = delayed[1:9] + delayed[10:]
                if rest not in awaited:
                    due = keys.due(self._now, keys.DUE_DELAYED, rest)
                    address = key[1:].decode()
                    self._bad(f"a delayed message to {address} would never be delivered", {due: address.encode()})

    def _all_times(self) -> Iterator[tuple[int, bytes, bytes]]:
        return (keys.split_due(key) for key, _ in self._family(b"E"))

    def _strangers(self) -> None:
        ends = [0, *(family + 1 for family in _FAMILIES)]
        for first, last in zip(ends, [*_FAMILIES, 256], strict=True):
            start = bytes((first,)) if first else b""
            for key, _ in self._store.scan(start, bytes((last,)) if last < 256 else b"\xff" * 64):
                self._bad(f"the key {key[:40]!r} is none of this version's")

    # what spaces ask for

    def message(self, record: Record, tier: int, msg_id: int) -> bytes | None:
        """A stored message, encoded."""
        if not record[5].latest:
            return self._store.get(keys.message(record[0], tier, msg_id))
        value = self._store.get(keys.latest(record[0]))
        if value is None:
            return None
        found_tier, found_id, encoded = keys.decode_latest(value)
        return encoded if (found_tier, found_id) == (tier, msg_id) else None


class _Space:
    """The records of one mailbox, in their order."""

    def __init__(self, check: Check, address: str, record: Record) -> None:
        self._check = check
        self._address = address
        self._record = record
        self._incarnation = record[0]
        self._counts = [0] * 4
        self._lowest = [0] * 4
        self._highest = [0] * 4
        self._last_serial = 0
        self._groups = 0
        self._delayed = 0
        self._counters: bytes | None = None

    def look(self) -> None:
        kinds = {
            b"a": self._asked,
            b"d": self._dedup,
            b"g": self._group,
            b"k": self._keyed,
            b"l": self._latest,
            b"m": self._message,
            b"s": self._seen_counters,
            b"z": self._delayed_message,
        }
        check = self._check
        empty = True
        for key, value in check._store.scan(*keys.space(self._incarnation)):
            empty = False
            look = kinds.get(key[9:10])
            if look is None:
                check._bad(f"mailbox {self._address} has the key {key[9:40]!r}, none of this version's")
                continue
            try:
                look(key, value)
            except _TORN:
                check._unreadable(f"a record of mailbox {self._address}", key)
        if not empty:
            self._compare()

    def _message(self, key: bytes, value: bytes) -> None:
        self._one(key[10], keys.number(key[11:]), value)

    def _latest(self, key: bytes, value: bytes) -> None:
        self._one(*keys.decode_latest(value))

    def _one(self, tier: int, msg_id: int, value: bytes) -> None:
        check, address = self._check, self._address
        check.looked_at["messages"] += 1
        keys.decode_message(value)
        self._counts[tier] += 1
        self._lowest[tier] = self._lowest[tier] or msg_id
        self._highest[tier] = msg_id
        what = f"message {msg_id} of {address}"
        if TIER_OF[value[0] & CODE] != tier:
            check._bad(f"{what} is in the wrong tier")
        place = keys.u64(self._incarnation) + bytes((tier,)) + keys.u64(msg_id)
        expires = keys.expires_of(value)
        if expires:
            due = keys.due(expires, due_kind(value), place)
            check._expect(due, address.encode(), f"{what} would never be removed after its end")
        if value[0] < WATCHED:
            return
        if value[0] & EXPIRED:
            asked = keys.asked(self._incarnation, tier, msg_id)
            check._expect(asked, address.encode(), f"nobody would hear of the end of {what}")
        name = keys.field_of(value, KEY)
        if name and not self._record[5].latest:
            key = keys.keyed(self._incarnation, name)
            newest = check._store.get(key)
            if newest is None or check.message(self._record, newest[0], keys.number(newest[1:])) is None:
                mend: dict[bytes, bytes | None] = {key: bytes((tier,)) + keys.u64(msg_id)}
                check._bad(f"{what} is not found by its mq9-key", mend)
            elif newest != bytes((tier,)) + keys.u64(msg_id):
                check._bad(f"{what} is not the newest of its mq9-key")

    def _asked(self, key: bytes, address: bytes) -> None:
        _incarnation, tier, msg_id = keys.split_asked(key)
        value = self._check.message(self._record, tier, msg_id)
        if value is None or not value[0] & EXPIRED:
            what = f"the end of message {msg_id} of {self._address} is waited for, without need"
            self._check._bad(what, {key: None})

    def _keyed(self, key: bytes, value: bytes) -> None:
        message = self._check.message(self._record, value[0], keys.number(value[1:]))
        found = keys.field_of(message, KEY) if message is not None else b""
        if not found or keys.keyed(self._incarnation, found) != key:
            self._check._bad(f"a mq9-key of {self._address} leads to no message", {key: None})

    def _dedup(self, key: bytes, value: bytes) -> None:
        self._check.looked_at["Nats-Msg-Ids"] += 1
        if len(key) != 26 or len(value) != 16:
            raise ValueError
        due = keys.due(keys.number(value[8:]), keys.DUE_DEDUP, key)
        self._check._expect(due, b"", f"a Nats-Msg-Id of {self._address} would never be forgotten")

    def _group(self, key: bytes, value: bytes) -> None:
        self._check.looked_at["groups"] += 1
        self._groups += 1
        name = key[10:].decode()
        _, tiers = keys.decode_position(value)
        if len(tiers) != len(TIERS):
            raise ValueError
        for upto, holes, _ahead in tiers:
            if any(msg_id > upto for msg_id in holes):
                self._check._bad(f"group {name} of {self._address} waits for what it has not given out")

    def _delayed_message(self, key: bytes, value: bytes) -> None:
        self._check.looked_at["delayed messages"] += 1
        keys.decode_message(value)
        self._check._waking += 1
        self._delayed += 1
        self._last_serial = keys.number(key[10:])

    def _seen_counters(self, _: bytes, value: bytes) -> None:
        self._counters = value

    def _compare(self) -> None:
        """The counters with what was counted."""
        check, address = self._check, self._address
        values = [*keys.decode_counters(self._counters or b"")]
        right = [*values]
        for tier in TIERS:
            right[1 + tier] = max(values[1 + tier], self._highest[tier])
            if self._counts[tier]:
                right[5 + tier] = min(values[5 + tier], self._lowest[tier])
        right[0] = max(values[0], *right[1:5])
        right[9:13] = self._counts
        right[13] = self._groups
        right[14] = max(values[14], self._last_serial)
        right[15] = self._delayed
        if right == values and self._counters is not None:
            return
        mend: dict[bytes, bytes | None] = {keys.counters(self._incarnation): keys.encode_counters(tuple(right))}
        wrong = [
            f"it counts {counted} {name} messages, there are {there}"
            for name, counted, there in zip(TIER_NAMES, values[9:13], self._counts, strict=True)
            if counted != there
        ]
        for at, what in ((13, "groups"), (15, "delayed messages")):
            if values[at] != right[at]:
                wrong.append(f"it counts {values[at]} {what}, there are {right[at]}")
        if values[:9] != right[:9] or values[14] != right[14]:
            wrong.append(f"its newest message is not {values[0]} but {right[0]}, or it would not find all of them")
        check._bad(f"mailbox {address}: {'; '.join(wrong) or 'it has no counters'}", mend)
