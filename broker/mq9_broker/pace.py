"""Long walks that let everybody else go on in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

#: How long others wait at most, in seconds.
SLICE = 0.001


async def paced(items: Iterable[T]) -> AsyncIterator[T]:
    """The items one by one; whenever a slice of time is used up, the loop's other work comes first."""
    until = time.perf_counter() + SLICE
    for item in items:
        yield item
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE
