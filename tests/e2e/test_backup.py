"""Backups of a broker at work, for the owner of its data folder and nobody else; and back again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.harness import AI, Broker, StartBroker, Wire, bodies, pub

MQ9 = [sys.executable, "-c", "import sys; from mq9_mcp.cli import main; sys.exit(main())"]


def mq9(*arguments: str, home: Path, code: int = 0) -> str:
    """What a command says, on both of its streams."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    done = subprocess.run(
        [*MQ9, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "MQ9_DATA_DIR": str(home)},
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert (done.returncode, "Traceback" in said) == (code, False), said
    return said


@contextmanager
def busy(broker: Broker, address: str) -> Iterator[list[int]]:
    """Somebody sends all the time, 5 KB at a time and now and then 50; the list holds the newest id that was
    answered."""
    done, newest = threading.Event(), [0]

    def send() -> None:
        with Wire(broker.port) as client:
            client.send("SUB r 1\r\n")
            while not done.is_set():
                subject = f"{AI}MAILBOX.{address}"
                client.send(pub(subject, os.urandom(5000), reply="r") * 18 + pub(subject, bytes(50_000), reply="r") * 2)
                client.messages(20)
                newest[0] += 20

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield newest
    finally:
        done.set()
        sender.join()


@contextmanager
def opened(folder: Path) -> Iterator[Wire]:
    """A client of a broker on a folder that was there."""
    broker = Broker(folder).start()
    try:
        with Wire(broker.port) as client:
            yield client
    finally:
        broker.kill()


@pytest.mark.parametrize("durability", ["process", "fsync"])
def test_a_backup_of_a_broker_at_work(start_broker: StartBroker, tmp_path: Path, durability: str) -> None:
    """What was answered before it began is in it, as a store that is whole; the broker goes on."""
    broker = start_broker("--durability", durability)
    with Wire(broker.port) as client:
        address = client.ask("MAILBOX.CREATE", {"ttl": 0})["mail_id"]
        client.ask("MAILBOX.CREATE", {"name": "quick", "storage": "memory"})
        with busy(broker, address) as newest:
            for number in range(4):
                answered = newest[0]
                said = mq9("backup", str(tmp_path / f"b{number}"), home=broker.data_dir)
                assert f"Backed up to {tmp_path / f'b{number}'}: " in said
                assert "no mailboxes with storage memory" in said
                assert "all is well" in mq9("check", str(tmp_path / f"b{number}"), home=tmp_path)
        assert sorted(path.name for path in broker.data_dir.iterdir()) == ["lock", "port", "store"]
        assert client.ask(f"MAILBOX.{address}", b"after")["msg_id"] == newest[0] + 1
    with opened(tmp_path / "b3") as client:
        kept = client.ask(f"MAILBOX.QUERY.{address}", {"limit": 1})["unread"]
        assert answered <= kept <= newest[0]
        assert client.ask(f"MAILBOX.{address}", b"next")["msg_id"] == kept + 1
        assert client.ask("MAILBOX.QUERY.quick") == {"error": "mailbox quick does not exist"}


def test_a_backup_is_restored(broker: Broker, tmp_path: Path) -> None:
    with Wire(broker.port) as client:
        client.ask("MAILBOX.CREATE", {"name": "box", "public": True})
        client.ask("MAILBOX.box", b"in the backup")
        mq9("backup", str(tmp_path / "backup"), home=broker.data_dir)
        client.ask("MAILBOX.box", b"too late")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "backup").rglob("*")}
    said = mq9("restore", str(tmp_path / "backup"), home=broker.data_dir, code=2)
    assert f"there is mail in {broker.data_dir}: name another folder with --data-dir, or move it away" in said
    said = mq9("restore", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "new"), home=broker.data_dir)
    assert f"mq9 broker --data-dir {tmp_path / 'new'}" in said
    with opened(tmp_path / "new") as client:
        assert bodies(client.ask("MAILBOX.QUERY.box")) == ["in the backup"]
        client.ask("MAILBOX.box", b"and on")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "backup").rglob("*")} == before
    said = mq9("restore", str(tmp_path / "nothing"), home=tmp_path / "new", code=5)
    assert f"there is no mail in {tmp_path / 'nothing'}" in said


