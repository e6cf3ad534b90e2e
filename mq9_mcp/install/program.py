"""How an agent starts the programs of this installation: by name where that is enough, else by path."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from mq9_mcp.install.files import Refused

SERVER = "mq9-mcp"
COMMAND = "mq9"


def command(name: str, *, desktop: bool) -> str:
    """What starts `name` (SERVER or COMMAND). Raises Refused when this installation has no programs.

    The name alone when every shell of this user finds it; what only a shell with an active virtual environment finds
    is given by its path, and so is everything for programs that a `desktop` starts: they know no shell's PATH.
    """
    own = Path(sysconfig.get_path("scripts")) / f"{name}{'.exe' if sys.platform == 'win32' else ''}"
    found = shutil.which(name, path=_lasting_path())
    if found and same(found, str(own)):
        return os.path.abspath(found) if desktop else name
    if not own.exists():
        raise Refused(
            f"this installation has no program {own}: `uv tool install mq9-mcp` or `pipx install mq9-mcp` makes it"
        )
    return str(own)


def passes() -> bool:
    """Whether this installation is one that `uvx` or `pipx run` made for a moment."""
    folders = {*Path(sys.prefix).parts}
    return bool(folders & {".cache", "Caches", "cache"} and folders & {"uv", "pipx"})


def _lasting_path() -> str:
    """The PATH without the folders of virtual environments, which are there only where one is active."""
    folders = [Path(one) for one in os.environ.get("PATH", os.defpath).split(os.pathsep) if one]
    marks = ("pyvenv.cfg", "conda-meta")
    lasting = [one for one in folders if not any((one.parent / mark).exists() for mark in marks)]
    return os.pathsep.join(map(str, lasting))


def same(one: object, other: str) -> bool:
    """Whether two command words start the same program, as this process would find it."""
    paths = [shutil.which(word) if isinstance(word, str) else None for word in (one, other)]
    return None not in paths and os.path.realpath(paths[0] or "") == os.path.realpath(paths[1] or "")
