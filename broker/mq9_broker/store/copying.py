"""A copy of a RocksDB folder while it is written to.

RocksDB has checkpoints of its own, but through rocksdict one holds the interpreter lock while it waits for the disk:
for tens of milliseconds, and for a second where the disk is busy. This makes the same in a thread that holds nothing.
Tables never change once they are written: they are linked. The manifest says which of them count, the logs hold what is
in no table yet: they only grow, and a prefix of them is the store as it was a moment ago. What counts is that no table
came or went meanwhile; else it is done again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Tables come and go every few seconds at the most, and links take milliseconds.
_ATTEMPTS = 50
#: What RocksDB makes anew.
_LEFT_OUT = ("LOCK", "LOG")
#: How the names of the files with large values end.
VALUES = ".values"

State = tuple[frozenset[str], int]


def copy_store(source: Path, target: Path, newest: int = 0) -> None:
    """Copy the RocksDB folder `source` into the new folder `target`; on disk when this returns. Of the files with large
    values those up to number `newest` grow no more. OSError."""
    for _ in range(_ATTEMPTS):
        target.mkdir()
        try:
            before = _state(source)
            for name in sorted(before[0]):
                _copy(source / name, target / name, link=name.endswith(".sst"))
            if _state(source) == before:
                for file in source.glob("*" + VALUES):
                    _copy(file, target / file.name, link=file.stem.isdigit() and int(file.stem) <= newest)
                for path in [*target.iterdir(), target]:
                    sync(path)
                return
        except FileNotFoundError:
            pass
        shutil.rmtree(target)
    raise OSError("its files change too often: try again when it has less to do")


def _state(folder: Path) -> State:
    """The files that there are, and how much the manifest says."""
    names = frozenset(name for name in os.listdir(folder) if not name.startswith(_LEFT_OUT) and VALUES not in name)
    return names, sum((folder / name).stat().st_size for name in names if name.startswith("MANIFEST"))


def _copy(source: Path, target: Path, *, link: bool) -> None:
    if link:
        try:
            os.link(source, target)
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # a file system without links
    shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Bring a file, or what a folder says of its files, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # folders can't be synced there, and need not
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
