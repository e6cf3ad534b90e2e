"""What happens between the turns: the broker's one alarm clock, tidying, and how soon the loop sleeps."""

from __future__ import annotations

import asyncio

from mq9_broker.clock import Clock
from mq9_broker.commit import Committer
from mq9_broker.hub import Hub
from mq9_broker.model import NEVER
from mq9_broker.store import Store

_PROBE_MS = 1000
_LONGEST_MS = 60_000
#: Seconds after which what has become untidy is looked at.
_TIDIED_AFTER = 1.0
#: Seconds for which the next turn is awaited without sleeping, and for which it is not once it did not come.
_AWAKE, _ASLEEP = 0.0001, 0.01


class Alarm:
    """It rings when something is due, and otherwise not at all. Set again after every turn: for the first expiry,
    lease, long poll or ping that is due."""

    def __init__(self, hub: Hub, committer: Committer, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._committer = committer
        self._clock = clock
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._rings = NEVER
        committer.after_turn.append(self.set)

    def set(self) -> None:
        """Ring when the next thing is due."""
        now = self._hub.now
        due = now + _PROBE_MS if self._hub.refusing else self._hub.mailboxes.schedule.next
        first = self._hub.timers.next
        if first is not None and first < due:
            due = first
        if due >= self._rings > now:
            return
        due = min(due, now + _LONGEST_MS)
        if self._handle is not None:
            self._handle.cancel()
        self._rings = due
        self._handle = self._loop.call_later(max(due - self._clock.now(), 1) / 1000, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _ring(self) -> None:
        self._handle = None
        self._rings = NEVER
        now = self._committer.begin()
        if self._hub.refusing:
            self._committer.probe()
        self._hub.timers.run(now)
        self._committer.wake_up()


class Housekeeping:
    """Lets the store tidy, in small steps, when turns have made it untidy."""

    def __init__(self, store: Store, committer: Committer, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        committer.after_turn.append(self.look)

    def look(self) -> None:
        """A turn is over."""
        if self._handle is None and self._store.untidy:
            self._handle = self._loop.call_later(_TIDIED_AFTER, self._tidy)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _tidy(self) -> None:
        pause = self._store.tidy()
        self._handle = self._loop.call_later(pause, self._tidy) if pause else None
        self.look()


class Vigil:
    """Lets the loop look on for a moment before it sleeps: who sends as soon as it is answered would wait longer for a
    processor to wake up than for all that the broker does. It looks on as long as something comes of it; a look in vain
    is the last one for a while, so that at most a hundredth of the time is spent on those."""

    def __init__(self, committer: Committer, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._elapsed = clock.elapsed
        self._call_soon = loop.call_soon
        self._looking = False
        self._until = self._again = 0.0
        committer.after_turn.append(self.look_on)

    def look_on(self) -> None:
        """A turn is over."""
        now = self._elapsed()
        self._until = now + _AWAKE
        if not self._looking and now >= self._again:
            self._looking = True
            self._call_soon(self._look)

    def _look(self) -> None:
        now = self._elapsed()
        if now < self._until:
            self._call_soon(self._look)
        else:
            self._looking = False
            self._again = now + _ASLEEP
