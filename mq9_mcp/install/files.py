"""Files of other programs: read whole, changed in one step, and left alone when anything about them is unexpected."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tempfile
from pathlib import Path

LARGEST = 64 << 20  # bytes: no settings file is larger

# `"API_TOKEN": "…"` in JSON and `API_TOKEN = "…"` in TOML: variables of the environment, and what is called a secret
_SECRET = re.compile(
    r"""("[A-Z0-9_]{3,}"|\b[A-Z0-9_]{3,}|(?i:"[^"]*(?:token|secret|password|authorization|key)[^"]*"|"""
    r"""\w*(?:token|secret|password|authorization|key)\w*))(\s*[:=]\s*)"(?:[^"\\]|\\.)+\""""
)


class Refused(Exception):
    """Nothing was changed; the text says why, and what to do."""


def read(path: Path) -> str | None:
    """The text of the file, with its line ends; None when there is no file. Follows links. Raises Refused."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise Refused(f"{path} is a folder where a file was expected: move it away")
        if not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST:
            raise Refused(f"{path} is no settings file: move it away")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8 (at byte {error.start}): save it as UTF-8, or move it away") from None
    except OSError as error:
        raise Refused(f"cannot read {path} ({error.strerror or error}): make it readable, or move it away") from None


def write(path: Path, before: str | None, after: str) -> None:
    """Replaces the file, or the one that a link names, in one step; its mode stays, a new one is its user's alone.

    `before` is what `read` gave: a file that somebody has changed since is left alone. Raises Refused.
    """
    if read(path) != before:
        raise Refused(f"{path} was changed by another program at this moment: do it again")
    try:
        target = path.resolve()
        info = _replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(after.encode())
                file.flush()
                os.fsync(descriptor)
                if info is not None:
                    os.chmod(draft, stat.S_IMODE(info.st_mode))
                    if info.st_uid != os.stat(draft).st_uid:
                        os.chown(draft, info.st_uid, info.st_gid)
            os.replace(draft, target)
        except BaseException:
            os.unlink(draft)
            raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"cannot write {path} ({reason}): make it and its folder writable") from None


def delete(path: Path, before: str, folders: tuple[str, ...] = ()) -> None:
    """Removes a file whose text is `before`, then those of `folders` that are empty. Raises Refused."""
    if read(path) != before:
        raise Refused(f"{path} was changed by another program at this moment: do it again")
    try:
        path.unlink()
    except OSError as error:
        raise Refused(f"cannot remove {path} ({error.strerror or error}): make its folder writable") from None
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            return  # somebody else keeps something there


def diff(path: Path, before: str | None, after: str | None) -> str:
    """What a change does to a file, as `diff -u` shows it, without what may be secrets of others in the lines around;
    None for a file that is not there."""
    lines = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        "/dev/null" if before is None else str(path),
        "/dev/null" if after is None else str(path),
        lineterm="",
    )
    return "\n".join(_SECRET.sub(r'\1\2"…"', line) for line in lines)


def _replaceable(target: Path) -> os.stat_result | None:
    """The file that is about to be replaced, if there is one. Raises Refused when its owner does not want it to be."""
    try:
        info = target.stat()
    except FileNotFoundError:
        return None
    if not info.st_mode & stat.S_IWUSR or not os.access(target, os.W_OK):
        raise Refused(f"{target} is read-only: make it writable, or do it by hand (--print shows what to write)")
    return info
