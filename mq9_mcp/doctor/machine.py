"""The program, the data folder and the environment."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from mq9_mcp import identity
from mq9_mcp.doctor.finding import Finding
from mq9_mcp.endpoint import shown
from mq9_mcp.install import program
from mq9_mcp.install.files import Refused

ROOM = 64 << 20  # bytes below which a disk is about to be full


def check_program() -> Iterator[Finding]:
    """Which program this is, and how agents are to start it."""
    yield Finding("program", "ok", f"mq9-mcp {version('mq9-mcp')}, {sys.prefix}")
    if program.passes():
        yield Finding(
            "program", "problem", "it runs in a cache that may be emptied", "install it: `uv tool install mq9-mcp`"
        )
    for name in (program.SERVER, program.COMMAND):
        try:
            wanted = program.command(name, desktop=False)
        except Refused as error:
            yield Finding("program", "problem", str(error))
            continue
        found = shutil.which(name)
        if os.path.dirname(wanted) and found and Path(found).resolve() != Path(wanted).resolve():
            yield Finding("program", "note", f"`{name}` in this shell is another one, {found}", f"or use {wanted}")


def check_environment(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What the environment says to the broker and its clients, as far as it is wrong or easily misunderstood."""
    if url := environ.get("MQ9_URL"):
        yield Finding(
            "environment",
            "note",
            f"MQ9_URL is set here ({shown(url)}); agents that a desktop starts do not see it, and Codex hands it to no "
            f"server",
            "`mq9-mcp install AGENT --url URL` writes it down; credentials go into the agent's own settings, as `env`",
        )
    idle = environ.get("MQ9_IDLE_EXIT")
    if idle and not idle.isdecimal():
        yield Finding("environment", "problem", f"MQ9_IDLE_EXIT is {idle!a}", "give whole seconds, or remove it")
    for name in ("MQ9_NKEY_SEED_FILE", "MQ9_TLS_CA", "MQ9_TLS_CERT", "MQ9_TLS_KEY"):
        if (path := environ.get(name)) and not os.access(path, os.R_OK):
            yield Finding("environment", "problem", f"{name} names {path}, which cannot be read", f"correct {name}")


def check_data(folder: Path) -> Iterator[Finding]:
    """Whether mail can be kept in the data folder, and who else could read it."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        yield Finding("data", "problem", f"{there} is no folder", "move it away, or name another with MQ9_DATA_DIR")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "data", "problem", f"{there} is not writable", "make it writable, or name another with MQ9_DATA_DIR"
        )
    if there != folder:
        yield Finding("data", "ok", f"{folder} (made with the first mail)")
    else:
        yield Finding("data", "ok", str(folder))
        if sys.platform != "win32" and stat.S_IMODE(folder.stat().st_mode) & 0o077:
            yield Finding("data", "note", f"others may look into {folder}", f"chmod 700 '{folder}'")
        yield from _check_sessions(folder)
    if (free := shutil.disk_usage(there).free) < ROOM:
        yield Finding("data", "problem", f"its disk has {free >> 20} MiB left", "make room: a full disk takes no mail")


def _check_sessions(folder: Path) -> Iterator[Finding]:
    try:
        count = identity.count(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        file = folder / "agents" / "sessions.json"
        yield Finding(
            "data",
            "problem",
            f"{file}, which says whose mailbox is whose, cannot be used ({reason}): agents forget theirs when they end",
            "move the file away, or make it readable; what it knew is lost then",
        )
    else:
        yield Finding("data", "ok", f"the mailboxes of {count} agent session{'' if count == 1 else 's'} are remembered")
