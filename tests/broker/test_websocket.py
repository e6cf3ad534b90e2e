"""WebSocket's shell between a socket that tests drive and a connection that notes what it is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mq9_broker import websocket
from mq9_broker.websocket import WebSocket

pytestmark = pytest.mark.anyio

MAX = 65_536
REQUEST = (
    b"GET /anything HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class Inner(asyncio.Protocol):
    """Notes what it is told; says hello as soon as it can."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = b""
        self.chunks: list[int] = []
        self.events: list[str] = []
        self.on_data: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = transport
        self.transport.write(b"INFO {}\r\n")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data
        self.chunks.append(len(data))
        self.on_data()

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")


class Socket(asyncio.Transport):
    """Stands in for a socket. `kept` bytes are said to wait in its buffer; stalled, it does not end by itself."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.7", 4711)})
        self.protocol: WebSocket
        self.written = b""
        self.reading = True
        self.closing = self.aborted = self.gone = self.stalled = False
        self.kept = 0
        self.limits: tuple[int | None, int | None] = None, None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written to after close"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.kept

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = high, low

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading, "resumed twice"
        self.reading = True

    def close(self) -> None:
        self.closing = True
        if not self.stalled:
            self._end()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._end()

    def _end(self) -> None:
        if not self.gone:
            self.gone = True
            self.protocol.connection_lost(None)


class Client:
    """A WebSocket and its client, which hears nothing before `listen`."""

    def __init__(self, *origins: str, max_message: int = MAX, compressed: bool = False, step: int = 0) -> None:
        self.inner, self.socket = Inner(), Socket()
        self.shell = self.socket.protocol = WebSocket(self.inner, origins, max_message, set())
        self.step = step
        self.shell.connection_made(self.socket)
        extensions = [ClientPerMessageDeflateFactory()] if compressed else None
        self.protocol = ClientProtocol(parse_uri("ws://broker.example/"), extensions=extensions)

    def receive(self, data: bytes) -> None:
        """The socket hears this, in chunks of `step` bytes (0: in one)."""
        for at in range(0, len(data), self.step or len(data) or 1):
            self.shell.data_received(data[at : at + (self.step or len(data))])

    def listen(self) -> list[tuple[Opcode, bytes]]:
        """The frames that came since the last look."""
        self.hear()
        return [(e.opcode, bytes(e.data)) for e in self.protocol.events_received() if isinstance(e, Frame)]

    def hear(self) -> None:
        data, self.socket.written = self.socket.written, b""
        if data:
            self.protocol.receive_data(data)

    def say(self) -> None:
        """Send what the client's side of the protocol wants to send."""
        self.receive(b"".join(self.protocol.data_to_send()))

    def open(self, origin: str = "") -> Client:
        request = self.protocol.connect()
        if origin:
            request.headers["Origin"] = origin
        self.protocol.send_request(request)
        self.say()
        if self.inner.events:
            self.hear()
        return self

    def send(self, data: bytes) -> None:
        self.protocol.send_binary(data)
        self.say()


@pytest.fixture(params=[0, 1], ids=["whole", "byte by byte"])
def step(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def refused(client: Client) -> tuple[int, str]:
    """Status and text of the answer to a request, after which the socket is closed and nobody was told."""
    assert client.socket.closing
    assert client.inner.events == []
    head, _, body = client.socket.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head[9:12]), body.decode()


async def rest(client: Client) -> None:
    """Until the loop has nothing queued that is the shell's."""
    while client.shell._next is not None:
        await asyncio.sleep(0)


# the handshake


async def test_the_connection_begins_when_the_handshake_is_complete(step: int) -> None:
    client = Client(step=step)
    client.receive(REQUEST)
    assert client.inner.events == []
    client.receive(b"\r\n")
    assert client.inner.events == ["made"]
    assert client.inner.transport is client.shell
    head, _, rest = client.socket.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"Extensions" not in head
    assert rest == b"\x82\x09INFO {}\r\n"


