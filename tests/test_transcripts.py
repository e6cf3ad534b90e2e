"""Replays the sessions of tests/transcripts: what the broker says to the byte, with a fixed clock and randomness.

A line is `C: ` (the client sends it), `S: ` (it gets it), `T: ` (so many seconds pass) or `# ` (why). `C2:` and `S2:`
are a second client. Lines end in CRLF on the wire; `<version>` stands for the version of mq9.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest

from broker.inprocess import Broker, Client
from mq9_broker import __version__

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))
LINE = re.compile(r"(?:(?P<side>[CS])(?P<number>\d?):|(?P<time>T):|#) ?(?P<text>.*)")


def read(path: Path) -> list[tuple[int, str, str]]:
    """(line number, who, text) of everything but comments and empty lines."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        match = LINE.fullmatch(line)
        assert match or not line, f"{path.name}:{number}: neither C:, S:, T: nor #: {line!r}"
        if match and not line.startswith("#"):
            who = "T" if match["time"] else f"{match['side']}{match['number'] or '1'}"
            found.append((number, who, match["text"].replace("<version>", __version__)))
    return found


class Replay:
    """One session against a broker of its own."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.broker = Broker()
        self.broker.server.id = "MQ9TRANSCRIPT"
        self.clients: dict[str, Client] = {}

    def client(self, name: str, greeted: bool) -> Client:
        """The client of that name; INFO is left out where the session does not begin with it."""
        if name not in self.clients:
            self.clients[name] = self.broker.client(connect=None, pong=False)
            if greeted:
                self.clients[name].raw.clear()
        return self.clients[name]

    def play(self, session: list[tuple[int, str, str]], name: str) -> None:
        for who, run in groupby(session, lambda entry: entry[1]):
            lines = list(run)
            where = f"{name}:{lines[0][0]}"
            if who == "T":
                self.rest(where)
                for _, _, seconds in lines:
                    self.broker.advance(float(seconds))
                continue
            data = "".join(f"{text}\r\n" for _, _, text in lines).encode()
            client = self.client(who[1:], not lines[0][2].startswith("INFO "))
            if who[0] == "C":
                self.rest(where)
                for at in range(0, len(data), self.step):
                    client.feed(data[at : at + self.step])
                self.broker.settle()
            else:
                heard = bytes(client.raw)
                client.raw.clear()
                # (INFO ends in a blank, which no editor would keep)
                assert heard.decode().replace("} \r\n", "}\r\n").split("\r\n") == data.decode().split("\r\n"), where
        self.rest(f"{name}, at its end")

    def rest(self, where: str) -> None:
        """Everything the broker said so far is in the session."""
        for name, client in self.clients.items():
            assert bytes(client.raw).decode() == "", f"{where}: client {name} got more"


@pytest.mark.parametrize("step", [1 << 20, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_session_goes_as_it_is_written(path: Path, step: int) -> None:
    Replay(step).play(read(path), path.name)


FAMILIES = ["acks", "broadcast", "core", "directory", "errors", "groups", "mailbox", "receipts"]


def test_all_families_have_a_session() -> None:
    assert [path.stem for path in FILES] == FAMILIES


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_session_that_is_changed_does_not_go(path: Path) -> None:
    """Any word less, any word more: the replay notices."""
    session = read(path)
    said = [index for index, (_, who, text) in enumerate(session) if who[0] == "S" and not text.startswith("INFO")]
    for index in said[:: max(1, len(said) // 8)]:
        number, who, text = session[index]
        for changed in ([], [(number, who, text + "x")], [(number, who, text), (number, who, "PING")]):
            with pytest.raises(AssertionError):
                Replay(1 << 20).play([*session[:index], *changed, *session[index + 1 :]], path.name)
