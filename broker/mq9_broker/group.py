"""One group: competing readers of a mailbox, with one stored position and leases in memory.

Per tier a group knows the last id it gave out (`upto`) and which of those up to it are not acknowledged (`holes`); an
id acknowledged before it was given out waits in `ahead`. That is its stored position: after a restart everything in
`holes` is given out again, then what comes after `upto`. Of the holes, those that are out are leased, the others have
returned (they are given out again, in their place) or are doomed (they were given out as often as may be).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from mq9_broker import keys
from mq9_broker.deadletters import MAX_DELIVER, TERMINATED
from mq9_broker.errors import Mq9Error
from mq9_broker.leases import PUT_OFF, Connection, Holder, Lease, Leases
from mq9_broker.mailboxes import Mailbox
from mq9_broker.messages import COUNTED, ROW, Look, watched
from mq9_broker.model import NEVER, TIERS, WATCHED

if TYPE_CHECKING:
    from mq9_broker.groups import Groups

MAX_OUT = 1000
MAX_WAITING = 1000
UNUSED_FOR = 7 * 86_400_000
_LOOK_AGAIN = 86_400_000


class Group:
    """One group of one mailbox."""

    __slots__ = (
        "__weakref__",
        "_ahead",
        "_asked",
        "_buried",
        "_buried_before",
        "_changed",
        "_consumes",
        "_counted",
        "_counted_at",
        "_dead_letters",
        "_doomed",
        "_holes",
        "_messages",
        "_passed",
        "_receipts",
        "_returned",
        "_schedule",
        "_touch",
        "_upto",
        "_used",
        "leases",
        "mailbox",
        "members",
        "name",
        "timer",
        "unfinished",
    )

    def __init__(self, mailbox: Mailbox, name: str, groups: Groups) -> None:
        self.mailbox = mailbox
        self.name = name
        self._touch = groups.mailboxes.touch
        self._schedule = groups.mailboxes.schedule
        self._messages = groups.messages
        self._receipts = groups.receipts
        self._dead_letters = groups.dead_letters
        self._consumes = mailbox.settings.retain_ack
        self._used = 0
        self._changed = False
        self._upto = [0, 0, 0, 0]
        self._holes: dict[int, int] = {}
        self._ahead: dict[int, int] = {}
        # of these, what the position went by with the last row that was taken
        self._passed: set[int] = set()
        # holes whose message may have to be looked at when it is done: somebody wants a receipt
        self._asked: set[int] = set()
        # per tier (how many, up to which id) of the messages behind the position, as of so many removals
        self._counted = [(0, 0)] * 4
        self._counted_at = mailbox.removals
        self._returned: tuple[list[int], ...] = ([], [], [], [])
        self._doomed: dict[int, str] = {}
        # the doomed whose end may not be stored yet
        self._buried: dict[int, str] = {}
        self._buried_before: dict[int, str] = {}
        self.leases = Leases(groups.mailboxes.random)
        self.members: OrderedDict[Any, None] = OrderedDict()
        self.timer = 0
        #: whether the last `take` had looked at enough before it was at the end: there may be more
        self.unfinished = False

    @property
    def in_use(self) -> bool:
        """Whether it has members or leases."""
        return bool(self.members or self.leases.out)

    @property
    def needed(self) -> bool:
        """Whether it must stay in memory: also while a late acknowledgement may come to it, or a message has to go to
        the dead letters."""
        return self.in_use or self.leases.claimed or bool(self._doomed)

    @property
    def ahead(self) -> int:
        """How many acknowledgements came before their message was given out."""
        return len(self._ahead)

    @property
    def room(self) -> int:
        """How many more messages may be out."""
        return MAX_OUT - len(self.leases.out)

    # giving out

    def take(
        self, tiers: tuple[int, ...], limit: int, upto: int, now: int, size: int
    ) -> Iterator[tuple[int, Sequence[int], list[bytes]]]:
        """Up to `limit` messages to give out next, in order, none above the id `upto`, in rows (tier, ids, encoded) of
        one tier each, which end when they have `size` bytes or more.

        Each one taken must be leased or given back; the iterator may be left early. What is given back is the end of
        the last row, and no more is taken then.
        """
        look = Look()
        self.unfinished = False
        for tier in tiers:
            self._passed = set()
            returned = self._returned[tier]
            while returned and limit and returned[0] <= upto:
                if look.ends():
                    self.unfinished = True
                    return
                msg_id = heappop(returned)
                if not self._is_back(msg_id) or (returned and returned[0] == msg_id):
                    continue  # (or it is there twice)
                value = self._messages.get(self.mailbox, tier, msg_id, now, look)
                if value is None:
                    self._forget(msg_id)
                    continue
                if value[0] >= WATCHED:
                    self._asked.add(msg_id)
                limit -= 1
                yield tier, [msg_id], [value]
            if not limit:
                return
            found = self._messages.scan(self.mailbox, tier, self._upto[tier], upto)
            least = 0
            while limit:
                ids, values = look.cut(found, max(limit, least), size)
                if not values:
                    break
                looked_at = len(values)
                ids, values = self._pass(tier, ids, values, now)
                # (where some have expired, many more in a row may have)
                least = ROW if len(values) < looked_at else 0
                if len(values) > limit:
                    self.give_back(tier, *ids[limit:])
                    ids, values = ids[:limit], values[:limit]
                limit -= len(values)
                if values:
                    yield tier, ids, values
            if not limit:
                return
            if look.over:
                self.unfinished = True
                return

    def _pass(self, tier: int, ids: Sequence[int], values: list[bytes], now: int) -> tuple[Sequence[int], list[bytes]]:
        """The position goes by messages that lie ahead: those of them that are to be given out."""
        self._upto[tier] = ids[-1]
        ahead = self._ahead
        passed = self._passed = {msg_id for msg_id in ids if ahead.pop(msg_id, None) is not None} if ahead else set()
        if passed:
            kept = [at for at, msg_id in enumerate(ids) if msg_id not in passed]
            ids, values = [ids[at] for at in kept], [values[at] for at in kept]
        ids, values = self._messages.living(ids, values, now)
        self._asked.update(msg_id for msg_id, _ in watched(ids, values))
        self._count(tier, ids, -1)
        self._holes.update(dict.fromkeys(ids, tier))
        return ids, values

    def give_back(self, tier: int, *ids: int) -> None:
        """Return what was taken last and not leased."""
        if ids[-1] != self._upto[tier] or not self.leases.returns.keys().isdisjoint(ids):
            for msg_id in ids:
                heappush(self._returned[tier], msg_id)
            return
        # nobody ever had them: they lie ahead again, and what was acknowledged between them
        self._upto[tier] = ids[0] - 1
        self._ahead.update((msg_id, tier) for msg_id in self._passed if msg_id > ids[0])
        self._count(tier, ids, 1)
        for msg_id in ids:
            del self._holes[msg_id]
            self._asked.discard(msg_id)

    def _count(self, tier: int, ids: Sequence[int], sign: int) -> None:
        """What was counted of the messages that lie ahead of the position grows or shrinks by these."""
        count, last = self._counted[tier]
        self._counted[tier] = count + sign * bisect_right(ids, last), last

    def held(self, holder: Holder, upto: int, now: int, deadline: int) -> Iterator[tuple[int, int, bytes]]:
        """What a member has and has not acknowledged, up to the id `upto`, in priority order. The lease of each is
        prolonged to `deadline` when the next one is asked for."""
        mine = [(self.leases.out[msg_id].tier, msg_id) for msg_id in self.leases.of(holder) if msg_id <= upto]
        for tier, msg_id in sorted(mine):
            value = self._messages.get(self.mailbox, tier, msg_id, now)
            if value is None:
                self._forget(msg_id)
                continue
            yield tier, msg_id, value
            self.leases.prolong(msg_id, deadline)

    # taking back

    def acknowledge(self, msg_ids: list[int], now: int) -> None:
        """Done with messages that `check_acknowledge` allowed."""
        holes, consumes, asked = self._holes, self._consumes, self._asked
        for msg_id in msg_ids:
            tier = holes.get(msg_id)
            if tier is None:
                self._acknowledge_ahead(msg_id, now)
                continue
            if consumes or msg_id in asked:
                self._settle(tier, msg_id, self._messages.get(self.mailbox, tier, msg_id, now), now)
            del holes[msg_id]
        self.leases.forget(msg_ids)
        self._change()

    def _acknowledge_ahead(self, msg_id: int, now: int) -> None:
        if msg_id in self._ahead:
            return
        found = self._messages.find(self.mailbox, msg_id, now)
        if found is None or msg_id <= self._upto[found[0]]:
            return
        tier, value = found
        self._settle(tier, msg_id, value, now)
        if not self._consumes:
            self._ahead[msg_id] = tier
        self._counted_at = -1

    def acknowledge_upto(self, msg_id: int, holder: Holder, now: int) -> int:
        """Done with everything leased to the holder up to `msg_id`, in the order of delivery; gives how many."""
        held = self.leases.of(holder)
        if msg_id not in held:
            raise Mq9Error(f"message {msg_id} is not leased to this member of group {self.name}")
        done = held[: held.index(msg_id) + 1]
        self.acknowledge(done, now)
        return len(done)

    def confirm(self, msg_ids: list[int], holder: Holder, now: int) -> int:
        """Done with those of these messages that are still leased to the holder; gives how many that are."""
        out = self.leases.out
        done = [msg_id for msg_id in msg_ids if (lease := out.get(msg_id)) is not None and lease.holder == holder]
        if done:
            self.acknowledge(done, now)
        return len(done)

    def release(self, msg_id: int) -> None:
        """End a lease without an acknowledgement: the message returns to its place, or is doomed."""
        lease = self.leases.end(msg_id)
        if lease is None:
            return
        limit = self.mailbox.settings.max_deliver
        # (a push without acknowledgements says nothing of what became of it: it does not kill)
        if limit and lease.deadline < NEVER and self.leases.returns[msg_id] >= limit:
            self._doomed[msg_id] = MAX_DELIVER
        else:
            heappush(self._returned[lease.tier], msg_id)

    def release_all(self, connection: Connection) -> None:
        """End every lease of a connection."""
        for msg_id in self.leases.of_connection(connection):
            self.release(msg_id)

    def release_due(self, now: int) -> int:
        """End the leases whose time is over; gives when the next one is, 0 when there is none."""
        for msg_id in self.leases.due(now):
            if self.leases.out[msg_id].holder == PUT_OFF:
                heappush(self._returned[self._holes[msg_id]], msg_id)
                self.leases.end(msg_id)
            else:
                self.release(msg_id)
        return self.leases.next

    def put_off(self, msg_id: int, until: int) -> None:
        """End a lease without an acknowledgement; the message returns at `until`, if it is not doomed."""
        lease = self.leases.out[msg_id]
        self.release(msg_id)
        if msg_id not in self._doomed:
            self.leases.out[msg_id] = Lease(lease.tier, PUT_OFF, until)

    def take_back(self, msg_ids: list[int]) -> None:
        """These were leased in a turn that failed: nobody got them."""
        for msg_id in msg_ids:
            lease = self.leases.undo(msg_id)
            if lease is not None:
                heappush(self._returned[lease.tier], msg_id)

    # the end of what can't be handled

    def terminate(self, msg_id: int, reason: str, now: int) -> None:
        """A member says that nobody will ever handle it."""
        self._kill(msg_id, f"{TERMINATED}: {reason}" if reason else TERMINATED, now)

    def bury(self, now: int) -> bool:
        """Give what was delivered too often to the dead letters; whether there was any."""
        if not self._doomed:
            return False
        doomed, self._doomed = self._doomed, {}
        for msg_id, reason in doomed.items():
            if msg_id in self._holes and msg_id not in self.leases.out:
                self._buried[msg_id] = reason
                self._kill(msg_id, reason, now)
        return True

    def _kill(self, msg_id: int, reason: str, now: int) -> None:
        self._dead_letters.bury(self.mailbox, self.name, self._holes[msg_id], msg_id, reason, now)
        self._forget(msg_id)

    # knowing

    def waiting(self, upto: int, now: int) -> list[int]:
        """Per tier how many messages the group has not had yet, each counted to MAX_WAITING."""
        if self._schedule.behind(now):
            self._counted_at = -1
        counts, look = [], Look()
        for tier in TIERS:
            returned = self._returned[tier]
            count = 0
            for msg_id in set(returned if len(returned) <= MAX_WAITING else returned[:MAX_WAITING]):
                if self._is_back(msg_id) and (look.ends() or self._is_there(tier, msg_id, now, look)):
                    count += 1
            counts.append(min(count + self._ahead_of(tier, upto, now, look), MAX_WAITING))
        return counts

    def _is_there(self, tier: int, msg_id: int, now: int, look: Look) -> bool:
        return self._messages.get(self.mailbox, tier, msg_id, now, look) is not None

    def _ahead_of(self, tier: int, upto: int, now: int, look: Look) -> int:
        """How many messages lie between the position and `upto`, counted to MAX_WAITING. What was counted is
        remembered until a message is removed, so that a reader that works a backlog off counts each one once. What
        `look` does not come to counts as being there, unless it is acknowledged."""
        if self._upto[tier] >= self.mailbox.tails[tier]:
            return 0
        if self._counted_at != self.mailbox.removals:
            self._counted_at = self.mailbox.removals
            self._counted = [(0, 0)] * 4
        if not self._ahead and not self._schedule.behind(now) and (dense := self._messages.dense(self.mailbox, tier)):
            # (no look at each, which reads it)
            return max(0, min(upto + 1, dense.stop) - max(self._upto[tier] + 1, dense.start))
        count, last = self._counted[tier]
        if last <= self._upto[tier]:
            count, last = 0, self._upto[tier]
        if count < MAX_WAITING:
            found = self._messages.scan(self.mailbox, tier, last, upto)
            while (row := look.cut(found, MAX_WAITING - count, COUNTED))[0]:
                last = row[0][-1]
                ids, _ = self._messages.living(*row, now)
                count += sum(msg_id not in self._ahead for msg_id in ids)
            self._counted[tier] = count, last
            if look.over:
                first, end = max(last + 1, self.mailbox.heads[tier]), min(upto, self.mailbox.tails[tier]) + 1
                done = sum(first <= msg_id < end for msg_id in self._ahead)
                acknowledged = sum(of == tier for of in self._ahead.values())
                count = max(min(count + end - first - done, self.mailbox.counts[tier] - acknowledged), count)
        return count

    def has_more(self, tiers: tuple[int, ...], upto: int, now: int) -> bool:
        """Whether `take` would give something."""
        for tier, ids, _ in self.take(tiers, 1, upto, now, 0):
            self.give_back(tier, *ids)
            return True
        return False

    def _is_back(self, msg_id: int) -> bool:
        """Whether it has returned and is neither out again nor done (the heaps are cleaned as they are read)."""
        return msg_id in self._holes and msg_id not in self.leases.out and msg_id not in self._doomed

    # storing

    def begin(self, start: int, now: int) -> None:
        """A new group, which starts behind the id `start`."""
        self._upto = [start] * 4
        self._used = now
        self.mailbox.group_count += 1
        self._look_again(now)
        self._change()

    def load(self, value: bytes) -> None:
        """Take up a stored position: what was out is given out again, unless it still is."""
        self._used, tiers = keys.decode_position(value)
        self._holes.clear()
        self._ahead.clear()
        for tier, (upto, holes, ahead) in enumerate(tiers):
            self._upto[tier] = upto
            self._holes.update(dict.fromkeys(holes, tier))
            self._ahead.update(dict.fromkeys(ahead, tier))
        self._asked = set(self._holes)
        self._order()

    def _order(self) -> None:
        """Every hole that is not out and not doomed has returned."""
        self._counted_at = -1
        for returned in self._returned:
            returned.clear()
        for msg_id, tier in self._holes.items():
            if msg_id not in self.leases.out and msg_id not in self._doomed:
                self._returned[tier].append(msg_id)
        for returned in self._returned:
            heapify(returned)

    def use(self, now: int) -> None:
        """Note that somebody uses it, once a minute at the most."""
        if now - self._used > 60_000:
            self._used = now
            self._change()

    def save(self) -> None:
        """Write the position if it changed."""
        if not self._changed:
            return
        self._changed = False
        # what was buried before the last time is stored by now
        self._buried_before, self._buried = self._buried, {}
        tiers: list[tuple[int, list[int], list[int]]] = [(upto, [], []) for upto in self._upto]
        used = set(self._holes.values())
        if len(used) == 1:
            # (the common case, without a look at each)
            tiers[used.pop()][1].extend(self._holes)
        else:
            for msg_id, tier in self._holes.items():
                tiers[tier][1].append(msg_id)
        for msg_id, tier in self._ahead.items():
            tiers[tier][2].append(msg_id)
        self.mailbox.pending.put(
            keys.group(self.mailbox.incarnation, self.name), keys.encode_position(self._used, tiers)
        )

    def roll_back(self) -> bool:
        """A commit failed: the stored position again, and what members have beyond it is still theirs. False when the
        group was not stored before and nobody ever had anything of it: then it does not exist."""
        self._changed = False
        mailbox, given = self.mailbox, self._upto
        self._upto = [0, 0, 0, 0]
        value = mailbox.pending.get(keys.group(mailbox.incarnation, self.name))
        self._holes.clear()
        self._ahead.clear()
        if value is not None:
            self.load(value)
        for tier in TIERS:
            # given out since the position was stored; what was acknowledged of it comes again
            for msg_id, encoded in self._messages.read(mailbox, tier, self._upto[tier], given[tier]):
                self._upto[tier] = msg_id
                if self._ahead.pop(msg_id, None) is None:
                    self._holes[msg_id] = tier
                    if encoded[0] >= WATCHED:
                        self._asked.add(msg_id)
        doomed = self._doomed | self._buried_before | self._buried
        self._doomed = {msg_id: reason for msg_id, reason in doomed.items() if msg_id in self._holes}
        self.leases.keep(self._holes)
        self._order()
        wanted = self.in_use or bool(self.leases.returns)
        if value is None and wanted:
            mailbox.group_count += 1
            self._change()
        return value is not None or wanted

    def unused(self, when: int) -> bool:
        """Whether nobody has used it for so long that it may go. `when` is now; a member that is there is a use."""
        if self.in_use:
            self.use(when)
        return self._used + UNUSED_FOR <= when

    def look_again(self, when: int) -> None:
        """Be asked again tomorrow whether it is still used."""
        self._look_again(when)
        self._touch(self.mailbox)

    def _look_again(self, when: int) -> None:
        mailbox = self.mailbox
        entry = keys.u64(mailbox.incarnation) + self.name.encode()
        self._schedule.add(mailbox.pending, when + _LOOK_AGAIN, keys.DUE_GROUP, entry, mailbox.address.encode())

    def _settle(self, tier: int, msg_id: int, value: bytes | None, now: int) -> None:
        """What an acknowledgement means beside the group: a receipt, and the end of what is not retained. `value` is
        None when the message is not there any more."""
        self._asked.discard(msg_id)
        if value is None:
            return
        if value[0] >= WATCHED:
            self._receipts.acknowledged(self.mailbox, self.name, msg_id, value, now)
        if self._consumes:
            self._messages.remove(self.mailbox, tier, msg_id, value)

    def _forget(self, msg_id: int) -> None:
        self._holes.pop(msg_id, None)
        self._asked.discard(msg_id)
        self.leases.forget((msg_id,))
        self._change()

    def _change(self) -> None:
        self._changed = True
        self._touch(self.mailbox)
