"""A JSON settings file: members and items put in and taken out, everything else as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mq9_mcp.install import jsontext
from mq9_mcp.install.document import Document, Edit
from mq9_mcp.install.files import Refused

T = TypeVar("T")


class Settings:
    """The file at `path`. Everything here raises Refused when the file is not what it should be."""

    def __init__(self, path: Path, *, rewind: bool = True) -> None:
        self.document = Document(path, rewind=rewind)
        self.get(())

    def get(self, path: jsontext.Path) -> Any:
        """The value at `path`, None when there is none."""
        node = self._try(lambda: jsontext.look(self.document.text, path))
        return node.value if node else None

    def put(self, path: jsontext.Path, value: Any) -> None:
        """Puts `value` to `path`, in the place of what stands there."""
        there = self._try(lambda: jsontext.look(self.document.text, path))
        if there is None:
            self._insert(path, value, item=False)
        elif there.value != value:
            self.document.rewrite(self._try(lambda: jsontext.replace(self.document.text, path, value)))

    def add(self, path: jsontext.Path, value: Any) -> None:
        """Puts `value` behind the items of the array at `path`."""
        self._insert(path, value, item=True)

    def drop(self, path: jsontext.Path) -> None:
        """Takes out what stands at `path`, and what `install` made to hold it and is empty then."""
        document = self.document
        document.rewrite(self._try(lambda: jsontext.remove(document.text, path)))
        for holder in sorted(document.made, key=len, reverse=True):
            if self.get(tuple(holder)) in ({}, []):
                document.rewrite(jsontext.remove(document.text, tuple(holder)))

    def installed(self, wrote: Any) -> Edit | None:
        return self.document.installed(wrote)

    def uninstalled(self) -> Edit | None:
        bare = self.get(()) in (None, {}) and "/" not in self.document.text  # a comment is somebody's
        return self.document.uninstalled(empty=bare)

    def _insert(self, path: jsontext.Path, value: Any, *, item: bool) -> None:
        document = self.document
        holders = [path[:depth] for depth in range(1, len(path) + item)]
        document.made += [list(holder) for holder in holders if self.get(holder) is None]
        for at, piece in reversed(self._try(lambda: jsontext.insert(document.text, path, value, item=item))):
            document.put(at, piece)

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except jsontext.NotJSON as error:
            raise Refused(f"{self.document.path} cannot be understood: {error}. Correct it, or move it away") from None
