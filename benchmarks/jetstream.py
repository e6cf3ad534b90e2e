"""nats-server as a target: JetStream, and its core publish and subscribe, which stores nothing."""

import re
from collections.abc import Iterator, Sequence
from copy import copy

from benchmarks.link import WireError
from benchmarks.load import PAYLOAD_END, Answers, Frames
from benchmarks.servers import Server
from benchmarks.targets import Target, fresh_name
from benchmarks.wire import Wire, compact, pub

_CONSUMER = "P"
_ACK = rb"\$JS\.ACK\.\S+"


class JetStreamClient(Wire):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._created: list[str] = []

    def place(self) -> str:
        name = fresh_name()
        self.request(f"$JS.API.STREAM.CREATE.{name}", _stream(name))
        return name

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        requests = [(f"benchmark.{places[i % len(places)]}", text) for i, text in enumerate(texts)]
        return self.frames(requests, window, b'{"stream":"', ordered=len(places) == 1)

    def creations(self, count: int, window: int) -> Frames:
        self._created = [fresh_name() for _ in range(count)]
        requests = [(f"$JS.API.STREAM.CREATE.{name}", compact(_stream(name))) for name in self._created]
        return self.frames(requests, window, b'"did_create":true', ordered=False)

    def created(self, replies: bytes) -> list[str]:
        return self._created

    def reader(self, place: str) -> "JetStreamClient":
        """What an ordered consumer is, without its flow control, which costs something."""
        subject = f"deliver.{place}"
        self.subscribe(subject, next(self.sids))
        config = {"deliver_subject": subject, "ack_policy": "none", "deliver_policy": "all", "mem_storage": True}
        body = {"stream_name": place, "config": config}
        self.sock.sendall(pub(f"$JS.API.CONSUMER.CREATE.{place}", compact(body), f"{self.inbox}.0"))
        return self

    def ready(self) -> None:
        """(while a consumer is being made, nats-server now and then forgets to send it a message that comes)"""
        self.message()

    def ask(self) -> None:
        """Everything comes by itself."""

    def consumer(self, place: str) -> None:
        """The consumer that pulls share."""
        config = {"durable_name": _CONSUMER, "ack_policy": "explicit", "deliver_policy": "all"}
        body = {"stream_name": place, "config": config}
        self.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{place}.{_CONSUMER}", body)

    def batches(self, place: str, size: int) -> Iterator[int]:
        self.consumer(place)
        fetch = _next(self, place, size)
        while True:
            self.sock.sendall(fetch)
            subjects = re.findall(_ACK, self.until(PAYLOAD_END, size))
            acks = [b"PUB %b 4\r\n+ACK\r\n" % subject for subject in subjects]
            acks[-1] = pub(subjects[-1].decode(), b"+ACK", f"{self.inbox}.1")
            self.sock.sendall(b"".join(acks))
            self.message()
            yield len(subjects)


class Pulling:
    """A member that pulls, each time with the acknowledgements of what it pulled before."""

    def __init__(self, client: JetStreamClient, place: str, size: int) -> None:
        self._next = _next(client, place, size)
        self._size = self._missing = size
        self._rest = b""

    def start(self) -> bytes:
        return self._next

    def take(self, data: bytes) -> tuple[int, bytes]:
        data = self._rest + data
        cut = data.rfind(PAYLOAD_END) + len(PAYLOAD_END) if PAYLOAD_END in data else 0
        data, self._rest = data[:cut], data[cut:]
        subjects = re.findall(_ACK, data)
        answer = b"".join([b"PUB %b 4\r\n+ACK\r\n" % subject for subject in subjects])
        self._missing -= len(subjects)
        if not self._missing:
            self._missing = self._size
            answer += self._next
        return len(subjects), answer


class CoreClient(Wire):
    """Core publish and subscribe: nothing is stored, and no send is answered."""

    def place(self) -> str:
        return fresh_name()

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        frames = [pub(f"benchmark.{places[i % len(places)]}", text) for i, text in enumerate(texts)]
        return Frames(frames, window, _unanswered)

    def reader(self, place: str) -> "CoreClient":
        self.listen([place])
        return self

    def listen(self, places: Sequence[str]) -> None:
        """Subscribes to them all, too."""
        for place in places:
            self.subscribe(f"benchmark.{place}", next(self.sids))
        self.flush()

    def ready(self) -> None:
        """It is: `listen` waited."""

    def ask(self) -> None:
        """Everything comes by itself."""


def _unanswered() -> Answers:
    raise WireError("core publishes are not answered")


def _next(client: Wire, place: str, size: int) -> bytes:
    body = compact({"batch": size, "expires": 5_000_000_000})
    return pub(f"$JS.API.CONSUMER.MSG.NEXT.{place}.{_CONSUMER}", body, f"{client.inbox}.0")


def _stream(name: str) -> dict[str, object]:
    return {"name": name, "subjects": [f"benchmark.{name}"], "storage": "file"}


def jetstream(server: Server) -> Target:
    return Target(server, JetStreamClient, creations=1_500, most_places=10_000)


def core(server: Server) -> Target:
    """The same server without storing."""
    bare = copy(server)
    bare.name = "nats core"
    return Target(bare, CoreClient, answers=False)
