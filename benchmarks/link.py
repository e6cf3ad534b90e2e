"""A blocking TCP connection without a client library, so that what is measured is the server."""

import socket
import struct
from typing import Self

CHUNK = 1 << 18
_TIMEOUT = 20
_chunk = memoryview(bytearray(CHUNK))


class WireError(Exception):
    """The server answered something else than the benchmark needs, or closed the connection."""


def read(sock: socket.socket) -> bytes:
    """Whatever came on a socket, empty at its end. (Asked for as many bytes itself, a socket has the system make room
    for them and take it back each time: 12 µs, or nothing, by what the process did before.)"""
    return bytes(_chunk[: sock.recv_into(_chunk)])


class Link:
    """One connection. `sock` may be taken over while nothing is on its way."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's own timeout would add a poll() to every call.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _TIMEOUT, 0))

    def receive(self) -> bytes:
        """Whatever comes next, at least one byte."""
        try:
            data = read(self.sock)
        except BlockingIOError:
            raise WireError(f"nothing came for {_TIMEOUT} s") from None
        if not data:
            raise WireError("the server closed the connection")
        return data

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
