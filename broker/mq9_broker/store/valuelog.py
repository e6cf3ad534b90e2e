"""Large values, in files of their own beside the store: RocksDB would write each twice or more, and check it each time.

In the store a pointer stands in for such a value. In the files each stands behind its key: so a file and the store tell
together which of its values are needed still. A file of which nothing is needed goes, and what little is needed of
another is copied to a new one before. No file is written to again by the next process.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from mq9_broker.store.copying import VALUES, sync

#: Bytes of a value that is worth a place of its own.
LARGE = 16_384
#: What a pointer consists of: the mark, the number of a file, where in it the value begins, its length and CRC-32.
_POINTER = struct.Struct(">BQQII")
POINTER = _POINTER.size
MARK = 0xFF
#: What stands before a key and its value: the CRC-32 of what follows of it, key included, and both lengths.
_HEAD = struct.Struct(">IHI")
_LENGTHS = struct.Struct(">HI")
#: Bytes of a file that is full.
FULL = 64 * 1_048_576
#: Bytes in which there are a head and its key, mostly.
_SEEN = 256
_READERS = 32


def is_pointer(value: bytes) -> bool:
    """Whether a stored value stands for a large one. (What only looks so is put into a file, too.)"""
    return len(value) == POINTER and value[0] == MARK


def number_of(pointer: bytes) -> int:
    """In which file a value stands."""
    return int.from_bytes(pointer[1:9], "big")


class Damaged(OSError):
    """A file does not hold what was written."""


class Entry(NamedTuple):
    """A value in a file: its key, all of its pointer but the checksum, its length."""

    key: bytes
    place: bytes
    length: int


class ValueLog:
    """The files in `folder`. For one thread, but for `sync`; OSError from all that reads or writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = [file for file in folder.glob("*" + VALUES) if file.stem.isdigit()]
        #: the bytes of each file, by its number; what is written goes to the newest
        self.sizes = {int(file.stem): file.stat().st_size for file in sorted(found)}
        #: the number of that one
        self.newest = max(self.sizes, default=0)
        #: those that have values of a batch on its way, at which nothing points yet
        self.held: set[int] = set()
        self._writer: FileIO | None = None
        self._readers: dict[int, FileIO] = {}

    def append(self, key: bytes, value: bytes) -> bytes:
        """Write a value; gives the pointer that stands for it."""
        if self._writer is None or self.sizes[self.newest] >= FULL:
            self._begin()
        assert self._writer is not None
        number, lengths = self.newest, _LENGTHS.pack(len(key), len(value)) + key
        head = crc32(lengths).to_bytes(4, "big") + lengths
        end = self.sizes[number]
        self._writer.seek(end)
        try:
            for data in (head, value):
                rest = memoryview(data)
                while rest:
                    rest = rest[self._writer.write(rest) :]
        except OSError:
            with suppress(OSError):
                self._writer.truncate(end)
            raise
        start = end + len(head)
        self.sizes[number] = start + len(value)
        return _POINTER.pack(MARK, number, start, len(value), crc32(value))

    def room(self) -> int:
        """Bytes that are free beside the files."""
        return shutil.disk_usage(self._folder).free

    def end(self) -> tuple[int, int]:
        """Where the next value would come: the number of the file, and its bytes."""
        return self.newest, self.sizes.get(self.newest, 0)

    def take_back(self, number: int, size: int) -> None:
        """Give back the room of what was appended since `end` gave this: nothing points at it. What can't be given
        back stays, as what a killed process leaves does."""
        with suppress(OSError):
            for later in [later for later in self.sizes if later > number]:
                self.forget(later).unlink()
            if self.sizes.get(number, size) > size:
                os.truncate(self._path(number), size)
                self.sizes[number] = size

    def read(self, pointer: bytes) -> bytes | None:
        """The value that a pointer stands for; None when it is not there as it was written."""
        _, number, start, length, checksum = _POINTER.unpack(pointer)
        try:
            value = self._read(number, start, length)
        except FileNotFoundError:
            return None
        return value if len(value) == length and crc32(value) == checksum else None

    def entries(self, number: int) -> Iterator[Entry]:
        """What is in a file by now, but for a last one that a killed process could not finish. Damaged when there is
        something else in it."""
        at, size = 0, self.sizes[number]
        while size - at > _HEAD.size:
            data = self._read(number, at, _SEEN)
            checksum, keys, length = _HEAD.unpack_from(data.ljust(_HEAD.size, b"\0"))
            head = _HEAD.size + keys
            if head > len(data):
                data = self._read(number, at, head)
            start = at + head
            if start > size:
                return
            if crc32(data[4:head]) != checksum:
                raise Damaged(f"there is no message at its byte {at}")
            if start + length > size:
                return
            yield Entry(data[_HEAD.size : head], _POINTER.pack(MARK, number, start, length, 0)[:-4], length)
            at = start + length

    def sync(self, numbers: set[int]) -> None:
        """Bring files to the disk (in any thread)."""
        for number in numbers:
            sync(self._path(number))
        if numbers:
            sync(self._folder)

    def forget(self, number: int) -> Path:
        """A file is not needed any more: the path to remove."""
        if number == self.newest:
            self.leave()
        reader = self._readers.pop(number, None)
        if reader is not None:
            reader.close()
        del self.sizes[number]
        return self._path(number)

    def close(self) -> None:
        self.leave()
        while self._readers:
            self._readers.popitem()[1].close()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}{VALUES}"

    def _begin(self) -> None:
        self.leave()
        self.newest += 1
        self._writer = FileIO(self._path(self.newest), "xb")
        self.sizes[self.newest] = 0

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _read(self, number: int, start: int, length: int) -> bytes:
        reader = self._readers.get(number)
        if reader is None:
            if len(self._readers) >= _READERS:
                self._readers.pop(next(iter(self._readers))).close()
            reader = self._readers[number] = FileIO(self._path(number), "rb")
        reader.seek(start)
        return reader.read(length)
