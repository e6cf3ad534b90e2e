"""The ways to a broker besides plain TCP, as streams that a Wire can speak over, and certificates for them."""

from __future__ import annotations

import json
import select
import socket
import ssl
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from e2e.harness import Broker, dial


def settings(folder: Path, **values: Any) -> tuple[str, str]:
    """The flags for a configuration file with these settings."""
    file = folder / "mq9.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return "--config", str(file)


def address(broker: Broker, scheme: str) -> str:
    """What the broker says of where it listens, after its first line: the address with this scheme."""
    output = broker.process.stdout
    assert output is not None
    said = broker.banner
    while f" {scheme}://" not in said:
        ready, _, _ = select.select([output], [], [], 10)
        line = output.readline().decode() if ready else ""
        assert line, f"the broker said nothing of {scheme}://: {said}"
        said = line.rstrip("\n")
    return said.rpartition(" ")[2]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


class Certificates:
    """An authority, what it signed for a broker and for a client, and what is wrong with other certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.cert = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.renew()
        self.client = self._keep("client", self.authority.issue_cert("agent@example.org"))
        self.stranger = self._keep("stranger", trustme.CA().issue_cert("agent@example.org"))
        past = datetime.now(UTC) - timedelta(days=1)
        expired = self.authority.issue_cert("agent@example.org", not_before=past - timedelta(days=1), not_after=past)
        self.expired = self._keep("expired", expired)
        self.self_signed = folder / "self_signed.pem"
        alone = trustme.CA()
        self.self_signed.write_bytes(alone.private_key_pem.bytes() + alone.cert_pem.bytes())

    def renew(self) -> None:
        """Another certificate for the broker, in the same files."""
        made = self.authority.issue_cert("127.0.0.1", "localhost")
        self.key.write_bytes(made.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))

    def _keep(self, name: str, made: trustme.LeafCert) -> Path:
        made.private_key_and_cert_chain_pem.write_to_path(str(self.folder / f"{name}.pem"))
        return self.folder / f"{name}.pem"

    @property
    def flags(self) -> dict[str, str]:
        """The settings of a broker that has the certificate."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    def context(self, own: Path | None = None) -> ssl.SSLContext:
        """A client's: it trusts the authority, and shows the certificate `own`."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if own is not None:
            context.load_cert_chain(str(own))
        return context


def read_info(stream: socket.socket) -> bytes:
    """The INFO line, and not a byte more."""
    line = b""
    while not line.endswith(b"\r\n"):
        byte = stream.recv(1)
        assert byte, f"the server closed after {line!r}"
        line += byte
    return line


class Upgraded:
    """A connection that became TLS after INFO; it gives the INFO again, so that a Wire finds it."""

    def __init__(self, port: int, context: ssl.SSLContext, receive_buffer: int | None = None) -> None:
        plain = dial(port, receive_buffer=receive_buffer)
        self._first = read_info(plain)
        self._stream = context.wrap_socket(plain, server_hostname="127.0.0.1")

    def recv(self, limit: int) -> bytes:
        first, self._first = self._first, b""
        return first or self._stream.recv(limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tls_first(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection that is TLS from its first byte."""
    return context.wrap_socket(dial(port), server_hostname="127.0.0.1")


class Frames:
    """A WebSocket as a stream: what is sent is one binary frame, what is received is what frames hold."""

    def __init__(self, url: str, *, receive_buffer: int | None = None, **options: Any) -> None:
        stream = dial(port_of(url), receive_buffer=receive_buffer)
        options = {"proxy": None, "max_size": None, "ping_interval": None, "close_timeout": 2, **options}
        self._timeout: float | None = None
        if "ssl" in options:
            # (the two threads of this client hang now and then on what TLS 1.3 sends after its handshake)
            options["ssl"].maximum_version = ssl.TLSVersion.TLSv1_2
        with ExitStack() as until_open:
            until_open.callback(stream.close)
            self.client: ClientConnection = until_open.enter_context(connect(url, sock=stream, **options))
            self._open = until_open.pop_all()

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def sendall(self, data: bytes) -> None:
        self.client.send(data)

    def recv(self, limit: int) -> bytes:
        try:
            data = self.client.recv(self._timeout)
        except ConnectionClosed:
            return b""
        assert isinstance(data, bytes), "the broker sends binary frames"
        return data

    def close(self) -> None:
        self._open.close()


def unix(path: Path) -> socket.socket:
    """A connection to a Unix socket."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(10)
    stream.connect(str(path))
    return stream
