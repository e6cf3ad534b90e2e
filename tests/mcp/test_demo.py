"""The demo: everything it says is true, it leaves nothing behind, and it fails when something is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mq9_mcp import demo

DEMO = [sys.executable, "-c", "import sys; from mq9_mcp.demo import main; sys.exit(main([]))"]


def environment(folder: Path) -> dict[str, str]:
    """One in which everything temporary is in `folder`, and no broker of this machine is named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    return {**kept, "TMPDIR": str(folder), "MQ9_DATA_DIR": str(folder / "not-to-be-made")}


def children_of(folder: Path) -> list[str]:
    """The processes that know `folder` from their command, environment or working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or entry.name == str(os.getpid()):
            continue
        try:
            known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in known:
            found.append(known.replace(b"\0", b" ")[:100].decode("utf-8", "replace"))
    return found


def test_the_whole_story(tmp_path: Path) -> None:
    mine = environment(tmp_path) | {"MQ9_TOKEN": "for another broker"}
    done = subprocess.run(DEMO, capture_output=True, text=True, env=mine, timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 160
    assert sum(line.startswith("✓ ") for line in lines) == 8
    for words in (
        "critical → normal → low",
        "nats-py",
        "check_inbox",
        "expired",
        "check_inbox, create_mailbox, list_public, send",
    ):
        assert words in done.stdout, words
    assert f"{demo.own_command()} install claude-code" in done.stdout
    assert f"{demo.own_command()} install codex" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


@pytest.mark.parametrize("moment", ["A broker runs", "three tasks"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if moment in line:
                break
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=20)
    assert running.returncode == 130
    assert complaint == "mq9-mcp demo: stopped; everything it had started is gone\n"
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


def test_something_untrue_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "TASKS", tuple(reversed(demo.TASKS[:2])))
    assert demo.main([]) == 1
    assert "✗ " in capsys.readouterr().out.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert demo.main([]) == 1
    assert "✗ the broker does not run: it said nothing" in capsys.readouterr().out


def test_how_to_start_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a venv" / "bin"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(folder))
    assert demo.own_command() == f"{sys.executable} -m mq9_mcp"
    script = folder / "mq9-mcp"
    folder.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert demo.own_command() == f"'{script}'"
    # an environment that is only activated here
    (folder.parent / "pyvenv.cfg").touch()
    monkeypatch.setenv("PATH", str(folder))
    assert demo.own_command() == f"'{script}'"
    # one whose programs are linked to a folder on everybody's PATH
    (tmp_path / "mq9-mcp").symlink_to(script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo.own_command() == "mq9-mcp"
