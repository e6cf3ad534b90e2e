"""Which mailboxes store which broadcasts: patterns like `pipeline.*`, found by the subject of a broadcast.

They stand in the store by pattern and address. The first broadcast of a domain (its first word, which no pattern leaves
open) reads the domain's patterns into a tree, each once, however many mailboxes have it. A broadcast then costs its
length and who matches, whatever else there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mq9_broker import keys
from mq9_broker.errors import Mq9Error
from mq9_broker.store.pending import Pending

MAX_PATTERNS = 8
_LONGEST = 256
#: So many words in the trees; with more of them all are read again when they are needed.
_MAX_WORDS = 100_000
#: After so many mailboxes of one pattern the next pattern is looked up, not read up to.
_SAME = 16


class _Node:
    __slots__ = ("children", "pattern")

    def __init__(self) -> None:
        self.pattern = ""
        self.children: dict[str, _Node] = {}


class Patterns:
    """All of them."""

    def __init__(self, places: tuple[Pending, ...]) -> None:
        self._places = places
        self._domains: dict[str, _Node] = {}
        self._words = 0

    def add(self, place: Pending, address: str, patterns: tuple[str, ...]) -> None:
        """A mailbox begins to store what matches these."""
        for pattern in patterns:
            place.put(keys.broadcasts(pattern, address), b"")
            domain = self._domains.get(pattern.partition(".")[0])
            if domain is not None:
                self._insert(domain, pattern)

    def remove(self, place: Pending, address: str, patterns: tuple[str, ...]) -> None:
        """It has ended. (The tree keeps the words: others may have them, and the store says who.)"""
        for pattern in patterns:
            place.delete(keys.broadcasts(pattern, address))

    def matching(self, subject: str) -> Iterable[str]:
        """The addresses of those that want a broadcast, `subject` without its prefix. One with several patterns that
        match may come more than once."""
        name = subject[: subject.find(".")]
        domain = self._domains.get(name)
        if domain is None:
            domain = self._load(name)
        if not domain.children or ".." in subject or subject[-1] == ".":
            return ()
        return self._addresses(domain, subject.split(".")[1:])

    def _load(self, name: str) -> _Node:
        if self._words > _MAX_WORDS:
            self._domains.clear()
            self._words = 0
        domain = self._domains[name] = _Node()
        self._words += 1
        for place in self._places:
            start, end = keys.domain(name)
            while start:
                start = self._read(domain, place, start, end)
        return domain

    def _read(self, domain: _Node, place: Pending, start: bytes, end: bytes) -> bytes:
        """Read patterns; where to go on when many mailboxes have the same, b"" at the end."""
        last, same = "", 0
        for key, _ in place.scan(start, end):
            pattern, _address = keys.split_broadcasts(key)
            if pattern != last:
                self._insert(domain, pattern)
                last, same = pattern, 0
            same += 1
            if same > _SAME:
                return keys.broadcasts_of(pattern)[1]
        return b""

    def _insert(self, domain: _Node, pattern: str) -> None:
        node = domain
        for word in pattern.split(".")[1:]:
            child = node.children.get(word)
            if child is None:
                child = node.children[word] = _Node()
                self._words += 1
            node = child
        node.pattern = pattern

    def _addresses(self, domain: _Node, words: list[str]) -> Iterator[str]:
        for pattern in [*self._walk(domain, words, 0)]:
            for place in self._places:
                for key, _ in place.scan(*keys.broadcasts_of(pattern)):
                    yield keys.split_broadcasts(key)[1]

    def _walk(self, node: _Node, words: list[str], index: int) -> Iterator[str]:
        if index == len(words):
            if node.pattern:
                yield node.pattern
            return
        children = node.children
        if ">" in children:
            yield children[">"].pattern
        for word in {words[index], "*"} - {">"}:
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
