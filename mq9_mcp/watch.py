"""How much mail waits in one mailbox, as it changes: pushed by the broker, over restarts, without reading any of it."""

from __future__ import annotations

import time

from mq9_mcp import unread
from mq9_mcp.errors import MailboxNotFound
from mq9_mcp.wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mq9_mcp.endpoint import Endpoint
    from mq9_mcp.unread import Counts

POLL = 30.0  # seconds the broker keeps one question whether something came; mail that returns is seen after it
REST = 0.05  # seconds
WITHIN = 5.0  # seconds a broker has to answer what it answers at once
RETRY_EVERY = 0.5  # seconds before a broker is looked for again


def watch(
    where: Callable[[], Endpoint | None],
    mailbox: str,
    group: str,
    *,
    name: str,
    until: Callable[[], float],
    rest: float = REST,
) -> Iterator[Counts]:
    """What waits for the group: now, and whenever that may have changed. Nothing is read, acknowledged or started.

    `where` says where the broker is; while that is nowhere, or nobody answers there, it is looked for again. `until` is
    asked again and again for how many seconds there are left: at 0 it ends. What comes within `rest` seconds is one
    change, seen at their end. Raises MailboxNotFound when there is no such mailbox, or no longer, and BrokerUnavailable
    when the broker does not let us in.
    """
    while until() > 0:
        endpoint = where()
        if endpoint is not None:
            try:
                with Wire(endpoint, name=name, within=WITHIN) as wire:
                    yield from _states(wire, mailbox, group, until, rest)
                    return
            except (OSError, ValueError):
                pass  # it went away, or is no broker yet
        time.sleep(min(RETRY_EVERY, max(until(), 0)))


def _states(wire: Wire, mailbox: str, group: str, until: Callable[[], float], rest: float) -> Iterator[Counts]:
    while True:
        time.sleep(rest)
        # Asked in this order, nothing that comes goes unseen: what is not in the counts is the answer to the other.
        config = {"num_msgs": 0, "max_wait_ms": int(POLL * 1000)}
        came = wire.ask(f"MSG.FETCH.{mailbox}", {"deliver": "latest", "config": config})
        asked = wire.ask(f"MAILBOX.QUERY.{mailbox}", {"group_name": group, "limit": 0})
        deadline = time.monotonic() + POLL + WITHIN
        number = 0
        while number != came:
            left = min(until(), 1.0)
            if left <= 0:
                return
            got = wire.answer(left)
            if got is None:
                if time.monotonic() > deadline:
                    raise TimeoutError("the broker does not answer")
                continue
            number, answer = got
            if answer.get("error"):
                raise MailboxNotFound(mailbox, str(answer["error"]))
            if number == asked and (state := unread.counts(answer)) is not None:
                yield state
