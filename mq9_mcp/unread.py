"""What waits for an agent's session: which mailbox is its own, how much in it is unread, and what was said of that.

For programs that run beside an agent: hooks, and those that wait. They read the map that the MCP server writes (see
`identity`) and never make a mailbox or start a broker. Nothing here is heavy to import.
"""

from __future__ import annotations

import json
import os
import sys
import time

from mq9_mcp import autostart
from mq9_mcp.endpoint import Endpoint, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, TypeAlias

    from mq9_mcp.wire import Wire

    Counts: TypeAlias = tuple[int, ...]  # unread messages of each tier, then how many are stored

KINDS = {"claude-code": "claude-code", "codex": "thread"}  # the hosts, and the word for their sessions in the map
GROUP = "inbox"  # the group with which an agent reads its own mailbox
FORGET_AFTER = 7 * 86_400  # seconds without use, after which an agent's mailbox ends
_TIERS = ("critical", "urgent", "normal", "low")
_MANY = 1000  # a count that means: at least so many


class Mailbox:
    """A session's own mailbox. `broker` is the address of one that was named, "" for the one of this machine."""

    def __init__(self, broker: str, mail_id: str, send_only: str) -> None:
        self.broker = broker
        self.mail_id = mail_id
        self.send_only = send_only


def mailbox_of(host: str, session: str, data_dir: Path) -> Mailbox | None:
    """The session's own mailbox, None when there is none yet."""
    try:
        content = json.loads((data_dir / "agents" / "sessions.json").read_bytes())
        found = []
        for key, entry in content["sessions"].items():
            if session not in key:
                continue
            broker, kind, name, *_ = json.loads(key)
            face = str(entry["send_only"])
            # It names a file (see Told), and the broker chose it: no path gets through.
            if (kind, name) == (KINDS[host], session) and face.replace("-", "a").isalnum():
                found.append((entry["expires_at"], str(broker), str(entry["mail_id"]), face))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Mailbox(*max(found)[1:]) if found else None  # a session that changed its broker has two: the last one


class Serving:
    """That a server of this machine serves a session, as long as it is entered: in the file of the host's process,
    <data directory>/agents/hosts/<process id>.

    A host can begin another session and keep the server, and with it the mailbox of the one before (Claude Code does at
    /clear, and when it resumes another one). Its hooks are told of the new one alone.
    """

    def __init__(self, session: str | None, data_dir: Path) -> None:
        self._session = session
        self._data_dir = data_dir
        self._file = _host_file(data_dir, os.getppid())

    def __enter__(self) -> None:
        if self._session is not None:
            try:
                autostart.make_private(self._data_dir, "agents", "hosts")
                self._file.write_text(json.dumps([self._session, os.getpid()]))
            except OSError:
                pass  # hooks go by what they are told, then

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            try:
                if json.loads(self._file.read_bytes()) == [self._session, os.getpid()]:  # and not the next server's
                    self._file.unlink()
            except (OSError, ValueError):
                pass


def served(host_pid: int, data_dir: Path) -> str | None:
    """The session that the server of the host with this process id serves; None when there is no such server."""
    try:
        session, server_pid = json.loads(_host_file(data_dir, host_pid).read_bytes())
        if sys.platform != "win32":  # there it would be no question
            os.kill(int(server_pid), 0)
    except (OSError, ValueError, TypeError):
        return None
    return str(session)


def _host_file(data_dir: Path, pid: int) -> Path:
    return data_dir / "agents" / "hosts" / str(pid)


def endpoint_of(broker: str, data_dir: Path) -> Endpoint | None:
    """Where that broker is, with the credentials this process has for it; None when it does not run. Raises
    BrokerUnavailable when that can't be known."""
    named = os.environ.get("MQ9_URL", "")
    if broker:
        return Endpoint.at(named if shown(named) == broker else broker)
    url = autostart.located(data_dir)
    return Endpoint.at(url) if url else None


def ask(wire: Wire, mailbox: Mailbox) -> int:
    """Asks how much is unread; `counts` reads the answer that comes with this number."""
    return wire.ask(f"MAILBOX.QUERY.{mailbox.mail_id}", {"group_name": GROUP, "limit": 0})


def counts(answer: dict[str, Any]) -> Counts | None:
    """What the answer says, None for a mailbox that has ended."""
    if answer.get("error") or "waiting" not in answer:
        return None
    return (*(int(answer["waiting"].get(tier, 0)) for tier in _TIERS), int(answer.get("unread", 0)))


def unread(state: Counts) -> int:
    return sum(state[: len(_TIERS)])


def words(state: Counts) -> str:
    """What an agent is told: `2 unread messages (1 urgent) in your mq9 mailbox, which check_inbox reads`."""
    count = unread(state)
    pressing = ", ".join(f"{state[tier]} {_TIERS[tier]}" for tier in (0, 1) if state[tier])
    messages = "1 unread message" if count == 1 else f"{count} unread messages"
    more = " or more" if max(state[: len(_TIERS)]) >= _MANY else ""
    return f"{messages}{more}{f' ({pressing})' if pressing else ''} in your mq9 mailbox, which check_inbox reads"


class Told:
    """What a session was last told of a mailbox, so that it is told once of everything new, whoever tells it.

    One small file for each mailbox: <data directory>/agents/told/<its send-only address>.
    """

    def __init__(self, mailbox: Mailbox, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "agents" / "told"
        self._file = self._folder / mailbox.send_only

    def is_news(self, state: Counts, *, again: bool = False) -> bool:
        """Whether there is something to say of `state`, which counts as said from now on: mail that came since, or,
        with `again`, any that is unread. Nothing is news where that can't be kept: it would be told again and again."""
        try:
            autostart.make_private(self._data_dir, "agents", "told")
            file = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            autostart.lock(file)
            before = _parsed(os.read(file, 200))
            if list(state) != before:
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, json.dumps(state).encode())
        except OSError:
            return False
        finally:
            os.close(file)
        return unread(state) > 0 and (again or any(now > then for now, then in zip(state, before, strict=True)))

    def forget(self) -> None:
        """What was said last was not heard: all that is unread is news again."""
        try:
            os.truncate(self._file, 0)
        except OSError:
            pass

    def forget_old(self) -> None:
        """Removes what is left of sessions long gone. A server that runs for weeks wrote its file when it began."""
        for folder in (self._folder, self._folder.with_name("hosts")):
            for file in folder.glob("*"):
                try:
                    if file.stat().st_mtime < time.time() - FORGET_AFTER and not self._is_of_a_server(file):
                        file.unlink()
                except OSError:
                    pass  # another session's hook was faster

    def _is_of_a_server(self, file: Path) -> bool:
        """Whether it is the file of a server that lives. Where that can't be asked, its age decides."""
        host = file.name if file.parent != self._folder and sys.platform != "win32" else ""
        return host.isdecimal() and served(int(host), self._data_dir) is not None


def _parsed(data: bytes) -> list[int]:
    try:
        state = [int(number) for number in json.loads(data)]
    except (ValueError, TypeError):
        state = []
    return state if len(state) == len(_TIERS) + 1 else [0] * (len(_TIERS) + 1)
