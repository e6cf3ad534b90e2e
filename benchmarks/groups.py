"""Competing readers: the members of a group empty a backlog, each message is for one of them.

Who pulls acknowledges what it has together with its wish for more, and does not wait for that. The peers have pull
consumers with acknowledgements in every case.
"""

import re
import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.drain import fill
from benchmarks.jetstream import Pulling
from benchmarks.link import CHUNK, WireError
from benchmarks.load import payloads
from benchmarks.mq9 import Fetching, Subscribed
from benchmarks.redis import ReadingGroup
from benchmarks.report import Report
from benchmarks.targets import Client, Member, Target

_SIZE = 100
_NUMBER = re.compile(rb"(\d{8})[A-Za-z0-9+/]{247}#")
_PEERS = {"nats-server": Pulling, "redis": ReadingGroup}
_Join = Callable[[Any, str, int], Member]
#: By case: how many members, what they are, and the settings of the mailbox.
_CASES: dict[str, tuple[int, _Join, dict[str, object]]] = {
    "1 member fetches 100": (1, Fetching, {}),
    "8 members fetch 100": (8, Fetching, {}),
    "queue group of 8, acknowledged": (8, Subscribed, {"ack": "explicit"}),
    "queue group of 8, no acknowledgements": (8, Subscribed, {}),
}


def run(report: Report, targets: Sequence[Target], *, rounds: int = 5, count: int = 40_000) -> None:
    payloads(count)
    for _ in range(rounds):
        for case, (members, join, settings) in _CASES.items():
            for target in targets:
                with ExitStack() as stack:
                    clients = [stack.enter_context(target.connect()) for _ in range(members)]
                    place = _place(clients[0], target.name, settings)
                    fill(clients[0], place, count)
                    joined = [_PEERS.get(target.name, join)(client, place, _SIZE) for client in clients]
                    server_cpu, client_cpu = target.server.cpu_seconds(), time.process_time()
                    seconds = _empty(clients, joined, count)
                    client_cpu = time.process_time() - client_cpu
                report.add("groups", case, "msg/s", target.name, count / seconds)
                report.add_cpu("groups", case, target.server, server_cpu, count)
                report.add_busy("groups", case, target.server, server_cpu, client_cpu, seconds)


def _place(client: Any, name: str, settings: dict[str, object]) -> str:
    place: str = client.place(**settings) if name == "mq9" else client.place()
    if name == "nats-server":
        client.consumer(place)
    return place


def _empty(clients: Sequence[Client], members: Sequence[Member], count: int) -> float:
    """Seconds until `count` messages came and were acknowledged."""
    pieces: list[list[bytes]] = [[] for _ in clients]
    got, buffer = 0, memoryview(bytearray(CHUNK))
    with selectors.DefaultSelector() as selector:
        for each in zip(clients, members, pieces, strict=True):
            selector.register(each[0].sock, selectors.EVENT_READ, each)
        started = time.perf_counter()
        for client, member in zip(clients, members, strict=True):
            client.sock.sendall(member.start())
        while got < count:
            ready = selector.select(20.0)
            if not ready:
                raise WireError(f"{got:,} of {count:,} messages came, then nothing for 20 s")
            for key, _ in ready:
                client, member, received = key.data
                if not (size := client.sock.recv_into(buffer)):
                    raise WireError("the server closed a member's connection")
                received.append(data := bytes(buffer[:size]))
                new, answer = member.take(data)
                got += new
                if answer:
                    client.sock.sendall(answer)
        seconds = time.perf_counter() - started
    numbers = [number for each in pieces for number in _NUMBER.findall(b"".join(each))]
    if len(numbers) != count or len(set(numbers)) != count:
        raise WireError(f"{len(numbers):,} messages came, {len(set(numbers)):,} different ones of {count:,}")
    return seconds
