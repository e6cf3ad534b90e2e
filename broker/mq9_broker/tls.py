"""TLS: what a broker shows its clients, and how a connection comes to speak it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

from mq9_broker.errors import BAD_SETTINGS, StartError

_CLIENT_HELLO = b"\x16"


class Tls:
    """The certificate and what is asked of clients. `handshake` is "after" INFO, "first", or "auto": a client that
    begins at once is answered in TLS, another gets INFO first. `optional`: clients without TLS are served too."""

    def __init__(
        self, cert: Path, key: Path, ca: Path | None, *, verify: bool, handshake: str, optional: bool, seconds: float
    ) -> None:
        self._files = (cert, key, ca)
        self.verify = verify
        self.handshake = handshake
        self.optional = optional
        self.seconds = seconds
        self.context = self._load()

    def reload(self) -> None:
        """Read the files again: connections from now on get what they hold. StartError leaves all as it was."""
        self.context = self._load()

    async def serve(self, protocol: asyncio.Protocol, bare: socket.socket) -> None:
        """Connect a protocol to a socket that was accepted, once TLS is spoken on it. Raises OSError when it is not, or
        not in time."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: protocol, bare, ssl=self.context, ssl_handshake_timeout=self.seconds)

    def _load(self) -> ssl.SSLContext:
        cert, key, ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for name, path in (("tls_cert", cert), ("tls_key", key), ("tls_ca", ca)):
            try:
                if path is not None:
                    path.read_bytes()
            except OSError as cause:
                raise StartError(f"{name} {path} can't be read: {cause.strerror}", BAD_SETTINGS) from cause
        try:
            # (a key with a pass phrase would ask for it on the terminal)
            context.load_cert_chain(cert, key, password=lambda: "")
        except (ssl.SSLError, ValueError) as cause:
            raise StartError(
                f"tls_cert {cert} and tls_key {key} are not a PEM certificate chain and its unencrypted private key: "
                f"{_reason(cause)}",
                BAD_SETTINGS,
            ) from cause
        try:
            if ca is not None:
                context.load_verify_locations(ca)
        except ssl.SSLError as cause:
            raise StartError(f"tls_ca {ca} holds no PEM certificates: {_reason(cause)}", BAD_SETTINGS) from cause
        if self.verify:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


async def begins_tls(bare: socket.socket, seconds: float) -> bool:
    """Whether the first byte that comes, which stays where it is, begins a TLS handshake."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(bare, _mark, readable)
    try:
        async with asyncio.timeout(seconds):
            await readable
        return bare.recv(1, socket.MSG_PEEK) == _CLIENT_HELLO
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(bare)


def _mark(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _reason(cause: Exception) -> str:
    return getattr(cause, "reason", None) or str(cause)
