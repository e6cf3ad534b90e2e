"""Time as an argument: everything counts in whole milliseconds since 1970, and only a Clock reads it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the broker's time comes from."""

    def now(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...

    def elapsed(self) -> float:
        """Seconds of a stopwatch that nobody sets: only differences mean something."""
        ...


class SystemClock:
    """The machine's wall clock: TTLs have to survive a restart."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    # (no call around it: it is asked with every request)
    elapsed = staticmethod(time.perf_counter)


class ManualClock:
    """A clock that moves when it is told to: for tests and simulations."""

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def elapsed(self) -> float:
        return self._now / 1000

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now += round(seconds * 1000)
