"""A whole broker: whatever some clients send, it is answered by the protocol, and a neighbour does not notice.

An input is cut into steps at STEP. One that begins with `=` is a message put together in order (subject and reply,
header lines and payload, cut at FIELD; the subject stands after the mq9 prefix unless it begins with `=`), `+` lets
time pass, `@` gives the word to the next client, `!` answers the newest message with a reply subject; every other one
is a chunk of bytes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from unittest.mock import patch
from zlib import crc32

from broker.inprocess import AI, Broker, Client, pub
from fuzz.parser import pieces
from mq9_broker import router
from mq9_broker.model import Limits

#: The longest input that is worth its time.
LONGEST = 1024
STEP, FIELD = 0xFE, 0xFD
MESSAGE, WAIT, OTHER, ANSWER = b"=", b"+", b"@", b"!"
SECRET = re.compile(rb"m-[a-z2-7]{26}")
#: A reply subject that is the address for answers, in its secret form.
_ANSWERS = re.compile(
    r"\$mq9\.AI\.(MAILBOX|INBOX|MSG\.SEND)\.m-[a-z2-7]{26}(\.(critical|urgent|high|normal|low|notify))?"
)
#: Short inputs go beyond these.
LIMITS = Limits(max_payload=4096, max_control_line=512, max_headers=256, max_subscriptions=20, max_groups=4)
CLIENTS = 3
_LONGEST_WAIT = 200
#: The -ERR lines of the protocol, or how they begin.
_ERRORS = (
    "'Unknown Protocol Operation'",
    "'Invalid Subject'",
    "'Invalid Publish Subject'",
    "'Maximum Payload Violation'",
    "'maximum control line exceeded'",
    "'maximum subscriptions exceeded'",
    "'invalid client protocol'",
    "'no responders requires headers support'",
    "'Stale Connection'",
    "'Authorization Violation'",
    "'Permissions Violation for Publish to ",
    "'Permissions Violation for Subscription to ",
)


def check(data: bytes) -> None:
    with no_defect(), patch.object(router, "_MAX_PUSHED", 512):
        scene = Scene()
        scene.play(data)
        scene.end()
        lot = crc32(data)
        if not lot & 3:
            # what everybody hears does not depend on where the stream was cut
            again = Scene()
            again.play(data, lot)
            assert again.heard == scene.heard
        elif lot & 3 == 1:
            # nor is anybody worse off when next to nothing is done in a turn
            slowly = Scene(share=0)
            slowly.play(data)
            slowly.end()


class Scene:
    """A neighbour with mailboxes and subscriptions, and a few clients that send what they like. `heard` is what each
    connection got, `share` the seconds that a client may do something in a turn."""

    def __init__(self, share: float = 1.0) -> None:
        self.broker = Broker(limits=LIMITS)
        self.broker.hub.share = share
        self.broker.server.id = "MQ9FUZZ"
        # (a run of messages draws its lots in another order than one by one)
        lots = _First()
        self.broker.hub.router.chance = lots.random
        self.clients = [self.broker.client()]
        settle_in(self.clients[0])
        self.neighbour = Neighbour(self.broker)
        self.heard: list[bytes] = []
        self._turn = 0
        self._waited = 0
        self._said: dict[int, bytes] = {}

    @property
    def client(self) -> Client:
        """The one whose turn it is; who lost the connection comes again."""
        while len(self.clients) <= self._turn:
            self.clients.append(self.broker.client())
        if self.clients[self._turn].gone:
            self.part(self.clients[self._turn])
            self.clients[self._turn] = self.broker.client()
        return self.clients[self._turn]

    def play(self, data: bytes, lot: int = 0) -> None:
        """Do what the input says; with a `lot`, chunks arrive in pieces."""
        for step in data.split(bytes((STEP,))):
            kind, rest = step[:1], step[1:]
            if kind == OTHER and not rest:
                self._turn = (self._turn + 1) % CLIENTS
            elif kind == WAIT and len(rest) == 1:
                self._waited += rest[0]
                if self._waited <= _LONGEST_WAIT:
                    self.broker.advance(rest[0])
            else:
                client = self.client
                chunk = message(rest) if kind == MESSAGE else answer(client, rest) if kind == ANSWER else step
                self._said[self._turn] = self._said.get(self._turn, b"") + chunk
                for piece in pieces(chunk, lot) if lot else [chunk]:
                    client.feed(piece)
                self.broker.settle()
        for client in self.clients:
            self.part(client)
        self.heard.append(bytes(self.neighbour.client.raw))

    def part(self, client: Client) -> None:
        """Note what a client heard: the protocol's own words and nothing else."""
        self.heard.append(bytes(client.raw))
        for frame in client.frames:
            assert frame.verb in ("INFO", "+OK", "PING", "PONG", "MSG", "HMSG", "-ERR"), frame
            assert frame.verb != "-ERR" or frame.text.startswith(_ERRORS), frame

    def end(self) -> None:
        """The neighbour is well, and no worse when the others leave."""
        data = b"\n".join(self._said.values())
        for secret in self.neighbour.secrets:
            assert secret in data or not any(secret in heard for heard in self.heard[:-1]), "the neighbour is overheard"
        self.neighbour.check(data)
        for client in self.clients:
            client.hang_up()
        self.broker.advance(_LONGEST_WAIT)
        self.neighbour.check(data)


