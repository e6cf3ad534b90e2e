"""Every workload with the servers that it compares, and at which scale."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    backlog,
    connections,
    core,
    create,
    drain,
    fanout,
    fetch,
    flat,
    groups,
    listeners,
    mailboxes,
    priority,
    push,
    saturation,
    sends,
    sizes,
    subscriptions,
    tools,
)
from benchmarks.jetstream import core as nats_core
from benchmarks.jetstream import jetstream
from benchmarks.limit import RawStore
from benchmarks.mq9 import mq9
from benchmarks.redis import redis
from benchmarks.report import Report
from benchmarks.servers import mq9_broker, nats_server, redis_server
from benchmarks.sink import sink
from benchmarks.targets import Start, Target

SERVERS = ("mq9", "nats-server", "redis")


_NATS = ("mq9", "nats-server")


class Run:
    """One workload being measured: its servers and their folder, all gone when it ends. No workload finds what another
    one left."""

    def __init__(self, report: Report, arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.report, self.folder, self.arguments = report, folder, arguments
        self._stack = stack

    def targets(self, *names: str, sync: bool = False) -> list[Target]:
        """The servers that are to be measured, of those named (all by default); with `sync`, what they answer survives
        a power cut."""
        return [self._stack.enter_context(start()) for start in self.starts(*names, sync=sync)]

    def starts(self, *names: str, sync: bool = False) -> list[Start]:
        """How to start each of them, again and again on its folder."""
        chosen = [name for name in self.arguments.servers if name in (names or SERVERS)]
        return [partial(_started, name, self.folder / name, sync) for name in chosen]

    def nats_core(self) -> list[Target]:
        servers = [target.server for target in self.targets("nats-server")]
        return [nats_core(server) for server in servers]

    def limits(self) -> tuple[list[Target], RawStore]:
        return [self._stack.enter_context(sink(sends.RING))], self._stack.enter_context(RawStore(self.folder / "raw"))

    def quick(self, **scale: Any) -> dict[str, Any]:
        """A scale at which figures mean nothing, when only that is asked for."""
        return scale if self.arguments.quick else {}


def _sends(run: Run) -> None:
    echo, raw = run.limits()
    sends.run(run.report, [*run.targets(), *echo], raw, **run.quick(rounds=1, seconds=0.02))


def _durable(run: Run) -> None:
    scale = run.quick(rounds=1, seconds=0.02)
    sends.run(run.report, run.targets(sync=True), workload="durable", windows=(1, 64), **scale)


def _push(run: Run) -> None:
    targets = run.targets()
    cores = [nats_core(target.server) for target in targets if target.name == "nats-server"]
    push.run(run.report, [*targets, *cores], **run.quick(rounds=1, count=50))


def _connections(run: Run) -> None:
    connections.allow_files(**run.quick(connections=50))
    connections.run(run.report, run.targets(), **run.quick(rounds=1, counts=(1, 10), seconds=0.02))


def _idle(run: Run) -> None:
    connections.allow_files(**run.quick(connections=50))
    connections.idle(run.report, run.targets(*_NATS), **run.quick(count=50, settle=0.1))


def _backlog(run: Run) -> None:
    scale = run.quick(most=2000, counts=(1000,)) or {"most": run.arguments.backlog}
    backlog.run(run.report, run.targets(), **scale)


def _tools(run: Run) -> None:
    with mq9_broker(run.folder / "mq9") as broker:
        tools.run(run.report, broker, **run.quick(rounds=1, calls=2))


WORKLOADS: dict[str, Callable[[Run], None]] = {
    "sends": _sends,
    "durable": _durable,
    "create": lambda run: create.run(run.report, run.targets(), **run.quick(rounds=1, most=100)),
    "drain": lambda run: drain.run(run.report, run.targets(), **run.quick(rounds=1, count=2000)),
    "fetch": lambda run: fetch.run(run.report, run.targets(), **run.quick(rounds=1, batches=5)),
    "groups": lambda run: groups.run(run.report, run.targets(), **run.quick(rounds=1, count=1600)),
    "push": _push,
    "priority": lambda run: priority.run(run.report, run.targets("mq9"), **run.quick(waiting=50_000, samples=5)),
    "sizes": lambda run: sizes.run(run.report, run.targets(), **run.quick(rounds=1, seconds=0.02, sizes=(0, 1 << 20))),
    "tools": _tools,
    "mailboxes": lambda run: mailboxes.run(run.report, run.starts(), **run.quick(counts=(50, 100), sends=100)),
    "backlog": _backlog,
    "listeners": lambda run: listeners.run(
        run.report, [*run.nats_core(), *run.targets("mq9")], **run.quick(counts=(10, 50), samples=20)
    ),
    "connections": _connections,
    "saturation": lambda run: saturation.run(
        run.report, run.starts(), **run.quick(rounds=1, counts=(0, 2), seconds=0.2)
    ),
    "core": lambda run: core.run(run.report, run.targets(*_NATS), **run.quick(rounds=1, count=2000)),
    "fanout": lambda run: fanout.run(run.report, run.targets(*_NATS), **run.quick(rounds=1, count=64)),
    "subscriptions": lambda run: subscriptions.run(
        run.report, run.targets(*_NATS), **run.quick(rounds=1, count=8192, churns=50, counts=(0, 1000))
    ),
    "idle": _idle,
}
#: Only when it is named: it takes a quarter of an hour and 10 GB.
LONG: dict[str, Callable[[Run], None]] = {"flat": lambda run: flat.run(run.report, run.folder, run.arguments.mailboxes)}


@contextmanager
def _started(name: str, folder: Path, sync: bool) -> Iterator[Target]:
    if name == "mq9":
        with mq9_broker(folder, *(["--durability", "fsync"] if sync else [])) as server:
            yield mq9(server)
    elif name == "nats-server":
        with nats_server(folder, "always" if sync else "") as server:
            yield jetstream(server)
    else:
        with redis_server(folder, "always" if sync else "everysec") as server:
            yield redis(server)
