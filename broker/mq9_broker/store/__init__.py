"""The seam between the broker and what keeps its records: one ordered map of bytes, written in batches.

Nothing above knows which store is there. A batch is meaningful wherever it is applied: no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(slots=True)
class Batch:
    """Writes that happen together or not at all: `writes` maps a key to its new value or None (deleted), `ranges`
    holds [start, end) to delete. What is in a range is never written again, so their order does not matter."""

    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.writes or self.ranges)


class Store(Protocol):
    """An ordered map. Every method but `close` may raise StoreError. `untidy` says that `tidy` has something to do."""

    untidy: bool

    @property
    def behind(self) -> bool:
        """Whether so much waits to be written out that soon every commit would have to wait for it."""
        ...

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of start <= key < end in order, read as it is consumed: each key that nobody writes meanwhile
        once; of what is written meanwhile it may show either. `ahead`: the bytes that will probably be consumed, when
        these are many."""
        ...

    def commit(self, batch: Batch) -> Awaitable[None] | None:
        """Apply a batch. None: it is kept. An awaitable: readable soon, and kept, when the awaitable is done; when that
        fails, none of its writes is readable any more (a range is not given back). The next batch comes after that."""
        ...

    def checkpoint(self, path: Path) -> Awaitable[None]:
        """Copy what is committed by now into the folder `path`, which must not be there yet: a store of its own."""
        ...

    def tidy(self) -> float:
        """Do a little of what can wait; seconds after which the next of it may be done, 0.0 when there is no more."""
        ...

    def close(self) -> None: ...
