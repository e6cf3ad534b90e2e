"""What this process takes of the machine, and what it may."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

_log = logging.getLogger(__name__)

#: Open files beside the connections: the store's, mostly.
_OTHER_FILES = 4096
_MACOS_FILES = 10_240


def resident() -> int:
    """Bytes of memory this process holds; where the system tells only the highest it ever was, that."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: the first files and sockets would come there, and stray
    output into them; uvloop aborts a process over such at its end."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def processors() -> int:
    """How many cores this process may run on; where the system does not tell, how many there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def allow_connections(wanted: int) -> int:
    """Each connection is an open file: take as many as the system gives. How many connections that makes, so that none
    takes the files that the store needs."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    needed = wanted + _OTHER_FILES
    files, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    for each in (needed if highest == resource.RLIM_INFINITY else min(needed, highest), _MACOS_FILES):
        if files == resource.RLIM_INFINITY or files >= each:
            break
        # (macOS has a lower limit than it says)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (each, highest))
            files = each
    if files == resource.RLIM_INFINITY or files >= needed:
        return wanted
    most = max(1, files - min(_OTHER_FILES, files // 2))
    if most < wanted:
        _log.info("at most %d connections: the system lets this process open %d files", most, files)
    return min(wanted, most)
