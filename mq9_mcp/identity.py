"""Which mailbox belongs to which agent session, so that a session finds its own again after a restart or a resume.

A session is known by what its host says of it, never by what a model says: the environment of the process (Claude Code)
or the thread that a tool call belongs to (Codex). The map is one small file that only its user can read, because a
`mail_id` is the only credential of its mailbox:

    <data directory>/agents/    mode 0700
        sessions.json           mode 0600; {"version": 1, "sessions": {key: {"mail_id", "send_only", "expires_at"}}}
        lock                    held while the file is read and replaced
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mq9_mcp.autostart import make_private

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_LOCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


log = logging.getLogger("mq9.identity")

VERSION = 1


@dataclass(frozen=True, slots=True)
class Own:
    """An agent's own mailbox: the secret address it reads, and the one it hands out ("" when it is not known).

    `expires_at` is in unix seconds; what has expired is forgotten when the map is next written.
    """

    mail_id: str
    send_only: str = ""
    expires_at: int = 0


def session_key(environ: Mapping[str, str], thread_id: str | None, broker: str | None = None) -> str | None:
    """The name under which a session is remembered, or None when its host says nothing that outlives the process.

    `thread_id` comes with each call from hosts that keep several conversations in one server process. `broker` is the
    address of a broker that was named, None for the one on this machine: a mailbox on one is unknown to the other.
    """
    if thread_id:
        session = ["thread", thread_id]
    elif session_id := environ.get("CLAUDE_CODE_SESSION_ID"):
        session = ["claude-code", session_id, environ.get("CLAUDE_PROJECT_DIR", "")]
    else:
        return None
    return json.dumps([broker or "", *session], ensure_ascii=False)


def caller_key(name: str, broker: str | None = None) -> str:
    """The name under which a caller over HTTP is remembered whose token says that it is `name`."""
    return json.dumps([broker or "", "http", name], ensure_ascii=False)


def is_private(address: str) -> bool:
    """Whether `address` is a secret: a `mail_id` or an owner address. No name has that form."""
    return len(address) == 28 and address.startswith("m-")


def is_send_only(address: str) -> bool:
    """Whether `address` is the public form of a private mailbox. No name has that form."""
    return len(address) == 28 and address.startswith("s-")


def count(data_dir: Path) -> int:
    """How many sessions are remembered there. Raises OSError or ValueError when that can't be read, with the reason."""
    try:
        return len(_parse((data_dir / "agents" / "sessions.json").read_bytes()))
    except FileNotFoundError:
        return 0


class SessionMap:
    """The map on disk. Every method reads the file anew, so that processes see each other's changes.

    A folder that cannot be written, or a file that cannot be understood, does not stop an agent from working: it is
    logged once, the file stays as it is, and the map lives in memory until the process ends.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "agents"
        self._file = self._folder / "sessions.json"
        self._memory: dict[str, Own] | None = None

    def find(self, key: str) -> Own | None:
        """The mailbox of the session `key`, if it is remembered; it may have expired at the broker meanwhile."""
        return self._read().get(key)

    def remember(self, key: str, own: Own, *, now: float, lost: str | None = None) -> Own:
        """Remembers `own` for `key` and returns what is remembered then.

        That is another mailbox when another process was first; it stays unless it is the mailbox `lost`, which the
        caller found to be gone. `now` is in unix seconds.
        """
        with self._locked():
            sessions = {other: known for other, known in self._read().items() if known.expires_at > now}
            known = sessions.get(key)
            if known is None or known.mail_id in (lost, own.mail_id):
                sessions[key] = own
                self._write(sessions)
            return sessions[key]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            make_private(self._data_dir, "agents")
            self._folder.chmod(0o700)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            yield
            return
        try:
            _lock(lock)
            yield
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Own]:
        if self._memory is None:
            try:
                return _parse(self._file.read_bytes())
            except FileNotFoundError:
                return {}
            except OSError as error:
                self._give_up(error.strerror or str(error))
            except ValueError as error:
                self._give_up(str(error))
        return self._memory or {}

    def _write(self, sessions: dict[str, Own]) -> None:
        if self._memory is None:
            draft = self._file.with_name(f"sessions.json.{os.getpid()}")
            content = {"version": VERSION, "sessions": {key: asdict(own) for key, own in sessions.items()}}
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(content, file, ensure_ascii=False, indent=1)
                os.replace(draft, self._file)
            except OSError as error:
                draft.unlink(missing_ok=True)
                self._give_up(error.strerror or str(error))
        if self._memory is not None:
            self._memory = sessions

    def _give_up(self, reason: str) -> None:
        if self._memory is None:
            self._memory = {}
            log.warning(
                "%s cannot be used (%s): agents keep their mailboxes only until this process ends. Move the file away, "
                "make its folder writable, or set MQ9_DATA_DIR to a folder that is",
                self._file,
                reason,
            )


def _parse(data: bytes) -> dict[str, Own]:
    """The sessions in the file's bytes. Raises ValueError, with the reason, for anything else."""
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        return {
            key: Own(str(entry["mail_id"]), str(entry["send_only"]), int(entry["expires_at"]))
            for key, entry in content["sessions"].items()
        }
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError("it holds something else than a session map") from None
