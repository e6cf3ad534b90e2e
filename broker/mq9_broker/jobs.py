"""The broker's one alarm clock: it rings when something is due, and otherwise not at all."""

from __future__ import annotations

import asyncio

from mq9_broker.clock import Clock
from mq9_broker.commit import Committer
from mq9_broker.hub import Hub
from mq9_broker.model import NEVER

_PROBE_MS = 1000
_LONGEST_MS = 60_000


class Alarm:
    """Set again after every turn: for the first expiry, lease, long poll or ping that is due."""

    def __init__(self, hub: Hub, committer: Committer, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._committer = committer
        self._clock = clock
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._rings = NEVER
        committer.after_turn = self.set

    def set(self) -> None:
        """Ring when the next thing is due."""
        now = self._hub.now
        due = now + _PROBE_MS if self._hub.refusing else self._hub.mailboxes.schedule.next
        first = self._hub.timers.next
        if first is not None and first < due:
            due = first
        due = min(due, now + _LONGEST_MS)
        if due >= self._rings > now:
            return
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
