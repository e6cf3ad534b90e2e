"""Room that large values leave behind when nothing points at them any more, taken back in small steps."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

from mq9_broker.store.valuelog import Damaged, Entry, ValueLog

_log = logging.getLogger(__name__)

#: How much of a file must be needed to leave it as it is.
NEEDED = 0.5
#: Bytes of the file that is written to that make it worth a look.
WORTH = 8 * 1_048_576
#: Bytes that must be free beside what is copied: it must not be what fills the disk.
ROOM = 32 * 1_048_576
#: Seconds after which a step ends: what is not in memory takes a disk's time.
STEP = 0.001
#: Keys that get other pointers at once.
_AT_ONCE = 64


class Collection:
    """Looks which values of the files are needed. `stored` gives what stands under a key, `replace` writes other
    pointers, both at once; `sync`, called in the one thread of `worker`, brings what was written to the disk; `flight`
    is the batch on its way there, which may be undone yet."""

    def __init__(
        self,
        values: ValueLog,
        stored: Callable[[bytes], bytes | None],
        replace: Callable[[dict[bytes, bytes]], None],
        sync: Callable[[], None],
        worker: Executor,
        flight: Callable[[], asyncio.Future[None] | None],
    ) -> None:
        self._values = values
        self._stored = stored
        self._replace = replace
        self._sync = sync
        self._worker = worker
        self._flight = flight
        self._told: set[int] = set()
        # (what was copied of these would be copied each time)
        self._damaged: set[int] = set()
        self._until = 0.0
        #: how many files went
        self.removed = 0

    def look(self) -> Iterator[None]:
        """Look at every file once, step by step: there may be commits between two steps. After one that failed, begin
        anew. StoreError when the store does not answer."""
        for number in sorted(self._values.sizes.keys() - self._damaged):
            try:
                yield from self._look_at(number)
            except OSError as cause:
                if isinstance(cause, Damaged):
                    self._damaged.add(number)
                if number not in self._told:
                    self._told.add(number)
                    _log.warning("a file of large messages, number %d, stays as it is: %s", number, cause)
            yield

    def _look_at(self, number: int) -> Iterator[None]:
        values = self._values
        if number in values.held:
            return
        size = values.sizes[number]
        needed: list[Entry] = []
        for entry in values.entries(number):
            if self._is_needed(entry):
                needed.append(entry)
            yield from self._pause()
        copied = sum(entry.length for entry in needed)
        if copied > size * NEEDED or values.sizes[number] > size:
            return
        if number == values.newest and size < WORTH:
            return
        if needed and values.room() < copied + ROOM:
            return
        if number == values.newest:
            values.leave()
        if needed:
            yield from self._move(needed)
        # what is not needed any more must not come back, and point at nothing, when the power fails
        yield from _done(self._worker.submit(self._sync))
        flight = self._flight()
        if flight is not None:
            yield from _done(flight)
        # (in the thread that copies for backups: none goes while they do)
        self._worker.submit(_remove, values.forget(number))
        self.removed += 1

    def _is_needed(self, entry: Entry) -> bool:
        stored = self._stored(entry.key)
        return stored is not None and stored.startswith(entry.place)

    def _move(self, needed: list[Entry]) -> Iterator[None]:
        """Copy values to the newest file, and let their keys point there when the copies are on the disk."""
        values, written = self._values, set()
        moved: list[tuple[bytes, bytes, bytes]] = []
        for entry in needed:
            yield from self._pause()
            pointer = self._stored(entry.key)
            if pointer is None or not pointer.startswith(entry.place):
                continue
            value = values.read(pointer)
            if value is None:
                raise Damaged("a message in it is not what was written; `mq9 check` says of which mailbox")
            moved.append((entry.key, pointer, values.append(entry.key, value)))
            written.add(values.newest)
        yield from _done(self._worker.submit(values.sync, written))
        for at in range(0, len(moved), _AT_ONCE):
            some = moved[at : at + _AT_ONCE]
            self._replace({key: fresh for key, pointer, fresh in some if self._stored(key) == pointer})
            yield from self._pause()

    def _pause(self) -> Iterator[None]:
        """The end of a step, when it was long enough."""
        if time.monotonic() >= self._until:
            yield
            self._until = time.monotonic() + STEP


def _done(work: Future[None] | asyncio.Future[None]) -> Iterator[None]:
    while not work.done():
        yield
    work.result()


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as cause:
        _log.warning("a file of large messages that nobody needs could not be removed: %s", cause)
