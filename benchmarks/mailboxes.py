"""Very many mailboxes (streams, keys): what creating one, using one, and its mere existence cost.

Memory is that of a server started anew on what exists, which has answered a send to some of them: no buffer of what was
just written is counted, and no cache of it.
"""

import random
from collections.abc import Sequence
from typing import Any

from benchmarks.load import keep_in_flight, payloads
from benchmarks.report import Report
from benchmarks.sends import RING, measured
from benchmarks.targets import Start, Target

EACH = "memory of one that exists"
_COUNTS = (1000, 10_000, 100_000, 1_000_000)
_SOME = 1000
_WINDOW = 64


def run(report: Report, starts: Sequence[Start], *, counts: Sequence[int] = _COUNTS, sends: int = 10_000) -> None:
    for start in starts:
        _grow(report, start, counts, sends)


def _grow(report: Report, start: Start, counts: Sequence[int], sends: int) -> None:
    chance, places = random.Random(4), list[str]()
    sizes: list[tuple[int, float]] = []  # how many there were, and KiB of memory
    for count in counts:
        with start() as target:
            name, most = target.name, target.most_places
            if count > most:
                break
            places += _create(report, target, count - len(places), count)
        with start() as target:
            with target.connect() as client:
                _spread(client, chance.sample(places, min(_SOME, count)))
            memory = target.server.resident_kib()
            if memory is not None:
                report.add("mailboxes", "memory after a restart", "MiB", name, memory / 1024, count)
                sizes.append((count, memory))
            _use(report, target, places, chance, count, sends)
    if len(sizes) > 1:
        (few, less), (many, more) = sizes[-2:]
        report.add("mailboxes", EACH, "bytes", name, (more - less) * 1024 / (many - few))


def _create(report: Report, target: Target, count: int, total: int) -> list[str]:
    kept: list[bytes] = []
    with target.connect() as client:
        frames = client.creations(count, _WINDOW)
        with measured(report, "mailboxes", "creating", target.server, total) as results:
            results.append(keep_in_flight(client, frames, _WINDOW, count=count, kept=kept))
        return client.created(b"".join(kept))


def _use(report: Report, target: Target, places: Sequence[str], chance: random.Random, total: int, count: int) -> None:
    with target.connect() as client:
        with measured(report, "mailboxes", "sends to random ones, 64 in flight", target.server, total) as results:
            results.append(_spread(client, chance.sample(places, min(count, total)), count))
        frames = client.sends([client.place()], payloads(RING), 1)
        keep_in_flight(client, frames, 1, count=100)
        with measured(report, "mailboxes", "sends to one, 1 in flight", target.server, total) as results:
            results.append(keep_in_flight(client, frames, 1, count=count))
        if target.name == "mq9":
            _fetch(report, target, client, chance.sample(places, min(count, total)), total, count)


def _spread(client: Any, places: Sequence[str], count: int = 0) -> Any:
    """One send to each, over and over until there were `count`."""
    frames = client.sends(places, [payloads(RING)[i % RING] for i in range(len(places))], _WINDOW)
    return keep_in_flight(client, frames, _WINDOW, count=max(count, len(places)))


def _fetch(report: Report, target: Target, client: Any, places: Sequence[str], total: int, count: int) -> None:
    """(from those that have something)"""
    _spread(client, places)
    with measured(report, "mailboxes", "fetches from random ones, 64 in flight", target.server, total) as results:
        results.append(keep_in_flight(client, client.fetches(places, _WINDOW), _WINDOW, count=count))
