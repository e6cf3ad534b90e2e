"""nats-py with what it has no options for: a Unix socket, TLS that is insisted on, and an nkey by itself.

It has no public place to put a transport or a public key: `client_of` sets two attributes of its client that are not
public, and nothing else in this package does. tests/mcp/test_transport.py notices when they no longer do what they did.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client
from nats.aio.transport import Transport

from mq9_mcp.endpoint import NO_TLS, Endpoint
from mq9_mcp.errors import BrokerUnavailable

if TYPE_CHECKING:
    import ssl

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOWHERE = "nats://mq9.invalid:4222"  # what nats-py is told where it can't know: should it ever look, it finds nobody

_SEED_OF_A_USER = bytes([18 << 3 | 20 >> 2, (20 & 3) << 6])  # it spells SU
_USER_KEY = bytes([20 << 3])  # it spells U


def client_of(endpoint: Endpoint) -> tuple[Client, dict[str, Any]]:
    """A client for this broker, and the options to call its `connect` with. Raises BrokerUnavailable for a file with a
    key or certificate that can't be used."""
    client = Client()
    options: dict[str, Any] = {"servers": [f"nats://{_bracketed(endpoint.host)}:{endpoint.port}"]}
    client._transport = Line(endpoint)
    if endpoint.scheme == "tls":
        options["tls_handshake_first"] = endpoint.tls_first
    elif endpoint.scheme != "nats":
        options["servers"] = [NOWHERE]
    if endpoint.scheme in ("ws", "wss"):
        from mq9_mcp.websocket import WebSocketLine

        client._transport = WebSocketLine(endpoint)
    if (context := endpoint.tls()) is not None:
        options["tls"] = context
    if endpoint.user is not None:
        options |= {"user": endpoint.user, "password": endpoint.password}
    elif endpoint.token:
        options["token"] = endpoint.token
    if endpoint.seed_file:
        key = read_seed(Path(endpoint.seed_file).expanduser())
        client._public_nkey = public_nkey(key)
        options["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
    return client, options


class Line(Transport):
    """A connection to an endpoint. With `tls://` nothing is said over it before it is encrypted, whatever the other
    side says it can. Unlike that of nats-py it also ends when TLS fails."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._plain: asyncio.StreamWriter | None = None
        self._open = False  # to what a client says

    def __bool__(self) -> bool:
        return True  # else nats-py makes one of its own

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        at = self._endpoint
        self.close()  # after a try that was refused nobody else does
        self._open = False
        opening = (
            asyncio.open_unix_connection(at.path, limit=buffer_size)
            if at.scheme == "unix"
            else asyncio.open_connection(uri.hostname, uri.port, limit=buffer_size)
        )
        self._reader, self._writer = await asyncio.wait_for(opening, connect_timeout)
        self._open = at.scheme != "tls"

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        assert self._writer is not None, "connect comes first"
        # not StreamWriter.start_tls: before Python 3.11.8 it leaves the reader to pause the wrong transport
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=buffer_size)
        protocol = _Secured(reader)
        name = uri if isinstance(uri, str) else uri.hostname
        securing = loop.start_tls(self._writer.transport, protocol, ssl_context, server_hostname=name)
        plain, self._reader, self._writer = self._writer, None, None  # without TLS there is nothing to close in peace
        try:
            transport = await asyncio.wait_for(securing, connect_timeout)
        except BaseException:
            plain.transport.abort()
            raise
        if transport is None:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed during the TLS handshake")
        protocol.connection_made(transport)
        self._plain = plain  # it would close the connection with its own end
        self._reader, self._writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        self._open = True

    def write(self, payload: bytes) -> None:
        if not self._open:
            raise nats.errors.Error(f"the broker {NO_TLS}")
        self.writelines([payload])

    def writelines(self, payload: list[bytes]) -> None:
        if self._open and self._writer is not None:  # else this client is closing, with something left to say
            self._writer.writelines(payload)

    async def drain(self) -> None:
        if self._writer is not None:
            await self._writer.drain()

    async def read(self, buffer_size: int) -> bytes:
        return await self._reader.read(buffer_size) if self._reader is not None else b""

    async def readline(self) -> bytes:
        line = await self._reader.readline() if self._reader is not None else b""
        if not line:  # nats-py would take it for an answer
            raise ConnectionResetError(errno.ECONNRESET, "the broker closed the connection")
        return line if self._open else _demanding_tls(line)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def wait_closed(self) -> None:
        if self._writer is not None:
            # (a broker may have gone on speaking while this client said goodbye: there is nothing to hear any more)
            with suppress(OSError):
                await self._writer.wait_closed()

    def at_eof(self) -> bool:
        return self._reader is None or self._reader.at_eof()


class _Secured(asyncio.StreamReaderProtocol):
    """One that knows that TLS has no half of a connection to keep, even before it is told of its transport."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


def _demanding_tls(line: bytes) -> bytes:
    """An INFO that offers TLS as one that demands it: nats-py goes on without where it is only offered."""
    try:
        info = json.loads(line.removeprefix(b"INFO "))
        return (
            b"INFO " + json.dumps(info | {"tls_required": True}).encode() + b"\r\n" if info["tls_available"] else line
        )
    except (KeyError, TypeError, ValueError):
        return line


def read_seed(file: Path) -> Ed25519PrivateKey:
    """The key of the first user's seed (SU…) in a file. Raises BrokerUnavailable, which shows nothing of the file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        words = file.read_text("ascii").split()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise BrokerUnavailable(f"the seed file {file} can't be read ({reason}): correct MQ9_NKEY_SEED_FILE") from None
    for word in words:
        if word.startswith("SU") and len(word) == 58:
            try:
                raw = base64.b32decode(word + "=" * 6)
            except ValueError:
                continue
            if raw[:2] == _SEED_OF_A_USER and _crc(raw[:-2]) == raw[-2:]:
                return Ed25519PrivateKey.from_private_bytes(raw[2:-2])
    raise BrokerUnavailable(
        f"the file {file} holds no seed of a user, which is SU… with 58 characters: correct MQ9_NKEY_SEED_FILE"
    )


def public_nkey(key: Ed25519PrivateKey) -> str:
    """The public key as brokers list it, U…."""
    raw = _USER_KEY + key.public_key().public_bytes_raw()
    return base64.b32encode(raw + _crc(raw)).decode()


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
