"""A data folder of an earlier version: today's broker reads all of it, goes on writing, and leaves a whole store."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.inprocess import Broker, FaultyStore, by_name
from mq9_broker import keys, migration, runner
from mq9_broker.check import Check
from mq9_broker.clock import ManualClock
from mq9_broker.config import Config
from mq9_broker.datadir import DataDir
from mq9_broker.errors import StoreError
from mq9_broker.store import Batch, Store
from mq9_broker.store.memory import MemoryStore
from mq9_broker.store.rocks import RocksStore

FOLDERS = Path(__file__).parent.parent / "data"
#: Commits of the migrations from format 2 on.
LATER = keys.FORMAT - 2
EVERYTHING = b"", b"\xff" * 64


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    """An earlier format."""
    found: int = request.param
    return found


@pytest.fixture
def known(version: int) -> dict[str, Any]:
    """What its maker knew of it."""
    found: dict[str, Any] = json.loads((FOLDERS / f"format-{version}" / "known.json").read_text())
    return found


@pytest.fixture
def store(version: int, tmp_path: Path) -> Iterator[RocksStore]:
    """Its folder, as that version left it."""
    shutil.copytree(FOLDERS / f"format-{version}" / "store", tmp_path / "store")
    store = RocksStore(tmp_path / "store", sync=False)
    yield store
    store.close()


def wrong(store: Store, now: int) -> list[str]:
    said: list[str] = []
    Check(store, said.append, repair=False, now=now).run()
    return said


def secret(known: dict[str, Any], name: str) -> str:
    made = known["mailboxes"][name]
    found = made.get("owner") or made["mail_id"]
    assert isinstance(found, str)
    return found


def test_it_is_what_an_earlier_version_wrote(store: RocksStore, version: int, tmp_path: Path) -> None:
    assert store.get(keys.FORMAT_KEY) == b"%d" % version
    assert not migration.current(store, tmp_path)
    assert {key[:1] for key, _ in store.scan(*EVERYTHING)} >= {b"!", b"A", b"C", b"E", b"I", b"M", b"P"}
    assert {key[9:10] for key, _ in store.scan(b"I", b"J")} == {b"s", b"m", b"l", b"d", b"z", b"g"}


def test_everything_is_read_right_and_goes_on(
    store: RocksStore, version: int, known: dict[str, Any], tmp_path: Path
) -> None:
    migration.migrate(store, tmp_path)
    assert migration.current(store, tmp_path)
    assert wrong(store, known["now"]) == []
    clock = ManualClock(known["now"])
    broker = Broker(store, clock=clock)
    client = broker.client()
    private = secret(known, "private")
    assert client.query(private) == [
        (1, "critical 0"),
        (7, "critical 6"),
        (2, "urgent 1"),
        (3, "high 2"),
        (8, "urgent 7"),
        (9, "high 8"),
        (4, "normal 3"),
        (10, "normal 9"),
        (5, "low 4"),
        (6, "notify 5"),
        (11, "low 10"),
        (12, "notify 11"),
    ]
    headed = client.request("MAILBOX.QUERY.old.public")["messages"][0]
    assert (headed["payload"], headed["headers"]["mine"], headed["headers"]["mq9-hops"]) == ("headed", "kept", "3")
    assert headed["headers"]["mq9-from"] == known["mailboxes"]["sender"]["send_only"]
    assert client.query("old.public")[1:] == [(2, "an hour"), (3, "once")]
    assert client.query("old.latest") == [(3, "state 2")]
    if version > 1:
        assert client.query("old.large") == [(1, "large " * 4_000)]
    assert client.request("MAILBOX.old.public", "again", {"Nats-Msg-Id": "one"}) == {
        "error": "",
        "msg_id": 3,
        "duplicate": True,
    }
    listed = client.request("PUBLIC.LIST")["mailboxes"]
    assert [(box["mail_id"], box["desc"]) for box in listed] == [("old.public", "from before"), ("old.short", "")]
    # 1, 3 and 6 were acknowledged, 2 was deleted, 4 was leased
    assert [msg_id for msg_id, _ in client.query("old.named")] == [1, 3, 4, 5, 6]
    got = client.fetch("old.named", "crew")
    assert [message["msg_id"] for message in got["messages"]] == [4, 5]
    declared = client.subscribe("BROADCAST.system.capability")
    assert sorted(frame.json["can"] for frame in client.take(declared)) == ["read", "write"]
    assert client.request("MAILBOX.QUERY.old.ended") == {"error": "mailbox old.ended does not exist"}
    watcher = broker.client()
    watched = watcher.subscribe("PUBLIC.LIST")
    watcher.take()
    broker.advance(7201)
    assert by_name([frame.json for frame in watcher.take(watched)]) == [("expired", "old.short")]
    assert client.query("old.public") == [(1, "headed"), (3, "once"), (4, "later")]
    assert client.put(private, "new", key="k", receipt="acked", **{"from": secret(known, "sender")}) == 13
    assert client.put("old.public", "new", priority="urgent") == 5
    assert client.request(f"MAILBOX.RENEW.{secret(known, 'public')}", {"ttl": 10})["error"] == ""
    assert wrong(store, clock.now()) == []
    broker.advance(20)
    assert client.request("MAILBOX.QUERY.old.public") == {"error": "mailbox old.public does not exist"}
    assert wrong(store, clock.now()) == []


@pytest.mark.parametrize("durability", ["process", "fsync"])
def test_a_broker_brings_it_up_when_it_starts(
    tmp_path: Path, version: int, known: dict[str, Any], durability: str
) -> None:
    shutil.copytree(FOLDERS / f"format-{version}" / "store", tmp_path / "d" / "store")
    for _ in range(2):
        with DataDir(tmp_path / "d") as folder:
            disk, _ = runner.open_stores(Config(durability=durability), folder)
            assert migration.current(disk, tmp_path)
            assert wrong(disk, known["now"]) == []
            disk.close()


def many(count: int) -> MemoryStore:
    """A store of format 1 with mailboxes that have three delayed messages each."""
    store = MemoryStore()
    batch = Batch({keys.FORMAT_KEY: b"1", keys.INCARNATION_KEY: keys.u64(count)})
    for number in range(1, count + 1):
        batch.writes[keys.counters(number)] = keys.encode_counters((0,) * 14 + (3, 0))[: 15 * 8]
        for serial in (1, 2, 3):
            batch.writes[keys.delayed(number, serial)] = b""
    store.commit(batch)
    return store


def test_a_large_one_is_migrated_in_steps_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(migration, "STEP", 10)
    store = FaultyStore(many(95))
    with caplog.at_level(logging.INFO):
        migration.migrate(store, tmp_path)
    assert store.commits == 10 + LATER
    assert f"the data folder {tmp_path} has format 1 and is brought to format 2" in caplog.text
    assert {keys.decode_counters(store.get(keys.counters(number)) or b"")[15] for number in range(1, 96)} == {3}
    assert store.get(migration.UNFINISHED) is None


@pytest.mark.parametrize("killed_at", range(10 + LATER))
def test_a_broker_that_is_killed_in_the_middle_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    monkeypatch.setattr(migration, "STEP", 10)

    class Killed(FaultyStore):
        def commit(self, batch: Batch) -> Any:
            if self.commits == killed_at:
                raise StoreError("killed")
            return super().commit(batch)

    store = Killed(many(95))
    with pytest.raises(StoreError, match="killed"):
        migration.migrate(store, tmp_path)
    left = store.crash()
    if killed_at:
        assert left.get(keys.FORMAT_KEY) == b"%d" % keys.FORMAT  # the version before refuses it
        assert not migration.current(left, tmp_path)
    migration.migrate(left, tmp_path)
    assert killed_at + left.commits == 10 + LATER
    assert migration.current(left, tmp_path)
    assert {keys.decode_counters(left.get(keys.counters(number)) or b"")[15] for number in range(1, 96)} == {3}
