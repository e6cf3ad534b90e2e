"""How records become ordered keys and values. Big-endian numbers, so that the order of bytes is the order asked for.

    !format                                  the version of everything below
    !incarnation                             the last incarnation number given out
    !migration                               how far the store was brought to this format: only until it is
    !probe                                   nothing: written to see whether it can be
    M address                                a mailbox: its settings (JSON)
    A send-only                              the owner address of a public mailbox: its name
    P name                                   the directory
    E when kind …                            what falls due: see DUE_*
    X incarnation                            a mailbox that is gone and whose records are not yet
    C digest                                 the capability board: one declaration
    B pattern 0 address                      a mailbox that stores the broadcasts of a pattern
    I incarnation s                          a mailbox: its counters
    I incarnation m tier msg_id              a message
    I incarnation l                          the one message of a mailbox of type latest
    I incarnation a tier msg_id              a message whose sender hears of its end: the mailbox's address
    I incarnation d digest                   a Nats-Msg-Id: the msg_id it got
    I incarnation k digest                   a mq9-key: the tier and the msg_id of its newest message
    I incarnation z number                   a delayed message
    I incarnation g group                    a group: its position

A mailbox's records start with its incarnation, a number never used twice: a name that is created again never sees what
its predecessor left, and what is left is removed by one prefix.

What is large stands in a file, and a pointer in its place; nobody above the store knows (`store/valuelog.py`).

To change the format: add to it, raise FORMAT, and bring an older store up to it in `migration`, before anything else
reads it; make a folder of the format before for the tests (tests/data/make.py).
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import fields
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from mq9_broker.model import CODE, Message, Settings

FORMAT = 3
FORMAT_KEY = b"!format"
INCARNATION_KEY = b"!incarnation"

#: The tenth byte of the keys made by `asked`.
ASKED = b"a"

DUE_MAILBOX = b"M"
DUE_MESSAGE = b"m"
DUE_WATCHED = b"w"
DUE_DELAYED = b"Z"
DUE_DEDUP = b"D"
DUE_GROUP = b"G"
DUE_CAPABILITY = b"C"

#: A mailbox's record: (incarnation, expires, created, owner, renewed, settings). Most have the same settings.
_MAILBOX = re.compile(rb'\{"i":(\d+),"x":(\d+),"c":(\d+),"o":"([a-z0-9-]*)","r":(\d+)(|,.*)\}', re.DOTALL)
_U64 = struct.Struct(">Q")
_COUNTERS = struct.Struct(">16Q")
#: What is not written in a mailbox's record.
_DEFAULTS = {field.name: field.default for field in fields(Settings)}
_MESSAGE = struct.Struct(">cQcBQ")
_HEAD = struct.Struct(">BQQHHHI")
_LENGTHS = struct.Struct(">HHI")
_NO_HOPS = 0xFFFF
#: Bytes 9 to 26 of an encoded message that has nothing but a priority and a payload: no expiry, no hops, no lengths.
PLAIN = struct.pack(">QHHHI", 0, _NO_HOPS, 0, 0, 0)
_LATEST = struct.Struct(">BQ")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def mailbox(address: str) -> bytes:
    return b"M" + address.encode()


def owner(send_only: str) -> bytes:
    return b"A" + send_only.encode()


def public(name: str) -> bytes:
    return b"P" + name.encode()


def purge(incarnation: int) -> bytes:
    return b"X" + u64(incarnation)


def capability(digest: bytes) -> bytes:
    return b"C" + digest


def broadcasts(pattern: str, address: str) -> bytes:
    return b"B" + pattern.encode() + b"\0" + address.encode()


def broadcasts_of(pattern: str) -> tuple[bytes, bytes]:
    """The range of the mailboxes that have a pattern: [first, last)."""
    return b"B" + pattern.encode() + b"\0", b"B" + pattern.encode() + b"\1"


def domain(name: str) -> tuple[bytes, bytes]:
    """The range of the patterns whose first word is `name`: [first, last)."""
    return b"B" + name.encode() + b".", b"B" + name.encode() + b"/"


def split_broadcasts(key: bytes) -> tuple[str, str]:
    """(pattern, address) of a key made by `broadcasts`."""
    pattern, _, address = key[1:].partition(b"\0")
    return pattern.decode(), address.decode()


def due(when: int, kind: bytes, rest: bytes) -> bytes:
    return b"E" + u64(when) + kind + rest


def split_due(key: bytes) -> tuple[int, bytes, bytes]:
    """(when, kind, rest) of a key made by `due`."""
    return number(key[1:9]), key[9:10], key[10:]


def space(incarnation: int) -> tuple[bytes, bytes]:
    """The range of keys that holds everything of one mailbox: [first, last)."""
    return b"I" + u64(incarnation), b"I" + u64(incarnation + 1)


def counters(incarnation: int) -> bytes:
    return b"I" + u64(incarnation) + b"s"


def messages(incarnation: int, tier: int) -> bytes:
    """The prefix of a tier's messages; the eight bytes of the msg_id follow."""
    return b"I" + u64(incarnation) + b"m" + bytes((tier,))


