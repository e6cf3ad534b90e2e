"""What a loop turn has written so far, in front of a store: reads see it, the store gets it in one batch."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice

from mq9_broker.store import Batch, Store


class Pending:
    """A store with writes that are not committed yet. `writes` is the batch's own dict: putting is one assignment."""

    __slots__ = ("_flying", "_sorted", "_taken", "batch", "store", "writes")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.batch = Batch()
        self.writes = self.batch.writes
        self._flying: dict[bytes, bytes | None] = {}
        self._sorted: list[bytes] = []
        self._taken = 0

    def get(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        if key in self._flying:
            return self._flying[key]
        return self.store.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.writes[key] = value

    def delete(self, key: bytes) -> None:
        self.writes[key] = None

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete [start, end), which nobody reads or writes any more: pending reads don't look for it."""
        for key in [key for key in self.writes if start <= key < end]:
            self.writes[key] = None
        self.batch.ranges.append((start, end))

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """As Store.scan, with what is pending."""
        stored = self.store.scan(start, end, ahead)
        writes, flying = self.writes, self._flying
        if not writes and not flying:
            return stored
        keys = self._pending_keys(start, end)
        return merged(stored, keys, self.get) if keys else stored

    def take(self) -> Batch:
        """The batch to commit. It stays readable until `landed`."""
        batch = self.batch
        self._flying = batch.writes
        self.batch = Batch()
        self.writes = self.batch.writes
        self._sorted, self._taken = [], 0
        return batch

    def landed(self) -> None:
        """The batch taken last is in the store, or will never be."""
        self._flying = {}

    def _pending_keys(self, start: bytes, end: bytes) -> list[bytes]:
        writes = self.writes
        if len(writes) != self._taken:
            fresh = list(islice(writes, self._taken, None))
            if len(fresh) > 32:
                self._sorted = sorted(self._sorted + fresh)
            else:
                for key in fresh:
                    insort(self._sorted, key)
            self._taken = len(writes)
        first = bisect_left(self._sorted, start)
        keys = self._sorted[first : bisect_left(self._sorted, end, first)]
        if self._flying:
            keys = sorted({*keys, *(key for key in self._flying if start <= key < end)})
        return keys


def merged(
    stored: Iterator[tuple[bytes, bytes]], keys: list[bytes], get: Callable[[bytes], bytes | None]
) -> Iterator[tuple[bytes, bytes]]:
    """What is stored, with what `get` says of `keys`, which are in order."""
    at = 0
    for key, value in stored:
        while at < len(keys) and keys[at] < key:
            own = get(keys[at])
            if own is not None:
                yield keys[at], own
            at += 1
        if at < len(keys) and keys[at] == key:
            own = get(key)
            if own is not None:
                yield key, own
            at += 1
        else:
            yield key, value
    for key in keys[at:]:
        own = get(key)
        if own is not None:
            yield key, own
