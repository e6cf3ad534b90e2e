"""Connections that send as fast as they are let. `python -m benchmarks.flood SERVER PORT CONNECTIONS SECONDS`.

Each sends to a place of its own; with NATS nothing is answered, Redis answers everything, which is read and forgotten.
Prints a line when every buffer should be full, a second after it began, and at the end as JSON how many messages each
connection got rid of since.
"""

import json
import selectors
import sys
import time
from contextlib import ExitStack
from typing import Any

from benchmarks.jetstream import JetStreamClient
from benchmarks.link import read
from benchmarks.load import payloads
from benchmarks.mq9 import Mq9Client
from benchmarks.redis import RedisClient, command
from benchmarks.wire import pub

CLIENTS: dict[str, Any] = {"mq9": Mq9Client, "nats-server": JetStreamClient, "redis": RedisClient}
_SUBJECTS = {"mq9": "$mq9.AI.INBOX.{}", "nats-server": "benchmark.{}"}
_BLOCK = 256
_FILLING = 1.0


def main(server: str, port: int, connections: int, seconds: float) -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        sources = []
        for i in range(connections):
            client = stack.enter_context(CLIENTS[server](port))
            sources.append(memoryview(_block(server, client.place())))
            client.sock.setblocking(False)
            selector.register(client.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, (i, client.sock))
        written, owed = [0] * connections, [0] * connections
        began: list[int] = []
        full = time.monotonic() + min(_FILLING, seconds)
        while (now := time.monotonic()) < full + seconds:
            if now >= full and not began:
                began = written.copy()
                print("flooding", flush=True)
            for key, events in selector.select(0.1):
                i, sock = key.data
                if events & selectors.EVENT_READ:
                    owed[i] += _pings(sock)
                if events & selectors.EVENT_WRITE:
                    at = written[i] % len(sources[i])
                    if owed[i] and not at:  # (between two messages)
                        owed[i] -= sock.send(b"PONG\r\n") > 0
                    else:
                        written[i] += sock.send(sources[i][at:])
        sent = (after - before for before, after in zip(began, written, strict=True))
        print(json.dumps([size * _BLOCK / len(source) for size, source in zip(sent, sources, strict=True)]))


def _block(server: str, place: str) -> bytes:
    texts = payloads(_BLOCK)
    if server == "redis":
        return b"".join([command("XADD", place, "*", "m", text) for text in texts])
    return b"".join([pub(_SUBJECTS[server].format(place), text) for text in texts])


def _pings(sock: Any) -> int:
    """Reads what there is; how many PINGs were in it."""
    data = read(sock)
    if not data or b"-ERR" in data:
        sys.exit(f"a flooding connection ended: {data.decode(errors='replace')}")
    return data.count(b"PING\r\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
