"""Large values: in files of their own, which go when nothing in them is needed, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import Broker
from broker.test_stores import EVERYTHING, Kept, Unsynced
from mq9_broker.check import Check
from mq9_broker.errors import StoreError
from mq9_broker.store import Batch, collection, rocks, valuelog
from mq9_broker.store.copying import copy_store, sync
from mq9_broker.store.rocks import RocksStore

SIZE = 20_000


def value(number: int, size: int = SIZE) -> bytes:
    return (b"%d." % number * size)[:size]


def files(folder: Path) -> dict[str, int]:
    """The files with large values, and their bytes."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.values"))}


def tidied(store: RocksStore) -> None:
    """Tidies until there is nothing to do, and what is not needed is gone."""
    deadline = time.monotonic() + 30
    for _ in range(2):  # (it may have been in the middle)
        while store.tidy():
            assert time.monotonic() < deadline
    store._worker.submit(int).result()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are full after ten values, and a step looks at one."""
    monkeypatch.setattr(valuelog, "FULL", 10 * SIZE)
    monkeypatch.setattr(collection, "WORTH", 2 * SIZE)
    monkeypatch.setattr(collection, "STEP", 0.0)


@pytest.fixture(params=[False, True], ids=["process", "fsync"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], RocksStore]]:
    """Opens the store in a folder, one after the other."""
    opened: list[RocksStore] = []

    def open_it() -> RocksStore:
        if opened:
            opened.pop().close()
        opened.append(RocksStore(tmp_path / "s", sync=request.param))
        return opened[-1]

    yield open_it
    opened.pop().close()


def apply(
    store: RocksStore, writes: dict[bytes, bytes | None], ranges: list[tuple[bytes, bytes]] | None = None
) -> None:
    Kept.apply(Kept(store), Batch(writes, ranges or []))


def test_a_large_value_is_written_once_and_the_log_has_a_pointer(
    open_store: Callable[[], RocksStore], tmp_path: Path
) -> None:
    store = open_store()
    apply(store, {b"%02d" % number: os.urandom(valuelog.LARGE) for number in range(20)})
    (tmp_path / "s" / "small").write_bytes(b"")
    logged = sum(file.stat().st_size for file in (tmp_path / "s").glob("*.log"))
    assert logged < 10_000
    assert sum(files(tmp_path / "s").values()) < 20 * (valuelog.LARGE + 20)


def test_one_byte_less_is_not_large(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    store = open_store()
    apply(store, {b"a": b"x" * (valuelog.LARGE - 1)})
    assert files(tmp_path / "s") == {}
    apply(store, {b"b": b"x" * valuelog.LARGE})
    assert len(files(tmp_path / "s")) == 1


def test_what_looks_like_a_pointer_is_what_it_is(open_store: Callable[[], RocksStore]) -> None:
    store = open_store()
    apply(store, {b"a": value(1)})
    pointer = store._stored(b"a")
    assert pointer is not None
    assert len(pointer) < 100
    others = {b"b": pointer, b"c": b"\xff" * len(pointer), b"d": b"\xff", b"e": b"\xff" * 3, b"f": b""}
    apply(store, dict(others))
    for _ in range(2):
        assert dict(store.scan(*EVERYTHING)) == {b"a": value(1)} | others
        assert {key: store.get(key) for key in others} == others
        store = open_store()


def test_files_go_when_nothing_in_them_is_needed(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    store = open_store()
    for number in range(95):
        apply(store, {b"%02d" % number: value(number)})
    names = list(files(tmp_path / "s"))
    assert len(names) == 10
    tidied(store)
    assert list(files(tmp_path / "s")) == names
    apply(store, dict.fromkeys([b"%02d" % number for number in range(30)]))
    tidied(store)
    assert list(files(tmp_path / "s")) == names[3:]
    apply(store, {}, [(b"30", b"70")])
    tidied(store)
    assert list(files(tmp_path / "s")) == names[7:]
    assert dict(store.scan(*EVERYTHING)) == {b"%02d" % number: value(number) for number in range(70, 95)}
    apply(store, {b"%02d" % number: b"small now" for number in range(70, 95)})
    tidied(store)
    assert files(tmp_path / "s") == {}
    assert {kept for _, kept in store.scan(*EVERYTHING)} == {b"small now"}
    apply(store, {b"new": value(1)})
    assert store.get(b"new") == value(1)
    # what is written to goes when that is worth it
    apply(store, {b"new": None})
    tidied(store)
    assert len(files(tmp_path / "s")) == 1


def test_no_file_goes_while_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied last."""
    store = RocksStore(tmp_path / "s", sync=False)
    apply(store, {b"%02d" % number: value(number) for number in range(30)})
    apply(store, dict.fromkeys([b"%02d" % number for number in range(30)]))
    before = files(tmp_path / "s")
    copied = threading.Event()
    written = store._sync_log

    def copy_next() -> None:
        written()
        store._worker.submit(copied.wait, 30)

    monkeypatch.setattr(store._collection, "_sync", copy_next)
    for _ in range(200):
        store.tidy()
        time.sleep(0.0001)
    assert files(tmp_path / "s") == before
    copied.set()
    tidied(store)
    assert len(files(tmp_path / "s")) <= 1
    store.close()


