"""Which mailboxes store which broadcasts: patterns like `pipeline.*`, found by the subject of a broadcast.

The patterns stand in the store, one record per mailbox that has any. The first broadcast reads those records, and no
mailbox, into a tree; a broadcast then costs its length and what matches, however many others there are.
"""

from __future__ import annotations

from collections.abc import Iterator

from mq9_broker import keys
from mq9_broker.errors import Mq9Error
from mq9_broker.store.pending import Pending

MAX_PATTERNS = 8
_LONGEST = 256


class _Node:
    __slots__ = ("addresses", "children")

    def __init__(self) -> None:
        self.addresses: dict[str, None] = {}
        self.children: dict[str, _Node] = {}


class Patterns:
    """All of them, by token. An address may come more than once, when several of its patterns match."""

    def __init__(self, places: tuple[Pending, ...]) -> None:
        self._places = places
        self._root: _Node | None = None

    def add(self, place: Pending, address: str, patterns: tuple[str, ...]) -> None:
        """A mailbox begins to store what matches these."""
        place.put(keys.broadcasts(address), "\n".join(patterns).encode())
        if self._root is not None:
            self._insert(self._root, address, patterns)

    def remove(self, place: Pending, address: str, patterns: tuple[str, ...]) -> None:
        """It has ended."""
        place.delete(keys.broadcasts(address))
        if self._root is None:
            return
        for pattern in patterns:
            words = pattern.split(".")
            path = [self._root]
            for word in words:
                path.append(path[-1].children[word])
            path[-1].addresses.pop(address, None)
            for parent, word in zip(reversed(path[:-1]), reversed(words), strict=True):
                child = parent.children[word]
                if child.children or child.addresses:
                    break
                del parent.children[word]

    def forget(self) -> None:
        """A commit failed: what the store holds is read again when it is needed."""
        self._root = None

    def matching(self, subject: str) -> Iterator[str]:
        """The addresses of those that want a broadcast, `subject` without its prefix."""
        if self._root is None:
            self._root = _Node()
            for place in self._places:
                for key, value in place.scan(keys.broadcasts(""), b"C"):
                    self._insert(self._root, key[1:].decode(), tuple(value.decode().split("\n")))
        return self._walk(self._root, subject.split("."), 0)

    @staticmethod
    def _insert(node: _Node, address: str, patterns: tuple[str, ...]) -> None:
        for pattern in patterns:
            at = node
            for word in pattern.split("."):
                at = at.children.setdefault(word, _Node())
            at.addresses[address] = None

    def _walk(self, node: _Node, words: list[str], index: int) -> Iterator[str]:
        children = node.children
        if index == len(words):
            yield from node.addresses
            return
        if ">" in children:
            yield from children[">"].addresses
        for word in (words[index], "*"):
            if word in children:
                yield from self._walk(children[word], words, index + 1)


def check_patterns(patterns: list[str]) -> tuple[str, ...]:
    """`patterns` without repeats, or Mq9Error with the rule that one of them breaks."""
    for pattern in patterns:
        problem = _problem(pattern)
        if problem:
            raise Mq9Error(f"subscribe {pattern[:60]!r} is no pattern of broadcasts: {problem}")
    return tuple(dict.fromkeys(patterns))


def _problem(pattern: str) -> str:
    tokens = pattern.split(".")
    if len(pattern) > _LONGEST:
        return f"it has {len(pattern)} characters, allowed are {_LONGEST}"
    if pattern.startswith("$mq9.AI.BROADCAST."):
        return "leave out $mq9.AI.BROADCAST., as in pipeline.*"
    if "" in tokens or not pattern.isprintable() or any(character.isspace() for character in pattern):
        return "it must be words with single dots between them"
    if tokens[0] in ("*", ">"):
        return "its first word must not be a wildcard"
    if ">" in tokens[:-1]:
        return "> stands for everything that follows, so it can only be the last word"
    if len(tokens) < 2:
        return f"a broadcast is {{domain}}.{{event}}; for all of a domain use {pattern}.>"
    return ""
