"""How monitoring writes times."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(ms: int) -> str:
    """A time as RFC 3339."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(ms: int) -> str:
    """How long something lasts: 1y2d3h4m5s, from its largest part on."""
    seconds = max(ms, 0) // 1000
    text = ""
    for unit, size in (("y", 31_536_000), ("d", 86_400), ("h", 3600), ("m", 60)):
        count, seconds = divmod(seconds, size)
        if text or count:
            text += f"{count}{unit}"
    return f"{text}{seconds}s"


def duration(ms: float) -> str:
    """A short time as Go writes it: 354µs, 1.25ms, 2.5s."""
    if ms < 1:
        return f"{round(ms * 1000)}µs" if ms else "0s"
    return f"{ms:.6g}ms" if ms < 1000 else f"{ms / 1000:.6g}s"
