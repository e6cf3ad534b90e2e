"""The data folder: whose it is, that one broker uses it, which format it has, and where the broker listens."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from types import TracebackType

from mq9_broker.errors import StartError

#: A folder in the data folder into which a backup is made, and which nobody needs when the broker starts.
BACKUP = re.compile(r"backup-[a-z2-7]{26}")

IN_USE = 3
NOT_USABLE = 5


class DataDir:
    """A folder held by this process until `close`. Only its owner can read what the broker puts there."""

    def __init__(self, path: Path) -> None:
        """Take the folder; StartError when it is in use (code 3) or can't be written (code 5)."""
        self.path = path
        self.store = path / "store"
        self._port_file = path / "port"
        try:
            # a folder that was there is left as it is: it may hold more than ours
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as cause:
            raise StartError(
                f"the data folder {path} can't be used: {cause.strerror or cause}; name another one with --data-dir",
                NOT_USABLE,
            ) from cause
        if not _lock(self._lock):
            os.close(self._lock)
            raise StartError(
                f"the data folder {path} is in use by another broker{self._other()}; "
                "use that one, or name another folder with --data-dir",
                IN_USE,
            )
        # a killed broker's: somebody else may have its port by now
        self._port_file.unlink(missing_ok=True)
        for left in path.iterdir():
            if BACKUP.fullmatch(left.name):
                shutil.rmtree(left, ignore_errors=True)

    def __enter__(self) -> DataDir:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def announce(self, host: str, port: int, *, tls: bool = False) -> None:
        """Write the port file: the port alone when the broker can be reached on loopback, else host:port; with `tls`,
        which clients have to speak then, tls://host:port."""
        here = host in ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104  compared, not bound
        shown = "127.0.0.1" if here else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
        fresh = self.path / f"port.{os.getpid()}"
        fresh.write_text(f"tls://{shown}:{port}\n" if tls else f"{port}\n" if here else f"{shown}:{port}\n")
        fresh.replace(self._port_file)

    def close(self) -> None:
        """Give the folder back."""
        self._port_file.unlink(missing_ok=True)
        os.close(self._lock)

    def _other(self) -> str:
        try:
            return f" (port {self._port_file.read_text().strip()})"
        except OSError:
            return ""


def _lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