def test_a_backup_never_overwrites(broker: Broker, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("keep")
    said = mq9("backup", str(full), home=broker.data_dir, code=2)
    assert said == f"mq9 backup: {full} is not empty, and a backup never overwrites: name a new folder\n"
    mq9("backup", str(full / "mine"), home=broker.data_dir, code=2)
    assert [(path.name, path.read_text()) for path in full.iterdir()] == [("mine", "keep")]
    (tmp_path / "empty").mkdir()
    mq9("backup", str(tmp_path / "empty"), home=broker.data_dir)
    mq9("backup", str(tmp_path / "empty"), home=broker.data_dir, code=2)


def test_without_a_folder_in_the_data_folder_there_is_no_such_subject(
    broker: Broker, wire: Callable[..., Wire], tmp_path: Path
) -> None:
    """Whatever is named: nothing, a guess, a path, a folder that is not empty."""
    client = wire(broker)
    taken = broker.data_dir / f"backup-{'b' * 26}"
    taken.mkdir()
    (taken / "x").write_text("")
    elsewhere = tmp_path / f"backup-{'c' * 26}"
    elsewhere.mkdir()
    unknown = client.ask("BROKER.BACKUPS", b"x")
    for payload in (b"", b"{}", b"\xff", f"backup-{'a' * 26}".encode(), taken.name.encode(), str(elsewhere).encode()):
        answer = client.ask("BROKER.BACKUP", payload)
        assert answer == {"error": unknown["error"].replace("BACKUPS", "BACKUP")}
    assert client.ask("BROKER.BACKUP", f"../{elsewhere.name}".encode())["error"] == "unknown mq9 subject: " + (
        f"{AI}BROKER.BACKUP"
    )
    assert list(elsewhere.iterdir()) == []


def test_a_broker_that_does_not_run_is_backed_up_too(broker: Broker, tmp_path: Path) -> None:
    with Wire(broker.port) as client:
        client.ask("MAILBOX.CREATE", {"name": "box"})
        client.ask("MAILBOX.box", b"kept")
    broker.kill()
    said = mq9("backup", str(tmp_path / "backup"), home=broker.data_dir)
    assert f"Backed up {broker.data_dir}, which no broker uses, to {tmp_path / 'backup'}." in said
    with opened(tmp_path / "backup") as client:
        assert bodies(client.ask("MAILBOX.QUERY.box")) == ["kept"]
    said = mq9("backup", str(tmp_path / "other"), home=tmp_path / "nothing", code=5)
    assert f"there is no mail in {tmp_path / 'nothing'}" in said


def test_a_broker_in_memory_has_nothing_to_back_up(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker(store="memory")
    said = mq9("backup", str(tmp_path / "backup"), home=broker.data_dir, code=2)
    assert "no backup: all mail of this broker is in memory: there is nothing to back up" in said


def test_what_a_killed_command_left_goes_with_the_next_start(broker: Broker) -> None:
    left, mine = broker.data_dir / f"backup-{'a' * 26}", broker.data_dir / "backup-of-mine"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "file").write_text("")
    broker.restart()
    assert (left.exists(), mine.exists()) == (False, True)


def test_check_does_not_look_while_a_broker_does(broker: Broker, tmp_path: Path) -> None:
    said = mq9("check", home=broker.data_dir, code=3)
    assert f"mq9 check: the data folder {broker.data_dir} is in use by another broker (port {broker.port})" in said
    broker.kill()
    assert "all is well" in mq9("check", home=broker.data_dir)
    assert f"there is no mail in {tmp_path / 'nothing'}" in mq9(
        "check", str(tmp_path / "nothing"), home=tmp_path, code=5
    )
    assert not (tmp_path / "nothing").exists()


def test_check_finds_and_repairs(broker: Broker) -> None:
    from mq9_broker.store import Batch
    from mq9_broker.store.rocks import RocksStore

    with Wire(broker.port) as client:
        client.ask("MAILBOX.CREATE", {"name": "box", "public": True})
    assert broker.stop() == 0
    store = RocksStore(broker.data_dir / "store", sync=False)
    store.commit(Batch({b"Pbox": None, b"Zx": b""}))
    store.close()
    before = {path.name: path.read_bytes() for path in (broker.data_dir / "store").iterdir()}
    said = mq9("check", home=broker.data_dir, code=1)
    assert "box is missing in the directory\n" in said
    assert f"2 things are wrong; make a backup, then `mq9 check {broker.data_dir} --repair` repairs 1 of them" in said
    assert {path.name: path.read_bytes() for path in (broker.data_dir / "store").iterdir() if path.suffix != ""} == {
        name: data for name, data in before.items() if "." in name
    }
    said = mq9("check", "--repair", home=broker.data_dir, code=1)
    assert "box is missing in the directory: repaired\n" in said
    assert "2 things were wrong: 1 are repaired, 1 can't be" in said
    assert "1 things are wrong" in mq9("check", home=broker.data_dir, code=1)
    broker.start()
    with Wire(broker.port) as client:
        assert [box["mail_id"] for box in client.ask("PUBLIC.LIST")["mailboxes"]] == ["box"]
