"""WebSocket, for browsers and for whom only HTTP reaches: frames (RFC 6455) around the bytes of a connection.

The framing is the `websockets` package's; here are the two faces around it: to the socket an asyncio protocol, to the
connection inside a transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any, cast

from websockets.exceptions import InvalidOrigin
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin

_log = logging.getLogger(__name__)
# at its debug level the package shows what frames hold, which may be a private address
_quiet = logging.getLogger(f"{__name__}.frames")
_quiet.setLevel(logging.ERROR)

#: For the request, whatever pace it arrives at.
HANDSHAKE_SECONDS = 5
_GOODBYE_SECONDS = 1
#: What one turn of the loop hands on of one connection, and the frames it looks at (more or less): compressed commands
#: are a thousand times what arrived, and a chunk can be nothing but heads of frames.
_TURN = 262_144
_FRAMES = 1000
_PIECE = 4096
#: The writes that are compressed: small ones don't shrink, and one that large holds everybody up for milliseconds.
_COMPRESSED = range(256, 2**21)
# Every message by itself: a window kept per connection would be 300 KB of each. Level 1 is twice as fast as the
# default and as small, give or take a hundredth.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"level": 1}
)

_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_NO_REQUEST = (
    "This port takes WebSocket connections, to ws:// or wss:// URLs; those to nats:// or tls:// URLs belong to the "
    "broker's main port."
)
_STRANGER = (
    "Web pages of {origin} may not connect to this broker: to let them, its operator adds that origin to the setting "
    "ws_origins."
)
_HASTY = "Data came before the handshake was complete: wait for the answer to the request."


class WebSocket(asyncio.Protocol, asyncio.Transport):
    """One client's WebSocket. `inner` gets connection_made when the handshake is complete, and this as its transport.

    `origins` are the web pages that may connect ("*": any); without an Origin header, anybody may. A message of the
    client is at most `max_message` bytes, uncompressed too. It is among the `arriving` while its handshake lasts. None
    of the methods raises.
    """

    def __init__(
        self, inner: asyncio.Protocol, origins: tuple[str, ...], max_message: int, arriving: set[object]
    ) -> None:
        super().__init__()
        self._arriving = arriving
        self._inner = inner
        self._protocol = ServerProtocol(
            origins=None if "*" in origins else [*map(Origin, origins), None],
            extensions=[_DEFLATE],
            max_size=max_message,
            logger=_quiet,
        )
        self._transport: asyncio.Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._greeted = False
        self._leaving = False
        # what arrived and is not unframed yet; what is unframed and not handed on yet
        self._pieces: deque[bytes] = deque()
        self._data = b""
        self._next: asyncio.Handle | None = None
        self._held = False
        self._reading = True
        self._full = False
        self._pong = b""

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._arriving.add(self)
        self._alarm = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        self._pieces.extend(data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
        if self._next is None:
            self._go_on()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._greeted else False

    def pause_writing(self) -> None:
        self._full = True
        if self._greeted:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        pong, self._pong = self._pong, b""
        if pong and self._transport is not None and not self._leaving:
            self._transport.write(pong)
        if self._greeted:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._leaving = True
        self._arriving.discard(self)
        self._drop()
        # (it refers to its generator, and that to it: they would stay until Python looks for garbage, hours later)
        self._protocol.parser.close()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._greeted:
            self._inner.connection_lost(exc)

    # what the connection calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send one binary frame."""
        protocol = self._protocol
        if self._transport is None or self.is_closing() or protocol.state is not State.OPEN:
            return
        try:
            if protocol.extensions and len(data) in _COMPRESSED:
                protocol.send_binary(data)
                frames = b"".join(protocol.data_to_send())
            else:
                frames = Frame(Opcode.BINARY, data).serialize(mask=False)
            self._transport.write(frames)
        except Exception:
            self._broken()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=high, low=low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default) if self._transport is not None else default

    def pause_reading(self) -> None:
        self._held = True
        self._read(False)

    def resume_reading(self) -> None:
        self._held = False
        self._go_on_later()

    def is_closing(self) -> bool:
        return self._leaving or self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Say goodbye and let the client hang up; what it still sends is not looked at. How long to wait is the
        caller's affair: `abort` ends it."""
        if self._transport is None or self.is_closing():
            return
        if self._protocol.state is not State.OPEN:
            self._leave(b"".join(self._protocol.data_to_send()))
            return
        self._leaving = True
        self._protocol.send_close(CloseCode.GOING_AWAY)
        self._transport.write(b"".join(self._protocol.data_to_send()))
        # what waits is unframed, to find the client's goodbye behind it, and dropped
        self._data = b""
        self.resume_reading()

    def abort(self) -> None:
        self._leaving = True
        if self._transport is not None:
            self._transport.abort()

    # the handshake

    def _greet(self) -> None:
        """Answer the request when it is whole."""
        protocol = self._protocol
        protocol.receive_data(self._pieces.popleft())
        events = protocol.events_received()
        if not events:
            if protocol.handshake_exc is not None:
                # (the package answers what is too long, but not what is no HTTP)
                self._leave(b"".join(protocol.data_to_send()) or self._refusal(HTTPStatus.BAD_REQUEST, _NO_REQUEST))
            return
        request = cast(Request, events[0])
        response = protocol.accept(request)
        if isinstance(protocol.handshake_exc, InvalidOrigin):
            origin = request.headers["Origin"]
            _log.info("a web page of %.200s is refused: ws_origins does not have it", origin)
            self._leave(self._refusal(HTTPStatus.FORBIDDEN, _STRANGER.format(origin=origin)))
        elif len(events) > 1 or protocol.eof_sent:
            self._leave(self._refusal(HTTPStatus.BAD_REQUEST, _HASTY))
        elif response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._leave(response.serialize())
        elif self._transport is not None:
            if self._alarm is not None:
                self._alarm.cancel()
            protocol.send_response(response)
            self._transport.write(b"".join(protocol.data_to_send()))
            self._greeted = True
            self._arriving.discard(self)
            self._inner.connection_made(self)

    def _refusal(self, status: HTTPStatus, text: str) -> bytes:
        return self._protocol.reject(status, text + "\n").serialize()

    def _too_slow(self) -> None:
        text = f"No WebSocket handshake within {HANDSHAKE_SECONDS} seconds. {_NO_REQUEST}"
        self._leave(self._refusal(HTTPStatus.REQUEST_TIMEOUT, text))

    # frames

    def _go_on(self) -> None:
        self._next = None
        try:
            while self._pieces and not self._greeted and not self.is_closing():
                self._greet()
            if self._greeted:
                self._hand_on()
        except Exception:
            self._broken()

    def _go_on_later(self) -> None:
        if self._next is None and self._transport is not None:
            self._next = asyncio.get_running_loop().call_soon(self._go_on)

    def _hand_on(self) -> None:
        """Unframe what arrived and hand it on, a turn's worth; reading rests until nothing waits."""
        protocol = self._protocol
        if self._held:
            return
        seen = 0
        while self._pieces and len(self._data) < _TURN and seen < _FRAMES:
            protocol.receive_data(self._pieces.popleft())
            frames = cast(list[Frame], protocol.events_received())
            seen += len(frames)
            if not self._leaving:
                self._data += b"".join([frame.data for frame in frames if frame.opcode in _DATA])
        if self._data:
            data, self._data = self._data[:_TURN], self._data[_TURN:]
            self._inner.data_received(data)
        if self._data or self._pieces:
            self._read(False)
            if not self._held:
                self._go_on_later()
            return
        if protocol.eof_sent:
            self._leave(b"".join(protocol.data_to_send()))
        elif not self._leaving:
            self._answer_pings()
        self._read(not self._held)

    def _answer_pings(self) -> None:
        """What the package wants to say by itself while the connection is open: PONGs. The newest one answers all,
        so a client that does not read has one waiting and not a heap of them."""
        pongs = self._protocol.data_to_send()
        if not pongs or self._transport is None:
            return
        if self._full:
            self._pong = pongs[-1]
        else:
            self._transport.write(b"".join(pongs))

    def _read(self, on: bool) -> None:
        if on is not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # the end

    def _drop(self) -> None:
        self._pieces.clear()
        self._data = b""
        self._held = False

    def _leave(self, last_words: bytes = b"") -> None:
        """Hang up when this is written, or when the client does not take it in time."""
        self._leaving = True
        self._drop()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._transport is not None:
            if not self._transport.is_closing():
                self._transport.write(last_words)
                self._transport.close()
            self._alarm = asyncio.get_running_loop().call_later(_GOODBYE_SECONDS, self.abort)

    def _broken(self) -> None:
        # a defect of ours: this client loses its connection, everybody else goes on
        _log.exception("a WebSocket hit a defect, its connection is closed")
        self.abort()
