"""What this process takes of the machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def resident() -> int:
    """Bytes of memory this process holds; where the system tells only the highest it ever was, that."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Processor:
    """How much of a core this process takes."""

    def __init__(self) -> None:
        self._wall, self._used = time.monotonic(), time.process_time()

    def percent(self) -> float:
        """Since the last look."""
        wall, used = time.monotonic(), time.process_time()
        passed, taken = wall - self._wall, used - self._used
        self._wall, self._used = wall, used
        return round(100 * taken / passed, 1) if passed > 0 else 0
