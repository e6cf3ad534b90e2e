"""What a message says: the envelope that `send` writes, and what is shown of whatever anybody else wrote.

The envelope is a JSON object with the field names the mq9 examples use, so that a program on the other side reads it
with one `json.loads`. Nothing in it is proof of anything: who sent a message is what the broker says, not what it says.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

FIELDS = ("from", "type", "subject", "body", "reply_to", "correlation_id")
FIELD_LIMIT = 200  # characters in every field but the body; what is longer is shown as it came, inside the body
STRUCTURE = 1 << 16  # characters of a value that is no string; what is longer is shown as it came, too
PLAIN = "message"  # the type of what agents write, not worth showing


@dataclass(frozen=True, slots=True)
class Letter:
    """One message's content as text; "" for what it does not have. `encoding` is "base64" when `body` is that."""

    body: str
    subject: str = ""
    type: str = ""
    sender: str = ""
    reply_to: str = ""
    correlation_id: str = ""
    encoding: str = ""


def seal(letter: Letter) -> dict[str, str]:
    """The envelope for `letter`; fields without a value are left out."""
    values = (letter.sender, PLAIN, letter.subject, letter.body, letter.reply_to, letter.correlation_id)
    return {name: value for name, value in zip(FIELDS, values, strict=True) if value or name == "body"}


def unseal(payload: bytes) -> Letter:
    """What `payload` says: an envelope's fields, any other text as it is, bytes that are no text as base64."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return Letter(base64.b64encode(payload).decode(), encoding="base64")
    return _opened(text) or Letter(text)


def _opened(text: str) -> Letter | None:
    """The envelope in `text`, or None when it is not one, or one that could not be shown whole."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = _object(text)
        if content is None or "body" not in content:
            return None
        body = content.pop("body")
        # A lone surrogate, which JSON can spell and UTF-8 cannot, fails here and not on the way out.
        json.dumps(content, ensure_ascii=False).encode()
        written = body if isinstance(body, str) else _WRITE(body)
        written.encode()
    except (ValueError, RecursionError):
        return None
    fields = {name: value for name, value in content.items() if value is not None}
    if not all(isinstance(value, str) and len(value) <= FIELD_LIMIT for value in fields.values()):
        return None
    kind = fields.get("type", "")
    return Letter(
        body=written,
        subject=fields.get("subject", ""),
        type="" if kind == PLAIN else kind,
        sender=fields.get("from", ""),
        reply_to=fields.get("reply_to", ""),
        correlation_id=fields.get("correlation_id", ""),
    )


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`; None as soon as it has another field than an envelope, or a long value that is no
    string: a megabyte of brackets takes a hundred times as long to read as a megabyte of text. Raises ValueError and
    RecursionError for what is no such object."""
    found: dict[str, Any] = {}
    at = text.index("{")
    while text[at : at + 1] != "}":
        at = _space(text, at + 1)
        if text[at : at + 1] != '"':
            return None
        name, at = _READ(text, at)
        at = _space(text, at)
        if name not in FIELDS or name in found or text[at : at + 1] != ":":
            return None
        at = _space(text, at + 1)
        if text[at : at + 1] != '"' and len(text) - at > STRUCTURE:
            return None
        found[name], at = _READ(text, at)
        at = _space(text, at)
        if text[at : at + 1] not in (",", "}"):
            return None
    return found if _space(text, at + 1) == len(text) else None


def _space(text: str, at: int) -> int:
    """The end of the white space that begins at `at`."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice, and one of its values could not be shown")
    return found


_READ = json.JSONDecoder(object_pairs_hook=_once).raw_decode
_WRITE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_SPACE = re.compile(r"[ \t\n\r]*")
