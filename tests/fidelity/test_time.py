"""What happens to clients that say nothing: pings, stale connections, and who takes too long to log in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from e2e.harness import Wire
from fidelity.servers import StartServer

OpenWire = Callable[..., Wire]
pytestmark = pytest.mark.anyio


class Silent:
    """A connection, and the lines it was told in `seconds`: "" at the end is the end of the connection."""

    def __init__(self, port: int, greeting: bytes = b"", answers: bytes = b"", chatter: bytes = b"") -> None:
        self.port = port
        self.greeting = greeting
        self.answers = answers
        self.chatter = chatter

    async def listen(self, seconds: float) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert (await reader.readline()).startswith(b"INFO ")
        writer.write(self.greeting)
        said: list[str] = []
        talking = asyncio.create_task(self._talk(writer)) if self.chatter else None
        try:
            async with asyncio.timeout(seconds):
                while not said or said[-1]:
                    line = (await reader.readline()).decode().removesuffix("\r\n")
                    said.append(line)
                    if line == "PING":
                        writer.write(self.answers)
        except TimeoutError:
            pass
        finally:
            if talking is not None:
                talking.cancel()
            writer.close()
        return said

    async def _talk(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(self.chatter)
            await asyncio.sleep(0.25)


QUIET = b'CONNECT {"verbose":false}\r\n'


async def test_who_does_not_answer_is_stale(start: StartServer) -> None:
    """All of these at once, with a ping each second and two that may be out."""
    port = start(ping_interval=1, max_pings_out=2).port
    stale = ["PING", "PING", "-ERR 'Stale Connection'", ""]
    found = await asyncio.gather(
        Silent(port, QUIET).listen(6),
        Silent(port).listen(6),
        Silent(port, QUIET + b"PUB f 5\r\nhe").listen(6),
        Silent(port, QUIET, answers=b"PONG\r\n").listen(4.5),
        Silent(port, QUIET, answers=b"+OK\r\n").listen(6),
        Silent(port, QUIET, chatter=b"PUB f 1\r\nx\r\n").listen(4),
        Silent(port, QUIET, chatter=b"SUB g 1\r\n").listen(4),
        Silent(port, QUIET, chatter=b"PING\r\n").listen(4),
        Silent(port, QUIET, chatter=b"PONG\r\n").listen(4.5),
    )
    silent, before_connect, mid_frame, answering, ok, publishing, subscribing, pinging, ponging = found
    assert silent == before_connect == mid_frame == ok == stale
    assert answering in (3 * ["PING"], 4 * ["PING"])
    # who is heard of is asked once, for the time that a round trip takes; a PONG is only an answer
    assert publishing == subscribing == ["PING"]
    assert Counter(pinging)["PING"] == 1
    assert ponging in (3 * ["PING"], 4 * ["PING"])


async def test_one_ping_may_be_out(start: StartServer) -> None:
    port = start(ping_interval=1, max_pings_out=1).port
    assert await Silent(port, QUIET).listen(5) == ["PING", "-ERR 'Stale Connection'", ""]


async def test_the_first_ping_comes_after_two_seconds(shared: StartServer, kind: str) -> None:
    port = shared(kind).port
    early, late = await asyncio.gather(Silent(port, QUIET).listen(1.8), Silent(port, QUIET).listen(3.5))
    assert (early, late) == ([], ["PING"])


async def test_who_does_not_log_in_is_closed(shared: StartServer, kind: str) -> None:
    port = shared(kind, token="sesame", auth_timeout=1).port
    closed = ["-ERR 'Authentication Timeout'", ""]
    token = b'CONNECT {"verbose":false,"auth_token":"sesame"}\r\n'
    found = await asyncio.gather(
        Silent(port).listen(3),
        Silent(port, b'CONNECT {"auth_token":"ses').listen(3),
        Silent(port, token).listen(1.6),
    )
    assert found == [closed, closed, []]
