"""A broker, agents, and somebody who kills them; at the end every message must be accounted for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.account import Account
from chaos.agent import GROUP, MAILBOXES
from e2e.harness import Broker, Wire

ACK_WAIT = 15
_TESTS = Path(__file__).parent.parent


@dataclass
class Report:
    """What happened, in one line, and what is wrong with it."""

    text: str
    problems: list[str]


class Crowd:
    """The agents: each is a process that is started again when it was killed."""

    def __init__(self, folder: Path, port: int, count: int) -> None:
        self._folder = folder
        self._port = port
        self._lives = [0] * count
        self._running: list[subprocess.Popen[bytes]] = []
        self.kills: list[tuple[float, str]] = []
        for number in range(count):
            self._running.append(self._start(number))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        self._lives[number] += 1
        name = self._name(number)
        command = [sys.executable, "-m", "chaos.agent", name, str(self._folder / name), str(self._port)]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(_TESTS)})

    def _name(self, number: int) -> str:
        return f"{number}x{self._lives[number]}"

    def kill(self, number: int) -> None:
        self.kills.append((time.time(), self._name(number)))
        self._running[number].kill()
        self._running[number].wait()
        self._running[number] = self._start(number)

    def end(self) -> None:
        """Let everybody finish what it is at; who hangs is killed."""
        for number, agent in enumerate(self._running):
            self.kills.append((time.time(), self._name(number)))
            agent.send_signal(signal.SIGTERM)
        for agent in self._running:
            try:
                agent.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
            finally:
                self._running = [other for other in self._running if other.poll() is None]


def run(folder: Path, seconds: float, agents: int, seed: int, durability: str) -> Report:
    """Everything happens in `folder`. Ends what it started."""
    chance = random.Random(seed)
    journals = folder / "journals"
    journals.mkdir()
    broker = Broker(folder / "data", "--durability", durability).start()
    # the agents come back to where they were
    broker.command[broker.command.index("--port") + 1] = str(broker.port)
    with Wire(broker.port) as wire:
        for name in MAILBOXES:
            retain = "ttl" if name == MAILBOXES[0] else "ack"
            fields = {
                "name": name,
                "ack": "explicit",
                "ack_wait": ACK_WAIT,
                "max_deliver": 0,
                "ttl": 0,
                "retain": retain,
            }
            assert wire.ask("MAILBOX.CREATE", fields)["error"] == ""
    crowd = Crowd(journals, broker.port, agents)
    brokers_killed = 0
    try:
        until = time.monotonic() + seconds
        next_broker = time.monotonic() + chance.uniform(2, 5)
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.1, 2 if seconds > 60 else 1))
            crowd.kill(chance.randrange(agents))
            if time.monotonic() >= next_broker:
                crowd.kills.append((time.time(), ""))
                broker.restart(hard=True)
                brokers_killed += 1
                next_broker = time.monotonic() + chance.uniform(2, 20 if seconds > 60 else 5)
        crowd.end()
        left, stored = _what_is_left(broker.port)
    finally:
        crowd.end()
        broker.kill()
    account = Account(ACK_WAIT, crowd.kills)
    account.read(sorted(journals.iterdir()))
    problems = account.problems(left, stored, {MAILBOXES[0]})
    if b"Traceback" in broker.log:
        problems.append(broker.log.decode()[-3000:])
    text = (
        f"{len(account.tried)} tried, {len(account.sent)} acknowledged sends, {len(account.got)} handed out "
        f"{sum(map(len, account.got.values()))} times, {len(account.done)} acknowledged, {len(left)} left; "
        f"{len(crowd.kills) - brokers_killed - agents} agents and {brokers_killed} brokers killed; "
        f"{len(problems)} problems"
    )
    return Report(text, problems)


def _what_is_left(port: int) -> tuple[list[str], dict[str, list[str]]]:
    """What the group has not handled, and what each mailbox holds."""
    left: list[str] = []
    stored: dict[str, list[str]] = {}
    with Wire(port) as wire:
        for name in MAILBOXES:
            stored[name] = []
            query: dict[str, object] = {"limit": 1000}
            while True:
                page = wire.ask(f"MAILBOX.QUERY.{name}", query)
                stored[name] += [message["payload"] for message in page["messages"]]
                if "next" not in page:
                    break
                query["after"] = page["next"]
            while True:
                given = wire.ask(f"MSG.FETCH.{name}", {"group_name": GROUP, "config": {"max_wait_ms": 200}})["messages"]
                if not given:
                    break
                left += [message["payload"] for message in given]
                done = {"group_name": GROUP, "msg_ids": [message["msg_id"] for message in given]}
                assert wire.ask(f"MSG.ACK.{name}", done)["error"] == ""
    return left, stored
