"""Subjects: what is valid, what matches what, and the tree of subscriptions.

Matching costs what matches: literal subscriptions are found by one look-up, wildcards by walking the subject's own
tokens, and what a subject matched is remembered until the wildcards change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S")
_CACHED = 4096


def valid_pattern(subject: bytes) -> bool:
    """Whether one may subscribe to `subject`: no empty token, `>` only at the end, `*` and `>` only alone."""
    if not subject or subject[0] == 0x2E or subject[-1] == 0x2E or b".." in subject:
        return False
    at = subject.find(b">")
    return at < 0 or at == len(subject) - 1 or b">" not in subject.split(b".")[:-1]


def valid_subject(subject: bytes) -> bool:
    """Whether `subject` is a subject to publish to: valid and without wildcards."""
    return valid_pattern(subject) and not is_wildcard(subject)


def is_wildcard(subject: bytes) -> bool:
    """Whether a valid pattern has a wildcard token."""
    if b"*" not in subject and b">" not in subject:
        return False
    return any(token in (b"*", b">") for token in subject.split(b"."))


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a valid pattern covers a subject."""
    if pattern == subject:
        return True
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    for index, token in enumerate(wanted):
        if token == b">":
            return len(tokens) > index
        if index >= len(tokens) or token not in (b"*", tokens[index]):
            return False
    return len(wanted) == len(tokens)


@dataclass(slots=True)
class Interest(Generic[S]):
    """Who wants a subject: plain subscriptions, and per queue group its members."""

    plain: dict[S, None] = field(default_factory=dict)
    queues: dict[bytes, list[S]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.plain or self.queues)

    def add(self, queue: bytes, subscription: S) -> None:
        if queue:
            self.queues.setdefault(queue, []).append(subscription)
        else:
            self.plain[subscription] = None

    def remove(self, queue: bytes, subscription: S) -> None:
        if not queue:
            del self.plain[subscription]
            return
        members = self.queues[queue]
        members.remove(subscription)
        if not members:
            del self.queues[queue]

    def merged(self, other: Interest[S]) -> Interest[S]:
        both = Interest(self.plain | other.plain, {queue: list(members) for queue, members in self.queues.items()})
        for queue, members in other.queues.items():
            both.queues.setdefault(queue, []).extend(members)
        return both


@dataclass(slots=True)
class _Node(Generic[S]):
    children: dict[bytes, _Node[S]] = field(default_factory=dict)
    interest: Interest[S] = field(default_factory=Interest)


class SubscriptionTree(Generic[S]):
    """All ordinary subscriptions by subject."""

    def __init__(self) -> None:
        self._literal: dict[bytes, Interest[S]] = {}
        self._root: _Node[S] = _Node()
        self._cache: dict[bytes, Interest[S]] = {}
        self._wildcards = 0

    def insert(self, pattern: bytes, queue: bytes, subscription: S) -> None:
        if not is_wildcard(pattern):
            interest = self._literal.get(pattern)
            if interest is None:
                interest = self._literal[pattern] = Interest()
            interest.add(queue, subscription)
            return
        node = self._root
        for token in pattern.split(b"."):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node()
            node = child
        node.interest.add(queue, subscription)
        self._wildcards += 1
        self._cache.clear()

    def remove(self, pattern: bytes, queue: bytes, subscription: S) -> None:
        """Take out what was inserted with the same arguments; branches left empty go with it."""
        if not is_wildcard(pattern):
            interest = self._literal[pattern]
            interest.remove(queue, subscription)
            if not interest:
                del self._literal[pattern]
            return
        path = [self._root]
        tokens = pattern.split(b".")
        for token in tokens:
            path.append(path[-1].children[token])
        path[-1].interest.remove(queue, subscription)
        for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            child = parent.children[token]
            if child.children or child.interest:
                break
            del parent.children[token]
        self._wildcards -= 1
        self._cache.clear()

    def match(self, subject: bytes) -> Interest[S] | None:
        """Who wants `subject`; None when nobody does. The answer is the tree's own: read it, don't keep it."""
        literal = self._literal.get(subject)
        if not self._wildcards:
            return literal
        wild = self._cache.get(subject)
        if wild is None:
            wild = Interest()
            tokens = subject.split(b".")
            if b"" not in tokens:
                self._walk(self._root, tokens, 0, wild)
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[subject] = wild
        if literal is None:
            return wild or None
        return literal.merged(wild) if wild else literal

    def _walk(self, node: _Node[S], tokens: list[bytes], index: int, found: Interest[S]) -> None:
        children = node.children
        rest = children.get(b">")
        if rest is not None:
            self._collect(rest.interest, found)
        last = index == len(tokens) - 1
        for token in (tokens[index], b"*"):
            child = children.get(token)
            if child is None:
                continue
            if last:
                self._collect(child.interest, found)
            else:
                self._walk(child, tokens, index + 1, found)

    @staticmethod
    def _collect(interest: Interest[S], found: Interest[S]) -> None:
        found.plain.update(interest.plain)
        for queue, members in interest.queues.items():
            found.queues.setdefault(queue, []).extend(members)
