"""Standard output for a server that answers short messages: written at once where a pipe takes them without blocking.

The SDK hands every write and every flush to a thread, which takes longer than a mailbox does.
"""

from __future__ import annotations

import os
import select
import sys
from typing import cast

import anyio
import anyio.to_thread

AT_ONCE = select.PIPE_BUF if hasattr(select, "PIPE_BUF") else 0  # bytes that a pipe takes whole, if it takes any


def taken() -> anyio.AsyncFile[str] | None:
    """Standard output, for the SDK alone: what anybody else prints goes to stderr. None where it is no pipe or socket,
    or this system cannot say whether one takes more: then the SDK does it its own way."""
    if not AT_ONCE or sys.stdout.isatty():
        return None
    wire = os.dup(1)
    os.dup2(2, 1)
    return cast("anyio.AsyncFile[str]", Wire(wire))  # of which the SDK uses these two methods


class Wire:
    """Writes lines to a file descriptor, in order, for one task. `write` only keeps; `flush` writes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept: list[str] = []

    async def write(self, text: str) -> int:
        self._kept.append(text)
        return len(text)

    async def flush(self) -> None:
        data = "".join(self._kept).encode()
        self._kept.clear()
        if len(data) <= AT_ONCE and select.select((), (self._descriptor,), (), 0)[1]:
            data = data[os.write(self._descriptor, data) :]
        if data:
            await anyio.to_thread.run_sync(_write_all, self._descriptor, data)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
