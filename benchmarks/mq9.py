"""The broker as a target."""

import re
from collections.abc import Iterator, Sequence

from benchmarks.load import PAYLOAD_END, Frames
from benchmarks.servers import Server
from benchmarks.targets import Target
from benchmarks.wire import Wire, compact, pub

STORED = b'{"error":"","msg_id":'
GROUP = "benchmark"


class Mq9Client(Wire):
    def place(self, **settings: object) -> str:
        address: str = self.request("$mq9.AI.MAILBOX.CREATE", settings)["mail_id"]
        return address

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        requests = [(f"$mq9.AI.INBOX.{places[i % len(places)]}", text) for i, text in enumerate(texts)]
        return self.frames(requests, window, STORED)

    def creations(self, count: int, window: int) -> Frames:
        requests = [("$mq9.AI.MAILBOX.CREATE", b"")] * count
        return self.frames(requests, window, b'"is_new":true', ordered=False)

    def created(self, replies: bytes) -> list[str]:
        return [found.decode() for found in re.findall(rb'"mail_id":"(m-[a-z2-7]+)"', replies)]

    def reader(self, place: str) -> "Mq9Client":
        self.subscribe(f"$mq9.AI.INBOX.{place}", next(self.sids))
        return self

    def listen(self, places: Sequence[str]) -> None:
        """Subscribes to them all, too."""
        for place in places:
            self.subscribe(f"$mq9.AI.INBOX.{place}", next(self.sids))
        self.flush()

    def ready(self) -> None:
        self.flush()

    def ask(self) -> None:
        """Everything comes by itself."""

    def fetches(self, places: Sequence[str], window: int, size: int = 100) -> Frames:
        """Reads without a group, of up to `size` messages each, one after the other of the places."""
        body = compact({"config": {"num_msgs": size, "max_wait_ms": 0}})
        requests = [(f"$mq9.AI.MSG.FETCH.{place}", body) for place in places]
        return self.frames(requests, window, b'{"error":"","messages":[{', ordered=False)

    def batches(self, place: str, size: int) -> Iterator[int]:
        body = {"group_name": GROUP, "config": {"num_msgs": size, "max_wait_ms": 0}}
        fetch = pub(f"$mq9.AI.MSG.FETCH.{place}", compact(body), f"{self.inbox}.0")
        while True:
            self.sock.sendall(fetch)
            numbers = re.findall(rb'"msg_id":(\d+)', self.message().payload)
            if numbers:
                self.request(f"$mq9.AI.MSG.ACK.{place}", {"group_name": GROUP, "msg_ids": [*map(int, numbers)]})
            yield len(numbers)


class Fetching:
    """A member that fetches, each time with the acknowledgements of what it fetched before."""

    def __init__(self, client: Mq9Client, place: str, size: int) -> None:
        self._reply = f"{client.inbox}.0"
        self._subject = f"$mq9.AI.MSG.FETCH.{place}"
        self._config = {"num_msgs": size, "max_wait_ms": 5000}
        self._rest = b""

    def start(self) -> bytes:
        return self._fetch([])

    def take(self, data: bytes) -> tuple[int, bytes]:
        self._rest += data
        line, _, reply = self._rest.partition(b"\r\n")
        if not reply or len(reply) < int(line.rsplit(b" ", 1)[1]) + 2:
            return 0, b""
        self._rest = b""
        numbers = re.findall(rb'"msg_id":(\d+)', reply)
        return len(numbers), self._fetch([*map(int, numbers)])

    def _fetch(self, done: list[int]) -> bytes:
        body = {"group_name": GROUP, "ack": done, "config": self._config}
        return pub(self._subject, compact(body), self._reply)


class Subscribed:
    """A member of a queue group, of a mailbox with acknowledgements or without."""

    def __init__(self, client: Mq9Client, place: str, size: int) -> None:
        self._subject = f"$mq9.AI.INBOX.{place}"
        self._rest = b""

    def start(self) -> bytes:
        return b"SUB %b %b 2\r\n" % (self._subject.encode(), GROUP.encode())

    def take(self, data: bytes) -> tuple[int, bytes]:
        data = self._rest + data
        cut = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
        data, self._rest = data[:cut], data[cut:]
        acks = re.findall(rb"\$mq9\.AI\.ACK\.[0-9a-zA-Z]+", data)
        answer = b"".join([b"PUB %b 0\r\n\r\n" % subject for subject in acks])
        if b"PING\r\n" in data:
            answer += b"PONG\r\n" * data.count(b"PING\r\n")
        return data.count(PAYLOAD_END), answer


def mq9(server: Server) -> Target:
    return Target(server, Mq9Client, creations=30_000, most_places=1_000_000)
