"""How each server does the same thing: where a message goes, what success looks like, how a reader is opened."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from benchmarks.load import PAYLOAD_END
from benchmarks.servers import Server
from benchmarks.wire import Wire, compact, pub

SINK_OK = b'{"error":"","msg_id":'


@dataclass(frozen=True, slots=True)
class Place:
    """A mailbox or a stream: the subject messages are sent to, what a successful reply contains, its address."""

    subject: str
    ok: bytes
    address: str


class Sendable(Protocol):
    """A server that stores and answers messages."""

    server: Server

    def place(self, wire: Wire) -> Place:
        """A new mailbox or stream, on disk."""


class Target(Sendable, Protocol):
    """A server as every workload sees it."""

    created: bytes
    creations_per_round: int

    def creations(self, number: int) -> Iterator[tuple[str, bytes]]:
        """Requests that create that many; a successful reply contains `created`."""

    def push(self, wire: Wire, place: Place) -> None:
        """Subscribes sid 2 to everything the place holds and to what arrives later, without acknowledgements."""

    def batches(self, wire: Wire, place: Place, size: int) -> Iterator[int]:
        """Reads `size` messages at a time, each acknowledged and confirmed before the next; gives how many came."""


class Mq9:
    created = b'"is_new":true'
    creations_per_round = 40_000

    def __init__(self, server: Server) -> None:
        self.server = server

    def place(self, wire: Wire) -> Place:
        address = wire.request("$mq9.AI.MAILBOX.CREATE")["mail_id"]
        return Place(f"$mq9.AI.MAILBOX.{address}", SINK_OK, address)

    def creations(self, number: int) -> Iterator[tuple[str, bytes]]:
        return (("$mq9.AI.MAILBOX.CREATE", b"{}") for _ in range(number))

    def push(self, wire: Wire, place: Place) -> None:
        wire.subscribe(f"$mq9.AI.INBOX.{place.address}", 2)

    def batches(self, wire: Wire, place: Place, size: int) -> Iterator[int]:
        body = {"group_name": "benchmark", "config": {"num_msgs": size, "max_wait_ms": 0}}
        fetch = pub(f"$mq9.AI.MSG.FETCH.{place.address}", compact(body), f"{wire.inbox}.0")
        while True:
            wire.sock.sendall(fetch)
            numbers = re.findall(rb'"msg_id":(\d+)', wire.message().payload)
            if numbers:
                wire.request(
                    f"$mq9.AI.MSG.ACK.{place.address}", {"group_name": "benchmark", "msg_ids": [*map(int, numbers)]}
                )
            yield len(numbers)


class JetStream:
    created = b'"did_create":true'
    creations_per_round = 1_500

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = count(1)

    def place(self, wire: Wire) -> Place:
        name = f"S{next(self._numbers)}"
        wire.request(f"$JS.API.STREAM.CREATE.{name}", _stream(name))
        return Place(f"benchmark.{name}", b'{"stream":"%b","seq":' % name.encode(), name)

    def creations(self, number: int) -> Iterator[tuple[str, bytes]]:
        names = [f"C{next(self._numbers)}" for _ in range(number)]
        return ((f"$JS.API.STREAM.CREATE.{name}", compact(_stream(name))) for name in names)

    def push(self, wire: Wire, place: Place) -> None:
        subject = f"deliver.{place.address}"
        wire.subscribe(subject, 2)
        config = {"deliver_subject": subject, "ack_policy": "none", "deliver_policy": "all", "mem_storage": True}
        body = {"stream_name": place.address, "config": config}
        wire.sock.sendall(pub(f"$JS.API.CONSUMER.CREATE.{place.address}", compact(body), f"{wire.inbox}.0"))

    def batches(self, wire: Wire, place: Place, size: int) -> Iterator[int]:
        name = place.address
        config = {"durable_name": "P", "ack_policy": "explicit", "deliver_policy": "all"}
        wire.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{name}.P", {"stream_name": name, "config": config})
        body = compact({"batch": size, "expires": 5_000_000_000})
        fetch = pub(f"$JS.API.CONSUMER.MSG.NEXT.{name}.P", body, f"{wire.inbox}.0")
        while True:
            wire.sock.sendall(fetch)
            subjects = re.findall(rb"\$JS\.ACK\.\S+", wire.until(PAYLOAD_END, size))
            acks = [b"PUB %b 4\r\n+ACK\r\n" % subject for subject in subjects]
            acks[-1] = pub(subjects[-1].decode(), b"+ACK", f"{wire.inbox}.1")
            wire.sock.sendall(b"".join(acks))
            wire.message()
            yield len(subjects)


def _stream(name: str) -> dict[str, object]:
    return {"name": name, "subjects": [f"benchmark.{name}"], "storage": "file"}