def test_what_little_is_needed_of_a_file_moves_to_another(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    store = open_store()
    for number in range(100):
        apply(store, {b"%02d" % number: value(number)})
    before = files(tmp_path / "s")
    scan = store.scan(*EVERYTHING)
    first = next(scan)
    apply(store, {b"%02d" % number: None for number in range(100) if number % 10})
    tidied(store)
    left = {b"%02d" % number: value(number) for number in range(0, 100, 10)}
    assert sum(files(tmp_path / "s").values()) < 2.5 * len(left) * SIZE < sum(before.values()) / 3
    assert dict(store.scan(*EVERYTHING)) == left
    # a scan that began before finds what it saw where it is now
    seen = dict([first, *scan])
    assert seen.items() >= left.items()
    store = open_store()
    assert dict(store.scan(*EVERYTHING)) == left
    tidied(store)
    assert dict(store.scan(*EVERYTHING)) == left


def test_nothing_is_copied_where_little_is_free(
    open_store: Callable[[], RocksStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    for number in range(30):
        apply(store, {b"%02d" % number: value(number)})
    before = files(tmp_path / "s")
    monkeypatch.setattr(collection, "ROOM", 1 << 60)
    apply(store, {b"%02d" % number: None for number in range(1, 20)})
    tidied(store)
    # (what nobody needs goes nevertheless)
    assert list(files(tmp_path / "s").items()) == [*before.items()][:1] + [*before.items()][2:]
    monkeypatch.setattr(collection, "ROOM", 0)
    apply(store, {b"20": None})
    tidied(store)
    assert sum(files(tmp_path / "s").values()) < 11.5 * SIZE
    assert dict(store.scan(*EVERYTHING)) == {b"%02d" % number: value(number) for number in (0, *range(21, 30))}


def test_what_is_written_while_its_old_value_moves_stays(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    """At whatever step."""
    store = open_store()
    for step in range(0, 60, 2):
        apply(store, {b"%02d" % number: value(number) for number in range(20)})
        tidied(store)
        apply(store, {b"%02d" % number: None for number in range(20) if number % 5})
        for _ in range(step):
            store.tidy()
        store._worker.submit(int).result()
        apply(store, {b"00": b"small", b"05": None, b"10": value(99)})
        tidied(store)
        assert dict(store.scan(*EVERYTHING)) == {b"00": b"small", b"10": value(99), b"15": value(15)}


def test_a_step_takes_as_long_as_one_value_may(
    open_store: Callable[[], RocksStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the disk takes for each: somebody waits meanwhile."""
    store = open_store()
    for number in range(40):
        apply(store, {b"%02d" % number: value(number)})
    apply(store, {b"%02d" % number: None for number in range(40) if number % 5})
    looked_at: list[bytes] = []

    def slow(key: bytes) -> bytes | None:
        looked_at.append(key)
        return store._stored(key)

    monkeypatch.setattr(store._collection, "_stored", slow)
    most = 0
    while store.tidy():
        most = max(most, len(looked_at))
        looked_at.clear()
    assert 0 < most <= 8  # (all that get another pointer at once)
    assert len(dict(store.scan(*EVERYTHING))) == 8


def test_it_hurries_when_much_is_written_meanwhile(
    open_store: Callable[[], RocksStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a disk would fill up with what nobody needs, however fast that is consumed."""
    monkeypatch.setattr(rocks, "BEHIND", 5 * SIZE)
    store = open_store()
    apply(store, {b"%02d" % number: value(number) for number in range(40)})

    def slow(key: bytes) -> bytes | None:
        time.sleep(0.003)
        return store._stored(key)

    monkeypatch.setattr(store._collection, "_stored", slow)
    assert store.tidy() >= 0.057
    apply(store, {b"%02d" % number: value(number) for number in range(6)})
    began = time.monotonic()
    pause = store.tidy()
    assert 0.002 < pause <= time.monotonic() - began
    while store.tidy():
        pass
    assert store.tidy() >= 0.057  # (another look)


def test_a_store_says_when_it_is_untidy(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", sync=False)
    assert not store.untidy
    store.commit(Batch({b"a": b"1"}))
    store.commit(Batch({b"a": None}))
    assert not store.untidy
    store.commit(Batch({b"a": value(1)}))
    assert store.untidy
    tidied(store)
    assert not store.untidy
    store.commit(Batch({b"b": b"1"}))
    assert not store.untidy
    store.commit(Batch({b"b": None}))
    assert store.untidy
    store.close()
    store = RocksStore(tmp_path / "s", sync=False)
    assert store.untidy  # it may have been left so
    store.close()


def test_what_a_killed_process_began_is_passed_over(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = b"a" * 40
    store = open_store()
    apply(store, {first: value(1), b"b": value(2)})
    (name,) = files(tmp_path / "s")
    whole = (tmp_path / "s" / name).read_bytes()
    for end in (3, 9, 12, 30, 100, SIZE):
        with (tmp_path / "s" / name).open("ab") as file:
            file.write(whole[:end])
        store = open_store()
        assert [store.get(key) for key in (first, b"b")] == [value(1), value(2)]
        apply(store, {b"c": value(3)})
        tidied(store)
        assert dict(store.scan(*EVERYTHING)) == {first: value(1), b"b": value(2), b"c": value(3)}
        (tmp_path / "s" / name).write_bytes(whole)
    apply(store, {first: None, b"b": None, b"c": value(4)})
    with (tmp_path / "s" / name).open("ab") as file:
        file.write(whole[:100])
    store = open_store()
    apply(store, {b"d": value(4)})
    tidied(store)
    assert name not in files(tmp_path / "s")
    assert caplog.text == ""


def test_few_files_are_open_however_many_there_are(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    if not Path("/dev/fd").exists():
        pytest.skip("this system does not show which files are open")
    store = open_store()
    apply(store, {b"%03d" % number: value(number, 10 * SIZE) for number in range(100)})
    assert len(files(tmp_path / "s")) == 100
    before = len(os.listdir("/dev/fd"))
    assert all(store.get(b"%03d" % number) == value(number, 10 * SIZE) for number in range(100))
    assert len(os.listdir("/dev/fd")) <= before + 32
    tidied(store)
    assert len(os.listdir("/dev/fd")) <= before + 32


def test_a_file_that_cannot_be_read_stays_and_is_named_once(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    apply(store, {b"%02d" % number: value(number) for number in range(10)})
    apply(store, {b"b": value(11)})
    name = next(iter(files(tmp_path / "s")))
    data = bytearray((tmp_path / "s" / name).read_bytes())
    data[SIZE + 14 : SIZE + 20] = bytes(6)  # how the second value begins
    (tmp_path / "s" / name).write_bytes(data)
    apply(store, {b"%02d" % number: None for number in range(9)})
    for _ in range(3):
        tidied(store)
    assert name in files(tmp_path / "s")
    assert (
        caplog.text.count("a file of large messages, number 1, stays as it is: there is no message at its byte 20012")
        == 1
    )
    assert dict(store.scan(*EVERYTHING)) == {b"09": value(9), b"b": value(11)}


def test_what_stands_beside_a_damaged_value_is_not_copied_again_and_again(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    for number in range(15):
        apply(store, {b"%02d" % number: value(number)})
    name = next(iter(files(tmp_path / "s")))
    data = bytearray((tmp_path / "s" / name).read_bytes())
    data[-1000:-990] = bytes(10)  # of the last value
    (tmp_path / "s" / name).write_bytes(data)
    apply(store, {b"%02d" % number: None for number in range(3, 9)})
    for _ in range(5):
        tidied(store)
        apply(store, {b"x": None})
    assert name in files(tmp_path / "s")
    assert sum(files(tmp_path / "s").values()) < 19 * SIZE
    assert caplog.text.count("number 1, stays as it is: a message in it is not what was written; ") == 1
    assert dict(store.scan(*EVERYTHING)) == {b"%02d" % number: value(number) for number in (0, 1, 2, *range(10, 15))}


def test_a_scan_that_meets_what_was_deleted_and_is_gone_calls_nothing_lost(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    early = store.scan(*EVERYTHING)
    apply(store, {b"%02d" % number: value(number) for number in range(12)})
    # (it began before there was a large value, and is read since there are)
    assert next(early) == (b"00", value(0))
    apply(store, dict.fromkeys([b"%02d" % number for number in range(10)]))
    tidied(store)
    assert len(files(tmp_path / "s")) == 1
    assert list(early) == [(b"%02d" % number, value(number)) for number in (10, 11)]
    assert caplog.text == ""


def test_a_value_that_is_lost_is_not_there_and_said_once(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    apply(store, {b"a": value(1), b"b": value(2), b"c": value(3)})
    (name,) = files(tmp_path / "s")
    store = open_store()
    apply(store, {b"d": value(4)})
    with (tmp_path / "s" / name).open("r+b") as file:
        file.seek(SIZE + 1000)  # of the second
        file.write(b"?")
        file.truncate(2 * SIZE + 1000)
    for _ in range(2):
        assert dict(store.scan(*EVERYTHING)) == {b"a": value(1), b"d": value(4)}
        assert [store.get(key) for key in (b"a", b"b", b"c")] == [value(1), None, None]
    assert caplog.text.count("a large message is lost, maybe others with it: file number 1 does not hold ") == 1
    apply(store, {b"b": value(5)})
    assert store.get(b"b") == value(5)
    (tmp_path / "s" / name).unlink()
    store = open_store()
    assert dict(store.scan(*EVERYTHING)) == {b"b": value(5), b"d": value(4)}
    apply(store, {b"e": b"small"})
    for name in files(tmp_path / "s"):
        (tmp_path / "s" / name).unlink()
    # (as of a copy that was made without them)
    store = open_store()
    assert dict(store.scan(*EVERYTHING)) == {b"e": b"small"}
    assert [store.get(key) for key in (b"b", b"d", b"e")] == [None, None, b"small"]


def test_what_finds_no_room_is_refused_and_leaves_none_behind(
    open_store: Callable[[], RocksStore],
    tmp_path: Path,
    small_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(valuelog, "FULL", 2 * SIZE)
    store = open_store()
    apply(store, {b"a": value(1)})
    before = files(tmp_path / "s")
    small_files(3 * SIZE)
    # the last of these finds no room, in the file that was there or in one of those begun for it
    for others in (0, 1, 4):
        with pytest.raises(StoreError, match="File too large"):
            apply(store, {b"b%d" % number: value(number) for number in range(others)} | {b"c": value(9, 4 * SIZE)})
        assert dict(store.scan(*EVERYTHING)) == {b"a": value(1)}
        assert files(tmp_path / "s") == before
    small_files(0)
    apply(store, {b"b": value(2), b"c": value(3)})
    for _ in range(2):
        assert dict(store.scan(*EVERYTHING)) == {b"a": value(1), b"b": value(2), b"c": value(3)}
        store = open_store()
    apply(store, {b"a": None, b"b": None, b"c": None, b"d": value(4)})
    tidied(store)
    assert len(files(tmp_path / "s")) == 1


def test_what_could_not_be_synced_is_undone_and_nothing_it_needs_is_gone(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s", sync=True)
    numbers = range(30)
    apply(store, {b"%02d" % number: value(number) for number in numbers})
    before = dict(store.scan(*EVERYTHING))
    database = store._db

    async def fail() -> None:
        store._db = Unsynced(store._db)
        flight = store.commit(Batch({b"%02d" % number: None for number in numbers if number % 10} | {b"x": value(99)}))
        assert flight is not None
        # (what it deletes is not needed any more, it seems)
        for _ in range(200):
            store.tidy()
        with pytest.raises(StoreError, match="Input/output error"):
            await flight
        for _ in range(200):
            store.tidy()

    asyncio.run(fail())
    store._worker.submit(int).result()
    assert dict(store.scan(*EVERYTHING)) == before
    store._db = database
    del database
    apply(store, {b"y": value(98)})
    before[b"y"] = value(98)
    tidied(store)
    assert dict(store.scan(*EVERYTHING)) == before
    store.close()
    store = RocksStore(tmp_path / "s", sync=False)
    assert dict(store.scan(*EVERYTHING)) == before
    store.close()


def test_what_a_batch_deletes_is_there_until_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be undone yet, when what it writes can't be synced."""
    store = RocksStore(tmp_path / "s", sync=True)
    apply(store, {b"%02d" % number: value(number) for number in range(30)})
    before = dict(store.scan(*EVERYTHING))
    looked = threading.Event()

    def fail(path: Path) -> None:
        assert looked.wait(30)
        raise OSError("Input/output error")

    async def look_meanwhile() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(valuelog, "sync", fail)
            flight = store.commit(Batch(dict.fromkeys(before) | {b"x": value(99)}))
            assert flight is not None
            for _ in range(200):
                store.tidy()
                await asyncio.sleep(0)
            store._worker.submit(int).result()
            looked.set()
            with pytest.raises(StoreError, match="Input/output error"):
                await flight

    asyncio.run(look_meanwhile())
    assert dict(store.scan(*EVERYTHING)) == before
    apply(store, {b"y": value(98)})
    tidied(store)
    assert dict(store.scan(*EVERYTHING)) == before | {b"y": value(98)}
    store.close()


class Durable:
    """What the power leaves of a store when it fails: each file as it was when it was synced last. Takes the place of
    its database, whose log is what matters of it."""

    def __init__(self, store: RocksStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._database = store._db
        self._folder = folder
        self._logs = [folder.with_name("log0")]
        copy_store(folder, self._logs[0])
        self._values = {name: (folder / name).read_bytes() for name in files(folder)}
        self._named = [*self._values]
        monkeypatch.setattr(valuelog, "sync", self._sync)
        monkeypatch.setattr(store, "_db", self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)

    def flush_wal(self, sync: bool) -> None:
        self._database.flush_wal(sync)
        copy = self._folder.with_name(f"log{len(self._logs)}")
        copy_store(self._folder, copy)
        self._logs.append(copy)

    def left(self, folder: Path) -> Path:
        """A folder with that. What was removed is gone at once."""
        shutil.copytree(self._logs[-1], folder, ignore=shutil.ignore_patterns("*.values"))
        for name in files(self._folder).keys() & self._values.keys() & set(self._named):
            (folder / name).write_bytes(self._values[name])
        return folder

    def _sync(self, path: Path) -> None:
        sync(path)
        if path.is_file():
            self._values[path.name] = path.read_bytes()
        else:
            self._named += files(path)


def test_a_power_cut_takes_nothing_that_was_there(
    open_store: Callable[[], RocksStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whenever it comes while values go and move."""
    store = open_store()
    for number in range(30):
        apply(store, {b"%02d" % number: value(number)})
    store = open_store()
    disk = Durable(store, tmp_path / "s", monkeypatch)
    before = {b"%02d" % number: value(number) for number in range(30)}
    apply(store, {b"%02d" % number: None for number in range(30) if number % 4})
    left = {b"%02d" % number: value(number) for number in range(0, 30, 4)}
    cuts = 0
    while store.tidy():
        store._worker.submit(int).result()
        cuts += 1
        found = RocksStore(disk.left(tmp_path / f"cut{cuts}"), sync=False)
        kept = dict(found.scan(*EVERYTHING))
        found.close()
        assert left.items() <= kept.items() <= before.items()
    assert len(files(tmp_path / "s")) == 1
    assert cuts > 30
    assert "lost" not in caplog.text
    if store._syncer is not None:
        apply(store, {b"new": value(99)})
        found = RocksStore(disk.left(tmp_path / "last"), sync=False)
        assert dict(found.scan(*EVERYTHING)) == left | {b"new": value(99)}
        found.close()


@pytest.mark.parametrize("gone", [range(9), range(20, 23)], ids=["of another file", "of the newest"])
def test_a_power_cut_takes_nothing_for_what_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: range
) -> None:
    """What replaces a value is on the disk before anything points at it, though the log is synced meanwhile; and its
    file stays meanwhile."""
    store = RocksStore(tmp_path / "s", sync=True)
    before = {b"%02d" % number: value(number) for number in range(24)}
    for key, kept in before.items():
        apply(store, {key: kept})
    left = {key: kept for key, kept in before.items() if int(key) not in gone}
    disk = Durable(store, tmp_path / "s", monkeypatch)
    looked = threading.Event()
    synced = valuelog.sync

    def slow(path: Path) -> None:
        if threading.current_thread().name.startswith("mq9-sync"):
            assert looked.wait(30)
        synced(path)

    monkeypatch.setattr(valuelog, "sync", slow)

    async def replace() -> None:
        flight = store.commit(Batch(dict.fromkeys(before.keys() - left.keys())))
        assert flight is not None
        await flight
        flight = store.commit(Batch({b"23": value(99)}))
        assert flight is not None
        for _ in range(200):
            store.tidy()
            await asyncio.sleep(0.0001)
        found = RocksStore(disk.left(tmp_path / "cut"), sync=False)
        kept = dict(found.scan(*EVERYTHING))
        found.close()
        assert kept == left
        looked.set()
        await flight

    asyncio.run(replace())
    tidied(store)
    assert dict(store.scan(*EVERYTHING)) == left | {b"23": value(99)}
    monkeypatch.setattr(store, "_db", disk._database)
    store.close()


def test_a_copy_has_the_large_values_too(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    store = open_store()

    async def copy(number: int) -> None:
        task = asyncio.ensure_future(store.checkpoint(tmp_path / f"c{number}"))
        count = 0
        while not task.done():
            count += 1
            flight = store.commit(Batch({b"%02d" % (count % 40): value(count) if count % 3 else None}))
            store.tidy()
            await (flight if flight is not None else asyncio.sleep(0.001))
        await task

    for number in range(6):
        apply(store, {b"k%d" % number: value(number), b"gone": value(number)})
        asyncio.run(copy(number))
        tidied(store)
    for number in range(6):
        found = RocksStore(tmp_path / f"c{number}", sync=False)
        kept = dict(found.scan(*EVERYTHING))
        assert {key: kept[key] for key in kept if key[:1] == b"k"} == {b"k%d" % n: value(n) for n in range(number + 1)}
        assert kept[b"gone"] == value(number)
        assert all(len(each) == SIZE for each in kept.values())
        tidied(found)
        assert dict(found.scan(*EVERYTHING)) == kept
        found.close()
    # what a copy shares with the store stays as it is when either goes on
    left = dict(store.scan(*EVERYTHING))
    store = open_store()
    assert dict(store.scan(*EVERYTHING)) == left


def test_what_is_deleted_under_a_scan_is_not_called_lost(
    open_store: Callable[[], RocksStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    for number in range(30):
        apply(store, {b"%02d" % number: value(number)})
    scan = store.scan(*EVERYTHING)
    assert next(scan) == (b"00", value(0))
    apply(store, dict.fromkeys([b"%02d" % number for number in range(1, 29)]) | {b"29": b"small"})
    tidied(store)
    assert len(files(tmp_path / "s")) == 1
    seen = dict(scan)
    assert seen[b"29"] == b"small"
    assert caplog.text == ""


def test_a_copy_has_nothing_of_what_came_later(open_store: Callable[[], RocksStore], tmp_path: Path) -> None:
    store = open_store()
    apply(store, {b"a": value(1)})

    async def copy() -> None:
        await store.checkpoint(tmp_path / "c")

    asyncio.run(copy())
    before = files(tmp_path / "c")
    apply(store, {b"b": value(2), b"c": value(3)})
    assert files(tmp_path / "c") == before
    assert sum(before.values()) < 2 * SIZE


def test_a_look_in_vain_is_not_soon_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is deleted all the time, and rarely what is large."""
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 1.0  # (all that is done takes a second)
        return clock[0]

    store = RocksStore(tmp_path / "s", sync=False)
    store.commit(Batch({b"%02d" % number: value(number) for number in range(30)}))
    monkeypatch.setattr(rocks, "time", SimpleNamespace(monotonic=monotonic))
    began = clock[0]
    while store.tidy():
        pass
    took = clock[0] - began
    steps = 0
    pause = store.tidy()
    assert pause == 1.0  # (it is asked each second whether much was written meanwhile)
    asked = clock[0]
    while store.tidy() == 1.0:
        pass
    assert 4 * took > 60  # (a minute at the most)
    assert 55 < clock[0] - asked < 65
    while store.tidy():
        pass
    assert store.tidy() == 1.0
    monkeypatch.setattr(rocks, "BEHIND", 0)  # much was written: it does not wait
    while store.tidy():
        steps += 1
    assert steps > 3
    monkeypatch.undo()
    store.close()


def test_a_disk_full_of_what_nobody_needs_is_freed(
    open_store: Callable[[], RocksStore],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_files: Callable[[int], None],
) -> None:
    store = open_store()
    apply(store, {b"%02d" % number: value(number) for number in range(30)})
    apply(store, dict.fromkeys([b"%02d" % number for number in range(30)]))

    def usage(path: object) -> SimpleNamespace:
        return SimpleNamespace(free=0 if sum(files(tmp_path / "s").values()) > 2 * SIZE else 1 << 30)

    monkeypatch.setattr(rocks.shutil, "disk_usage", usage)
    small_files(10)
    with pytest.raises(StoreError, match="File too large"):
        store.commit(Batch({b"a": value(1)}))
    small_files(0)
    for _ in range(2):
        if sum(files(tmp_path / "s").values()) > 2 * SIZE:
            with pytest.raises(StoreError, match="0 MiB are free"):
                store.commit(Batch({b"a": value(1)}))
        for _ in range(500):
            store.tidy()
            time.sleep(0)
        store._worker.submit(int).result()
    monkeypatch.undo()
    apply(store, {b"a": value(1)})
    assert dict(store.scan(*EVERYTHING)) == {b"a": value(1)}
    assert sum(files(tmp_path / "s").values()) <= 2 * SIZE


_key = st.sampled_from([b"%02d" % number for number in range(12)])
_value = st.none() | st.binary(max_size=3) | st.integers(0, 5).map(lambda number: value(number, 300))
_step = st.one_of(
    st.builds(Batch, st.dictionaries(_key, _value, max_size=4)),
    st.tuples(_key, _key).map(lambda bounds: Batch(ranges=[(min(bounds), max(bounds))])),
    st.integers(1, 40),
    st.just("reopen"),
    st.just("scan"),
)


@pytest.mark.parametrize("sync", [False, True])
def test_nobody_sees_where_a_value_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    """Batches, ranges, steps of tidying between them, new processes, scans under way, in any order: it is a dict."""
    monkeypatch.setattr(rocks, "LARGE", 200)
    monkeypatch.setattr(valuelog, "FULL", 1000)
    monkeypatch.setattr(collection, "WORTH", 600)

    @given(st.lists(_step, max_size=30))
    @settings(max_examples=150, deadline=None)
    def check(steps: list[Batch | int | str]) -> None:
        folder = tmp_path_factory.mktemp("s")
        store = RocksStore(folder / "s", sync)
        model: dict[bytes, bytes] = {}
        scans: list[tuple[Iterator[tuple[bytes, bytes]], dict[bytes, set[bytes | None]]]] = []
        for step in steps:
            if isinstance(step, Batch):
                apply(store, step.writes, step.ranges)
                for start, end in step.ranges:
                    model = {key: kept for key, kept in model.items() if not start <= key < end}
                for key, new in step.writes.items():
                    model.pop(key, None)
                    model |= {key: new} if new is not None else {}
                for allowed in [allowed for _, allowed in scans]:
                    for key in allowed:
                        allowed[key].add(model.get(key))
            elif isinstance(step, int):
                for _ in range(step):
                    if not store.tidy():
                        break
            elif step == "scan":
                scan = store.scan(*EVERYTHING)
                allowed = {key: {model.get(key)} for key in [b"%02d" % number for number in range(12)]}
                first = next(scan, None)
                if first is not None:
                    assert first[1] in allowed[first[0]]
                    scans.append((scan, {key: kept for key, kept in allowed.items() if key > first[0]}))
            else:
                scan = iter(())
                scans.clear()
                store.close()
                store = RocksStore(folder / "s", sync)
            assert dict(store.scan(*EVERYTHING)) == model
        for scan, allowed in scans:
            seen: dict[bytes, bytes | None] = dict(scan)
            for key, could_be in allowed.items():
                assert seen.get(key) in could_be
        scan = iter(())
        scans.clear()
        tidied(store)
        assert dict(store.scan(*EVERYTHING)) == model
        needed = sum(len(kept) for kept in model.values() if len(kept) >= 200)
        assert sum(files(folder / "s").values()) <= 2.2 * needed + 2400
        store.close()

    check()


# ---- the broker above ----


def test_a_mailbox_without_one_of_its_messages(tmp_path: Path) -> None:
    """What a power cut can do without fsync: whoever reads gets the others, and a check sets right what counted it."""
    store = RocksStore(tmp_path / "s", sync=False)
    broker = Broker(store)
    client = broker.client()
    texts = [f"{number} " * 10_000 for number in range(5)]
    boxes = [client.create(ttl=0, name=name)["mail_id"] for name in ("read", "fetched", "watched")]
    for box in boxes:
        for number, text in enumerate(texts):
            client.put(box, text, **({"ttl": 60} if number == 2 else {}))
    store.close()
    for name in files(tmp_path / "s"):
        data = (tmp_path / "s" / name).read_bytes()
        for lost in (1, 2):
            data = data.replace(texts[lost].encode(), bytes(SIZE))
        (tmp_path / "s" / name).write_bytes(data)
    store = RocksStore(tmp_path / "s", sync=False)
    broker = Broker(store)
    client = broker.client()
    left = [(1, texts[0]), (4, texts[3]), (5, texts[4])]
    assert client.query("read") == left
    watched = client.subscribe("MAILBOX.watched")
    assert [frame.payload.decode() for frame in client.take(watched)] == [text for _, text in left]
    got = client.fetch("fetched", "group")
    assert [(message["msg_id"], message["payload"]) for message in got["messages"]] == left
    assert client.request("MSG.ACK.fetched", {"group_name": "group", "msg_ids": [1, 4, 5]})["error"] == ""
    assert client.fetch("fetched", "group")["messages"] == []
    broker.advance(61)
    assert client.query("read") == left
    assert client.put("fetched", "new") == 6
    assert [message["msg_id"] for message in client.fetch("fetched", "group")["messages"]] == [6]
    now = broker.clock.now()
    store.close()
    store = RocksStore(tmp_path / "s", sync=False)
    said: list[str] = []
    Check(store, said.append, repair=True, now=now).run()
    assert said
    assert all("repaired" in what for what in said), said
    said.clear()
    Check(store, said.append, repair=False, now=now).run()
    assert said == []
    store.close()
