"""One agent: sends numbered messages, handles what it is given, and writes down each step before and after it.

Started by `chaos.run` as `python -m chaos.agent NAME JOURNAL PORT`; ends by a signal. A line of the journal is
`<seconds> <event> <message> [<more>]`: it outlives a kill, because it is one write to a file.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

from e2e.harness import AI, Frame, Wire, pub

MAILBOXES = ("jobs-a", "jobs-b", "jobs-c")
GROUP = "workers"
#: Messages per second of one agent.
PACE = 10


class Agent:
    """What it does with one connection after another."""

    def __init__(self, name: str, journal: Path, port: int) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._name = name
        self._port = port
        self._numbers = itertools.count(1)
        self._chance = random.Random(name)
        self._ending = False
        self._unanswered: dict[str, bytes] = {}
        self._acks: dict[str, str] = {}
        signal.signal(signal.SIGTERM, self._end)

    def note(self, event: str, message: str = "-", more: str = "") -> None:
        os.write(self._journal, f"{time.time():.4f} {event} {message} {more}\n".encode())

    def run(self) -> None:
        while not self._ending:
            try:
                with Wire(self._port, timeout=10) as wire:
                    self._work(wire)
            except (OSError, EOFError, ValueError):
                pass
            self.note("lost")
            time.sleep(0.05)

    def _end(self, *_: object) -> None:
        self._ending = True

    def _work(self, wire: Wire) -> None:
        self._acks.clear()
        box = self._chance.choice(MAILBOXES)
        wire.send(f"SUB _INBOX.{self._name}.* r\r\nSUB {AI}INBOX.{box} {GROUP} m\r\n")
        self.note("joined", box)
        for frame in self._unanswered.values():
            wire.send(frame)
        following = time.monotonic()
        while not (self._ending and not self._unanswered and not self._acks):
            if not self._ending and time.monotonic() >= following and len(self._unanswered) < 32:
                following = time.monotonic() + self._chance.random() * 2 / PACE
                self._send(wire)
            if wire.ready(0.02):
                frame = wire.frame()
                if frame is None:
                    return
                self._heard(wire, frame)
        wire.send("PING\r\n")

    def _send(self, wire: Wire) -> None:
        box = self._chance.choice(MAILBOXES)
        message = f"{box[-1]}-{self._name}-{next(self._numbers)}"
        word = self._chance.choice(("critical", "high", "normal", "low"))
        # (a repeat after a lost connection is not stored twice)
        frame = pub(
            f"{AI}MAILBOX.{box}.{word}",
            message.encode(),
            reply=f"_INBOX.{self._name}.{message}",
            headers=f"Nats-Msg-Id: {message}\r\n".encode(),
        )
        self.note("try", message)
        self._unanswered[message] = frame
        wire.send(frame)

    def _heard(self, wire: Wire, frame: Frame) -> None:
        if frame.op not in ("MSG", "HMSG"):
            return
        if frame.sid == "m":
            message = frame.payload.decode()
            self.note("got", message, str(frame.header("mq9-deliveries")))
            if self._chance.random() < 0.02:
                return  # forgotten: its lease ends by time
            token = f"ack-{next(self._numbers)}"
            self._acks[token] = message
            wire.send(pub(frame.reply, b"+ACK", reply=f"_INBOX.{self._name}.{token}"))
            return
        token = frame.args.rpartition(".")[2]
        good = b'"error":""' in frame.payload
        if token in self._acks:
            self.note("done" if good else "late", self._acks.pop(token))
        elif token in self._unanswered:
            self.note("sent" if good else "refused", token, frame.payload.decode())
            del self._unanswered[token]


if __name__ == "__main__":
    Agent(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])).run()
