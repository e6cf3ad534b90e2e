"""Users' folders for the tests, and mq9-mcp run in them."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mq9_mcp.__main__ import main

SET_ELSEWHERE = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "APPDATA")


class Said(NamedTuple):
    code: int
    out: str
    err: str


@contextlib.contextmanager
def user() -> Iterator[Path]:
    """A user with an empty home folder, which is the current folder, too."""
    here, before = Path.cwd(), dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        for name in [*SET_ELSEWHERE, *(name for name in before if name.startswith("MQ9_"))]:
            os.environ.pop(name, None)
        os.environ["HOME"] = str(home)
        # no mq9 of whoever runs the tests
        folders = before.get("PATH", os.defpath).split(os.pathsep)
        os.environ["PATH"] = os.pathsep.join(name for name in folders if not (Path(name) / "mq9-mcp").exists())
        os.chdir(home)
        try:
            yield home
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)


def run(*arguments: str) -> Said:
    """What `mq9-mcp` says with these arguments and no terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def snapshot(home: Path) -> dict[str, bytes | None]:
    """Every file and folder below `home` but what mq9 keeps for itself, with the files' bytes."""
    found: dict[str, bytes | None] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if not name.startswith((".local", "Library/Application Support/mq9")):
            found[name] = path.read_bytes() if path.is_file() else None
    return found
