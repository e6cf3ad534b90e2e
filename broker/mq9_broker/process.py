"""What this process takes of the machine, and what it may."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from pathlib import Path, PurePosixPath

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


def processors(root: Path = Path("/")) -> float:
    """How many cores' time this process may take: of those it may run on, or what its control group (cgroup) allots
    where that is less. `root` is where the system's files are."""
    if sys.version_info >= (3, 13):
        cores = os.process_cpu_count()
    elif sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return min(cores or 1, _allotted(root))


def _allotted(root: Path) -> float:
    """The least that the control group of this process and those above it allot, in cores."""
    most = math.inf
    groups = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path)
        for group in (own, *own.parents):
            if not controllers:
                limit = _text(groups / str(group)[1:] / "cpu.max")
            elif "cpu" in controllers.split(","):
                place = groups / "cpu" / str(group)[1:]
                limit = _text(place / "cpu.cfs_quota_us") + _text(place / "cpu.cfs_period_us")
            else:
                break
            # (microseconds of so many; without a limit the first is no number)
            words = limit.split()
            if len(words) == 2 and all(map(str.isdigit, words)):
                most = min(most, int(words[0]) / int(words[1]))
    return most


def _text(file: Path) -> str:
    """What a file holds; nothing when there is none."""
    try:
        # (names of control groups are bytes)
        return os.fsdecode(file.read_bytes())
    except OSError:
        return ""


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
