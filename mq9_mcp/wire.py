"""One blocking connection that asks a broker, for programs that must start at once or do nothing but wait.

No event loop and no client library: a socket, a few words of the protocol, JSON. What only some brokers need (TLS,
WebSocket, an nkey) is imported where it is needed.
"""

from __future__ import annotations

import json
import os
import socket
import time

from mq9_mcp.errors import BrokerUnavailable

TYPE_CHECKING = False  # typing takes longer than all of this
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    from mq9_mcp.endpoint import Endpoint

    class Stream(Protocol):
        """What a socket is here."""

        def recv(self, size: int, /) -> bytes: ...
        def sendall(self, data: bytes, /) -> None: ...
        def settimeout(self, seconds: float | None, /) -> None: ...
        def close(self) -> None: ...


PREFIX = "$mq9.AI."
_LONGEST = 1 << 26  # bytes of a line or a message: nothing that is meant for this is nearly as long


class Wire:
    """A connection. `within` is how many seconds anything may take that a broker does at once.

    Raises BrokerUnavailable when what listens there is no mq9 broker or does not let this client in, and OSError when
    nothing listens or the connection is lost.
    """

    def __init__(self, endpoint: Endpoint, *, name: str, within: float) -> None:
        self._endpoint = endpoint
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._asked = 0
        self._heard = b""
        self._stream = _connected(endpoint, within)
        try:
            self._greet(name, within)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def ask(self, verb: str, body: dict[str, Any]) -> int:
        """Asks `$mq9.AI.<verb>`; the number with which its answer comes."""
        self._asked += 1
        payload = json.dumps(body).encode()
        head = f"PUB {PREFIX}{verb} {self._inbox}.{self._asked} {len(payload)}\r\n"
        self._stream.sendall(head.encode() + payload + b"\r\n")
        return self._asked

    def answer(self, timeout: float) -> tuple[int, dict[str, Any]] | None:
        """The next answer and its number; None when there was none for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._line(deadline)
            if line is None:
                return None
            op, _, rest = line.partition(b" ")
            if op == b"MSG":
                subject, _, size = rest.split(b" ")
                payload = self._exactly(int(size) + 2)
                found = json.loads(payload)
                return int(subject.rpartition(b".")[2]), found if isinstance(found, dict) else {}
            self._attend(op, rest)

    def _greet(self, name: str, within: float) -> None:
        endpoint = self._endpoint
        deadline = time.monotonic() + within
        line = self._line(deadline)
        if line is None:
            raise TimeoutError(f"the broker at {endpoint.url} said nothing in {within:g} s")
        try:
            info = json.loads(line.removeprefix(b"INFO "))
            known = "mq9" in info
        except (TypeError, ValueError):
            info, known = {}, False
        if not known:
            raise BrokerUnavailable(
                f"what listens at {endpoint.url} is no mq9 broker: correct MQ9_URL or --url, or start one with "
                f"`mq9 broker`"
            )
        offered = info.get("tls_required") or (info.get("tls_available") and endpoint.tls_files)
        plain = (
            isinstance(self._stream, socket.socket) and endpoint.scheme in ("nats", "tls") and not endpoint.tls_first
        )
        if plain and (offered or endpoint.scheme == "tls"):
            self._stream = _secured(self._stream, endpoint)
        hello = {"verbose": False, "pedantic": False, "lang": "python-mq9", "version": str(info["mq9"]), "protocol": 1}
        hello |= {"name": name, "headers": False, "no_responders": False, **_credentials(endpoint, info)}
        said = f"CONNECT {json.dumps(hello)}\r\nSUB {self._inbox}.* 1\r\nPING\r\n"
        self._stream.sendall(said.encode())
        while (line := self._line(deadline)) != b"PONG":
            if line is None:
                raise TimeoutError(f"the mq9 broker at {endpoint.url} did not answer in {within:g} s")
            op, _, rest = line.partition(b" ")
            self._attend(op, rest)

    def _attend(self, op: bytes, rest: bytes) -> None:
        """What is no answer."""
        if op == b"PING":
            self._stream.sendall(b"PONG\r\n")
        elif op == b"-ERR":
            error = ConnectionResetError(rest.decode("utf-8", "replace"))
            raise self._endpoint.refusal(error) or error

    def _line(self, deadline: float) -> bytes | None:
        """The next line; None when it is not there in time."""
        while (end := self._heard.find(b"\r\n")) < 0:
            rest = deadline - time.monotonic()
            if rest <= 0 or len(self._heard) > _LONGEST:
                return None
            self._stream.settimeout(rest)
            try:
                self._hear()
            except TimeoutError:
                return None
        line, self._heard = self._heard[:end], self._heard[end + 2 :]
        return line

    def _exactly(self, size: int) -> bytes:
        """What follows a line: it is on its way."""
        self._stream.settimeout(10.0)
        while len(self._heard) < size:
            self._hear()
        data, self._heard = self._heard[:size], self._heard[size:]
        return data

    def _hear(self) -> None:
        data = self._stream.recv(65536)
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self._heard += data


def _connected(endpoint: Endpoint, within: float) -> Stream:
    if endpoint.scheme in ("ws", "wss"):
        return _WebSocket(endpoint, within)
    if endpoint.scheme == "unix":
        return endpoint.dial(within)
    if endpoint.scheme == "tls":
        endpoint.greeting()  # finds out whether TLS comes first
    made = endpoint.dial(within)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _secured(made, endpoint) if endpoint.tls_first else made


def _secured(plain: Any, endpoint: Endpoint) -> socket.socket:
    import ssl

    context = endpoint.tls() or ssl.create_default_context()
    try:
        return context.wrap_socket(plain, server_hostname=endpoint.host)
    except OSError as error:
        plain.close()
        raise (endpoint.refusal(error) or error) from None


def _credentials(endpoint: Endpoint, info: dict[str, Any]) -> dict[str, str]:
    """The fields of CONNECT that say who this is."""
    shown: dict[str, str] = {}
    if endpoint.user is not None:
        shown |= {"user": endpoint.user, "pass": endpoint.password}
    elif endpoint.token:
        shown["auth_token"] = endpoint.token
    if endpoint.seed_file and "nonce" in info:
        from base64 import b64encode
        from pathlib import Path

        from mq9_mcp.transport import public_nkey, read_seed

        key = read_seed(Path(endpoint.seed_file).expanduser())
        shown |= {"nkey": public_nkey(key), "sig": b64encode(key.sign(str(info["nonce"]).encode())).decode()}
    return shown


class _WebSocket:
    """A WebSocket as a stream of bytes."""

    def __init__(self, endpoint: Endpoint, within: float) -> None:
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.sync.client import connect

        self._closed = ConnectionClosed
        self._timeout: float | None = within
        try:
            self._socket = connect(
                endpoint.url, ssl=endpoint.tls(), open_timeout=within, close_timeout=1, compression=None, max_size=None
            )
        except WebSocketException as error:
            raise ConnectionRefusedError(str(error)) from None

    def recv(self, _: int, /) -> bytes:
        try:
            data = self._socket.recv(self._timeout)
        except self._closed:
            return b""
        return data if isinstance(data, bytes) else data.encode()

    def sendall(self, data: bytes, /) -> None:
        try:
            self._socket.send(data)
        except self._closed as error:
            raise ConnectionResetError(str(error)) from None

    def settimeout(self, seconds: float | None, /) -> None:
        self._timeout = seconds

    def close(self) -> None:
        self._socket.close()
