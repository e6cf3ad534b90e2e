"""Subjects: what is valid, what matches what, and the tree of subscriptions.

Matching costs what matches: literal subscriptions are found by one look-up, wildcards by walking the subject's own
tokens, and what a subject matched is remembered until a subscription that may concern it comes or goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

S = TypeVar("S")
#: How many subjects and subscriptions the cache may name: each subject weighs as much as 64 subscriptions.
_CACHED = 262_144
_WEIGHT = 64


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


#: Who wants a subject: plain subscriptions, and per queue group its members. It does not change any more.
Matched = tuple[Sequence[S], Mapping[bytes, Sequence[S]]]


class _Node(Generic[S]):
    """The subscriptions with one pattern, each with its queue (b"" for none), and what lies below it in the tree."""

    __slots__ = ("children", "subscriptions")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[S]] = {}
        self.subscriptions: dict[S, bytes] = {}


class SubscriptionTree(Generic[S]):
    """All ordinary subscriptions by subject."""

    def __init__(self) -> None:
        self._literal: dict[bytes, _Node[S]] = {}
        self._root: _Node[S] = _Node()
        self._cache: dict[bytes, Matched[S]] = {}
        # what is in the cache by first token: a wildcard that comes or goes behind a token concerns those alone
        self._cached: dict[bytes, set[bytes]] = {}
        self._weight = 0

    def insert(self, pattern: bytes, queue: bytes, subscription: S) -> None:
        if not is_wildcard(pattern):
            node = self._literal.get(pattern)
            if node is None:
                node = self._literal[pattern] = _Node()
            node.subscriptions[subscription] = queue
            self._forget_subject(pattern)
            return
        node = self._root
        tokens = pattern.split(b".")
        for token in tokens:
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Node()
            node = child
        node.subscriptions[subscription] = queue
        self._forget_behind(tokens[0])

    def remove(self, pattern: bytes, subscription: S) -> None:
        """Take out what was inserted with this pattern; branches left empty go with it."""
        if not is_wildcard(pattern):
            node = self._literal[pattern]
            del node.subscriptions[subscription]
            if not node.subscriptions:
                del self._literal[pattern]
            self._forget_subject(pattern)
            return
        path = [self._root]
        tokens = pattern.split(b".")
        for token in tokens:
            path.append(path[-1].children[token])
        del path[-1].subscriptions[subscription]
        for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            child = parent.children[token]
            if child.children or child.subscriptions:
                break
            del parent.children[token]
        self._forget_behind(tokens[0])

    def match(self, subject: bytes) -> Matched[S]:
        """Who wants `subject`."""
        matched = self._cache.get(subject)
        if matched is None:
            matched = self._look_up(subject)
        return matched

    def _look_up(self, subject: bytes) -> Matched[S]:
        tokens = subject.split(b".")
        found: list[_Node[S]] = []
        literal = self._literal.get(subject)
        if literal is not None:
            found.append(literal)
        if self._root.children and b"" not in tokens:
            found += _covering(self._root, tokens)
        plain: list[S] = []
        queues: dict[bytes, list[S]] = {}
        for node in found:
            for subscription, queue in node.subscriptions.items():
                (queues.setdefault(queue, []) if queue else plain).append(subscription)
        matched = plain, queues
        weight = _weight(matched)
        self._weight += weight
        if self._weight > _CACHED:
            self._forget_all()
            self._weight = weight
        self._cache[subject] = matched
        beside = self._cached.get(tokens[0])
        if beside is None:
            beside = self._cached[tokens[0]] = set()
        beside.add(subject)
        return matched

    def _forget_subject(self, subject: bytes) -> None:
        """A literal subscription came or went: forget what its subject matched."""
        matched = self._cache.pop(subject, None)
        if matched is not None:
            self._weight -= _weight(matched)
            token = subject.split(b".", 1)[0]
            beside = self._cached[token]
            beside.remove(subject)
            if not beside:
                del self._cached[token]

    def _forget_behind(self, token: bytes) -> None:
        """A wildcard with this first token came or went: forget what it may concern."""
        if token in (b"*", b">"):
            self._forget_all()
            return
        for subject in self._cached.pop(token, ()):
            self._weight -= _weight(self._cache.pop(subject))

    def _forget_all(self) -> None:
        self._cache.clear()
        self._cached.clear()
        self._weight = 0


def _weight(matched: Matched[S]) -> int:
    plain, queues = matched
    return _WEIGHT + len(plain) + (sum(map(len, queues.values())) if queues else 0)


def _covering(root: _Node[S], tokens: list[bytes]) -> list[_Node[S]]:
    """The nodes below a root whose patterns cover these tokens, none of them empty."""
    found: list[_Node[S]] = []
    # (no recursion: a subject may have more tokens than Python has frames)
    ahead = [(root, 0)]
    while ahead:
        node, index = ahead.pop()
        if index == len(tokens):
            found.append(node)
            continue
        rest = node.children.get(b">")
        if rest is not None:
            found.append(rest)
        token = tokens[index]
        # (a subject may have a token `*` or `>`: nobody forbids to publish to it)
        for name in (b"*", token) if token not in (b"*", b">") else (b"*",):
            child = node.children.get(name)
            if child is not None:
                ahead.append((child, index + 1))
    return found
