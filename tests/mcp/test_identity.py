"""The map from agent sessions to their mailboxes."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mq9_mcp import unread
from mq9_mcp.identity import Own, SessionMap, session_key

NOW = 1_000_000.0
ALICE = Own("m-" + "a" * 26, "s-" + "a" * 26, expires_at=2_000_000)
BOB = Own("m-" + "b" * 26, "s-" + "b" * 26, expires_at=2_000_000)


@pytest.mark.parametrize(
    ("environ", "thread", "known"),
    [
        ({}, None, False),
        ({"CLAUDE_PROJECT_DIR": "/work"}, None, False),
        ({"CLAUDE_CODE_SESSION_ID": ""}, None, False),
        ({"CLAUDE_CODE_SESSION_ID": "1234"}, None, True),
        ({}, "thread-1", True),
    ],
)
def test_what_names_a_session(environ: dict[str, str], thread: str | None, known: bool) -> None:
    assert (session_key(environ, thread) is not None) is known


def test_different_sessions_have_different_names() -> None:
    environs = [
        {"CLAUDE_CODE_SESSION_ID": "1", "CLAUDE_PROJECT_DIR": "/a"},
        {"CLAUDE_CODE_SESSION_ID": "1", "CLAUDE_PROJECT_DIR": "/b"},
        {"CLAUDE_CODE_SESSION_ID": "2", "CLAUDE_PROJECT_DIR": "/a"},
        {"CLAUDE_CODE_SESSION_ID": "1"},
    ]
    names = {
        session_key(environ, thread, broker)
        for environ in environs
        for thread in (None, "1")
        for broker in (None, "nats://x")
    }
    # with a thread the environment does not matter: one process serves several conversations
    assert len(names) == 4 * 2 + 2
    assert session_key(environs[0], None) == session_key(dict(environs[0]), None)


def test_a_session_is_found_again_by_another_process(tmp_path: Path) -> None:
    assert SessionMap(tmp_path).find("alice") is None
    assert SessionMap(tmp_path).remember("alice", ALICE, now=NOW) == ALICE
    assert SessionMap(tmp_path).find("alice") == ALICE
    assert SessionMap(tmp_path).find("bob") is None


def test_the_first_of_two_processes_wins(tmp_path: Path) -> None:
    SessionMap(tmp_path).remember("alice", ALICE, now=NOW)
    assert SessionMap(tmp_path).remember("alice", BOB, now=NOW) == ALICE


def test_a_lost_mailbox_is_replaced_once(tmp_path: Path) -> None:
    SessionMap(tmp_path).remember("alice", ALICE, now=NOW)
    third = Own("m-" + "c" * 26, expires_at=2_000_000)
    assert SessionMap(tmp_path).remember("alice", BOB, now=NOW, lost=ALICE.mail_id) == BOB
    assert SessionMap(tmp_path).remember("alice", third, now=NOW, lost=ALICE.mail_id) == BOB


def test_what_has_expired_is_forgotten(tmp_path: Path) -> None:
    sessions = SessionMap(tmp_path)
    sessions.remember("alice", ALICE, now=NOW)
    sessions.remember("bob", Own(BOB.mail_id, expires_at=3_000_000), now=2_500_000)
    assert sessions.find("alice") is None
    assert sessions.find("bob") is not None


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "agents"
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    SessionMap(tmp_path / "data").remember("alice", ALICE, now=NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert {file.name for file in folder.iterdir()} == {"sessions.json", "lock"}


def test_nobody_else_opens_the_folders_above(tmp_path: Path) -> None:
    data = tmp_path / "share" / "mq9"
    with unread.Serving("5e55-10n", data):
        folders = [data, data / "agents", data / "agents" / "hosts"]
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3


@pytest.mark.parametrize("face", ["../../../.profile", "/etc/motd", "..", ""])
def test_no_broker_says_which_file_is_written(tmp_path: Path, face: str) -> None:
    key = session_key({}, "7h12ead")
    assert key is not None
    SessionMap(tmp_path).remember(key, Own("m-" + "a" * 26, face, int(NOW) + 60), now=NOW)
    assert unread.mailbox_of("codex", "7h12ead", tmp_path) is None


def test_a_server_that_ends_leaves_the_next_one_alone(tmp_path: Path) -> None:
    with unread.Serving("5e55-10n", tmp_path):
        (file,) = (tmp_path / "agents" / "hosts").iterdir()
        file.write_text(json.dumps(["5e55-10n", 1]))
    assert file.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"version": 2, "sessions": {}}',
        b'{"version": 1, "sessions": []}',
        b'{"version": 1, "sessions": {"alice": "m-a"}}',
        b'{"version": 1, "sessions": {"alice": {"mail_id": "m-a"}}}',
    ],
)
def test_a_file_that_cannot_be_understood_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    file = tmp_path / "agents" / "sessions.json"
    file.parent.mkdir()
    file.write_bytes(content)
    sessions = SessionMap(tmp_path)
    assert sessions.find("alice") is None
    assert sessions.remember("alice", ALICE, now=NOW) == ALICE
    assert sessions.find("alice") == ALICE
    assert file.read_bytes() == content
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be used" in caplog.text
    assert str(file) in caplog.text
    assert ALICE.mail_id not in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "agents").write_text("a file where the folder should be")
    sessions = SessionMap(tmp_path)
    assert sessions.remember("alice", ALICE, now=NOW) == ALICE
    assert sessions.find("alice") == ALICE
    assert len(caplog.records) == 1
    assert "MQ9_DATA_DIR" in caplog.text


RACER = """
import sys
from pathlib import Path
from mq9_mcp.identity import Own, SessionMap
for number in range(20):
    SessionMap(Path(sys.argv[1])).remember(f"{sys.argv[2]}-{number}", Own(sys.argv[2], expires_at=2), now=1)
    SessionMap(Path(sys.argv[1])).remember("shared", Own(sys.argv[2], expires_at=2), now=1)
print(SessionMap(Path(sys.argv[1])).find("shared").mail_id)
"""


def test_processes_do_not_lose_each_others_entries(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, tmp_path, f"m-{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    said = {racer.communicate()[0].strip() for racer in racers}
    assert len(said) == 1, "all see the same shared session"
    kept = json.loads((tmp_path / "agents" / "sessions.json").read_bytes())["sessions"]
    assert len(kept) == 4 * 20 + 1
