"""Backups while the broker runs, for whoever owns its data folder.

Who wants one makes an empty folder in the data folder and says its name. The store is copied into it, and to get it
from there is the affair of the one who asked. So the broker writes nowhere else, and needs no password for this: only
its owner can make a folder there, and to everybody else there is no such subject.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from mq9_broker.commit import Committer
from mq9_broker.datadir import BACKUP
from mq9_broker.errors import StoreError
from mq9_broker.store import Store

_log = logging.getLogger(__name__)


class Backups:
    """Copies `store` into folders in `home`, the data folder."""

    def __init__(self, store: Store, committer: Committer, home: Path) -> None:
        self._store = store
        self._committer = committer
        self._home = home
        self._under_way: asyncio.Task[None] | None = None

    def begin(self, name: str, answer: Callable[[str], None]) -> bool:
        """Copy the store into the folder of that name. False when none waits for it; else `answer` is called with ""
        when it is there, or with what went wrong."""
        folder = self._home / name
        if not BACKUP.fullmatch(name) or not self._waits(folder):
            return False

        def stored(problem: str) -> None:
            # what was said before is stored now, and so is in the copy
            if problem:
                answer(f"the store cannot write: {problem}")
            elif self._under_way is not None:
                answer("another backup is under way: try again when it is done")
            else:
                self._under_way = asyncio.create_task(self._copy(folder, answer))

        self._committer.try_store(stored)
        return True

    def _waits(self, folder: Path) -> bool:
        """Whether it is empty, and whose the data folder is made it."""
        try:
            return not any(folder.iterdir()) and folder.stat().st_uid == (self._home / "lock").stat().st_uid
        except OSError:
            return False

    async def _copy(self, folder: Path, answer: Callable[[str], None]) -> None:
        problem = ""
        try:
            await self._store.checkpoint(folder / "store")
            _log.info("the store was copied for a backup")
        except StoreError as failed:
            problem = str(failed)
            _log.error("no backup: %s", failed)
        self._under_way = None
        answer(problem)
