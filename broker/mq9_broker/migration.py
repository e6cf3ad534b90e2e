"""Stores of older formats, brought up to today's before anything else reads them.

A migration goes over the store in bounded batches. Each batch also says how far it got, so a broker that is killed in
the middle goes on from there. The new format is written with the first of them: from then on no older version opens the
store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from mq9_broker import __version__, keys
from mq9_broker.errors import StartError
from mq9_broker.store import Batch, Store

_log = logging.getLogger(__name__)

NEWER = 4
#: Records that one batch looks at.
STEP = 1000

#: From which format, and behind which key: what `_migrate` has still to do. Only there while it does.
UNFINISHED = b"!migration"

Step = Callable[[Store, bytes, Batch], bytes]


def format_of(store: Store, path: Path) -> int:
    """The format of a store, 0 of a new one. StartError when it is newer than this version can read."""
    found = store.get(keys.FORMAT_KEY)
    if found is None:
        return 0
    if not found.isdigit() or int(found) > keys.FORMAT:
        raise StartError(
            f"the data folder {path} has format {found.decode('ascii', 'replace')}, this is mq9 {__version__}, which "
            f"reads formats up to {keys.FORMAT}: use the newer version, or another folder with --data-dir",
            NEWER,
        )
    return int(found)


def current(store: Store, path: Path) -> bool:
    """Whether a store has today's format, all of it. StartError as `format_of`."""
    return format_of(store, path) == keys.FORMAT and store.get(UNFINISHED) is None


def migrate(store: Store, path: Path) -> None:
    """Give a new store its format, and an older one today's. `store` keeps what it is given at once."""
    found = format_of(store, path)
    unfinished = store.get(UNFINISHED)
    if found == 0:
        store.commit(Batch({keys.FORMAT_KEY: b"%d" % keys.FORMAT}))
        return
    reached = b""
    if unfinished is not None:
        found, reached = unfinished[0], unfinished[1:]
    while found < keys.FORMAT:
        _log.info("the data folder %s has format %d and is brought to format %d", path, found, found + 1)
        looked_at = 0
        while True:
            batch = Batch()
            reached = _STEPS[found](store, reached, batch)
            batch.writes[keys.FORMAT_KEY] = b"%d" % keys.FORMAT
            batch.writes[UNFINISHED] = bytes((found,)) + reached if reached else None
            if not reached and found + 1 < keys.FORMAT:
                batch.writes[UNFINISHED] = bytes((found + 1,))
            store.commit(batch)
            if not reached:
                break
            looked_at += STEP
            if looked_at % (100 * STEP) == 0:
                _log.info("so far %d mailboxes", looked_at)
        found += 1
    _log.info("the data folder %s has format %d now", path, keys.FORMAT)


def _count_delayed(store: Store, reached: bytes, batch: Batch) -> bytes:
    """1 to 2: the counters of a mailbox say how many messages are delayed."""
    start = reached or keys.space(0)[0]
    for _ in range(STEP):
        key, _value = next(store.scan(start, b"J"), (b"", b""))
        if not key:
            return b""
        incarnation = keys.number(key[1:9])
        counters = store.get(keys.counters(incarnation))
        if counters is not None:
            serials = keys.delayed(incarnation, 0), keys.delayed(incarnation, (1 << 64) - 1)
            values = keys.decode_counters(counters)
            delayed = sum(1 for _ in store.scan(*serials)) if values[14] else 0
            batch.writes[keys.counters(incarnation)] = keys.encode_counters((*values[:15], delayed))
        start = keys.space(incarnation)[1]
    return start


def _nothing(store: Store, reached: bytes, batch: Batch) -> bytes:
    """2 to 3: large values may stand in files of their own, from now on."""
    return b""


_STEPS: dict[int, Step] = {1: _count_delayed, 2: _nothing}
