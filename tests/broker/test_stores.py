"""One contract for all that keeps records: in memory, RocksDB unsynced and synced, and what is pending before each."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Rdict

from mq9_broker.errors import StoreError
from mq9_broker.store import Batch, Store, collection, copying, rocks, valuelog
from mq9_broker.store.memory import MemoryStore
from mq9_broker.store.pending import Pending
from mq9_broker.store.rocks import RocksStore

EVERYTHING = b"", b"\xff" * 9
BARE = ("memory", "rocks", "rocks-sync", "rocks-apart", "rocks-apart-sync")


class Kept:
    """A store as the contract sees it: `apply` writes a batch, and waits until it is kept. It is tidied all the time,
    and nobody sees that."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.get = store.get
        self.scan = store.scan

    def apply(self, batch: Batch) -> None:
        async def commit() -> None:
            flight = self.store.commit(batch)
            self.store.tidy()
            if flight is not None:
                await flight
            for _ in range(3):
                self.store.tidy()

        asyncio.run(commit())

    def close(self) -> None:
        self.store.close()


class Layered(Kept):
    """What is pending in front of a store: the newest batch is pending, the one before on its way, the rest kept."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.pending = Pending(store)
        self.get = self.pending.get
        self.scan = self.pending.scan

    def apply(self, batch: Batch) -> None:
        self._move_on()
        for start, end in batch.ranges:
            # (nobody reads a range whose deletion is pending)
            self._move_on()
            self.pending.delete_range(start, end)
            self._move_on()
            self._move_on()
        for key, value in batch.writes.items():
            if value is None:
                self.pending.delete(key)
            else:
                self.pending.put(key, value)

    def _move_on(self) -> None:
        self.pending.landed()
        super().apply(self.pending.take())


Open = Callable[[], Kept]


@pytest.fixture(params=[*BARE, *(f"pending-{bare}" for bare in BARE)])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    name: str = request.param
    bare = name.removeprefix("pending-")
    if "apart" in name:
        # every value stands in a file, these are small, and come and go
        monkeypatch.setattr(rocks, "LARGE", 0)
        monkeypatch.setattr(valuelog, "FULL", 200)
        monkeypatch.setattr(collection, "WORTH", 100)
        monkeypatch.setattr(collection, "STEP", 0.0)
    store: Store = MemoryStore() if bare == "memory" else RocksStore(tmp_path / "store", sync=bare.endswith("sync"))
    found = Kept(store) if bare == name else Layered(store)
    yield found
    found.close()


def write(**values: str | None) -> Batch:
    return Batch({key.encode(): None if value is None else value.encode() for key, value in values.items()})


def everything(kept: Kept) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in kept.scan(*EVERYTHING)}


# ---- the contract ----


def test_a_new_store_is_empty(kept: Kept) -> None:
    assert kept.get(b"a") is None
    assert list(kept.scan(*EVERYTHING)) == []
    assert not kept.store.behind


def test_what_is_written_is_read(kept: Kept) -> None:
    kept.apply(write(a="1", b="2"))
    assert (kept.get(b"a"), kept.get(b"b"), kept.get(b"c"), kept.get(b"")) == (b"1", b"2", None, None)
    kept.apply(write(a="3", b=None, c="4"))
    assert (kept.get(b"a"), kept.get(b"b"), kept.get(b"c")) == (b"3", None, b"4")
    assert everything(kept) == {"a": "3", "c": "4"}
    kept.apply(write(b="5"))
    assert everything(kept) == {"a": "3", "b": "5", "c": "4"}


def test_values_may_be_empty_and_keys_and_values_any_bytes(kept: Kept) -> None:
    kept.apply(Batch({b"\x00": b"", b"\x00\x00": b"\xff" * 100_000, b"\xfe\xff": b"\x00"}))
    assert kept.get(b"\x00") == b""
    assert list(kept.scan(*EVERYTHING)) == [(b"\x00", b""), (b"\x00\x00", b"\xff" * 100_000), (b"\xfe\xff", b"\x00")]


def test_large_and_small_values_are_written_together(kept: Kept) -> None:
    large = "x" * 1_048_576
    kept.apply(write(a=large, b="1", c=large, d="2"))
    kept.apply(write(b=large, a=None, c="3", e="4", d=None))
    kept.apply(write(f=None, g=large))
    assert everything(kept) == {"b": large, "c": "3", "e": "4", "g": large}


def test_a_scan_is_in_the_order_of_bytes_from_its_start_to_before_its_end(kept: Kept) -> None:
    names = [b"a", b"a\x00", b"a\x00\x00", b"a\x01", b"aa", b"b", b"\x7f", b"\x80", b"\xff"]
    kept.apply(Batch({name: name for name in reversed(names)}))
    assert [key for key, _ in kept.scan(*EVERYTHING)] == names
    assert [key for key, _ in kept.scan(b"a\x00", b"b")] == [b"a\x00", b"a\x00\x00", b"a\x01", b"aa"]
    assert [key for key, _ in kept.scan(b"a\x00\x01", b"b\x00")] == [b"a\x01", b"aa", b"b"]
    assert list(kept.scan(b"b", b"b")) == []
    assert list(kept.scan(b"c", b"\x7f")) == []
    assert list(kept.scan(b"\x80\x00", b"\xff")) == []


def test_a_scan_past_many_keys_in_both_directions_of_growth(kept: Kept) -> None:
    """More keys than any block or step holds, written from both ends and from the middle."""
    numbers = [*range(5000, 7000), *range(4999, 2999, -1), *range(9000, 7000, -1), *range(2000, 3000)]
    for start in range(0, len(numbers), 700):
        kept.apply(Batch({b"%05d" % number: b"v%d" % number for number in numbers[start : start + 700]}))
    expected = [(b"%05d" % number, b"v%d" % number) for number in sorted(numbers)]
    assert list(kept.scan(*EVERYTHING)) == expected
    for ahead in (0, 1, 1_000_000):
        part = [entry for entry in expected if b"04321" <= entry[0] < b"07654"]
        assert list(kept.scan(b"04321", b"07654", ahead)) == part


def test_a_scan_that_is_left_early_costs_nothing_later(kept: Kept) -> None:
    kept.apply(Batch({b"%03d" % number: b"" for number in range(200)}))
    for _ in range(3):
        assert [key for key, _ in islice(kept.scan(b"010", b"150"), 2)] == [b"010", b"011"]
    scan = kept.scan(*EVERYTHING)
    assert next(scan)[0] == b"000"
    del scan
    kept.apply(write(z="1"))
    assert kept.get(b"z") == b"1"


def test_deleting(kept: Kept) -> None:
    kept.apply(Batch({b"%02d" % number: b"x" for number in range(20)}))
    kept.apply(Batch({b"%02d" % number: None for number in range(0, 20, 2)} | {b"not there": None}))
    assert [key for key, _ in kept.scan(*EVERYTHING)] == [b"%02d" % number for number in range(1, 20, 2)]
    kept.apply(Batch({b"%02d" % number: None for number in range(20)}))
    assert list(kept.scan(*EVERYTHING)) == []
    kept.apply(write(a="again"))
    assert everything(kept) == {"a": "again"}


def test_a_range_is_deleted_from_its_start_to_before_its_end(kept: Kept) -> None:
    kept.apply(Batch({b"%04d" % number: b"x" for number in range(3000)}))
    kept.apply(Batch({b"9": b"y"}, [(b"0010", b"2990"), (b"5", b"6"), (b"2995", b"2995")]))
    assert [key for key, _ in kept.scan(*EVERYTHING)] == [
        *(b"%04d" % number for number in range(10)),
        *(b"%04d" % number for number in range(2990, 3000)),
        b"9",
    ]
    assert (kept.get(b"0010"), kept.get(b"2989"), kept.get(b"2990")) == (None, None, b"x")


def test_an_empty_batch_is_false_and_harmless(kept: Kept) -> None:
    assert not Batch()
    assert Batch({b"a": None})
    assert Batch(ranges=[(b"a", b"b")])
    kept.apply(Batch())
    assert list(kept.scan(*EVERYTHING)) == []


def test_a_scan_under_way_gives_every_key_that_is_not_touched_once_and_in_order(kept: Kept) -> None:
    names = [b"%04d" % number for number in range(0, 1000, 2)]
    kept.apply(Batch(dict.fromkeys(names, b"old")))
    scan = kept.scan(*EVERYTHING)
    seen = [key for key, _ in islice(scan, 100)]
    kept.apply(Batch({b"%04d" % number: b"new" for number in range(1, 1000, 2)}))
    seen += [key for key, _ in islice(scan, 100)]
    kept.apply(Batch({name: None for name in names if name < b"0300" or b"0600" <= name < b"0700"}))
    seen += [key for key, _ in scan]
    assert seen == sorted(set(seen))
    assert set(names) - {name for name in names if b"0600" <= name < b"0700"} <= set(seen)


def test_deleting_what_a_scan_just_gave(kept: Kept) -> None:
    """As what ended mailboxes left is removed."""
    kept.apply(Batch({b"%04d" % number: b"x" for number in range(500)}))
    for start in range(0, 500, 100):
        for key, _ in kept.scan(b"%04d" % start, b"%04d" % (start + 100)):
            kept.apply(Batch({key: None})) if start % 200 else kept.get(key)
    assert [key for key, _ in kept.scan(*EVERYTHING)] == [
        b"%04d" % number for number in range(500) if number // 100 % 2 == 0
    ]


# ---- compared with a dict ----

_key = st.binary(min_size=1, max_size=3) | st.sampled_from([b"a", b"a\x00", b"b", b"ab", b"c"])
_batch = st.builds(
    Batch,
    st.dictionaries(_key, st.none() | st.binary(max_size=4), max_size=12),
    st.lists(st.tuples(_key, _key).map(lambda bounds: (min(bounds), max(bounds))), max_size=1),
)


@given(st.lists(_batch, max_size=10), st.lists(st.tuples(_key, _key), max_size=5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_a_sorted_dict(kept: Kept, batches: list[Batch], bounds: list[tuple[bytes, bytes]]) -> None:
    kept.apply(Batch({key: None for key, _ in kept.scan(*EVERYTHING)}))
    model: dict[bytes, bytes] = {}
    for batch in batches:
        for start, end in batch.ranges:
            model = {key: value for key, value in model.items() if not start <= key < end}
            for key in [key for key in batch.writes if start <= key < end]:
                del batch.writes[key]  # what is in a range is never written again
        model.update({key: value for key, value in batch.writes.items() if value is not None})
        model = {key: value for key, value in model.items() if batch.writes.get(key, b"") is not None}
        kept.apply(batch)
        assert list(kept.scan(*EVERYTHING)) == sorted(model.items())
    for start, end in bounds:
        assert list(kept.scan(start, end)) == [(key, model[key]) for key in sorted(model) if start <= key < end]
        assert kept.get(start) == model.get(start)


# ---- what is pending ----


def test_what_is_pending_hides_what_is_stored() -> None:
    store = MemoryStore()
    store.commit(write(a="1", b="1", c="1"))
    pending = Pending(store)
    pending.put(b"a", b"2")
    pending.delete(b"b")
    pending.put(b"d", b"2")
    assert [pending.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"2", None, b"1", b"2"]
    assert dict(pending.scan(*EVERYTHING)) == {b"a": b"2", b"c": b"1", b"d": b"2"}
    assert dict(store.scan(*EVERYTHING)) == {b"a": b"1", b"b": b"1", b"c": b"1"}


def test_what_is_on_its_way_is_read_until_it_landed() -> None:
    store = MemoryStore()
    pending = Pending(store)
    pending.put(b"a", b"1")
    pending.put(b"b", b"1")
    batch = pending.take()
    assert batch.writes == {b"a": b"1", b"b": b"1"}
    assert not pending.batch
    pending.put(b"b", b"2")
    pending.put(b"c", b"2")
    assert list(pending.scan(*EVERYTHING)) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"2")]
    pending.landed()  # it never came to the store
    assert list(pending.scan(*EVERYTHING)) == [(b"b", b"2"), (b"c", b"2")]
    assert pending.get(b"a") is None


def test_a_range_takes_what_is_pending_with_it() -> None:
    store = MemoryStore()
    pending = Pending(store)
    pending.put(b"a", b"1")
    pending.put(b"z", b"1")
    pending.delete_range(b"a", b"b")
    store.commit(pending.take())
    pending.landed()
    assert list(store.scan(*EVERYTHING)) == [(b"z", b"1")]


def test_nothing_pending_scans_the_store_itself() -> None:
    store = MemoryStore()
    store.commit(write(a="1"))
    pending = Pending(store)
    pending.put(b"x", b"1")
    assert list(pending.scan(b"a", b"b")) == [(b"a", b"1")]


# ---- RocksDB ----


@pytest.mark.parametrize("sync", [False, True])
def test_what_was_written_is_there_after_reopening(tmp_path: Path, sync: bool) -> None:
    kept = Kept(RocksStore(tmp_path / "s", sync))
    kept.apply(Batch({b"%04d" % number: b"x" * number for number in range(1000)}))
    kept.apply(Batch({b"0500": None}, [(b"0600", b"0700")]))
    kept.close()
    again = Kept(RocksStore(tmp_path / "s", not sync))
    assert [(key, len(value)) for key, value in again.scan(*EVERYTHING)] == [
        (b"%04d" % number, number) for number in range(1000) if number != 500 and not 600 <= number < 700
    ]
    again.close()


def test_an_unsynced_commit_is_done_at_once_and_a_synced_one_later(tmp_path: Path) -> None:
    unsynced = RocksStore(tmp_path / "a", sync=False)
    assert unsynced.commit(write(a="1")) is None
    unsynced.close()

    async def commit() -> None:
        store = RocksStore(tmp_path / "b", sync=True)
        flight = store.commit(write(a="1"))
        assert flight is not None
        assert store.get(b"a") == b"1"  # readable now, kept when it is done
        await flight
        store.close()

    asyncio.run(commit())


def test_a_store_that_is_open_is_not_opened_again(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", sync=False)
    with pytest.raises(StoreError, match=r"cannot open the store in .*s: "):
        RocksStore(tmp_path / "s", sync=False)
    store.close()


def test_a_store_that_is_not_one_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file")
    with pytest.raises(StoreError, match="cannot open the store in "):
        RocksStore(tmp_path / "s", sync=False)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", sync=False)
    store.close()
    with pytest.raises(StoreError, match="cannot read: "):
        store.get(b"a")
    with pytest.raises(StoreError, match="cannot read: "):
        list(store.scan(b"a", b"b"))
    with pytest.raises(StoreError, match=r"\w"):
        store.commit(write(a="1"))
    assert not store.behind


@pytest.mark.parametrize("sync", [False, True])
def test_a_store_that_could_not_write_reads_on_and_writes_again_when_it_can(
    tmp_path: Path, small_files: Callable[[int], None], sync: bool
) -> None:
    kept = Kept(RocksStore(tmp_path / "s", sync))
    kept.apply(write(before="1"))
    small_files(100_000)
    there: list[bytes] = []

    def fill() -> None:
        for number in range(30):
            kept.apply(Batch({b"n%02d" % number: b"x" * 10_000}))
            there.append(b"n%02d" % number)

    with pytest.raises(StoreError, match="File too large"):
        fill()
    small_files(20_000)
    for _ in range(2):
        with pytest.raises(StoreError, match="File too large"):
            kept.apply(write(after="1"))
        assert kept.get(b"before") == b"1"
        assert [key for key, _ in kept.scan(b"n", b"o")] == there
    small_files(0)
    # (a log that RocksDB removes while they are counted)
    (tmp_path / "s" / "gone.log").symlink_to(tmp_path / "nowhere")
    kept.apply(write(after="2"))
    assert (kept.get(b"before"), kept.get(b"after")) == (b"1", b"2")
    assert [key for key, _ in kept.scan(b"n", b"o")] == there
    kept.close()
    again = Kept(RocksStore(tmp_path / "s", sync))
    assert [key for key, _ in again.scan(*EVERYTHING)] == [b"after", b"before", *there]
    again.close()


def test_what_was_deleted_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk, in the background, without more being written than a broker at rest writes."""
    monkeypatch.setattr(rocks, "_SECONDS", 0.0)
    kept = Kept(RocksStore(tmp_path / "s", sync=False))

    def size() -> int:
        found = 0
        for file in (tmp_path / "s").glob("*.sst"):
            with suppress(FileNotFoundError):  # one that was merged goes as it is looked at
                found += file.stat().st_size
        return found

    for start in range(0, 20_000, 200):
        kept.apply(Batch({b"%06d" % number: os.urandom(2000) for number in range(start, start + 200)}))
    for start in range(0, 20_000, 200):
        kept.apply(Batch({b"%06d" % number: None for number in range(start, start + 200)}))
    deadline = time.monotonic() + 30
    while size() > 2_000_000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert size() <= 2_000_000
    assert list(kept.scan(*EVERYTHING)) == []
    kept.close()


