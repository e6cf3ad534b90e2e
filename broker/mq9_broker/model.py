"""The vocabulary of the broker. Read this first.

A mailbox stores messages until they or it expire. It is kept under its *address*: the send-only form of a private
mailbox, or a public name. A message has an id (per mailbox, from 1, never reused) and a priority word; words rank in
four *tiers*, and reading goes tier by tier, oldest first. Times are whole milliseconds, `NEVER` means no expiry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PREFIX = "$mq9.AI."
NEVER = 1 << 62

#: Priority words in the order of their wire codes (the code is stored; never reorder).
WORDS = ("critical", "urgent", "high", "normal", "low", "notify")
#: Wire code of a word to its tier: 0 is read first.
TIER_OF = (0, 1, 1, 2, 3, 3)
CODES = {word: code for code, word in enumerate(WORDS)}
NORMAL = CODES["normal"]
TIERS = (0, 1, 2, 3)
TIER_NAMES = ("critical", "urgent", "normal", "low")

#: A message's first byte is its priority code and, above it, the receipts its sender asked for. WATCHED: its end has
#: to be looked at, because of a receipt or of a key.
CODE = 0x07
DELIVERED, ACKED, EXPIRED, DEAD, WATCHED = 0x08, 0x10, 0x20, 0x40, 0x80
RECEIPTS = {"delivered": DELIVERED, "acked": ACKED, "expired": EXPIRED, "dead": DEAD}


@dataclass(frozen=True, slots=True)
class Settings:
    """What CREATE fixed for the life of a mailbox. `ttl` and `ack_wait` in seconds; 0 is no expiry, no limit.
    `dead_letter` is a send-only address or a name, `subscribe` holds patterns without the broadcast prefix."""

    ttl: int = 86_400
    public: bool = False
    desc: str = ""
    latest: bool = False
    memory: bool = False
    ack_wait: int = 60
    explicit: bool = False
    retain_ack: bool = False
    max_deliver: int = 5
    dead_letter: str = ""
    max_msgs: int = 0
    subscribe: tuple[str, ...] = ()


class Message(NamedTuple):
    """A stored message as a reader sees it. `created` and `expires` in ms; `lines` is the sender's header block
    without its first line and closing blank line."""

    code: int
    created: int
    expires: int
    hops: int | None
    reply: bytes
    sender: bytes
    lines: bytes
    payload: bytes


@dataclass(slots=True)
class Draft:
    """A message as its sender wants it: `ttl` and `delay` in seconds, `dedup` the Nats-Msg-Id, `sender` checked, `key`
    that of which only the newest stays, `receipts` what its sender wants to hear of (DELIVERED and so on), `encoded`
    how it is stored, once it is: the same for all mailboxes that store it at that time."""

    payload: bytes = b""
    code: int = NORMAL
    lines: bytes = b""
    reply: bytes = b""
    sender: bytes = b""
    hops: int | None = None
    ttl: int = 0
    delay: int = 0
    dedup: bytes = b""
    key: bytes = b""
    receipts: int = 0
    encoded: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the directory: `event` is created, renewed, expired or dropped."""

    event: str
    name: str
    desc: str
    ttl: int
    expires: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for. Bytes, seconds, counts."""

    max_payload: int = 1_048_576
    max_control_line: int = 4096
    max_headers: int = 65_536
    max_pending: int = 67_108_864
    max_subscriptions: int = 65_536
    max_groups: int = 1000
    max_fetches: int = 1000  # that wait, of one connection
    max_ttl: int = 0  # 0: the operator set none
    max_desc: int = 1024
    ping_interval: int = 120
    max_pings_out: int = 2
    max_connections: int = 65_536
    auth_timeout: int = 2


@dataclass(slots=True)
class Counters:
    """What the broker has done since it started, for those who watch it."""

    #: messages that were stored
    stored: int = 0
    #: turns with something to write that the store took, and that it did not
    commits: int = 0
    failed: int = 0
    #: seconds that those took, until what they wrote was kept
    commit_seconds: float = 0.0
    #: clients that were closed because they did not read, or did not answer PINGs
    slow_consumers: int = 0
    stale_connections: int = 0
