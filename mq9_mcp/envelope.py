"""What a message says: the envelope that `send` writes, and what is shown of whatever anybody else wrote.

The envelope is a JSON object with the field names the mq9 examples use, so that a program on the other side reads it
with one `json.loads`. Nothing in it is proof of anything: who sent a message is what the broker says, not what it says.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

FIELDS = ("from", "type", "subject", "body", "reply_to", "correlation_id")
FIELD_LIMIT = 200  # characters in every field but the body; what is longer is shown as it came, inside the body
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
        content = json.loads(text)
        if "body" not in content or not content.keys() <= set(FIELDS):
            return None
        body = content.pop("body")
        # A lone surrogate, which JSON can spell and UTF-8 cannot, fails here and not on the way out.
        json.dumps(content, ensure_ascii=False).encode()
        written = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
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
