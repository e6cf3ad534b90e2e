"""Waking idle sessions of Codex with its own `codex queue`.

What is queued arrives as if the user had typed it, so it is opt-in (MQ9_WAKE_CODEX=1), and there is nothing in it but
counts.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import threading
from pathlib import Path

from mq9_mcp.wait import follow

HEAD_START = 2.0  # seconds in which an agent at work sees its mail by itself, or is told by a hook
WITHIN = 30.0  # seconds the program has
MOST = 100  # sessions of one Codex that are watched

log = logging.getLogger("mq9.nudge")

_THREAD = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class CodexQueue:
    """Watches the mailboxes of Codex's threads, as they call, until it is closed or its process ends with its host."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._watched: set[str] = set()
        self._open = True

    def watch(self, thread_id: str) -> None:
        """Wakes this thread from now on when there is new mail."""
        if thread_id in self._watched or len(self._watched) >= MOST or not _THREAD.fullmatch(thread_id):
            return
        self._watched.add(thread_id)
        threading.Thread(target=self._follow, args=(thread_id,), name="mq9-nudge", daemon=True).start()

    def _follow(self, thread_id: str) -> None:
        follow(
            "codex",
            thread_id,
            self._data_dir,
            lambda words: _queue(thread_id, words),
            until=lambda: 60.0 if self._open else 0.0,
            rest=HEAD_START,
        )

    def close(self) -> None:
        """Ends it, within a second or two."""
        self._open = False


def _queue(thread_id: str, words: str) -> bool:
    """Whether Codex took it."""
    program = shutil.which("codex")
    if program is None:
        log.warning("there is new mail, but no `codex` on the PATH to wake Codex with")
        return False
    try:
        subprocess.run(
            [program, "queue", "--thread", thread_id, "--message", words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WITHIN,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("`codex queue` did not take the news of new mail: %s", type(error).__name__)
        return False
    return True