class _First(Random):
    """Whoever is first has his turn."""

    def random(self) -> float:
        return 0.0


class Neighbour:
    """Somebody else on the same broker, who hears all that is public."""

    def __init__(self, broker: Broker) -> None:
        self.client = broker.client()
        self.private = self.client.mailbox(ttl=7200)
        self.owner = self.client.create(name="shop", public=True, ttl=7200)["owner"]
        self.secrets = (self.private.encode(), self.owner.encode())
        self.mail = self.client.subscribe(f"INBOX.{self.private}")
        self.all = self.client.subscribe("=>")
        self.client.raw.clear()
        self.client.frames.clear()
        self.sent = 0

    def check(self, data: bytes) -> None:
        """It hears what is public and its own mail, nothing else; `data` is what the others sent."""
        client = self.client
        # anybody may publish to its inbox, but no answer to others comes there
        for frame in client.take("r") + client.take():
            assert frame.verb in ("MSG", "HMSG"), frame
            assert frame.sid in ("r", self.all), frame
            assert not frame.payload.startswith(b'{"error":') or frame.payload in data, frame
            assert not frame.subject.startswith(AI) or frame.subject.startswith(f"{AI}BROADCAST."), frame
            assert not frame.subject.startswith(AI) or not _ANSWERS.fullmatch(frame.reply), frame
        learned = {*SECRET.findall(client.raw)} - {*self.secrets, *SECRET.findall(data)}
        assert not learned, f"the neighbour learns {learned}"
        assert not client.gone
        self.sent += 1
        assert client.put(self.private, f"note {self.sent}") == self.sent
        assert client.bodies(self.mail) == [f"note {self.sent}"]
        assert len(client.query(self.private)) == self.sent
        assert client.request(f"MAILBOX.QUERY.{self.owner}")["error"] == ""
        client.raw.clear()
        client.frames.clear()


def message(rest: bytes) -> bytes:
    """The frame of a message step: its sizes are right, whatever is in it."""
    target, _, rest = rest.partition(bytes((FIELD,)))
    lines, _, payload = rest.partition(bytes((FIELD,)))
    subject = b" ".join(target.split()[:2]) or b"x"
    subject = subject[1:] if subject.startswith(b"=") else AI.encode() + subject
    if not lines:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)
    block = b"NATS/1.0\r\n" + lines + b"\r\n"
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(block), len(block) + len(payload), block, payload)


def answer(client: Client, payload: bytes) -> bytes:
    """A message to the newest reply subject that a client got; nothing when it got none."""
    replies = [frame.reply for frame in client.frames if frame.reply]
    return pub(f"={replies[-1]}", payload) if replies else b""


class _Defects(logging.Handler):
    """Raises what the broker logs as a defect, and refuses secrets in log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(f"{text}: {logging.Formatter().formatException(record.exc_info)}")
        elif record.levelno >= logging.ERROR or SECRET.search(text.encode()):
            self.found.append(text)


@contextmanager
def no_defect() -> Iterator[None]:
    """Fails when the broker logs an exception, an error or a secret address."""
    log = logging.getLogger("mq9_broker")
    handler = _Defects()
    log.addHandler(handler)
    level, propagate = log.level, log.propagate
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
    assert not handler.found, "\n".join(handler.found)


def settle_in(client: Client) -> tuple[str, ...]:
    """Give a client mailboxes; their addresses."""
    private, public = client.create(ttl=3600), client.create(name="box", public=True, ttl=3600)
    client.put(private["mail_id"], "private", priority="urgent")
    return private["mail_id"], private["send_only"], public["owner"], public["send_only"], "box"


#: The addresses that clients have which settled in first: the same in every broker here, so that inputs name them.
KNOWN = settle_in(Broker(limits=LIMITS).client())