def message(incarnation: int, tier: int, msg_id: int) -> bytes:
    return _MESSAGE.pack(b"I", incarnation, b"m", tier, msg_id)


def latest(incarnation: int) -> bytes:
    return b"I" + u64(incarnation) + b"l"


def asked(incarnation: int, tier: int, msg_id: int) -> bytes:
    return b"I" + u64(incarnation) + ASKED + bytes((tier,)) + u64(msg_id)


def all_asked(incarnation: int) -> tuple[bytes, bytes]:
    """The range of keys made by `asked`: [first, last)."""
    return b"I" + u64(incarnation) + b"a", b"I" + u64(incarnation) + b"b"


def split_asked(key: bytes) -> tuple[int, int, int]:
    """(incarnation, tier, msg_id) of a key made by `asked`."""
    return number(key[1:9]), key[10], number(key[11:])


def keyed(incarnation: int, key: bytes) -> bytes:
    return b"I" + u64(incarnation) + b"k" + digest(key)


def dedup(incarnation: int, digest: bytes) -> bytes:
    return b"I" + u64(incarnation) + b"d" + digest


def delayed(incarnation: int, serial: int) -> bytes:
    return b"I" + u64(incarnation) + b"z" + u64(serial)


def group(incarnation: int, name: str) -> bytes:
    return b"I" + u64(incarnation) + b"g" + name.encode()


def digest(data: bytes) -> bytes:
    """Sixteen bytes that stand for `data` in a key, whatever its length."""
    return blake2b(data, digest_size=16).digest()


def encode_mailbox(incarnation: int, expires: int, created: int, owner: str, renewed: int, settings: Settings) -> bytes:
    # (most have no owner's address: JSON takes a tenth of the time that making a mailbox takes)
    owned = json.dumps(owner).encode() if owner else b'""'
    return b'{"i":%d,"x":%d,"c":%d,"o":%b,"r":%d%b}' % (
        *(incarnation, expires, created, owned, renewed),
        _encode_settings(settings),
    )


@lru_cache
def _encode_settings(settings: Settings) -> bytes:
    """The members of a JSON object behind others."""
    record = {name: value for name, default in _DEFAULTS.items() if (value := getattr(settings, name)) != default}
    return b"," + json.dumps(record, separators=(",", ":"))[1:-1].encode() if record else b""


def decode_mailbox(value: bytes) -> tuple[int, int, int, str, int, Settings]:
    """(incarnation, expires, created, owner, renewed, settings) as they were encoded."""
    found = _MAILBOX.fullmatch(value)
    if found is None:  # (an owner that is no address)
        record: dict[str, Any] = json.loads(value)
        fixed = tuple(record.pop(name) for name in ("i", "x", "c", "o", "r"))
        return (*fixed, _settings_of(record))
    incarnation, expires, created, owner, renewed, settings = found.groups()
    return (
        *(int(incarnation), int(expires), int(created), owner.decode(), int(renewed)),
        _decode_settings(settings),
    )


