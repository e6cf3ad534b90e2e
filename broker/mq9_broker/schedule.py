"""The index of everything that falls due at a time: ordered by time, stored, and read from where it was left."""

from __future__ import annotations

from mq9_broker import keys
from mq9_broker.model import NEVER
from mq9_broker.store.pending import Pending

_BEYOND = b"\xff" * 9

Due = tuple[Pending, int, bytes, bytes, bytes]


class Schedule:
    """Entries are (place, when, kind, rest, value). `next` is never later than the first entry, in ms."""

    def __init__(self, places: tuple[Pending, ...]) -> None:
        self._reached = dict.fromkeys(places, b"E")
        self.next = 0

    def add(self, place: Pending, when: int, kind: bytes, rest: bytes, value: bytes = b"") -> None:
        key = keys.due(when, kind, rest)
        place.writes[key] = value
        if when < self.next:
            self.next = when
        if key < self._reached[place]:
            # the clock went backwards since the last look
            self._reached[place] = key

    def remove(self, place: Pending, when: int, kind: bytes, rest: bytes) -> None:
        place.delete(keys.due(when, kind, rest))

    def behind(self, now: int) -> bool:
        """Whether something is due that was not taken out yet."""
        return self.next <= now

    def take(self, now: int, limit: int) -> list[Due]:
        """Up to `limit` entries that are due, taken out of the index."""
        taken: list[Due] = []
        for place, reached in self._reached.items():
            key = b""
            for key, value in place.scan(reached, b"E" + keys.u64(now + 1)):
                taken.append((place, *keys.split_due(key), value))
                if len(taken) >= limit:
                    break
            if key:
                self._reached[place] = key + b"\0"
        for place, when, kind, rest, _ in taken:
            place.delete(keys.due(when, kind, rest))
        self.next = now if len(taken) >= limit else self._first()
        return taken

    def restart(self) -> None:
        """Look through it from the start again: what was taken out may still be there after a failed commit."""
        self._reached = dict.fromkeys(self._reached, b"E")
        self.next = 0

    def _first(self) -> int:
        first = NEVER
        for place, reached in self._reached.items():
            for key, _ in place.scan(reached, b"E" + _BEYOND):
                first = min(first, keys.split_due(key)[0])
                break
        return first
