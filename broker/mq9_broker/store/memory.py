"""The store that keeps nothing: for `--store memory`, for mailboxes with storage memory, and for tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Awaitable, Iterator
from pathlib import Path

from mq9_broker.errors import StoreError
from mq9_broker.store import Batch

_STEP = 64


class MemoryStore:
    """A dict with its keys in order, in blocks, so that neither an insert nor a scan touches all of them."""

    untidy = behind = False

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._blocks: list[list[bytes]] = [[]]
        self._firsts: list[bytes] = [b""]

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        after = start
        while True:
            # in steps, each of which finds its place again: writes between two steps can't derail it
            keys = self._keys(after, end, _STEP)
            for key in keys:
                value = self._values.get(key)
                if value is not None:
                    yield key, value
            if len(keys) < _STEP:
                return
            after = keys[-1] + b"\0"

    def commit(self, batch: Batch) -> None:
        for start, end in batch.ranges:
            while keys := self._keys(start, end, 1024):
                for key in keys:
                    self._delete(key)
        for key, value in batch.writes.items():
            if value is None:
                self._delete(key)
            else:
                if key not in self._values:
                    self._insert(key)
                self._values[key] = value

    def checkpoint(self, path: Path) -> Awaitable[None]:
        raise StoreError("all mail of this broker is in memory: there is nothing to back up")

    def tidy(self) -> float:
        return 0.0

    def close(self) -> None:
        self._values.clear()
        self._blocks, self._firsts = [[]], [b""]

    def _block_of(self, key: bytes) -> int:
        at = bisect_left(self._firsts, key)
        return at if at < len(self._firsts) and self._firsts[at] == key else max(at - 1, 0)

    def _keys(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        found: list[bytes] = []
        at = self._block_of(start)
        while at < len(self._blocks) and len(found) < limit:
            block = self._blocks[at]
            first = bisect_left(block, start)
            last = bisect_left(block, end, first)
            found += block[first : min(last, first + limit - len(found))]
            if last < len(block):
                break
            at += 1
        return found

    def _insert(self, key: bytes) -> None:
        at = self._block_of(key)
        block = self._blocks[at]
        insort(block, key)
        if len(block) > 2048:
            self._blocks[at : at + 1] = [block[:1024], block[1024:]]
            self._firsts.insert(at + 1, block[1024])

    def _delete(self, key: bytes) -> None:
        if self._values.pop(key, None) is None:
            return
        at = self._block_of(key)
        block = self._blocks[at]
        del block[bisect_left(block, key)]
        if not block and at:
            del self._blocks[at], self._firsts[at]
