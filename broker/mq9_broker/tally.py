"""All connections together: what /varz and /metrics add up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mq9_broker.server import Server

#: How many connections are looked at before others have their turn.
_STEP = 512


@dataclass(slots=True)
class Tally:
    """Counts and bytes since the broker started, and of now: subscriptions, what is `pending` (waits for clients to
    take it), and the `open` connections by kind."""

    connections: int
    in_msgs: int
    in_bytes: int
    out_msgs: int
    out_bytes: int
    subscriptions: int = 0
    pending: int = 0
    open: dict[str, int] = field(default_factory=lambda: {"nats": 0, "websocket": 0, "unix": 0})


async def tally(server: Server) -> Tally:
    """Add up. Clients may come and go meanwhile: each is counted once, so what only grows never shrinks."""
    gone, connections = server.gone, list(server.connections)
    total = Tally(gone.connections, gone.in_msgs, gone.in_bytes, gone.out_msgs, gone.out_bytes)
    for number, connection in enumerate(connections, 1):
        session = connection.session
        total.in_msgs += session.in_msgs
        total.in_bytes += session.in_bytes
        total.out_msgs += session.out_msgs
        total.out_bytes += session.out_bytes
        total.subscriptions += len(session.subscriptions)
        total.pending += connection.buffered()
        total.open[connection.kind] += 1
        if number % _STEP == 0:
            await asyncio.sleep(0)
    return total
