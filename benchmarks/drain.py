"""A backlog: 100,000 messages of 256 bytes wait, then one subscriber takes them all."""

import time
from collections.abc import Sequence

from benchmarks.link import WireError
from benchmarks.load import PAYLOAD_END, keep_in_flight, payloads
from benchmarks.report import Report
from benchmarks.targets import Client, Reader, Target, alternating

_WINDOW = 1000


def fill(client: Client, place: str, count: int) -> str:
    """`count` different messages for a place, which is given back; each begins with its number, eight digits."""
    keep_in_flight(client, client.sends([place], payloads(count), _WINDOW), min(_WINDOW, count), count=count)
    return place


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, count: int = 100_000) -> None:
    case = f"{count:,} waiting"
    for turns in alternating(targets, rounds):
        for target in turns:
            with target.connect() as client:
                place = fill(client, client.place(), count)
            with target.connect() as client:
                server_cpu, client_cpu = target.server.cpu_seconds(), time.process_time()
                started = time.perf_counter()
                reader = client.reader(place)
                received, first = take(reader, count)
                seconds = time.perf_counter() - started
                client_cpu = time.process_time() - client_cpu
            report.add("drain", case, "msg/s", target.name, count / seconds)
            report.add("drain", case, "ms to the first bytes", target.name, (first - started) * 1e3)
            report.add_cpu("drain", case, target.server, server_cpu, count)
            report.add_busy("drain", case, target.server, server_cpu, client_cpu, seconds)
            check(received, count)


def take(reader: Reader, count: int) -> tuple[bytes, float]:
    """Everything up to the message number `count`, and when the first of it came."""
    reader.ask()
    data = reader.receive()
    first = time.perf_counter()
    pieces, seen, tail = [data], data.count(PAYLOAD_END), data[-2:]
    while seen < count:
        data = reader.receive()
        seen += (tail + data).count(PAYLOAD_END)
        tail = (tail + data)[-2:]
        pieces.append(data)
    return b"".join(pieces), first


def check(received: bytes, count: int) -> None:
    """Everything arrived once and in order."""
    numbers = [int(end[-255:-247]) for end in received.split(PAYLOAD_END)[:-1]]
    if numbers != list(range(count)):
        raise WireError(f"{len(numbers):,} messages, not the {count:,} that were sent, in their order")
