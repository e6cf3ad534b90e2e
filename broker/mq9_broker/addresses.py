"""Addresses: the secret of a private mailbox, the send-only form derived from it, public names."""

from __future__ import annotations

import re
from hashlib import blake2b

from mq9_broker.errors import Mq9Error
from mq9_broker.model import CODES, PREFIX

#: Random bytes that a secret is made of.
RANDOM = 26
_SECRET = re.compile(r"m-[a-z2-7]{26}")
_ACK = re.compile(re.escape(f"{PREFIX}ACK.") + r"[\w-]+", re.ASCII)
_SEND_ONLY = re.compile(r"s-[a-z2-7]{26}")
_RESERVED_FORM = re.compile(r"[ms]-.{26}")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
_RESERVED = ("system", "broadcast")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
#: A letter for every byte: five of its bits count.
_LETTER_OF = 8 * _LETTERS.encode()
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
_one_way = blake2b(digest_size=17, person=b"mq9 send-only")


def is_secret(address: str) -> bool:
    """Whether `address` has the form of a `mail_id` of a private mailbox (or of an owner address)."""
    return _SECRET.fullmatch(address) is not None


def is_send_only(address: str) -> bool:
    """Whether `address` has the send-only form."""
    return _SEND_ONLY.fullmatch(address) is not None


def secret_from(random: bytes) -> str:
    """The `mail_id` made of RANDOM random bytes (130 of their bits)."""
    return "m-" + random.translate(_LETTER_OF).decode()


def send_only(secret: str) -> str:
    """The send-only form of a `mail_id`: one way, so that it may be stored, logged and handed out."""
    hashed = _one_way.copy()
    hashed.update(secret.encode())
    return "s-" + _base32(hashed.digest())


def without_secrets(text: str) -> str:
    """`text` for others to see: each `mail_id` in it is replaced by its send-only form, subjects for
    acknowledgements end where their secret begins."""
    return _SECRET.sub(lambda found: send_only(found[0]), _ACK.sub(f"{PREFIX}ACK.…", text))


def _base32(data: bytes) -> str:
    """The first 130 bits of 17 bytes, as base32 in lower case (base64.b32encode takes four times as long)."""
    number = int.from_bytes(data, "big") >> 6
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def name_problem(name: str) -> str | None:
    """Why `name` can't be the name of a public mailbox, or None when it can."""
    if not 1 <= len(name) <= 128:
        return f"it has {len(name)} characters, allowed are 1 to 128"
    if not _NAME.fullmatch(name):
        return "allowed are a-z 0-9 with . - _ inside, and a letter or digit at both ends"
    if ".." in name:
        return "it has two dots in a row"
    # (between dots too: what looks like a secret in a longer name may be one, misspelt)
    if any(_RESERVED_FORM.fullmatch(part) for part in (name, *name.split("."))):
        return "that form is reserved for private addresses"
    if name.split(".", 1)[0] in _RESERVED:
        return f"{name.split('.', 1)[0]} is reserved"
    if name.rsplit(".", 1)[-1] in CODES:
        return f"its last part is the priority word {name.rsplit('.', 1)[-1]}"
    return None


def check_name(name: str) -> str:
    """`name`, or Mq9Error with the rule it breaks."""
    problem = name_problem(name)
    if problem:
        raise Mq9Error(f"name {name[:140]!r} is not allowed: {problem}")
    return name