async def test_the_transport_is_the_sockets() -> None:
    client = Client().open()
    assert client.shell.get_extra_info("peername") == ("192.0.2.7", 4711)
    client.shell.set_write_buffer_limits(high=10, low=5)
    assert client.socket.limits == (10, 5)
    client.socket.kept = 17
    assert client.shell.get_write_buffer_size() == 17
    client.socket.abort()
    assert client.shell.get_write_buffer_size() == 0
    assert client.shell.is_closing()


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "WebSocket"),
        (REQUEST.replace(b"keep-alive, Upgrade", b"close") + b"\r\n", 426, "Connection"),
        (REQUEST.replace(b"GET", b"POST") + b"\r\n", 405, "POST"),
        (REQUEST.replace(b"1.1", b"1.0") + b"\r\n", 505, "HTTP/1.0"),
        (REQUEST.replace(b"Version: 13", b"Version: 8") + b"\r\n", 400, "Sec-WebSocket-Version"),
        (REQUEST.replace(b"dGhlI", b"***") + b"\r\n", 400, "Sec-WebSocket-Key"),
        (REQUEST.replace(b"Sec-WebSocket-Key", b"X") + b"\r\n", 400, "Sec-WebSocket-Key"),
        (REQUEST + b"Sec-WebSocket-Extensions: =;\r\n\r\n", 400, "Sec-WebSocket-Extensions"),
        (REQUEST + b"Content-Length: 5\r\n\r\nhello", 400, "ws://"),
        (b'CONNECT {"verbose":false}\r\nPING\r\n', 400, "nats://"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400, "wss://"),
        (b"\n", 400, "ws://"),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n", 414, "bytes"),
        (REQUEST + b"X: " + b"a" * 10_000 + b"\r\n\r\n", 431, "bytes"),
        (REQUEST + b"".join(b"X%d: 1\r\n" % n for n in range(500)) + b"\r\n", 431, "headers"),
    ],
)
async def test_other_requests_are_answered_in_http(step: int, request_: bytes, status: int, word: str) -> None:
    client = Client(step=step)
    client.receive(request_)
    found, text = refused(client)
    assert found == status, text
    assert word in text
    assert text.endswith("\n")


async def test_frames_before_the_answer_are_refused() -> None:
    early = Frame(Opcode.BINARY, b"PING\r\n").serialize(mask=True)
    for frames in (
        early,
        Frame(Opcode.PING, b"").serialize(mask=True),
        Frame(Opcode.BINARY, b"x").serialize(mask=False),
    ):
        client = Client()
        client.receive(REQUEST + b"\r\n" + frames)
        status, text = refused(client)
        assert status == 400
        assert "before the handshake was complete" in text


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ((), "", 101),
        ((), "https://page.example", 403),
        (("https://app.example",), "", 101),
        (("https://app.example",), "https://app.example", 101),
        (("https://other.example", "https://app.example"), "https://app.example", 101),
        (("https://app.example",), "http://app.example", 403),
        (("https://app.example",), "https://app.example:444", 403),
        (("https://app.example",), "https://app.example.evil.example", 403),
        (("https://app.example",), "null", 403),
        (("*",), "https://page.example", 101),
        (("*",), "null", 101),
    ],
)
async def test_a_web_page_may_connect_when_its_origin_is_listed(
    origins: tuple[str, ...], origin: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = Client(*origins).open(origin)
    if status == 101:
        assert client.inner.events == ["made"]
        return
    found, text = refused(client)
    assert found == 403
    assert f"Web pages of {origin} may not connect" in text
    assert f"a web page of {origin} is refused" in caplog.text
    assert "ws_origins" in text


async def test_two_origins_are_no_origin() -> None:
    client = Client("https://app.example")
    client.receive(REQUEST + b"Origin: https://app.example\r\nOrigin: https://evil.example\r\n\r\n")
    assert refused(client)[0] == 400


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("sent", [b"", REQUEST], ids=["silent", "half a request"])
async def test_who_does_not_finish_the_handshake_is_told_and_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 0.001)
    client = Client()
    client.receive(sent)
    await until(lambda: client.socket.gone)
    status, text = refused(client)
    assert status == 408
    assert "nats://" in text


async def test_the_time_for_the_handshake_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_SECONDS", 0.001)
    client, witness = Client().open(), Client()
    await until(lambda: witness.socket.gone)
    assert not client.socket.closing


