"""Reads the cases of tests/fidelity/cases and plays one against a server.

A case is what is said, on lines that begin with one of these words, after an empty line or a name:

    >  SUB f 1 | PUB f 2 | hi      the client sends this; ` | ` and the end of the line are CRLF
    <  MSG f 1 2 | hi              what it gets for that, and then the PONG of a PING that the replay sends along
    <! -ERR 'Invalid Subject'      what it gets before the server closes the connection
    >> PUB f 5 | he\\              sent without that PING; a `\\` at the end: no CRLF there
    2> and 2<                      a second client, and so on
    nats< and mq9<                 `<` where one answers differently on purpose: the comment beside it says why

`>` without `<` gets nothing but the PONG. After `>>`, `<` is exactly what comes, and no PONG. `@` is the CONNECT that
clients send first from there on (`@ -`: none), `only whole` keeps a case from being sent byte by byte, `settings:` is
the configuration of both servers, `#` a comment. Escapes are Python's (`\\t`, `\\xff`), `<a*4096>` is 4096 times `a`,
and `INFO` any INFO line.
"""

from __future__ import annotations

import re
import socket
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "cases"
_LINE = re.compile(r"(?P<client>\d?)(?P<word>>>|>|(?P<only>nats|mq9|)<(?P<end>!?))(?: (?P<text>.*))?")
_TIMES = re.compile(r"<([^<>]+)\*(\d+)>")
_INFO = re.compile(rb"INFO \{[^\r\n]*\} ?\r\n")
#: Seconds that a server may take for an answer.
PATIENCE = 10.0
WHOLE = 1 << 24
_PING, _PONG = b"PING\r\n", b"PONG\r\n"


@dataclass
class Step:
    """One client says something and gets something."""

    line: int
    client: str
    sent: bytes = b""
    ping: bool = True
    #: by the kind of server: (bytes, whether the connection ends behind them)
    expected: dict[str, tuple[bytes, bool]] = field(default_factory=dict)


@dataclass
class Case:
    """Steps in their order. `greeting` is what each client sends first."""

    name: str
    file: str
    greeting: bytes
    steps: list[Step] = field(default_factory=list)
    whole_only: bool = False

    @property
    def small(self) -> bool:
        return sum(len(step.sent) for step in self.steps) < 6000


def read(path: Path) -> tuple[dict[str, Any], list[Case]]:
    """(the settings the file asks for, its cases)."""
    settings: dict[str, Any] = {}
    cases: list[Case] = []
    greeting = b""
    name = ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if line.startswith("#"):
            continue
        if not line:
            name = ""
        elif line.startswith("@ "):
            greeting = b"" if line == "@ -" else unescape(f"CONNECT {line[2:]}")
        elif line.startswith("settings: "):
            settings = tomllib.loads("\n".join(line[10:].split()))
        elif line == "only whole":
            cases[-1].whole_only = True
        elif match is None:
            name = line
            cases.append(Case(name, path.stem, greeting))
        elif match["word"].startswith(">"):
            if not name:
                name = line
                cases.append(Case(line[:60], path.stem, greeting))
            sent = unescape(match["text"] or "")
            cases[-1].steps.append(Step(number, match["client"] or "1", sent, match["word"] == ">"))
        else:
            client = match["client"] or "1"
            steps = cases[-1].steps
            kinds = {"nats": ["nats-server"], "mq9": ["mq9"], "": ["nats-server", "mq9"]}[match["only"]]
            if not steps or steps[-1].client != client or set(kinds) & steps[-1].expected.keys():
                steps.append(Step(number, client))
            text = match["text"]
            for kind in kinds:
                steps[-1].expected[kind] = (unescape(text) if text else b"", bool(match["end"]))
    return settings, cases


def unescape(text: str) -> bytes:
    """The bytes of a line of a case."""
    text = _TIMES.sub(lambda found: found[1] * int(found[2]), text)
    ended = not text.endswith("\\") or text.endswith("\\\\")
    first, *others = (text if ended else text[:-1]).split(" |")
    joined = "\r\n".join([first, *(line.removeprefix(" ") for line in others)]) + ("\r\n" if ended else "")
    return joined.encode().decode("unicode_escape").encode("latin-1")


class Client:
    """A connection that sends in pieces of `step` bytes and keeps what it was told."""

    def __init__(self, port: int, greeting: bytes = b"", step: int = WHOLE) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._step = step
        self._heard = b""
        assert self._until(b"\r\n").startswith(b"INFO ")
        self._heard = b""
        self.greeting = greeting

    def say(self, data: bytes) -> None:
        """Send; a server that has closed already is found out by what it said."""
        data, self.greeting = self.greeting + data, b""
        try:
            for at in range(0, len(data), self._step):
                self._socket.sendall(data[at : at + self._step])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def hear(self, expected: bytes, closed: bool, pong: bool) -> bytes:
        """What came: to the end if the server should close, else about as much as should come."""
        wanted = expected if closed or not pong else expected + _PONG
        while (closed or len(self._said()) < len(wanted)) and self._more():
            pass
        said, self._heard = self._said(), b""
        return said

    def hang_up(self) -> None:
        """Close, and wait until the server has noticed: the next case must not meet these subscriptions."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while self._more():
                pass
        except OSError:
            pass
        self._socket.close()

    def _said(self) -> bytes:
        return _INFO.sub(b"INFO\r\n", self._heard)

    def _until(self, end: bytes) -> bytes:
        while not self._heard.endswith(end) and self._more():
            pass
        return self._heard

    def _more(self) -> bool:
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionResetError:
            return False
        self._heard += data
        return bool(data)


def play(case: Case, kind: str, port: int, step: int) -> None:
    """Fails where the server says anything but what the case says."""
    clients: dict[str, Client] = {}
    try:
        for at in case.steps:
            client = clients.get(at.client)
            if client is None:
                client = clients[at.client] = Client(port, case.greeting, step)
            client.say(at.sent + (_PING if at.ping else b""))
            if at.ping or at.expected:
                expected, closed = at.expected.get(kind, (b"", False))
                said = client.hear(expected, closed, at.ping)
                where = f"{case.file}.txt:{at.line} ({case.name})"
                assert said == expected + (_PONG if at.ping and not closed else b""), where
    finally:
        for client in clients.values():
            client.hang_up()
