"""The data folder: held by one, readable by its owner, and the port file in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mq9_broker import keys, migration, runner
from mq9_broker.config import Config
from mq9_broker.datadir import DataDir
from mq9_broker.errors import StartError
from mq9_broker.store import Batch
from mq9_broker.store.memory import MemoryStore


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with DataDir(path) as folder:
        assert folder.store == path / "store"
        assert mode(path) == 0o700
        assert mode(path / "lock") == 0o600


def test_one_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    path.chmod(0o755)
    with DataDir(path):
        assert mode(path) == 0o755
        assert mode(path / "lock") == 0o600


def test_the_port_of_a_killed_broker_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("4711\n")
    with DataDir(tmp_path):
        assert not (tmp_path / "port").exists()


def test_one_process_holds_it(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as folder:
        folder.announce("127.0.0.1", 4711)
        with pytest.raises(StartError) as refused:
            DataDir(tmp_path / "d")
        assert refused.value.code == 3
        assert str(refused.value) == (
            f"the data folder {tmp_path / 'd'} is in use by another broker (port 4711); "
            "use that one, or name another folder with --data-dir"
        )
        assert (tmp_path / "d" / "port").read_text() == "4711\n"  # the refused one left it alone
    with DataDir(tmp_path / "d"):
        pass


def test_before_the_other_listens_its_port_is_not_known(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d"), pytest.raises(StartError, match=r"in use by another broker; use that one"):
        DataDir(tmp_path / "d")


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "4711\n"),
        ("localhost", "4711\n"),
        ("0.0.0.0", "4711\n"),
        ("::", "[::1]:4711\n"),
        ("192.0.2.7", "192.0.2.7:4711\n"),
        ("2001:db8::7", "[2001:db8::7]:4711\n"),
    ],
)
def test_the_port_file_says_where_to_connect(tmp_path: Path, host: str, text: str) -> None:
    """The port alone where loopback reaches it; else the host and, behind the last colon, the port."""
    with DataDir(tmp_path / "d") as folder:
        folder.announce(host, 4711)
        assert (tmp_path / "d" / "port").read_text() == text
        assert sorted(os.listdir(tmp_path / "d")) == ["lock", "port"]
        folder.announce(host, 4712)
        assert (tmp_path / "d" / "port").read_text() == text.replace("4711", "4712")
    assert os.listdir(tmp_path / "d") == ["lock"]


def test_the_port_file_says_that_tls_is_asked_for(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as folder:
        for host, place in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("mq9.example", "mq9.example")):
            folder.announce(host, 4711, tls=True)
            assert (tmp_path / "d" / "port").read_text() == f"tls://{place}:4711\n"


def test_it_is_left_when_something_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with DataDir(tmp_path / "d") as folder:
            folder.announce("127.0.0.1", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "d" / "port").exists()
    with DataDir(tmp_path / "d"):
        pass


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(StartError) as refused:
        DataDir(tmp_path / "d")
    assert refused.value.code == 5
    assert str(refused.value) == (
        f"the data folder {tmp_path / 'd'} can't be used: File exists; name another one with --data-dir"
    )


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(StartError, match="can't be used: Not a directory; name another one") as refused:
        DataDir(tmp_path / "d" / "e")
    assert refused.value.code == 5


# ---- the format of what is in it ----


def test_a_new_store_gets_the_format(tmp_path: Path) -> None:
    store = MemoryStore()
    assert not migration.current(store, tmp_path)
    migration.migrate(store, tmp_path)
    assert dict(store.scan(b"", b"\xff")) == {keys.FORMAT_KEY: b"3"}
    assert migration.current(store, tmp_path)


@pytest.mark.parametrize("found", [b"4", b"99", b"x", b""])
def test_a_newer_format_is_refused(tmp_path: Path, found: bytes) -> None:
    store = MemoryStore()
    store.commit(Batch({keys.FORMAT_KEY: found}))
    with pytest.raises(StartError) as refused:
        migration.current(store, tmp_path)
    assert refused.value.code == 4
    assert f"the data folder {tmp_path} has format {found.decode()}, this is mq9 " in str(refused.value)
    assert "reads formats up to 3: use the newer version, or another folder with --data-dir" in str(refused.value)


def test_what_is_in_memory_needs_no_folder_and_is_one_store(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as folder:
        disk, memory = runner.open_stores(Config(store="memory"), folder)
        assert disk is memory
        assert not folder.store.exists()


def test_what_is_on_disk_is_in_the_folder(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as folder:
        disk, memory = runner.open_stores(Config(), folder)
        assert disk is not memory
        assert disk.get(keys.FORMAT_KEY) == b"3"
        assert folder.store.is_dir()
        disk.close()


def test_a_store_that_is_none_is_named(tmp_path: Path) -> None:
    with DataDir(tmp_path / "d") as folder:
        folder.store.write_text("mine")
        with pytest.raises(StartError) as refused:
            runner.open_stores(Config(), folder)
        assert refused.value.code == 5
        assert "if the folder is not mq9's, name another one with --data-dir" in str(refused.value)
