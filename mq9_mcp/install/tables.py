"""A TOML settings file: tables put behind its end and taken out again, everything else as it was."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from mq9_mcp.install.document import Document, Edit
from mq9_mcp.install.files import Refused

_CONTENT = re.compile(r"^[ \t]*[^\s#][^\n]*(?:\n|\Z)", re.M)
_HEADER = re.compile(r"^[ \t]*\[", re.M)


class Tables:
    """The file at `path`. Everything here raises Refused when the file is not what it should be."""

    def __init__(self, path: Path, *, rewind: bool = True) -> None:
        self.document = Document(path, rewind=rewind)
        self._parsed(self.document.text)

    def get(self, path: tuple[str, ...]) -> Any:
        """The value at `path`, None when there is none."""
        value: Any = self._parsed(self.document.text)
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def put(self, path: tuple[str, ...], table: dict[str, Any]) -> None:
        """Puts a table of strings, and lists and tables of them, behind the end, or its values into the table that is
        there."""
        text = self.document.text
        there = self.get(path)
        if there is not None:
            for name, value in table.items():
                if there.get(name) != value:
                    text = _changed(text, path, name, _quoted(value))
            if not self._says(path, text, {**there, **table}):
                raise self._refused(path)
            self.document.rewrite(text)
            return
        newline = "\r\n" if "\r\n" in text else "\n"
        lines = [f"[{'.'.join(path)}]", *(f"{name} = {_quoted(value)}" for name, value in table.items()), ""]
        gap = "" if not text else newline if text.endswith("\n") else newline * 2
        piece = gap + newline.join(lines)
        if not self._says(path, text + piece, table):
            raise self._refused(path)
        self.document.put(len(text), piece)

    def drop(self, path: tuple[str, ...]) -> None:
        """Takes out the table at `path` and the tables below it, with a blank line before each."""
        text = self.document.text
        while not self._says(path, text, None):
            span = _span(text, path, below=True)
            if span is None:
                raise self._refused(path)
            text = re.sub(r"(\n)\r?\n\Z", r"\1", text[: span[0]]) + text[span[1] :]
        self.document.rewrite(text)

    def installed(self, wrote: Any) -> Edit | None:
        return self.document.installed(wrote)

    def uninstalled(self) -> Edit | None:
        return self.document.uninstalled(empty=not self.document.text.strip())

    def _says(self, path: tuple[str, ...], text: str, value: Any) -> bool:
        """Whether `text` says what the file says now, with `value` at `path` (None: with nothing)."""
        wanted = holder = self._parsed(self.document.text)
        try:
            for name in path[:-1]:
                holder = holder.setdefault(name, {})
            holder[path[-1]] = value or {}
            return _canonical(tomllib.loads(text)) == _canonical(wanted)
        except (AttributeError, TypeError, tomllib.TOMLDecodeError):
            return False

    def _refused(self, path: tuple[str, ...]) -> Refused:
        return Refused(
            f"{self.document.path} says {'.'.join(path[:-1])} in a way that cannot be changed from here: edit it by "
            f"hand (--print shows what to write)"
        )

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Refused(f"{self.document.path} cannot be understood: {error}. Correct it, or move it away") from None


def _span(text: str, path: tuple[str, ...], *, below: bool = False) -> tuple[int, int] | None:
    """Where the last table at `path`, or one `below` it, begins and ends; blank lines and comments behind it are not
    counted to it. What looks like one may also stand in a text of several lines."""
    names = r"\s*\.\s*".join(rf'(?:{re.escape(name)}|"{re.escape(name)}")' for name in path)
    headers = list(re.finditer(rf"^[ \t]*\[\s*{names}\s*[{'.' if below else ''}\]]", text, re.M))
    if not headers:
        return None
    start, end = headers[-1].span()
    following = _HEADER.search(text, end)
    for line in _CONTENT.finditer(text, start, following.start() if following else len(text)):
        end = line.end()
    return start, end


def _changed(text: str, path: tuple[str, ...], name: str, value: str) -> str:
    """`text` with another value, on one line, in the table at `path`."""
    start, end = _span(text, path) or (len(text), len(text))
    block = text[start:end]
    line = re.compile(rf"^([ \t]*{re.escape(name)}[ \t]*=[ \t]*)[^\r\n]*", re.M)
    if line.search(block):
        block = line.sub(lambda found: found[1] + value, block, count=1)
    else:
        block = re.sub(r"\r?\n", lambda found: f"{found[0]}{name} = {value}{found[0]}", block, count=1)
    return text[:start] + block + text[end:]


def _quoted(value: str | list[str] | dict[str, str]) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_quoted(text)}' for name, text in value.items())} }}"
    # JSON's strings are TOML's; only DEL has to be escaped, and lone surrogates are in neither
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _canonical(values: dict[str, Any]) -> str:
    """The same for files that say the same. What is not in JSON (dates, nan) is told by its text."""
    return json.dumps(_pruned(values), sort_keys=True, default=repr)


def _pruned(values: dict[str, Any]) -> dict[str, Any]:
    """Without tables that hold nothing: whether they are there makes no difference to Codex."""
    pruned = {name: _pruned(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in pruned.items() if value != {}}
