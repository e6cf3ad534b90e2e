"""JSON as a person wrote it: members are put into the text and taken out of it, and every other character stays.

Comments and commas before a closing bracket are understood too, because several editors allow them in their settings.
A path is a tuple of member names and indexes; `()` is the document itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.S)
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.S)
_SAME_LINE = re.compile(r"(?:[ \t]*(?:/\*[^\r\n]*?\*/|//[^\r\n]*))*")
_SCALAR = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|[-0-9][0-9.eE+-]*|true|false|null')
_SPACE = " \t\r\n"
_FIRST_INDENT = re.compile(r"\n([ \t]+)\"")


class NotJSON(ValueError):
    """The text is not JSON, or not of the shape that an edit needs; the text says why and where."""


class Insertion(NamedTuple):
    """`text` comes to stand at the index `at`."""

    at: int
    text: str


@dataclass(slots=True)
class Node:
    """One value, where it stands, and, of an object or array, its parts in their order."""

    start: int
    end: int
    value: Any
    parts: list[Part] = field(default_factory=list)

    def part(self, name: str | int) -> Part | None:
        """The part that counts: of members with the same name that is the last one."""
        return next((part for part in reversed(self.parts) if part.name == name), None)


@dataclass(slots=True)
class Part:
    """A member of an object or an item of an array. `start` is where its name begins, of an item the value."""

    name: str | int
    start: int
    node: Node


def parse(text: str) -> Node:
    """The document. Raises NotJSON."""
    reader = _Reader(text)
    try:
        root = reader.value(reader.skip(1 if text.startswith("\ufeff") else 0))
    except RecursionError:
        raise NotJSON("it is nested too deeply") from None
    if (rest := reader.skip(root.end)) != len(text):
        raise reader.error(rest, "something stands behind the end")
    return root


def look(text: str, path: Path) -> Node | None:
    """What stands at `path`. A text of blanks holds nothing. Raises NotJSON."""
    node = None if is_blank(text) else parse(text)
    for step in path:
        part = node.part(step) if node else None
        node = part.node if part else None
    return node


def is_blank(text: str) -> bool:
    return not text.strip(_SPACE + "\ufeff")


def insert(text: str, path: Path, value: Any, *, item: bool = False) -> list[Insertion]:
    """What puts `value` to `path`, where nothing stands yet; the objects on the way are made. With `item` it becomes
    the last item of the array at `path`, which is made, too. Raises NotJSON when something on the way is of another
    kind."""
    if is_blank(text):
        return [Insertion(1 if text.startswith("\ufeff") else 0, _dump(_nested(path, value, item), "  ", "\n", ""))]
    node, depth = parse(text), 0
    while depth < len(path) and (part := node.part(path[depth])):
        node, depth = part.node, depth + 1
    wanted: type = dict if depth < len(path) else list
    if not isinstance(node.value, wanted) or (wanted is list and not item):
        place = f"what stands at {'.'.join(map(str, path[:depth]))!r}" if depth else "the document"
        raise NotJSON(f"{place} is no {'object' if wanted is dict else 'array'}")
    if depth == len(path):
        return _at_the_end(text, node, "", value)
    return _at_the_end(
        text, node, f"{json.dumps(path[depth], ensure_ascii=False)}: ", _nested(path[depth + 1 :], value, item)
    )


def replace(text: str, path: Path, value: Any) -> str:
    """`text` with `value` in the place of what stands at `path`. Raises KeyError when nothing does, and NotJSON."""
    node = _at(text, path)
    outer = _line_indent(text, node.start)
    return text[: node.start] + _dump(value, _unit(text), _newline(text), outer) + text[node.end :]


def remove(text: str, path: Path) -> str:
    """`text` without what stands at `path`, its comma and the space before it. Raises KeyError when nothing does."""
    holder = _at(text, path[:-1])
    part = holder.part(path[-1])
    if part is None:
        raise KeyError(path)
    at = holder.parts.index(part)
    gap_start = holder.parts[at - 1].node.end if at else holder.start + 1
    gap, rest = text[gap_start : part.start].rstrip(_SPACE), text[part.node.end :]
    if (comma := _comma(rest)) is not None:
        rest = rest[:comma] + rest[comma + 1 :]
    elif at and (comma := _comma(gap)) is not None:
        gap = gap[:comma] + gap[comma + 1 :]
    if _ends_in_line_comment(gap) and not rest.lstrip(" \t").startswith(("\r", "\n")):
        rest = _newline(text) + rest
    return text[:gap_start] + gap + rest


def apply(text: str, insertions: list[Insertion]) -> str:
    for at, piece in reversed(insertions):
        text = text[:at] + piece + text[at:]
    return text


def _at(text: str, path: Path) -> Node:
    node = parse(text)
    for step in path:
        part = node.part(step)
        if part is None:
            raise KeyError(path)
        node = part.node
    return node


def _at_the_end(text: str, holder: Node, label: str, value: Any) -> list[Insertion]:
    """What adds a part to `holder`: on a line of its own where the last one has one, else behind it."""
    newline, unit = _newline(text), _unit(text)
    if not holder.parts:
        outer = _line_indent(text, holder.start)
        inside = text[holder.start + 1 : holder.end - 1]
        at = holder.start + 1 + len(inside.rstrip(_SPACE))
        piece = f"{newline}{outer}{unit}{label}{_dump(value, unit, newline, outer + unit)}"
        closed = "\n" in text[at : holder.end - 1]
        return [Insertion(at, piece if closed else f"{piece}{newline}{outer}")]
    last = holder.parts[-1]
    end = last.node.end
    comma = _comma(text[end:])
    behind = end if comma is None else end + comma + 1
    space = _space_before(text, last.start)
    if "\n" in space:
        indent = space.rpartition("\n")[2]
        piece = f"{newline}{indent}{label}{_dump(value, unit, newline, indent)}"
        found = _SAME_LINE.match(text, behind)
        at = found.end() if found else behind
    else:
        piece = f" {label}{json.dumps(value, ensure_ascii=False)}"
        at = behind
    if comma is not None:
        return [Insertion(at, f"{piece},")]
    return [Insertion(end, f",{piece}")] if at == end else [Insertion(end, ","), Insertion(at, piece)]


def _nested(path: Path, value: Any, item: bool) -> Any:
    value = [value] if item else value
    for name in reversed(path):
        value = {name: value}
    return value


def _dump(value: Any, unit: str, newline: str, outer: str) -> str:
    """`value` over several lines, the first of which stands behind `outer`."""
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + outer)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    found = _FIRST_INDENT.search(text)
    return found[1] if found else "  "


def _line_indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _space_before(text: str, at: int) -> str:
    return text[len(text[:at].rstrip(_SPACE)) : at]


def _comma(text: str) -> int | None:
    """Where the comma stands that `text` begins with, behind blanks and comments."""
    at = _blank_end(text, 0)
    return at if text[at : at + 1] == "," else None


def _ends_in_line_comment(gap: str) -> bool:
    """Whether `gap`, of blanks, comments and perhaps a comma, ends in a comment that goes on to the end of its line."""
    last = ""
    for found in _COMMENT.finditer(gap):
        last = found[0] if found.end() == len(gap) else ""
    return last.startswith("//")


def _blank_end(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


class _Reader:
    """Reads values from `text`; its methods raise NotJSON with the line and column."""

    def __init__(self, text: str) -> None:
        self._text = text

    def skip(self, at: int) -> int:
        return _blank_end(self._text, at)

    def error(self, at: int, what: str) -> NotJSON:
        line = self._text.count("\n", 0, at) + 1
        return NotJSON(f"{what} (line {line}, column {at - self._text.rfind(chr(10), 0, at)})")

    def value(self, at: int) -> Node:
        opening = self._text[at : at + 1]
        if opening == "{":
            return self._members(at)
        if opening == "[":
            return self._items(at)
        return self._scalar(at)

    def _members(self, start: int) -> Node:
        node = Node(start, 0, {})
        at = self.skip(start + 1)
        while self._text[at : at + 1] != "}":
            name = self._scalar(at)
            if not isinstance(name.value, str):
                raise self.error(at, "a name in double quotes is missing")
            colon = self.skip(name.end)
            if self._text[colon : colon + 1] != ":":
                raise self.error(colon, "a colon is missing")
            member = self.value(self.skip(colon + 1))
            node.parts.append(Part(name.value, at, member))
            node.value[name.value] = member.value
            at = self._next(member.end, "}")
        node.end = at + 1
        return node

    def _items(self, start: int) -> Node:
        node = Node(start, 0, [])
        at = self.skip(start + 1)
        while self._text[at : at + 1] != "]":
            item = self.value(at)
            node.parts.append(Part(len(node.parts), at, item))
            node.value.append(item.value)
            at = self._next(item.end, "]")
        node.end = at + 1
        return node

    def _next(self, at: int, closing: str) -> int:
        """Where the next part begins, or the closing bracket stands."""
        at = self.skip(at)
        if self._text[at : at + 1] == ",":
            return self.skip(at + 1)
        if self._text[at : at + 1] != closing:
            raise self.error(at, f"a comma or {closing} is missing")
        return at

    def _scalar(self, at: int) -> Node:
        found = _SCALAR.match(self._text, at)
        try:
            if found is None:
                raise ValueError
            return Node(at, found.end(), json.loads(found[0]))
        except ValueError:
            raise self.error(at, "a value is missing" if at < len(self._text) else "it ends too early") from None