async def test_a_socket_that_ends_in_the_handshake_bothers_nobody(step: int) -> None:
    client = Client(step=step)
    client.receive(REQUEST)
    assert client.shell.eof_received() is False
    client.shell.pause_writing()
    client.shell.resume_writing()
    client.socket.abort()
    assert client.inner.events == []


# what the client sends


@pytest.mark.parametrize("compressed", [False, True])
async def test_frames_become_the_bytes_they_hold(step: int, compressed: bool) -> None:
    client = Client(step=step, compressed=compressed).open()
    assert client.listen() == [(Opcode.BINARY, b"INFO {}\r\n")]
    assert bool(client.protocol.extensions) is compressed
    protocol, expected = client.protocol, b""
    for data in (b"", b"a", b"b" * 125, b"c" * 126, os.urandom(5000), b"d" * MAX):
        protocol.send_binary(data)
        protocol.send_text(b"PUB \xff\xfe 0\r\n")
        expected += data + b"PUB \xff\xfe 0\r\n"
    protocol.send_binary(b"SUB fo", fin=False)
    protocol.send_ping(b"still there?")
    protocol.send_continuation(b"", fin=False)
    protocol.send_continuation(b"o 1\r\n", fin=True)
    protocol.send_pong(b"unasked")
    client.say()
    await rest(client)
    assert client.inner.data == expected + b"SUB foo 1\r\n"
    assert client.listen() == [(Opcode.PONG, b"still there?")]
    assert client.socket.reading


async def test_a_chunk_is_handed_on_in_one_piece() -> None:
    client = Client().open()
    for _ in range(100):
        client.protocol.send_binary(b"PUB a 1\r\nb\r\n")
    client.say()
    assert client.inner.chunks == [1200]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (Frame(Opcode.BINARY, b"PING\r\n").serialize(mask=False), 1002),
        (b"\xf2\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (Frame(Opcode.CONT, b"x").serialize(mask=True), 1002),
        (b"\x09\x80\0\0\0\0", 1002),
        (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),
        (b"\x88\x81\0\0\0\0x", 1002),
        (Frame(Opcode.BINARY, bytes(MAX + 1)).serialize(mask=True), 1009),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", 1009),
        (
            Frame(Opcode.BINARY, bytes(MAX), fin=False).serialize(mask=True)
            + Frame(Opcode.CONT, b"x").serialize(mask=True),
            1009,
        ),
    ],
)
async def test_a_broken_frame_ends_the_connection(step: int, frames: bytes, code: int) -> None:
    client = Client(step=step).open()
    client.listen()
    client.send(b"PUB a 0\r\n\r\n")
    client.receive(frames)
    await rest(client)
    assert client.inner.data.startswith(b"PUB a 0\r\n\r\n")
    assert client.inner.events == ["made", "lost"]
    assert client.socket.gone
    ((opcode, payload),) = client.listen()
    assert opcode is Opcode.CLOSE
    assert int.from_bytes(payload[:2]) == code


