"""Redis Streams as a target: RESP by hand. A place is a key; a group reads with XREADGROUP and XACK."""

import re
from collections.abc import Iterator, Sequence
from itertools import count

from benchmarks.link import Link, WireError
from benchmarks.load import PAYLOAD_END, Frames
from benchmarks.servers import Server
from benchmarks.targets import Target, fresh_name

_GROUP = "benchmark"
_AT_ONCE = 1000
#: An entry's id as it stands before its fields.
_ID = re.compile(rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*2\r\n")
#: What stands before the entries of a key that was read, with their number.
_HEAD = re.compile(rb"\*1\r\n\*2\r\n\$\d+\r\n[^\r]*\r\n\*(\d+)\r\n")


def command(*words: str | bytes | int) -> bytes:
    """A command as bytes."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class RedisClient(Link):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._created: list[str] = []

    def run(self, *words: str | bytes | int) -> bytes:
        """The answer to a command whose answer is one line."""
        self.sock.sendall(command(*words))
        answer = self.receive()
        while not answer.endswith(b"\r\n"):
            answer += self.receive()
        if answer.startswith(b"-"):
            raise WireError(f"{words[0]!r}: {answer.decode()}")
        return answer

    def flush(self) -> None:
        self.run("PING")

    def place(self) -> str:
        """(the first entry makes the key; the group is there before it)"""
        name = fresh_name()
        self.run("XGROUP", "CREATE", name, _GROUP, "0", "MKSTREAM")
        return name

    def sends(self, places: Sequence[str], texts: Sequence[bytes], window: int) -> Frames:
        frames = [command("XADD", places[i % len(places)], "*", "m", text) for i, text in enumerate(texts)]
        return Frames(frames, window, lambda: _Answers(2))

    def creations(self, count: int, window: int) -> Frames:
        self._created = [fresh_name() for _ in range(count)]
        frames = [command("XGROUP", "CREATE", name, _GROUP, "0", "MKSTREAM") for name in self._created]
        return Frames(frames, window, lambda: _Answers(1))

    def created(self, replies: bytes) -> list[str]:
        return self._created

    def reader(self, place: str) -> "_Reader":
        return _Reader(self, place)

    def batches(self, place: str, size: int) -> Iterator[int]:
        read = command("XREADGROUP", "GROUP", _GROUP, "one", "COUNT", size, "BLOCK", 5000, "STREAMS", place, ">")
        while True:
            self.sock.sendall(read)
            answer = self.receive()
            while (got := answer.count(PAYLOAD_END)) < size:
                answer += self.receive()
            self.run("XACK", place, _GROUP, *_ID.findall(answer))
            yield got


class _Reader:
    def __init__(self, client: RedisClient, place: str) -> None:
        self._client, self._place = client, place
        self._last = b"0"
        self._asked = False

    def ready(self) -> None:
        """It reads on where it stopped."""

    def ask(self) -> None:
        if not self._asked:
            words = ("XREAD", "COUNT", _AT_ONCE, "BLOCK", 20_000, "STREAMS", self._place, self._last)
            self._client.sock.sendall(command(*words))
            self._asked = True

    def receive(self) -> bytes:
        """One whole answer."""
        self.ask()
        answer = self._client.receive()
        while not (head := _HEAD.match(answer)):
            answer += self._client.receive()
        pieces, missing, tail = [answer], int(head[1]) - answer.count(PAYLOAD_END), answer[-2:]
        while missing:
            pieces.append(data := tail + self._client.receive())
            missing -= data.count(PAYLOAD_END)
            tail, pieces[-1] = data[-2:], data[len(tail) :]
        answer = b"".join(pieces)
        dash = answer.rfind(b"-")  # of the last id: payloads have none
        self._last = answer[answer.rfind(b"\n", 0, dash) + 1 : answer.find(b"\r", dash)]
        self._asked = False
        return answer


class ReadingGroup:
    """A member that reads, each time with the acknowledgements of what it read before."""

    _serial = count(1)

    def __init__(self, client: RedisClient, place: str, size: int) -> None:
        self._place, self._size = place, size
        self._name = f"member{next(self._serial)}"
        self._rest = b""

    def start(self) -> bytes:
        return command(
            "XREADGROUP", "GROUP", _GROUP, self._name, "COUNT", self._size, "BLOCK", 5000, "STREAMS", self._place, ">"
        )

    def take(self, data: bytes) -> tuple[int, bytes]:
        self._rest += data
        ids = _ID.findall(self._rest)
        # (an XACK's answer came before; an id without its payload is not whole)
        if len(ids) < self._size or self._rest.count(PAYLOAD_END) < self._size:
            return 0, b""
        self._rest = b""
        return len(ids), command("XACK", self._place, _GROUP, *ids) + self.start()


class _Answers:
    """Replies of `lines` lines each. (Redis answers in order, by its protocol.)"""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._rest = b""

    def take(self, data: bytes) -> int:
        data = self._rest + data
        cut = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
        if data.startswith(b"-") or b"\r\n-" in data:
            raise WireError(data[:300].decode(errors="replace"))
        found, odd = divmod(data.count(b"\r\n"), self._lines)
        if odd:
            cut = data.rfind(b"\r\n", 0, cut - 2) + 2 if found else 0
        self._rest = data[cut:]
        return found


def redis(server: Server) -> Target:
    return Target(server, RedisClient, creations=30_000, most_places=1_000_000)
