"""What falls due: mailboxes and messages that expire, delayed messages, unused groups, and what ended mailboxes left.

Everything with a time stands in one index ordered by time, so a step costs what fell due and not what is stored, and
it goes on where the last one stopped.
"""

from __future__ import annotations

import logging

from mq9_broker import keys
from mq9_broker.board import Board
from mq9_broker.groups import Groups
from mq9_broker.mailboxes import Mailboxes
from mq9_broker.messages import Messages
from mq9_broker.store.pending import Pending

_log = logging.getLogger(__name__)

#: Records one step may touch: what a client may have to wait for.
STEP = 64
#: Bytes of delayed messages that one step delivers: the last of them may be larger.
_DELIVERED = 1_048_576
_RANGE_ABOVE = 1000
_BEYOND = b"\xff" * 9


class Sweep:
    """Works the schedule off in steps."""

    def __init__(self, mailboxes: Mailboxes, messages: Messages, groups: Groups, board: Board) -> None:
        self._mailboxes = mailboxes
        self._messages = messages
        self._groups = groups
        self._board = board
        # how far the records of one ended mailbox are gone: what was deleted is not looked through again
        self._reached = dict.fromkeys(mailboxes.places, b"")
        # how many bytes of delayed messages this step may still deliver
        self._room = 0

    def due(self, now: int) -> bool:
        """Whether a step has something to do."""
        return self._mailboxes.unpurged or self._mailboxes.schedule.behind(now)

    def step(self, now: int) -> bool:
        """One small step; whether there is more to do at once."""
        schedule = self._mailboxes.schedule
        taken = schedule.take(now, STEP)
        self._room = _DELIVERED
        for place, when, kind, rest, value in taken:
            if self._room <= 0:
                schedule.add(place, when, kind, rest, value)
                continue
            try:
                self._settle(place, kind, rest, value.decode(), when, now)
            except Exception:
                # a defect of ours: what else is due happens, and whoever comes next keeps its connection
                _log.exception("something that was due hit a defect and is left out")
        if self._room <= 0:
            return True
        left = STEP - len(taken)
        for place in self._mailboxes.places:
            left = self._purge(place, left, now)
        self._mailboxes.unpurged = left <= 0
        return left <= 0

    def restart(self) -> None:
        """Begin again: a commit failed, and what was swept may still be there."""
        self._mailboxes.schedule.restart()
        self._mailboxes.remains = dict.fromkeys(self._mailboxes.places, keys.purge(0))
        self._mailboxes.unpurged = True
        self._reached = dict.fromkeys(self._reached, b"")

    def _settle(self, place: Pending, kind: bytes, rest: bytes, address: str, when: int, now: int) -> None:
        if kind == keys.DUE_MAILBOX:
            self._mailboxes.expired(place, rest.decode(), when)
            return
        if kind == keys.DUE_DEDUP:
            first = place.get(rest)
            # a later message with the same id has an entry of its own
            if first is not None and keys.number(first[8:]) <= when:
                place.delete(rest)
            return
        if kind == keys.DUE_CAPABILITY:
            self._board.expired(rest, when)
            return
        mailbox = self._mailboxes.find(address, now)
        if mailbox is None or mailbox.incarnation != keys.number(rest[:8]):
            return
        if kind == keys.DUE_MESSAGE:
            self._messages.expired(mailbox, rest[8], keys.number(rest[9:]), now)
        elif kind == keys.DUE_WATCHED:
            self._messages.watched_expired(mailbox, rest[8], keys.number(rest[9:]), now)
        elif kind == keys.DUE_DELAYED:
            self._room -= self._messages.due(mailbox, keys.number(rest[8:]), now)
        elif kind == keys.DUE_GROUP:
            self._groups.look(mailbox, rest[8:].decode(), now)

    def _purge(self, place: Pending, left: int, now: int) -> int:
        remains = self._mailboxes.remains
        while left > 0:
            found = next(place.scan(remains[place], b"X" + _BEYOND), None)
            if found is None:
                return left
            incarnation = keys.number(found[0][1:])
            first, last = keys.space(incarnation)
            counters = place.get(keys.counters(incarnation))
            many = counters is not None and sum(keys.decode_counters(counters)[9:13]) > _RANGE_ABOVE
            # (a range is not given back when a commit fails: not in the batch that ends the mailbox)
            many = many and place.store.get(found[0]) is not None
            start = self._reached[place]
            # before a range goes at once, those who wanted to hear of a message in it are told
            single = keys.all_asked(incarnation) if many else (first, last)
            for key, value in place.scan(start if first < start < last else single[0], single[1]):
                if key[9:10] == keys.ASKED:
                    self._messages.abandoned(place, key, value.decode(), now)
                place.delete(key)
                left -= 1
                if left <= 0:
                    self._reached[place] = key
                    return left
            if many:
                place.delete_range(first, last)
            place.delete(found[0])
            remains[place] = found[0] + b"\0"
            left -= 1
        return left