def test_a_copy_is_the_store_at_one_moment(tmp_path: Path) -> None:
    """While batches, tables and merges come and go: every batch is in it whole, up to one of them, and none after."""
    store = RocksStore(tmp_path / "s", sync=False)

    async def copy() -> list[tuple[int, int]]:
        written, spans = 0, []
        for number in range(12):
            task = asyncio.ensure_future(store.checkpoint(tmp_path / f"c{number}"))
            first = written
            while not task.done():
                written += 1
                store.commit(
                    Batch({b"%02d" % key: b"%d" % written for key in range(20)} | {b"x%d" % written: b"y" * 99})
                )
                if written % 5000 == 0:
                    store._db.flush(False)
                await asyncio.sleep(0)
            await task
            spans.append((first, written))
            if number % 4 == 3:
                store._db.compact_range(None, None)
        return spans

    spans = asyncio.run(copy())
    store.close()
    for number, (first, last) in enumerate(spans):
        found = RocksStore(tmp_path / f"c{number}", sync=False, writable=False)
        (newest,) = {int(value) for key, value in found.scan(b"00", b"99")} or {0}
        assert first <= newest <= last
        assert len(list(found.scan(b"x", b"y"))) == newest
        found.close()


def test_a_copy_begins_again_when_tables_come_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "s", sync=False)
    store.commit(write(a="1"))
    copy, interrupted = copying._copy, []

    def interrupt(source: Path, target: Path, *, link: bool) -> None:
        if source.name.startswith("MANIFEST") and not interrupted:
            # the manifest now names a table that was not there when the tables were linked
            interrupted.append(source)
            store.commit(write(b="2"))
            store._db.flush(True)
        copy(source, target, link=link)

    monkeypatch.setattr(copying, "_copy", interrupt)
    copying.copy_store(tmp_path / "s", tmp_path / "c")
    store.close()
    found = RocksStore(tmp_path / "c", sync=False)
    assert list(found.scan(*EVERYTHING)) == [(b"a", b"1"), (b"b", b"2")]
    found.close()


