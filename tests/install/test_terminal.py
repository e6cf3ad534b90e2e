"""A person at a terminal is shown the change and asked."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

MQ9_MCP = [sys.executable, "-m", "mq9_mcp"]


def at_a_terminal(home: Path, answer: bytes, *arguments: str) -> tuple[int, str]:
    """The exit code, and what is shown to somebody who says `answer` when asked."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MQ9_", "XDG_"))}
    here, there = pty.openpty()
    process = subprocess.Popen(
        [*MQ9_MCP, *arguments],
        stdin=there,
        stdout=there,
        stderr=there,
        env={**kept, "HOME": str(home), "TERM": "dumb", "COLUMNS": "200"},
    )
    os.close(there)
    shown = b""
    with process:
        try:
            while select.select([here], [], [], 20)[0] and (data := os.read(here, 65536)):
                shown += data
                if answer and b"[y/N] " in shown:
                    os.write(here, answer)
                    answer = b""
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
        finally:
            os.close(here)
        return process.wait(10), shown.decode()


@pytest.mark.parametrize("answer", [b"y\n", b"Yes\n"])
def test_yes_does_it(answer: bytes, tmp_path: Path) -> None:
    code, shown = at_a_terminal(tmp_path, answer, "install", "cursor")
    assert code == 0, shown
    assert "Do it? [y/N]" in shown
    assert shown.index("+++ ") < shown.index("Do it?") < shown.index("done. Start Cursor anew")
    assert (tmp_path / ".cursor/mcp.json").exists()


@pytest.mark.parametrize("answer", [b"\n", b"n\n", b"what\n", b"\x04"])
def test_anything_else_does_nothing(answer: bytes, tmp_path: Path) -> None:
    code, shown = at_a_terminal(tmp_path, answer, "install", "cursor")
    assert code == 1, shown
    assert "Nothing was changed." in shown
    assert not (tmp_path / ".cursor").exists()


def test_with_yes_nobody_is_asked(tmp_path: Path) -> None:
    code, shown = at_a_terminal(tmp_path, b"", "install", "cursor", "--yes")
    assert (code, "Do it?" in shown) == (0, False)
