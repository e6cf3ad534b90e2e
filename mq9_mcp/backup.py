"""`mq9 backup`: a copy of all mail, from the broker while it runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import sys
from base64 import b32encode
from pathlib import Path

from mq9_mcp import autostart
from mq9_mcp.connection import Connection
from mq9_mcp.errors import MailboxError
from mq9_mcp.screen import Screen

WITHIN = 600.0  # seconds the broker has to write everything down


async def backup(options: argparse.Namespace, screen: Screen) -> int:
    """The broker copies its store into a folder that is made for that in its data folder, which only its owner can do;
    from there it is moved to where it shall be."""
    home = _home(options.data_dir)
    target = _target(options.folder)
    url = await asyncio.to_thread(autostart.find, home)
    if url is None:
        return await _stopped(home, target)
    waiting = _make_folders(home, target)
    try:
        await _ask(url, waiting.name)
        files = await asyncio.to_thread(_move, waiting / "store", target / "store")
    finally:
        await asyncio.to_thread(shutil.rmtree, waiting, ignore_errors=True)
    if screen.as_json:
        screen.record({"backup": str(target), "bytes": sum(files)})
    else:
        screen.line(
            f"Backed up to {target}: {sum(files) / 1e6:,.1f} MB in {len(files)} files. It holds what was stored"
        )
        screen.line("when it began, but no mailboxes with storage memory.")
        screen.line("Check it: ", (f"mq9 check {target}", "bold"), "   Use it: ", (f"mq9 restore {target}", "bold"))
    return 0


def _home(chosen: str | None) -> Path:
    return Path(chosen).absolute() if chosen else autostart.data_dir()


def _target(folder: str) -> Path:
    target = Path(folder).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MailboxError(f"{target} is not empty, and a backup never overwrites: name a new folder")
    return target


def _make_folders(home: Path, target: Path) -> Path:
    """Gives the one in which the broker is to leave its copy."""
    waiting = home / f"backup-{b32encode(secrets.token_bytes(17))[:26].decode().lower()}"
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        waiting.mkdir(mode=0o700)
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # root backs up another user's broker
            owner = (home / "lock").stat()
            os.chown(waiting, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise MailboxError(
            f"can't make the folder {error.filename} ({error.strerror}): run it as the user whose broker it is, and "
            "name a folder where that user may write"
        ) from None
    return waiting


async def _ask(url: str, name: str) -> None:
    link = Connection(url, home=None, name="mq9 backup")
    await link.open()
    try:
        reply = await link.request("$mq9.AI.BROKER.BACKUP", name.encode(), timeout=WITHIN, attempts=1)
    finally:
        await link.close()
    problem = str(reply.get("error"))
    if problem.startswith("unknown mq9 subject"):
        raise MailboxError(
            f"the broker at {url} makes no backups: it is older than this command, or not of that folder"
        )
    if problem:
        raise MailboxError(f"no backup: {problem}")


def _move(made: Path, target: Path) -> list[int]:
    """On one file system at once; to another by copying, which is on its disk before anybody hears of it. Gives the
    sizes of the files."""
    try:
        made.rename(target)
    except OSError:
        partial = target.with_name("store.partial")
        shutil.copytree(made, partial)
        for file in partial.iterdir():
            with file.open("rb+") as copy:
                os.fsync(copy.fileno())
        partial.rename(target)
    return [file.stat().st_size for file in target.iterdir()]


async def _stopped(home: Path, target: Path) -> int:
    """No broker runs: the broker's own program copies the folder."""
    command = [sys.executable, "-m", "mq9_broker", "backup", str(target), "--data-dir", str(home)]
    process = await asyncio.create_subprocess_exec(*command)
    return await process.wait()
