"""Finds the mq9 broker of this machine, or starts one that outlives whoever asked.

The broker's data directory is the meeting point: the broker writes its port there, whoever starts one holds a lock
there, and its log is there. Nothing here is heavy to import: looking costs about a millisecond.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from mq9_mcp.endpoint import Endpoint
from mq9_mcp.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

IDLE_EXIT = 900  # seconds without a connection after which a broker that was started from here ends itself
START_WITHIN = 15.0  # seconds a broker has from being started to answering
RESPAWN_EVERY = 0.3  # seconds between two attempts while another broker still has the folder
FOLDER_IN_USE = 3  # the broker's exit code for that
LOG_LIMIT = 1 << 20  # bytes: a log above this is started over


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """$MQ9_DATA_DIR, else the user's data directory for mq9."""
    chosen = environ.get("MQ9_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "linux":  # what platformdirs says, which takes as long to load as a hook may take
        return Path(environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share").expanduser() / "mq9"
    import platformdirs

    return Path(platformdirs.user_data_dir("mq9", appauthor=False))


def make_private(directory: Path, *names: str) -> None:
    """Makes a data directory, and the folders `names` one below the other in it, so that only their user can open
    them. Those that are there stay as they are."""
    for depth in range(len(names) + 1):  # one by one: the parents that mkdir makes are everybody's
        directory.joinpath(*names[:depth]).mkdir(mode=0o700, parents=True, exist_ok=True)


def located(directory: Path) -> str | None:
    """Where the broker that holds this data directory says it listens, or None. Asks nobody: files only.

    The file of a broker that was killed stays, and its port may be another broker's by now, of other people: mail must
    not go there. So the file counts only while a broker holds the folder's lock.
    """
    try:
        text = (directory / "port").read_text("ascii").strip()
        scheme, secured, place = text.rpartition("://")
        host, _, port = place.rpartition(":")
        host, number = host.strip("[]") or "127.0.0.1", int(port)
    except (OSError, ValueError):
        return None
    if not 0 < number < 65536 or (secured and scheme != "tls") or not _held(directory / "lock"):
        return None
    return f"{scheme or 'nats'}://{f'[{host}]' if ':' in host else host}:{number}"


def find(directory: Path | None = None) -> str | None:
    """The URL of the running broker whose data directory this is, or None."""
    url = located(directory or data_dir())
    try:
        return url if url and Endpoint.at(url).version() else None
    except BrokerUnavailable:
        return None


def find_or_start(directory: Path | None = None) -> str:
    """The URL of this machine's broker, started if there was none. Safe to call from any number of processes at once:
    one of them starts the broker, all get its URL. Raises BrokerUnavailable with the end of its log when it cannot."""
    directory = directory or data_dir()
    url = find(directory)
    if url:
        return url
    try:
        make_private(directory)
        deadline = time.monotonic() + START_WITHIN
        with _start_lock(directory / "start.lock", deadline) as locked:
            url = find(directory)
            if url:
                return url
            if not locked:
                raise BrokerUnavailable(
                    f"another process has been starting a broker in {directory} for {START_WITHIN:.0f} s: "
                    f"see {directory / 'broker.log'}, or start it yourself with `mq9 broker`"
                )
            return _start(directory, deadline)
    except OSError as error:
        raise BrokerUnavailable(
            f"no broker is running, and none can be started in {directory} ({error.strerror or error}): "
            f"make the folder writable, or name another with MQ9_DATA_DIR"
        ) from None


def _start(directory: Path, deadline: float) -> str:
    log_path = directory / "broker.log"
    if log_path.exists() and log_path.stat().st_size > LOG_LIMIT:
        log_path.unlink()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        begin = os.fstat(log).st_size
        _forget_port(directory)
        child = _spawn(directory, log)
        while time.monotonic() < deadline:
            url = find(directory)
            if url:
                return url
            if child.poll() == FOLDER_IN_USE:
                # By a broker that is about to listen, or about to end.
                time.sleep(RESPAWN_EVERY)
                child = _spawn(directory, log)
            elif child.returncode is not None:
                raise BrokerUnavailable(f"the broker ended with code {child.returncode}{_last_lines(log_path, begin)}")
            time.sleep(0.01)
        raise BrokerUnavailable(f"the broker did not answer within {START_WITHIN:.0f} s{_last_lines(log_path, begin)}")
    finally:
        os.close(log)


def _forget_port(directory: Path) -> None:
    """Removes what a killed broker left, which would count again as soon as another holds the folder."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR)
    except OSError:
        return
    try:
        if _try_lock(lock):
            (directory / "port").unlink(missing_ok=True)
    except OSError:
        pass  # no locks here: the file is as good or bad as before
    finally:
        os.close(lock)


def _spawn(directory: Path, log: int) -> subprocess.Popen[bytes]:
    import subprocess
    import threading

    child = subprocess.Popen(
        _command(directory),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=directory,  # keeps no folder of the agent's busy, and finds no module in it
        start_new_session=True,
        creationflags=DETACHED,
    )
    # Whoever starts a broker may live long after it: without this the ended broker would stay as a zombie.
    threading.Thread(target=child.wait, name="mq9-broker-reaper", daemon=True).start()
    return child


def _command(directory: Path) -> list[str]:
    idle = os.environ.get("MQ9_IDLE_EXIT") or str(IDLE_EXIT)
    if not idle.isdecimal():
        raise BrokerUnavailable(f"MQ9_IDLE_EXIT is {idle!r}: give whole seconds, or remove it")
    return [sys.executable, "-m", "mq9_broker", "--data-dir", str(directory), "--idle-exit", idle]


def _last_lines(log_path: Path, begin: int) -> str:
    """The end of what this start wrote, on one line, and where all of it is."""
    with log_path.open("rb") as log:
        log.seek(begin)
        lines = log.read(1 << 16).decode("utf-8", "replace").strip().splitlines()[-3:]
    said = f": {' | '.join(line.strip()[:200] for line in lines)}" if lines else ""
    return f"{said} (all of it in {log_path})"


if sys.platform == "win32":
    import msvcrt

    DETACHED = 0x208  # subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP

    def _try_lock(file: int, *, shared: bool = False) -> bool:
        """Raises OSError, too, where there are no locks."""
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    DETACHED = 0  # a new session does it

    def _try_lock(file: int, *, shared: bool = False) -> bool:
        """Raises OSError where there are no locks, on some network file systems."""
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def lock(file: int) -> None:
    """Waits for the lock on an open file, which is held until it is closed; does without where there are no locks."""
    try:
        while not _try_lock(file):
            time.sleep(0.001)
    except OSError:
        pass


def _held(lock: Path) -> bool:
    """Whether a process holds `lock`. Shared, so that those who look do not take each other for the holder."""
    try:
        file = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to look at
    try:
        return not _try_lock(file, shared=True)
    except OSError:
        return True
    finally:
        os.close(file)


@contextmanager
def _start_lock(path: Path, deadline: float) -> Iterator[bool]:
    """Holds the lock that only one starter has; False when it was not to be had in time. It dies with its holder."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locked = _try_lock(file)
        while not locked and time.monotonic() < deadline:
            time.sleep(0.01)
            locked = _try_lock(file)
        yield locked
    finally:
        os.close(file)
