"""All connections together: what /varz and /metrics add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mq9_broker.pace import paced

if TYPE_CHECKING:
    from mq9_broker.server import Server


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
    async for connection in paced(connections):
        session = connection.session
        total.in_msgs += session.in_msgs
        total.in_bytes += session.in_bytes
        total.out_msgs += session.out_msgs
        total.out_bytes += session.out_bytes
        total.subscriptions += len(session.subscriptions)
        total.pending += connection.buffered()
        total.open[connection.kind] += 1
    return total
