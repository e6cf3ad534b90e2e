"""A disk of its own for a broker, which fills up: an operating state, not a crash."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.harness import AI, Broker, Wire, eventually, pub

FULL = "the store cannot write: "


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MB in memory; where this user may not mount one, the test is skipped."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("this user can't mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("durability", ["process", "fsync"])
def test_a_full_disk(small: Path, tmp_path: Path, durability: str) -> None:
    """Senders are told, readers go on, and when there is room again, the broker writes again. Nothing answered is
    lost, nothing refused is there."""
    filler = small / "filler"
    filler.write_bytes(bytes(40_000_000))
    broker = Broker(small / "data", "--durability", durability)
    broker.log_file = tmp_path / "log"
    broker.start()
    try:
        with Wire(broker.port, timeout=30) as client, Wire(broker.port, timeout=30) as reader:
            address = client.ask("MAILBOX.CREATE", {"ttl": 0})["mail_id"]
            stored = 0
            while not (error := client.ask(f"MAILBOX.{address}", os.urandom(20_000))["error"]):
                stored += 1
                assert stored < 4000
            assert "No space left on device" in error
            assert error.startswith(FULL)
            refused = client.ask("MAILBOX.CREATE")["error"]
            assert refused.startswith(FULL)
            client.send(pub(f"{AI}MAILBOX.{address}", b"without a reply"))
            assert "Permissions Violation for Publish" in client.frame().args  # type: ignore[union-attr]
            page = reader.ask(f"MAILBOX.QUERY.{address}", {"limit": 5})
            assert (page["unread"], len(page["messages"])) == (stored, 5)
            reader.settle("SUB core 9\r\nPUB core 2\r\nok\r\n")
            filler.unlink()

            def writes() -> bool:
                return not client.ask(f"MAILBOX.{address}", b"again")["error"]

            assert eventually(writes, within=15, every=0.2)
            assert client.ask(f"MAILBOX.QUERY.{address}", {"limit": 1})["unread"] == stored + 1
        broker.restart(hard=True)
        with Wire(broker.port) as client:
            assert client.ask(f"MAILBOX.QUERY.{address}", {"limit": 1})["unread"] == stored + 1
        assert b"Traceback" not in broker.log
    finally:
        broker.kill()
