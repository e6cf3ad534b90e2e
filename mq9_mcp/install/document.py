"""One file of an agent, changed in memory first, with a memory of what is ours in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mq9_mcp.install import files, record
from mq9_mcp.install.record import Trace


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one file, ready to be shown and done. `after` is None when the file goes; `trace` is what will be
    remembered of it, None for nothing; `folders` go with the file when they are empty."""

    path: Path
    before: str | None
    after: str | None
    trace: Trace | None
    folders: tuple[str, ...] = ()

    def show(self) -> str:
        return files.diff(self.path, self.before, self.after)

    def do(self) -> None:
        """Raises Refused."""
        if self.trace is not None:
            record.keep(self.path, self.trace)  # first: what cannot be remembered is not done
        if self.after is None:
            files.delete(self.path, self.before or "", self.folders)
        else:
            files.write(self.path, self.before, self.after)
        if self.trace is None:
            record.keep(self.path, None)


class Document:
    """The file at `path`; with `rewind` as it was before the last `install`, where that is known to the byte, so that
    what is put in anew and is the same as before is no change. Raises Refused when the file cannot be read."""

    def __init__(self, path: Path, *, rewind: bool = True) -> None:
        self.path = path
        self.before = files.read(path)
        self.known = None if self.before is None else record.load().get(str(path))
        self.text = self.before or ""
        self.made: list[list[str | int]] = list(self.known.made) if self.known else []
        self._whole = False
        self._cuts: list[tuple[int, int]] | None = None  # None: it is not known where all that is ours stands
        if self.known is None:
            self._cuts = []
        elif rewind and (text := self.known.undone(self.text)) is not None:
            self.text, self.made, self._cuts = text, [], []

    def put(self, at: int, piece: str) -> None:
        self.text = self.text[:at] + piece + self.text[at:]
        if self._cuts is not None:
            self._cuts.append((at, len(piece)))

    def fill(self, text: str) -> None:
        """All of the file is ours."""
        self.text, self._cuts, self._whole = text, [(0, len(text))], True

    def rewrite(self, text: str) -> None:
        """Another text, whose parts are not known."""
        self.text, self._cuts = text, None

    def installed(self, wrote: Any) -> Edit | None:
        """The change as one that `uninstall` can take back, None when there is none. `wrote` is what stands there now
        for mq9, as data."""
        if self.text == self.before:
            return None
        known = self.known or Trace(new=self.before is None, folders=_missing(self.path.parent))
        new = known.new or self._whole
        trace = Trace(record.digest(self.text), self._cuts or [], self.made, new, known.folders, wrote)
        return Edit(self.path, self.before, self.text, trace)

    def uninstalled(self, *, empty: bool) -> Edit | None:
        """The change as the end of everything that was installed there, None when there is none. `empty`: nothing of
        anybody else is left in the text."""
        if self.text == (self.before or ""):
            return None
        if self.known and self.known.new and empty:
            return Edit(self.path, self.before, None, None, tuple(self.known.folders))
        return Edit(self.path, self.before, self.text, None)


def _missing(folder: Path) -> list[str]:
    """The folders that have to be made for a file in `folder`, the innermost first."""
    return [str(one) for one in (folder, *folder.parents) if not one.exists()]
