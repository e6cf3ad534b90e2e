"""The way to a broker through HTTP: WebSocket messages with the bytes of the protocol, cut anywhere."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING
from urllib.parse import ParseResult

from nats.aio.transport import Transport
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from mq9_mcp.endpoint import INFO_WITHIN, Endpoint

if TYPE_CHECKING:
    import ssl


class WebSocketLine(Transport):
    """A WebSocket to an endpoint, whatever address nats-py has for it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._socket: ClientConnection | None = None
        self._closing: asyncio.Task[None] | None = None
        self._heard = b""
        self._said: list[bytes] = []

    def __bool__(self) -> bool:
        return True  # else nats-py makes one of its own

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self.close()  # after a try that was refused nobody else does
        self._heard, self._said = b"", []
        self._socket = await _connecting(self._endpoint, connect_timeout)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Nothing: the HTTP below is encrypted, or the broker asks for what there is no way to have."""

    def write(self, payload: bytes) -> None:
        self._said.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self._said += payload

    async def drain(self) -> None:
        data, self._said = b"".join(self._said), []
        if data and self._socket is not None:
            try:
                await self._socket.send(data)
            except ConnectionClosed as closed:
                raise ConnectionResetError(str(closed)) from None

    async def read(self, buffer_size: int) -> bytes:
        if not self._heard:
            await self._hear()
        data, self._heard = self._heard, b""
        return data

    async def readline(self) -> bytes:
        while b"\n" not in self._heard:
            if not await self._hear():  # nats-py would take nothing for an answer
                raise ConnectionResetError(errno.ECONNRESET, "the broker closed the connection")
        line, end, self._heard = self._heard.partition(b"\n")
        return line + end

    def close(self) -> None:
        if self._socket is not None:
            self._closing = asyncio.create_task(self._socket.close())

    async def wait_closed(self) -> None:
        if self._closing is not None:
            await self._closing

    def at_eof(self) -> bool:
        return self._socket is None or (self._socket.close_code is not None and not self._heard)

    async def _hear(self) -> bool:
        """Waits for a message; False when there will be none."""
        if self._socket is None:
            return False
        try:
            data = await self._socket.recv(decode=False)
        except ConnectionClosed:
            return False
        self._heard += data
        return True


def first_message(endpoint: Endpoint) -> bytes:
    """What a broker says first; empty when something else listens. Raises OSError when nothing does. Not for threads
    with an event loop."""
    return asyncio.run(_first_message(endpoint))


async def _first_message(endpoint: Endpoint) -> bytes:
    try:
        async with asyncio.timeout(2 * INFO_WITHIN), _connecting(endpoint, INFO_WITHIN) as socket:
            return await socket.recv(decode=False)
    except (ConnectionClosed, InvalidHandshake, InvalidMessage):
        return b""


def _connecting(endpoint: Endpoint, within: float) -> connect:
    context = endpoint.tls()
    return connect(
        endpoint.url, ssl=context, open_timeout=within, close_timeout=INFO_WITHIN, compression=None, max_size=None
    )
