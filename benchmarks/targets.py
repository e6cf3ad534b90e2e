"""What every workload asks of a server, whatever it speaks: a target gives clients, a client loads and readers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, Self, TypeVar

from benchmarks.load import Frames, Line
from benchmarks.servers import Server

T = TypeVar("T")
_serial = count(1)


def fresh_name() -> str:
    """A name for a place, of this process and of no other."""
    return f"P{os.getpid()}-{next(_serial)}"


class Reader(Protocol):
    """One reader of everything a place holds and of what arrives later, without acknowledgements."""

    def ready(self) -> None:
        """Returns when what comes to an empty place from now on is sent to it."""

    def ask(self) -> None:
        """Ask for more, where the server sends nothing unasked."""

    def receive(self) -> bytes:
        """The next bytes with messages in them."""


class Member(Protocol):
    """One of several competing readers, driven by whoever owns its socket."""

    def start(self) -> bytes:
        """What it says first."""

    def take(self, data: bytes) -> tuple[int, bytes]:
        """How many more messages came with `data`, and what to answer: acknowledgements, the wish for more."""


class Client(Line, Protocol):
    """A place is a mailbox, a stream or a key, by its name."""

    def place(self) -> str:
        """A new place, on disk."""

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        """Stored sends, each answered: text i to place i, the first place again after the last."""

    def creations(self, count: int, window: int) -> Frames:
        """Requests for so many new places."""

    def created(self, replies: bytes) -> list[str]:
        """The places that the last `creations` made; `replies` is all that came back."""

    def reader(self, place: str) -> Reader:
        """This connection as a reader."""

    def batches(self, place: str, size: int) -> Iterator[int]:
        """Reads `size` messages at a time, each acknowledged and confirmed before the next; gives how many came."""

    def flush(self) -> None:
        """Returns when everything sent before was handled; nothing else may be on its way."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A running server, and how to speak to it."""

    server: Server
    #: Makes a client of a port: a `Client`, or as much of it as it can.
    client: Callable[[int], Any]
    #: How many places a round of creating makes: what takes about a second.
    creations: int = 0
    #: Up to how many places it is worth to grow it.
    most_places: int = 0
    #: Whether sends are answered.
    answers: bool = True

    @property
    def name(self) -> str:
        return self.server.name

    def connect(self) -> Client:
        client: Client = self.client(self.server.port)
        return client


#: Starts a server, again and again on the same folder.
Start = Callable[[], AbstractContextManager[Target]]


def alternating(targets: Sequence[T], rounds: int) -> Iterator[Sequence[T]]:
    """The order of each round: every other one goes backwards. What a server has still to write out takes something
    from the one that follows, and that is not always the same one."""
    for number in range(rounds):
        yield targets[:: -1 if number % 2 else 1]
