"""`mq9 check`, `mq9 restore`, and `mq9 backup` of a data folder that no broker uses."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mq9_broker import migration
from mq9_broker.check import Check
from mq9_broker.config import load
from mq9_broker.datadir import NOT_USABLE, DataDir
from mq9_broker.errors import BAD_SETTINGS, StartError, StoreError
from mq9_broker.store.rocks import RocksStore

_SHOWN = 100
_WRONG = 1
_CHECK = """\
examples:
  mq9 check                       your own data folder
  mq9 check /backups/mq9          a backup
  mq9 check /var/lib/mq9 --repair

Every record is read and compared with those that it points at and that point at it. That takes about 10 seconds for a
million messages, and no memory for them. Nothing is changed without --repair. No broker may be using the folder.

--repair writes anew what other records tell: indexes, counters, times. What can't be read stays as it is, and is named.
Make a backup first.

exit codes: 0 all is well (or was repaired), 1 something is wrong, 2 wrong arguments, 3 a broker uses the folder,
4 it has a newer format, 5 there is no such folder, or it can't be used
"""
_RESTORE = """\
examples:
  mq9 restore /backups/mq9
  mq9 restore /backups/mq9 --data-dir /var/lib/mq9

The backup stays as it is. The data folder must have no mail yet, and no broker: nothing is overwritten.

exit codes: 0 restored, 2 wrong arguments, or there is mail already, 3 a broker uses the folder,
4 the backup has a newer format, 5 there is no backup, or it can't be used
"""


def main(arguments: Sequence[str]) -> int:
    """Run one of them; gives the exit code."""
    commands: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[], argparse.ArgumentParser]]] = {
        "backup": (_backup, _backup_flags),
        "check": (_check, _check_flags),
        "restore": (_restore, _restore_flags),
    }
    run, flags = commands[arguments[0]]
    options = flags().parse_args(arguments[1:])
    os.umask(0o077)
    try:
        return run(options)
    except (StartError, StoreError) as wrong:
        print(f"mq9 {arguments[0]}: {wrong}", file=sys.stderr)
        return wrong.code if isinstance(wrong, StartError) else NOT_USABLE


def _flags(name: str, words: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"mq9 {name}", description=words, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _check_flags() -> argparse.ArgumentParser:
    flags = _flags("check", "Verify a data folder or a backup.", _CHECK)
    flags.add_argument("data_dir", metavar="DIR", nargs="?", help="the folder (default $MQ9_DATA_DIR, else your own)")
    flags.add_argument("--repair", action="store_true", help="write anew what can be derived")
    return flags


def _restore_flags() -> argparse.ArgumentParser:
    flags = _flags("restore", "Make a data folder from a backup.", _RESTORE)
    flags.add_argument("backup", metavar="BACKUP", help="the folder that `mq9 backup` made")
    flags.add_argument("--data-dir", metavar="DIR", help="where to (default $MQ9_DATA_DIR, else your own)")
    return flags


def _backup_flags() -> argparse.ArgumentParser:
    flags = _flags("backup", "Copy a data folder that no broker uses.", "")
    flags.add_argument("target", metavar="DIR")
    flags.add_argument("--data-dir", metavar="DIR", required=True)
    return flags


def _folder(chosen: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    flags: dict[str, Any] = {"data_dir": chosen}
    return load(None, environment, flags).data_dir


def _existing(folder: Path) -> Path:
    if not (folder / "store" / "CURRENT").exists():
        raise StartError(f"there is no mail in {folder}: name the data folder of a broker, or a backup", NOT_USABLE)
    return folder


def _check(options: argparse.Namespace) -> int:
    path = _existing(_folder(options.data_dir))
    with DataDir(path) as folder:
        store = RocksStore(folder.store, sync=False, writable=options.repair)
        try:
            if not migration.current(store, path):
                raise StartError(
                    f"the data folder {path} has an older format: start a broker on it, which brings it up to date, "
                    "and check it then",
                    NOT_USABLE,
                )
            said = 0

            def say(what: str) -> None:
                nonlocal said
                said += 1
                if said <= _SHOWN:
                    print(what)

            check = Check(store, say, repair=options.repair, now=int(time.time() * 1000))
            check.run()
        finally:
            store.close()
    if said > _SHOWN:
        print(f"and {said - _SHOWN} more")
    print(f"{path}: {', '.join(f'{count:,} {what}' for what, count in check.looked_at.items()) or 'no mail'}")
    left = check.wrong - check.repairable if options.repair else check.wrong
    if not check.wrong:
        print("all is well")
    elif options.repair:
        print(f"{check.wrong} things were wrong: {check.repairable} are repaired, {left} can't be")
    else:
        print(
            f"{check.wrong} things are wrong; make a backup, then `mq9 check {path} --repair` repairs "
            f"{check.repairable} of them"
        )
    return _WRONG if left else 0


def _restore(options: argparse.Namespace) -> int:
    backup, path = _existing(Path(options.backup).absolute()), _folder(options.data_dir)
    if (path / "store").exists():
        raise StartError(f"there is mail in {path}: name another folder with --data-dir, or move it away", BAD_SETTINGS)
    with DataDir(path) as folder:
        partial = path / "store.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(backup / "store", partial)
            store = RocksStore(partial, sync=False)
            try:
                migration.format_of(store, backup)
            finally:
                store.close()
            _sync(partial)
            partial.rename(folder.store)
        except (OSError, shutil.Error) as cause:
            raise StartError(f"can't copy {backup} to {path}: {cause}", NOT_USABLE) from cause
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print(f"Restored {backup} to {path}. Start the broker: mq9 broker --data-dir {path}")
    return 0


def _backup(options: argparse.Namespace) -> int:
    path, target = _existing(Path(options.data_dir)), Path(options.target)
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as cause:
        raise StartError(f"can't make the folder {target}: {cause.strerror}", NOT_USABLE) from cause
    with DataDir(path) as folder:
        store = RocksStore(folder.store, sync=False)

        async def copy() -> None:
            await store.checkpoint(target / "store")

        try:
            asyncio.run(copy())
        finally:
            store.close()
    print(f"Backed up {path}, which no broker uses, to {target}.")
    return 0


def _sync(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb+") as copy:
            os.fsync(copy.fileno())