@lru_cache
def _decode_settings(members: bytes) -> Settings:
    """The inverse of `_encode_settings`."""
    return _settings_of(json.loads(b"{" + members[1:] + b"}"))


def _settings_of(record: dict[str, Any]) -> Settings:
    if "subscribe" in record:
        record["subscribe"] = tuple(record["subscribe"])
    return Settings(**record)


def encode_counters(values: tuple[int, ...]) -> bytes:
    return _COUNTERS.pack(*values)


def decode_counters(value: bytes) -> tuple[int, ...]:
    """(what an older record lacks is 0)"""
    return _COUNTERS.unpack(value.ljust(_COUNTERS.size, b"\0"))


def encode_message(
    code: int,
    created: int,
    expires: int,
    hops: int | None,
    reply: bytes,
    sender: bytes,
    lines: bytes,
    payload: bytes,
) -> bytes:
    return (
        _HEAD.pack(code, created, expires, _NO_HOPS if hops is None else hops, len(reply), len(sender), len(lines))
        + reply
        + sender
        + lines
        + payload
    )


def encode_plain(code: int, created: int, payload: bytes) -> bytes:
    """As encode_message for a message of nothing but a payload: the common one."""
    return _HEAD.pack(code, created, 0, _NO_HOPS, 0, 0, 0) + payload


def decode_message(value: bytes) -> Message:
    code, created, expires, hops, replies, senders, headers = _HEAD.unpack_from(value)
    at = _HEAD.size
    sender = at + replies
    lines = sender + senders
    payload = lines + headers
    return Message(
        code & CODE,
        created,
        expires,
        None if hops == _NO_HOPS else hops,
        value[at:sender],
        value[sender:lines],
        value[lines:payload],
        value[payload:],
    )


def field_of(value: bytes, name: bytes) -> bytes:
    """A header of an encoded message, `name` in the case in which the broker writes it; b"" when it has none."""
    replies, senders, headers = _LENGTHS.unpack_from(value, 19)
    start = _HEAD.size + replies + senders
    lines = b"\r\n" + value[start : start + headers]
    at = lines.find(b"\r\n" + name + b": ")
    if at < 0:
        return b""
    at += len(name) + 4
    return lines[at : lines.index(b"\r\n", at)]


def expires_of(value: bytes) -> int:
    """When an encoded message expires, without decoding the rest."""
    return int.from_bytes(value[9:17], "big")


def created_of(value: bytes) -> int:
    """When an encoded message was sent."""
    return int.from_bytes(value[1:9], "big")


def encode_latest(tier: int, msg_id: int, value: bytes) -> bytes:
    return _LATEST.pack(tier, msg_id) + value


def decode_latest(value: bytes) -> tuple[int, int, bytes]:
    """(tier, msg_id, encoded message)."""
    tier, msg_id = _LATEST.unpack_from(value)
    return tier, msg_id, value[_LATEST.size :]


def encode_position(used: int, tiers: list[tuple[int, list[int], list[int]]]) -> bytes:
    """A group's position. `used` in ms; per tier: the last id given out, the ids of those not acknowledged yet, and
    the ids acknowledged before they were given out."""
    parts = [_U64.pack(used)]
    for upto, holes, ahead in tiers:
        parts.append(struct.pack(f">QII{len(holes) + len(ahead)}Q", upto, len(holes), len(ahead), *holes, *ahead))
    return b"".join(parts)


def decode_position(value: bytes) -> tuple[int, list[tuple[int, list[int], list[int]]]]:
    used = _U64.unpack_from(value)[0]
    at = 8
    tiers = []
    while at < len(value):
        upto, holes, ahead = struct.unpack_from(">QII", value, at)
        ids = list(struct.unpack_from(f">{holes + ahead}Q", value, at + 16))
        tiers.append((upto, ids[:holes], ids[holes:]))
        at += 16 + 8 * len(ids)
    return used, tiers
