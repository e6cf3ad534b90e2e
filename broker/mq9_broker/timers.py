"""What has to happen at a time and is not stored: ends of leases and of long polls."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

Action = Callable[[int], None]


class Timer:
    """One appointment. `cancel` makes it never happen."""

    __slots__ = ("_timers", "action", "when")

    def __init__(self, when: int, action: Action, timers: Timers) -> None:
        self.when = when
        self.action: Action | None = action
        self._timers = timers

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self._timers.cancelled()


class Timers:
    """Appointments by time. Cancelled ones are thrown out when they are more than half of all."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0

    @property
    def next(self) -> int | None:
        """When the first one is, in ms; None when there is none. It may be one that was cancelled."""
        return self._heap[0][0] if self._heap else None

    def at(self, when: int, action: Action) -> Timer:
        """Call `action(now)` when `run` is called at `when` (ms) or later."""
        timer = Timer(when, action, self)
        heappush(self._heap, (when, next(self._numbers), timer))
        return timer

    def run(self, now: int) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            timer = heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action(now)

    def cancelled(self) -> None:
        """One more of them will not happen."""
        self._cancelled += 1
        if self._cancelled > 1000 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapify(self._heap)
            self._cancelled = 0