def test_a_copy_begins_again_when_a_manifest_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RocksStore(tmp_path / "s", sync=False)
    store.commit(write(a="1"))
    listdir, gone = os.listdir, ["MANIFEST-000000"]

    def names(folder: Path) -> list[str]:
        # (the first time one is named that is gone)
        return listdir(folder) + [gone.pop() for _ in gone[:]]

    monkeypatch.setattr(os, "listdir", names)
    copying.copy_store(tmp_path / "s", tmp_path / "c")
    monkeypatch.undo()
    store.close()
    found = RocksStore(tmp_path / "c", sync=False)
    assert list(found.scan(*EVERYTHING)) == [(b"a", b"1")]
    found.close()


def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    kept = Kept(RocksStore(tmp_path / "s", sync=False))
    kept.apply(write(a="1"))
    (tmp_path / "c").mkdir()

    async def copy() -> None:
        await kept.store.checkpoint(tmp_path / "c")

    with pytest.raises(StoreError, match=r"cannot copy the store to .*c: .*File exists"):
        asyncio.run(copy())
    assert list((tmp_path / "c").iterdir()) == []
    kept.close()


def test_a_store_in_memory_has_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is nothing to back up"):
        MemoryStore().checkpoint(tmp_path / "c")


class Unsynced:
    """A database on a disk that takes writes and never keeps them."""

    def __init__(self, database: object) -> None:
        self._database = database

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    def flush_wal(self, sync: bool) -> None:
        raise OSError("Input/output error")


