"""A backlog: 100,000 messages of 256 bytes wait, then one subscriber takes them all."""

import socket
import time

from benchmarks.load import PAYLOAD_END, Frames, keep_in_flight, payloads
from benchmarks.report import Report
from benchmarks.targets import Place, Target
from benchmarks.wire import Wire, WireError

_WINDOW = 1000


def fill(wire: Wire, target: Target, count: int) -> Place:
    """A new place in which `count` different messages wait; each payload begins with its number, eight digits."""
    place = target.place(wire)
    frames = Frames(wire.inbox, [(place.subject, payload) for payload in payloads(count)], _WINDOW)
    keep_in_flight(wire, frames, min(_WINDOW, count), place.ok, count=count)
    return place


def run(report: Report, targets: list[Target], *, rounds: int = 3, count: int = 100_000) -> None:
    case = f"{count:,} waiting"
    for _ in range(rounds):
        for target in targets:
            with Wire(target.server.port) as wire:
                place = fill(wire, target, count)
            with Wire(target.server.port) as wire:
                cpu, started = target.server.cpu_seconds(), time.perf_counter()
                target.push(wire, place)
                wire.sock.recv(1, socket.MSG_PEEK)
                first = time.perf_counter() - started
                received = wire.until(PAYLOAD_END, count)
                seconds = time.perf_counter() - started
            name = target.server.name
            report.add("drain", case, "msg/s", name, count / seconds)
            report.add("drain", case, "ms to the first bytes", name, first * 1e3)
            report.add_cpu("drain", case, target.server, cpu, count)
            _check(received, count)


def _check(received: bytes, count: int) -> None:
    """Everything arrived once and in order."""
    ends = received.split(PAYLOAD_END)
    numbers = [int(end[-255:-247]) for end in ends[:-1]]
    if numbers != list(range(count)):
        raise WireError(f"{len(numbers):,} messages, not the {count:,} that were sent, in their order")
