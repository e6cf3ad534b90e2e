"""The store on disk: RocksDB through rocksdict, with memory that does not grow with what is stored."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from rocksdict import (
    AccessType,
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    SliceTransform,
    Snapshot,
    WriteBatch,
)

from mq9_broker.errors import StoreError
from mq9_broker.store import Batch
from mq9_broker.store.collection import Collection
from mq9_broker.store.copying import copy_store
from mq9_broker.store.pending import merged
from mq9_broker.store.valuelog import LARGE, MARK, POINTER, ValueLog, is_pointer, number_of

_log = logging.getLogger(__name__)

_MIB = 1_048_576
#: So many deletions are written out after so many seconds: until then they free nothing.
_DELETIONS, _SECONDS = 1000, 60.0
#: Bytes that are read from a file at once for who wants many.
_AHEAD = 32_768
#: What must be free to begin again on a disk that was full, beside what the logs take: they are written out once.
_ROOM = 8 * _MIB
#: So many tables are in memory before a commit waits until one of them is written out; those that wait for it; bytes a
#: second to which RocksDB slows commits down because merges don't keep up, 0 when it does not.
_BUFFERS, _WAITING_TABLES, _DELAYED = 3, "rocksdb.num-immutable-mem-table", "rocksdb.actual-delayed-write-rate"
#: Keys that begin with the same bytes, so many, stand together: an `I` and an incarnation (see keys.py).
_TOGETHER = 9
#: Seconds between two steps of tidying at least, and how many times as long as the step took.
_PAUSE, _PAUSES = 0.002, 19
#: After a look in vain so many times as long as it took, and seconds at the most.
_RESTS, _LONGEST_REST = 4, 60.0
#: Bytes of large values that were written since a look began, from which on it must hurry: pauses are short then.
BEHIND = 256 * _MIB
#: Seconds after which it is looked whether a store takes writes again.
_UNTIL_WELL = 1.0


def _options() -> Options:
    table = BlockBasedOptions()
    # mailboxes come in random order: each miss reads and unpacks a block, so these are small, and many stay
    table.set_block_cache(Cache(112 * _MIB))
    table.set_block_size(4 * 1024)
    table.set_bloom_filter(10, False)
    # indexes and filters have no bound but the cache's; in parts, so that a miss reads 4 KiB and not hundreds
    table.set_cache_index_and_filter_blocks(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(4096)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    # a scan within one mailbox asks the filters too, and looks only into the tables that have something of it
    options.set_prefix_extractor(SliceTransform.create_fixed_prefix(_TOGETHER))
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(16 * _MIB)
    options.set_max_write_buffer_number(_BUFFERS)
    options.set_max_total_wal_size(64 * _MIB)
    options.set_max_open_files(256)
    # fewer and larger merges: young data is neither compressed nor merged more than once, which halves the processor
    # time that the store's own threads take from the loop
    options.set_compression_per_level([DBCompressionType.none()] * 2 + [DBCompressionType.lz4()] * 5)
    options.set_level_zero_file_num_compaction_trigger(12)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(60)
    options.set_max_bytes_for_level_base(512 * _MIB)
    options.set_target_file_size_base(64 * _MIB)
    options.set_level_compaction_dynamic_level_bytes(False)
    # a table that is mostly deletions is merged without waiting for more, so that what expired gives its room back
    options.add_compact_on_deletion_collector_factory(1000, 500, 0.5)
    options.set_max_background_jobs(2)
    # (else whoever reads last from files that were merged deletes them: a client may wait for 200 ms then)
    options.set_avoid_unnecessary_blocking_io(True)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MIB)
    # a torn last record is what a killed machine leaves; anything else wrong with the log is an error
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    return options


class RocksStore:
    """Durability: without `sync` a batch survives a killed process; with it, a power cut too: commits then return an
    awaitable that is done when the log is on disk (the write itself holds the GIL, the sync does not). `writable`
    False leaves every file as it is."""

    def __init__(self, path: Path, sync: bool, *, writable: bool = True) -> None:
        self._path = path
        self._writable = writable
        self._db = self._open(AccessType.read_write() if writable else AccessType.read_only(False))
        self._broken = False
        self._syncer = ThreadPoolExecutor(1, "mq9-sync") if sync else None
        self._flight: asyncio.Future[None] | None = None
        self._worker = ThreadPoolExecutor(1, "mq9-files")
        self._deleted, self._written_out = 0, 0.0
        # the store before the batch that is being synced
        self._before: Snapshot | None = None
        # what stood where a batch was written that could not be synced: readers see this
        self._undo: dict[bytes, bytes | None] = {}
        try:
            self._values = ValueLog(path)
        except OSError as cause:
            self._db.close()
            raise StoreError(f"cannot open the store in {path}: {cause}") from cause
        # whether a large value found no room, and the bytes of it
        self._full, self._wanted = False, 0
        self._collection = Collection(
            self._values, self._stored, self._replace, self._sync_log, self._worker, lambda: self._flight
        )
        self._look: Iterator[None] | None = None
        # bytes written since that began, and files gone before; when it began, and when the next may begin
        self._grown = self._removed = 0
        self._began = self._again = 0.0
        # the files of which it was said that they lost something
        self._lost: set[int] = set()
        self.untidy = bool(self._values.sizes)

    def get(self, key: bytes) -> bytes | None:
        value = self._undo[key] if self._undo and key in self._undo else self._stored(key)
        if value is None or len(value) != POINTER or value[0] != MARK:
            return value
        return self._large(key, value)

    def scan(self, start: bytes, end: bytes, ahead: int = 0) -> Iterator[tuple[bytes, bytes]]:
        stored = self._scan(start, end, ahead)
        if not self._undo:
            return stored
        return merged(stored, sorted(key for key in self._undo if start <= key < end), self.get)

    def commit(self, batch: Batch) -> Awaitable[None] | None:
        if self._broken or self._full:
            self._begin_again()
        records = self._records(batch)
        if self._syncer is None:
            self._write(records)
            return None
        apart = self._values.held
        self._flight = asyncio.ensure_future(self._fly(batch, records)) if apart else self._take_off(batch, records)
        return self._flight

    @property
    def behind(self) -> bool:
        asked = self._db.property_int_value
        try:
            return (asked(_WAITING_TABLES) or 0) >= _BUFFERS - 1 or bool(asked(_DELAYED))
        except Exception:
            # (one that could not be opened again: whoever writes is told why)
            return False

    def checkpoint(self, path: Path) -> Awaitable[None]:
        self._values.leave()
        return asyncio.get_running_loop().run_in_executor(self._worker, self._copy, path, self._values.newest)

    def tidy(self) -> float:
        if self._broken:
            return _UNTIL_WELL
        began = time.monotonic()
        try:
            if self._look is None:
                if began < self._again and self._grown < BEHIND:
                    return min(self._again - began, _UNTIL_WELL)
                self.untidy, self._grown = False, 0
                self._removed, self._began = self._collection.removed, began
                self._look = self._collection.look()
            next(self._look)
        except StopIteration:
            # (something is deleted all the time, and rarely what is large)
            in_vain = self._collection.removed == self._removed
            self._again = began + min(_RESTS * (began - self._began), _LONGEST_REST) if in_vain else 0.0
        except StoreError as cause:
            _log.warning("the files of large messages are not looked through: %s", cause)
        except Exception:
            # a defect of ours, and no mail is lost by it: the files take more room than they need
            _log.exception("the files of large messages can't be looked through")
        else:
            took = time.monotonic() - began
            return max(_PAUSE, took * (_PAUSES if self._grown < BEHIND else 1))
        self._look = None
        return 0.0

    def close(self) -> None:
        self._worker.shutdown(wait=True)
        if self._syncer is not None:
            self._syncer.shutdown(wait=True)
        self._values.close()
        self._shut()

    def _open(self, access: AccessType) -> Rdict:
        try:
            options = _options()
            # (unless the column family is named, rocksdict opens a store that is there already without our cache and
            # without filters)
            return Rdict(str(self._path), options, {"default": options}, access)
        except Exception as cause:
            raise StoreError(f"cannot open the store in {self._path}: {cause}") from cause

    def _shut(self) -> None:
        self._before = None
        try:
            if self._writable and not self._broken:
                self._db.flush_wal(True)
        except Exception as cause:
            _log.warning("while the store was closed: %s", cause)
        try:
            self._db.close()
        except Exception as cause:
            # what it could not keep was refused at the time
            _log.info("while the store was closed: %s", cause)

    def _begin_again(self) -> None:
        """RocksDB takes no write after one that failed, even when there is room again: open it anew."""
        free = shutil.disk_usage(self._path).free
        needed = _ROOM + self._wanted + sum(map(_size, self._path.glob("*.log")))
        if free < needed:
            raise StoreError(f"No space left on device: {free // _MIB} MiB are free, {needed // _MIB} are needed")
        self._full = False
        if not self._broken:
            return
        self._shut()
        try:
            self._db = self._open(AccessType.read_write())
        except StoreError:
            # readers go on: that needs no room
            self._db = self._open(AccessType.read_only(False))
            raise
        # (what it saw may have been undone)
        self._look = None
        if self._undo:
            # (a disk that failed once may have lost more of that file)
            self._values.leave()
            records = WriteBatch(raw_mode=True)
            for key, value in self._undo.items():
                if value is None:
                    records.delete(key)
                else:
                    records.put(key, value)
            self._apply(records)
            self._sync_log()
            self._undo = {}
        self._broken = False

    def _scan(self, start: bytes, end: bytes, ahead: int) -> Iterator[tuple[bytes, bytes]]:
        # RocksDB stops at the bound without walking the tombstones behind it. The iterator points into the options:
        # this frame keeps them alive as long as it.
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(end)
        bounds.set_total_order_seek(start[:_TOGETHER] != end[:_TOGETHER])
        # what is read on its way to somebody is not read soon again, and would push out what is
        bounds.fill_cache(False)  # type: ignore[call-arg]  # (its stub lacks the argument)
        if ahead:
            # (else each block of 4 KiB is read by itself)
            bounds.set_readahead_size(min(ahead, _AHEAD))
        try:
            for pair in cast(Iterator[tuple[bytes, bytes]], self._db.items(from_key=start, read_opt=bounds)):
                if len(pair[1]) == POINTER and pair[1][0] == MARK:
                    value = self._large(*pair)
                    if value is not None:
                        yield pair[0], value
                else:
                    yield pair
        except StoreError:
            raise
        except Exception as cause:
            raise StoreError(f"cannot read: {cause}") from cause

    def _records(self, batch: Batch) -> WriteBatch:
        """What a batch writes, when its large values are written apart."""
        records = WriteBatch(raw_mode=True)
        put, delete = records.put, records.delete
        before, end_before = self._deleted, self._values.end()
        for start, end in batch.ranges:
            records.delete_range(start, end)
            self._deleted += _DELETIONS
        try:
            for key, value in batch.writes.items():
                if value is None:
                    delete(key)
                    self._deleted += 1
                    continue
                size = len(value)
                large = size >= LARGE or (size == POINTER and value[0] == MARK)
                put(key, self._apart(key, value) if large else value)
        except StoreError:
            # (the room that is left is what it takes to begin again)
            self._values.take_back(*end_before)
            self._values.held.clear()
            raise
        if self._deleted > before and self._values.sizes:
            self.untidy = True
        return records

    async def _fly(self, batch: Batch, records: WriteBatch) -> None:
        """Large values are on the disk before there is anything that points at them: it could be there without them
        when the power fails, and what it replaced would be lost."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._syncer, self._values.sync, self._values.held)
            flight = self._take_off(batch, records)
        except OSError as cause:
            # (a disk that failed once may have lost more of that file, and of what was moved there)
            self._values.leave()
            self._look = None
            raise StoreError(str(cause)) from cause
        finally:
            self._values.held.clear()
            self.untidy = True
        await flight

    def _take_off(self, batch: Batch, records: WriteBatch) -> asyncio.Future[None]:
        self._before = self._db.snapshot()
        self._write(records)
        return asyncio.get_running_loop().run_in_executor(self._syncer, self._sync, batch)

    def _write(self, records: WriteBatch) -> None:
        self._apply(records)
        if self._deleted >= _DELETIONS:
            self._write_out()

    def _apply(self, records: WriteBatch) -> None:
        try:
            self._db.write(records)
        except Exception as cause:
            self._broken = True
            raise StoreError(str(cause)) from cause

    # large values

    def _apart(self, key: bytes, value: bytes) -> bytes:
        """Write a large value; gives what stands for it."""
        self.untidy = True
        try:
            pointer = self._values.append(key, value)
        except OSError as cause:
            # (with what a later attempt needs beside the room that is needed to begin again)
            self._full, self._wanted = True, len(value)
            raise StoreError(str(cause)) from cause
        self._wanted = 0
        self._grown += len(value)
        if self._syncer is not None:
            self._values.held.add(self._values.newest)
        return pointer

    def _stored(self, key: bytes) -> bytes | None:
        """What stands under a key, be it a value or what stands for one."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as cause:
            raise StoreError(f"cannot read: {cause}") from cause
        return value

    def _large(self, key: bytes, pointer: bytes) -> bytes | None:
        """The value that a pointer stands for; None when it is gone: the power failed before it was on the disk."""
        try:
            value = self._values.read(pointer)
            if value is None:
                # it may have been moved, or deleted, since the scan began in which the pointer was found
                now = self._stored(key)
                if now != pointer:
                    return self._large(key, now) if now is not None and is_pointer(now) else now
        except OSError as cause:
            raise StoreError(f"cannot read: {cause}") from cause
        if value is None and (number := number_of(pointer)) not in self._lost:
            self._lost.add(number)
            _log.error(
                "a large message is lost, maybe others with it: file number %d does not hold what was written, as "
                "after a power cut without durability fsync; stop the broker, and `mq9 check --repair` corrects what "
                "counts them",
                number,
            )
        return value

    def _replace(self, pointers: dict[bytes, bytes]) -> None:
        records = WriteBatch(raw_mode=True)
        for key, pointer in pointers.items():
            records.put(key, pointer)
        self._apply(records)

    def _sync_log(self) -> None:
        try:
            self._db.flush_wal(True)
        except Exception as cause:
            raise StoreError(str(cause)) from cause

    def _write_out(self) -> None:
        """Let the deletions become a table, in the background, now and then."""
        now = time.monotonic()
        if now - self._written_out < _SECONDS:
            return
        self._deleted, self._written_out = 0, now
        try:
            self._db.flush(False)
        except Exception as cause:
            _log.warning("deletions could not be written out: %s", cause)

    def _sync(self, batch: Batch) -> None:
        before, self._before = self._before, None
        try:
            self._db.flush_wal(True)
        except Exception as cause:
            self._broken = True
            self._undo = _what_was(before, batch)
            before = None  # (the traceback would keep the database open)
            raise StoreError(str(cause)) from cause

    def _copy(self, path: Path, newest: int) -> None:
        try:
            self._db.flush(True)  # leaves little in the logs
            copy_store(self._path, path, newest)
        except Exception as cause:
            raise StoreError(f"cannot copy the store to {path}: {cause}") from cause


def _size(path: Path) -> int:
    """Bytes of a file; 0 of one that is gone: RocksDB removes its logs when it likes."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _what_was(before: Snapshot | None, batch: Batch) -> dict[bytes, bytes | None]:
    """The keys that a batch writes, with their values before it. (Nobody reads what was in its ranges.)"""
    undo: dict[bytes, bytes | None] = {}
    assert before is not None
    for key in batch.writes:
        try:
            undo[key] = before[key]
        except Exception as cause:
            if str(cause) != "key not found":
                raise
            undo[key] = None
    return undo