def test_what_could_not_be_synced_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for readers, nor when the store writes again, nor for the next process."""
    store = RocksStore(tmp_path / "s", sync=True)
    kept = Kept(store)
    before = {b"a": b"1", b"gone": b"1", b"r": b"1", b"z": b"1"}
    kept.apply(Batch(dict(before)))
    database, store._db = store._db, Unsynced(store._db)
    with pytest.raises(StoreError, match="Input/output error"):
        kept.apply(Batch({b"a": b"2", b"gone": None, b"new": b"2"}))
    assert dict(kept.scan(*EVERYTHING)) == before
    assert [kept.get(key) for key in (b"a", b"gone", b"new", b"r")] == [b"1", b"1", None, b"1"]
    assert [key for key, _ in kept.scan(b"gone\0", b"z")] == [b"r"]
    with monkeypatch.context() as failing:
        failing.setattr(rocks, "Rdict", lambda *given, **named: Unsynced(Rdict(*given, **named)))
        store._db = database
        with pytest.raises(StoreError, match="Input/output error"):
            kept.apply(write(after="0"))
        assert dict(kept.scan(*EVERYTHING)) == before
        database = store._db._database
    store._db = database
    del database
    kept.apply(write(after="1"))
    before[b"after"] = b"1"
    assert dict(kept.scan(*EVERYTHING)) == before
    kept.close()
    again = Kept(RocksStore(tmp_path / "s", sync=True))
    assert dict(again.scan(*EVERYTHING)) == before
    again.close()


def test_a_store_that_is_opened_again_has_the_filters_and_the_memory_of_a_new_one(tmp_path: Path) -> None:
    for _ in range(2):
        store = RocksStore(tmp_path / "s", sync=False)
        store.commit(write(a="1"))
        log = (tmp_path / "s" / "LOG").read_text()
        store.close()
        assert "filter_policy: bloomfilter" in log
        assert re.search(r"capacity : 117440512\n", log)


def test_scans_find_everything_in_whatever_tables_it_is(tmp_path: Path) -> None:
    # (those within one mailbox ask the filters which tables to look into)
    spaces = [b"I" + number.to_bytes(8, "big") for number in (0, 1, 255, 256)]
    names = [
        b"",
        b"!format",
        b"B",
        b"Ba.b\0c",
        *(space + rest for space in spaces for rest in (b"", b"m\2", b"m\2x", b"s")),
    ]
    store, plain = RocksStore(tmp_path / "store", sync=False), MemoryStore()
    for number in range(3):
        batch = Batch({name + bytes((number, last)): b"%d" % number for name in names[number:] for last in (7, 8)})
        for each in (store, plain):
            each.commit(batch)
        store._db.flush()
    nowhere = b"I" + (2).to_bytes(8, "big")
    bounds = sorted({*names, *(name + b"\1" for name in names), nowhere, nowhere + b"m", b"I", b"J", *EVERYTHING})
    for start in bounds:
        for end in bounds:
            assert list(store.scan(start, end)) == list(plain.scan(start, end))
    store.close()


def test_a_store_that_could_not_write_can_be_closed(tmp_path: Path, small_files: Callable[[int], None]) -> None:
    kept = Kept(RocksStore(tmp_path / "s", sync=False))
    kept.apply(write(before="1"))
    small_files(10_000)
    with pytest.raises(StoreError):
        kept.apply(Batch({b"large": b"x" * 100_000}))
    kept.close()
    small_files(0)
    again = Kept(RocksStore(tmp_path / "s", sync=False))
    assert list(again.scan(*EVERYTHING)) == [(b"before", b"1")]
    again.close()


def test_a_closed_memory_store_is_empty() -> None:
    store = MemoryStore()
    store.commit(write(a="1"))
    store.close()
    assert store.get(b"a") is None
    assert list(store.scan(*EVERYTHING)) == []