def compressed_frame(data: bytes) -> bytes:
    deflated = zlib.compressobj(9, wbits=-15)
    shrunk = (deflated.compress(data) + deflated.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return b"\xc2\xfe" + len(shrunk).to_bytes(2) + bytes(4) + shrunk


async def test_a_decompression_bomb_is_not_unpacked() -> None:
    client = Client(compressed=True, max_message=2**20).open()
    client.listen()
    client.receive(compressed_frame(bytes(2**20 + 1)))
    assert client.inner.data == b""
    ((opcode, payload),) = client.listen()
    assert (opcode, payload[:2]) == (Opcode.CLOSE, b"\x03\xf1")
    assert client.socket.gone


async def test_much_in_little_is_taken_turn_by_turn() -> None:
    """Compressed, a chunk can hold a thousand times its size: other clients get their turns in between."""
    client = Client(compressed=True, max_message=2**20).open()
    bomb = compressed_frame(b"PING\r\n" * 174_000)
    client.receive(bomb * 16)
    assert client.inner.chunks == [262_144]
    assert not client.socket.reading
    turns = 0
    while client.shell._next is not None:
        await asyncio.sleep(0)
        turns += 1
    assert len(client.inner.data) == 16 * 6 * 174_000
    assert turns >= len(client.inner.data) // 262_144
    assert max(client.inner.chunks) == 262_144
    assert client.socket.reading


async def test_many_small_frames_are_taken_turn_by_turn() -> None:
    client = Client().open()
    client.listen()
    client.receive(b"\x89\x80\0\0\0\0" * 40_000)
    assert not client.socket.reading
    turns = 0
    while client.shell._next is not None:
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20
    assert client.socket.reading
    assert client.listen() == [(Opcode.PONG, b"")] * 40_000


async def test_broken_compression_ends_the_connection() -> None:
    client = Client(compressed=True).open()
    client.listen()
    client.receive(b"\xc2\x84\0\0\0\0\xff\xff\xff\xff")
    ((opcode, payload),) = client.listen()
    assert (opcode, payload[:2]) == (Opcode.CLOSE, b"\x03\xea")
    assert client.inner.events == ["made", "lost"]


async def test_what_was_sent_before_a_goodbye_is_heard(step: int) -> None:
    client = Client(step=step).open()
    client.listen()
    client.protocol.send_binary(b"PUB a 0\r\n\r\n")
    client.protocol.send_close(1000, "enough")
    client.say()
    assert client.inner.data == b"PUB a 0\r\n\r\n"
    assert client.inner.events == ["made", "lost"]
    assert client.listen() == [(Opcode.CLOSE, b"\x03\xe8enough")]
    assert client.protocol.state is State.CLOSING


async def test_half_a_frame_and_an_abrupt_end() -> None:
    client = Client().open()
    client.receive(Frame(Opcode.BINARY, b"PUB a 0\r\n\r\n").serialize(mask=True)[:-1])
    assert client.inner.data == b""
    client.socket.abort()
    assert client.inner.events == ["made", "lost"]


ANY_FRAME = st.builds(
    lambda head, mask, payload: bytes([head, mask | len(payload)]) + bytes(4 if mask else 0) + payload,
    st.sampled_from([0x82, 0x82, 0x81, 0x02, 0x80, 0x00, 0x89, 0x8A, 0x88, 0xC2, 0x8B, 0xFF]),
    st.sampled_from([0x80, 0x80, 0x80, 0]),
    st.binary(max_size=125),
)


@given(parts=st.lists(ANY_FRAME | st.binary(max_size=20), max_size=6), cuts=st.lists(st.integers(0, 300), max_size=5))
async def test_any_bytes_in_any_chunks_do_no_harm(parts: list[bytes], cuts: list[int]) -> None:
    """What is heard does not depend on where chunks end, and nonsense ends the connection, if anything."""
    sent = b"".join(parts)
    heard = []
    for ends in ([], sorted(cuts)):
        client = Client(compressed=True).open()
        client.listen()
        begin = 0
        for end in [*ends, len(sent)]:
            client.receive(sent[begin:end])
            begin = end
        await rest(client)
        heard.append((client.inner.data, client.socket.gone, client.socket.aborted, client.socket.written))
        client.socket.abort()
    assert heard[0] == heard[1]
    assert not heard[0][2]


# what the connection sends


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("size", [1, 125, 126, 255, 256, 65_536, 2**20, 3 * 2**20])
async def test_a_write_is_one_binary_frame(size: int, compressed: bool) -> None:
    client = Client(compressed=compressed).open()
    client.protocol.max_message_size = None
    client.listen()
    data = (b"MSG a 1 1\r\nx\r\n" * (size // 14 + 1))[:size]
    client.shell.write(data)
    assert (len(client.socket.written) < size / 2) is (compressed and 256 <= size <= 2**20)
    assert client.listen() == [(Opcode.BINARY, data)]
    client.shell.write(data)
    assert client.listen() == [(Opcode.BINARY, data)]


async def test_nothing_raises_after_the_end() -> None:
    client = Client().open()
    client.socket.abort()
    client.shell.write(b"x")
    client.shell.close()
    client.shell.abort()
    client.shell.pause_reading()
    client.shell.resume_reading()
    client.shell.set_write_buffer_limits(high=1, low=0)
    assert client.shell.get_extra_info("peername") is None
    assert client.inner.events == ["made", "lost"]


async def test_a_client_that_is_gone_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is ServerProtocol for each in gc.get_objects())
        for _ in range(10):
            client = Client(compressed=True).open()
            client.send(b"x")
            client.socket.abort()
            vars(client.socket).clear()
            vars(client.inner).clear()
        del client
        assert sum(type(each) is ServerProtocol for each in gc.get_objects()) == before
    finally:
        gc.enable()


async def test_the_connections_goodbye_is_a_closing_handshake() -> None:
    client = Client().open()
    client.listen()
    client.shell.write(b"-ERR 'Stale Connection'\r\n")
    client.shell.close()
    assert client.shell.is_closing()
    client.shell.write(b"too late")
    client.shell.close()
    assert client.inner.events == ["made"]
    client.receive(Frame(Opcode.BINARY, b"PING\r\n").serialize(mask=True))
    client.receive(Frame(Opcode.PING, b"").serialize(mask=True))
    assert client.listen() == [(Opcode.BINARY, b"-ERR 'Stale Connection'\r\n"), (Opcode.CLOSE, b"\x03\xe9")]
    client.say()
    await rest(client)
    assert client.inner.data == b""
    assert client.inner.events == ["made", "lost"]
    assert not client.socket.aborted


async def test_a_goodbye_is_heard_while_nothing_else_is_read() -> None:
    client = Client().open()
    client.listen()
    client.shell.pause_reading()
    client.protocol.send_binary(bytes(10_000))
    (frame,) = client.protocol.data_to_send()
    client.receive(frame[:5000])
    client.shell.close()
    client.receive(frame[5000:])
    await rest(client)
    assert client.socket.reading
    assert client.inner.data == b""
    assert client.listen() == [(Opcode.CLOSE, b"\x03\xe9")]
    client.say()
    assert client.protocol.state is State.CLOSING
    assert client.listen() == []
    assert client.socket.gone


async def test_who_does_not_take_the_last_words_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_GOODBYE_SECONDS", 0.001)
    client = Client().open()
    client.socket.stalled = True
    client.receive(b"\x82\x01x")
    assert client.socket.closing
    assert not client.socket.gone
    await until(lambda: client.socket.aborted)
    assert client.inner.events == ["made", "lost"]


# flow


async def test_a_connection_that_wants_no_more_gets_no_more(step: int) -> None:
    client = Client(step=step).open()
    client.inner.on_data = client.shell.pause_reading
    client.send(b"first")
    await rest(client)
    held = client.inner.data
    assert held == b"first"
    assert not client.socket.reading
    client.send(b"second")  # was on its way
    await rest(client)
    assert client.inner.data == held
    client.inner.on_data = lambda: None
    client.shell.resume_reading()
    await rest(client)
    assert client.inner.data == b"firstsecond"
    assert client.socket.reading


async def test_a_full_socket_is_told_to_the_connection() -> None:
    client = Client().open()
    client.shell.pause_writing()
    client.shell.resume_writing()
    assert client.inner.events == ["made", "pause", "resume"]


async def test_pings_are_no_way_to_fill_memory() -> None:
    """While the socket is full the newest ping's answer waits, and answers for all."""
    client = Client().open()
    client.listen()
    client.shell.pause_writing()
    for number in range(1000):
        client.protocol.send_ping(b"%d" % number)
    client.say()
    assert client.listen() == []
    client.shell.resume_writing()
    assert client.listen() == [(Opcode.PONG, b"999")]
    client.shell.pause_writing()
    client.shell.resume_writing()
    assert client.listen() == []


# defects


async def test_a_defect_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    client = Client().open()
    client.inner.on_data = fail
    client.send(b"x")
    assert client.socket.aborted
    assert client.inner.events == ["made", "lost"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_write_that_fails_ends_its_own_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: object) -> None:
        raise MemoryError

    client = Client().open()
    monkeypatch.setattr(client.socket, "write", fail)
    client.shell.write(b"x")
    assert client.socket.aborted
    assert client.inner.events == ["made", "lost"]
    assert "MemoryError" in caplog.text


async def test_frames_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = Client(compressed=True).open()
    client.send(b"PUB $mq9.AI.MAILBOX.m-secret 0\r\n\r\n")
    client.shell.write(b"MSG m-secret 1 0\r\n\r\n")
    client.receive(b"\x82\x01x")
    assert client.socket.gone
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.client"]
    assert ours == []
