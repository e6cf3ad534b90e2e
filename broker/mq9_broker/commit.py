"""The end of a loop turn: one batch to the store, and only then everything that waited for it is written.

Store-first delivery, group commit and order follow from that one rule. While a batch is on its way to the disk the next
turn's writes gather behind it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mq9_broker import wire
from mq9_broker.clock import Clock
from mq9_broker.errors import StoreError
from mq9_broker.group import Group
from mq9_broker.hub import Hub, Promise
from mq9_broker.mailboxes import Mailbox
from mq9_broker.model import Change
from mq9_broker.session import Session
from mq9_broker.store import Batch
from mq9_broker.store.pending import Pending
from mq9_broker.sweep import Sweep

_log = logging.getLogger(__name__)

#: Bytes that may gather while a batch is on its way: who sends more waits, by TCP, until it has landed.
MAX_GATHERING = 16_777_216
#: So many of those who send more than their share may go on in a turn.
_AT_ONCE = 4
#: Seconds after which it is looked again whether the store is still behind, and how often: should it never be
#: otherwise, commits say why.
_AGAIN, _OFTEN = 0.001, 1000
#: What is left at the least of a share where many wait: less would be spent on taking turns.
_LEAST = 0.5

Leased = list[tuple[Group, list[int]]]
Sealed = list[tuple[Mailbox, int, list[tuple[int, int, bytes]]]]
Held = dict[Session, tuple[list[bytes], int]]

_PROBE = b"!probe"


class Turn:
    """A turn whose batch is on its way: what becomes visible, and what is written, when it is kept. `probe` says that
    it tries whether a store that refused writes takes them again, `asked` who wants to know whether it was kept,
    `beside` what goes to the other places when the first has kept its part."""

    __slots__ = ("asked", "began", "beside", "changes", "ended", "held", "leased", "probe", "promises", "sealed")

    def __init__(
        self,
        sealed: Sealed,
        changes: list[Change],
        ended: list[Mailbox],
        promises: list[Promise],
        leased: Leased,
        probe: bool,
        asked: list[Callable[[str], None]],
        began: float,
    ) -> None:
        self.sealed = sealed
        self.changes = changes
        self.ended = ended
        self.promises = promises
        self.leased = leased
        self.probe = probe
        self.asked = asked
        self.began = began
        self.held: Held = {}
        self.beside: list[tuple[Pending, Batch]] = []


class Committer:
    """Ends turns. `call_soon` runs a function when the current turn's events are done, `call_later` after so many
    seconds; `watch` calls back with the exception or None when an awaitable is done."""

    def __init__(
        self,
        hub: Hub,
        sweep: Sweep,
        clock: Clock,
        call_soon: Callable[[Callable[[], None]], Any],
        call_later: Callable[[float, Callable[[], None]], Any],
        watch: Callable[[Awaitable[None], Callable[[BaseException | None], None]], None],
    ) -> None:
        self._hub = hub
        self._mailboxes = hub.mailboxes
        self._sweep = sweep
        self._clock = clock
        self._call_soon = call_soon
        self._call_later = call_later
        self._watch = watch
        self._scheduled = False
        self._probing = False
        self._asked: list[Callable[[str], None]] = []
        self._flying: Turn | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._letting = False
        self._held: list[Callable[[], None]] = []
        self._looks = 0
        self.after_turn: list[Callable[[], None]] = []
        hub.wake_up = self.wake_up
        hub.end_turn = self.end_turn
        hub.elapsed = clock.elapsed

    @property
    def congested(self) -> bool:
        """Whether what gathers behind the batch on its way is enough: read no more until `when_ready`."""
        return self._flying is not None and self._hub.taken > MAX_GATHERING

    @property
    def behind(self) -> bool:
        """Whether the store can't keep up: who sends without a pause waits, so that nobody's commit has to."""
        return self._mailboxes.disk.store.behind

    @property
    def share(self) -> float:
        """Seconds of a turn for one client: where many wait each has less, and sooner again."""
        waiting = len(self._waiting)
        return self._hub.share * max(_AT_ONCE / waiting, _LEAST) if waiting > _AT_ONCE else self._hub.share

    def when_ready(self, resume: Callable[[], None]) -> None:
        """Call `resume` when others have been served and it is not congested; those who wait take turns."""
        self._waiting.append(resume)
        self._let_on_soon()

    def when_caught_up(self, resume: Callable[[], None]) -> None:
        """The same when the store has caught up, or did not in a second."""
        if not self._held:
            self._looks = 0
            self._call_later(_AGAIN, self._look_again)
        self._held.append(resume)

    def _look_again(self) -> None:
        self._looks += 1
        if self.behind and self._looks < _OFTEN:
            self._call_later(_AGAIN, self._look_again)
            return
        held, self._held = self._held, []
        for resume in held:
            self.when_ready(resume)

    def _let_on_soon(self) -> None:
        if self._waiting and not self._letting and not self.congested:
            self._letting = True
            self._call_soon(self._let_on)

    def _let_on(self) -> None:
        """Let those go on who wait, as many as a share of time allows, and few, because each may take one."""
        self._letting = False
        hub = self._hub
        until = hub.elapsed() + hub.share
        for _ in range(_AT_ONCE):
            if not self._waiting or self.congested:
                break
            self._waiting.popleft()()
            if hub.elapsed() >= until:
                break
        self._let_on_soon()

    @property
    def busy(self) -> bool:
        """Whether something is still on its way to the store or to a client's socket."""
        return self._scheduled or self._flying is not None

    def begin(self) -> int:
        """A new event, which begins a turn or joins it; what is due by now happens before it. Gives the time."""
        hub = self._hub
        now = hub.now = self._clock.now()
        if not self._scheduled:
            if self._sweep.due(now) and self._flying is None and not hub.refusing:
                self._sweep.step(now)
            self.wake_up()
        return now

    def wake_up(self) -> None:
        """Something happened: end the turn when its other events are done."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.end_turn)

    def end_turn(self) -> None:
        """Commit what the turn wrote, then write what it caused."""
        self._scheduled = False
        hub, mailboxes = self._hub, self._mailboxes
        hub.now = self._clock.now()
        hub.turn += 1
        if self._flying is not None:
            if self.congested:
                self._close_slow(self._flying)
            self._write_free(self._flying)
            return
        if self._sweep.due(hub.now) and not hub.refusing and self._sweep.step(hub.now):
            self.wake_up()
        turn = Turn(
            mailboxes.seal(),
            mailboxes.changes,
            mailboxes.ended,
            hub.promises,
            hub.leased,
            self._probing,
            self._asked,
            self._clock.elapsed(),
        )
        mailboxes.changes, mailboxes.ended, hub.promises, hub.leased, self._asked = [], [], [], [], []
        hub.taken, self._probing = 0, False
        try:
            flight = self._commit(turn)
        except StoreError as failed:
            self._fail(turn, failed)
            return
        if flight is None:
            self._release(turn)
        else:
            # who published waits with its PONGs, even if nothing is to be said to it yet
            turn.held = self._put_aside([*hub.touched, *(promise[3] for promise in turn.promises)])
            hub.touched = []
            self._flying = turn
            self._watch(flight, self._landed)

    def try_store(self, answer: Callable[[str], None]) -> None:
        """Write something with the next turn. `answer` is called with "" when it is kept, else with the reason."""
        self._asked.append(answer)
        self.probe()

    def probe(self) -> None:
        """Try with the next turn whether a store that refused writes takes them again."""
        self._mailboxes.disk.put(_PROBE, b"")
        self._probing = True
        self.wake_up()

    def _commit(self, turn: Turn) -> Awaitable[None] | None:
        """Give the batches to their stores. What is to be kept in memory waits for what is to be kept on disk, so that
        either all of the turn happened or nothing."""
        flight = None
        for place in self._mailboxes.places:
            if not place.batch:
                continue
            batch = place.take()
            if flight is not None:
                turn.beside.append((place, batch))
                continue
            flight = place.store.commit(batch)
            if flight is None:
                place.landed()
        return flight

    def _landed(self, failed: BaseException | None) -> None:
        turn, self._flying = self._flying, None
        self._let_on_soon()
        if turn is None:
            return
        if failed is None:
            for place, batch in turn.beside:
                place.store.commit(batch)
        for place in self._mailboxes.places:
            place.landed()
        hub = self._hub
        hub.now = self._clock.now()
        # what the next turn caused stays back: it rests on writes that are not kept yet
        # (who published without an answer too: its errors have their place there)
        later = self._put_aside([*hub.touched, *(promise[3] for promise in hub.promises)])
        hub.touched = []
        # (nor is a connection closed before its last word)
        closing = [session for session in later if session.closing]
        for session in closing:
            session.closing = False
        for session, (out, late_pongs) in turn.held.items():
            session.out, session.late_pongs = out, late_pongs
            hub.touched.append(session)
        if failed is None:
            self._release(turn)
        else:
            self._fail(turn, failed)
        for session, (out, late_pongs) in later.items():
            session.out = out
            session.late_pongs += late_pongs
            # (a PING that comes yet is answered after what this turn still has to say)
            session.pushed_to = True
            hub.touched.append(session)
        for session in closing:
            session.closing = True
        if hub.touched or self._sweep.due(hub.now) or any(place.batch for place in self._mailboxes.places):
            self.wake_up()

    def _release(self, turn: Turn) -> None:
        hub = self._hub
        if turn.probe and hub.refusing:
            _log.warning("the store takes writes again")
            hub.refusing = ""
            self._sweep.restart()
            for mailbox in self._mailboxes.listening():
                hub.stir(mailbox)
        counters = hub.counters
        if turn.sealed:
            counters.commits += 1
            counters.commit_seconds += self._clock.elapsed() - turn.began
        for answer in turn.asked:
            answer("")
        # (who hears of a message hears it before its sender knows that it is stored: each write takes its time)
        told, hub.touched = hub.touched, []
        hub.ending = True
        try:
            hub.publish_turn(turn.sealed, turn.changes, turn.ended, hub.now)
            if hub.draining:
                hub.drain(hub.now)
        finally:
            hub.ending = False
            hub.touched += told
        touched, hub.touched = hub.touched, []
        for session in touched:
            self._write(session)
        for action in self.after_turn:
            action()

    def _fail(self, turn: Turn, failed: BaseException) -> None:
        hub, mailboxes = self._hub, self._mailboxes
        if not hub.refusing:
            _log.error("the store does not take writes, they are refused until it does: %s", failed)
        hub.refusing = str(failed)
        hub.counters.failed += 1
        for answer in turn.asked:
            answer(hub.refusing)
        for place in mailboxes.places:
            if place.batch:
                place.take()
            place.landed()
        hub.break_promises(turn.promises + hub.promises, hub.refusing)
        for group, msg_ids in turn.leased + hub.leased:
            group.take_back(msg_ids)
        hub.promises, hub.leased = [], []
        hub.look_again(mailboxes.roll_back([mailbox for mailbox, _, _ in turn.sealed]))
        self._sweep.restart()
        hub.drain(hub.now)
        touched, hub.touched = hub.touched, []
        for session in touched:
            self._write(session)
        for action in self.after_turn:
            action()

    def _write_free(self, flying: Turn) -> None:
        """Write to those whom neither the batch on its way nor the one that gathers concerns."""
        hub = self._hub
        if hub.promises or self._mailboxes.dirty or any(place.batch for place in self._mailboxes.places):
            return
        waiting = [session for session in hub.touched if session in flying.held]
        for session in hub.touched:
            if session not in flying.held:
                self._write(session)
        hub.touched = waiting
        if not waiting:
            hub.taken = 0

    def _close_slow(self, flying: Turn) -> None:
        """Close those for whom more waits than they may leave unread, although none of it can be written yet."""
        hub = self._hub
        for session in hub.touched:
            before, _ = flying.held.get(session, ([], 0))
            limit = hub.limits.max_pending - session.transport.buffered()
            if sum(map(len, session.out)) + sum(map(len, before)) > limit:
                session.out = []
                if before:
                    flying.held[session] = [], 0
                # (nobody is left to be told what became of these)
                flying.promises = [promise for promise in flying.promises if promise[3] is not session]
                hub.promises = [promise for promise in hub.promises if promise[3] is not session]
                self._close(session)

    def _close(self, session: Session) -> None:
        """A client does not read what it is sent."""
        _log.warning("client %d is a slow consumer, closed", session.client_id)
        self._hub.counters.slow_consumers += 1
        session.closing = True
        session.transport.abort()

    @staticmethod
    def _put_aside(sessions: Iterable[Session]) -> Held:
        """What waits to be written to each of these (any of which may be named twice)."""
        aside: Held = {}
        for session in sessions:
            if session not in aside:
                aside[session] = session.out, session.late_pongs
                session.out, session.late_pongs, session.pushed_to = [], 0, False
        return aside

    def _write(self, session: Session) -> None:
        out = session.out
        if session.late_pongs:
            out.append(wire.PONG * session.late_pongs)
            session.late_pongs = 0
        session.pushed_to = False
        if not out:
            if session.closing:
                session.transport.close()
            return
        if session.unconfirmed:
            out.append(wire.PING)
            session.pings.append(session.unconfirmed)
            session.unconfirmed = []
        session.out = []
        transport = session.transport
        buffered = transport.buffered()
        limit = self._hub.limits.max_pending - buffered
        data = b"".join(out) if session.owed <= limit else b""
        if not data or len(data) > limit:
            self._close(session)
            return
        session.owed = 0
        session.taken = 0 if buffered else session.taken + len(data)
        transport.write(data)
        if session.closing:
            transport.close()
