"""The limit line without a socket: the records of sends written to the broker's store, and nothing else."""

import time
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.load import payloads
from mq9_broker import keys
from mq9_broker.store import Batch
from mq9_broker.store.rocks import RocksStore

_RING = 1024
_TIER = 2
#: What stands before a payload: as many bytes as the broker writes.
_HEAD = bytes(27)
_COUNTERS = bytes(128)


class RawStore:
    """One batch for each window: its messages, and the mailbox's counters."""

    name = "rocksdict"

    def __init__(self, folder: Path) -> None:
        self._store = RocksStore(folder, sync=False)
        self._numbers = count(1)

    def writes(self, window: int, seconds: float) -> float:
        """Messages a second, written for so many seconds."""
        values = [_HEAD + text for text in payloads(_RING)]
        prefix, counters = keys.messages(1, _TIER), keys.counters(1)
        numbers, done, commit = self._numbers, 0, self._store.commit
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            writes: dict[bytes, bytes | None] = {
                prefix + number.to_bytes(8, "big"): values[number % _RING] for number in islice(numbers, window)
            }
            writes[counters] = _COUNTERS
            commit(Batch(writes))
            done += window
        return done / (time.perf_counter() - started)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._store.close()
