"""What was measured, on what, when: lines for the page."""

import os
import platform
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.servers import nats_program, redis_program

_SYNCS = 50
_PACKAGES = ("mq9-mcp", "rocksdict", "uvloop", "orjson", "mcp", "nats-py")


def describe() -> dict[str, str]:
    """Names with their values, in the order in which they are read."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "load before": " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "",
        "disk": f"{_sync_us():,.0f} µs for an append of 4 KiB and its fsync (median of {_SYNCS})",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "nats-server": _output(nats_program(), "--version"),
        "redis": _output(program, "--version") if (program := redis_program()) else "not installed",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return ""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1024**3:.0f} GiB"


def _sync_us() -> float:
    """Microseconds from an append to its being on the disk that temporary folders are on."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            started = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e6


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
