"""A program in a pseudo-terminal: what it draws can be waited for, what a user would type is typed."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

# escape sequences: CSI, OSC, and the short ones
_DRAWING = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-B]|\x1b[=>78cDEHMNOZ]")
_ANSWERS = {b"\x1b[6n": b"\x1b[1;1R", b"\x1b[c": b"\x1b[?62;c"}  # what programs ask a terminal, and one would say


class Terminal:
    """A process with a terminal of its own, at the head of its own process group; it is ended on exit."""

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> None:
        self._command = [str(word) for word in command]
        self._env = {**env, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
        self._cwd = cwd
        self._drawn = b""
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            self._command,
            env=self._env,
            cwd=self._cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._reader.join(10)
        os.close(self._master)

    @property
    def text(self) -> str:
        """Everything drawn so far, without its colours, places and spaces: they may be drawn as moves."""
        with self._changed:
            drawn = self._drawn
        return re.sub(r"\s", "", _DRAWING.sub(b" ", drawn).decode("utf-8", "replace"))

    def wait_for(self, text: str, *, within: float, after: str = "") -> None:
        """Returns when `text` has been drawn, behind `after`, spaces aside."""
        wanted, before = re.sub(r"\s", "", text), re.sub(r"\s", "", after)

        def drawn() -> bool:
            _, found, rest = self.text.partition(before) if before else ("", "yes", self.text)
            return bool(found) and wanted in rest

        with self._changed:
            self._changed.wait_for(lambda: drawn() or self.process.poll() is not None, within)
        assert drawn(), f"{text!r} was not drawn in {within} s: …{self.text[-1500:]}"

    def type(self, text: str) -> None:
        """Types `text`, then the return key, as two writes: else some programs take it for something pasted."""
        os.write(self._master, text.encode())
        time.sleep(0.2)
        os.write(self._master, b"\r")

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Ends the program as a closed window would, then for sure."""
        for last in (signum, signal.SIGKILL):
            if self.process.poll() is None:
                try:
                    os.killpg(self.process.pid, last)
                except ProcessLookupError:
                    pass
            try:
                self.process.wait(5)
                return
            except subprocess.TimeoutExpired:
                pass

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EBADF):
                    raise
                data = b""
            if not data:
                break
            for question, answer in _ANSWERS.items():
                if question in data:
                    os.write(self._master, answer)
            with self._changed:
                self._drawn += data
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
