"""What `install` wrote, so that `uninstall` can take out exactly that: places and lengths, nobody's text.

<the user's state folder>/mq9/installed.json    mode 0600
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mq9_mcp.install import files

VERSION = 1


@dataclass(slots=True)
class Trace:
    """What was done to one file. `digest` is of its text afterwards; while it fits, taking out `cuts` (place and
    length, in this order) gives back every byte. `made` are the paths of objects and arrays that were not there before,
    `new` and `folders` say the same of the file and of folders, and `wrote` is what stands there for mq9, as data."""

    digest: str = ""
    cuts: list[tuple[int, int]] = field(default_factory=list)
    made: list[list[str | int]] = field(default_factory=list)
    new: bool = False
    folders: list[str] = field(default_factory=list)
    wrote: Any = None

    def undone(self, text: str) -> str | None:
        """The text as it was before, None when somebody has changed it since."""
        if not self.cuts or self.digest != digest(text):
            return None
        for at, length in reversed(self.cuts):
            text = text[:at] + text[at + length :]
        return text


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("mq9", appauthor=False)) / "installed.json"


def load() -> dict[str, Trace]:
    """Traces by the path of their file; none when the record is lost or cannot be understood."""
    try:
        content = json.loads(files.read(file()) or "{}")
        if content.get("version") != VERSION:
            return {}
        return {path: Trace(**trace) for path, trace in content["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, files.Refused):
        return {}


def keep(path: Path, trace: Trace | None) -> None:
    """Remembers what was done to `path`, or forgets it. Raises Refused."""
    traces = load()
    if trace is None:
        if traces.pop(str(path), None) is None:
            return
    else:
        traces[str(path)] = trace
    content = {"version": VERSION, "files": {path: asdict(trace) for path, trace in traces.items()}}
    files.write(file(), files.read(file()), json.dumps(content, indent=1) + "\n")
