"""What the command line writes: for people, styled on a terminal, plain elsewhere; for scripts, a JSON object a line.

Messages are written by strangers. Whatever could move a cursor, colour a screen, reorder a line or pass for something
that this program says is shown as an escape instead; what a message says is indented, what this program says is not.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from mq9_mcp.envelope import unseal
from mq9_mcp.mail import Listed, Message

Part = str | tuple[str, str]  # text, or text and its rich style

# Controls (C0 without tab and newline, DEL, C1), bidi marks and other invisible format characters, line and paragraph
# separators, lone surrogates, tag characters. The joiners U+200C and U+200D stay: scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_STYLES = {"critical": "bold white on red", "urgent": "bold red", "high": "bold red", "low": "dim", "notify": "dim"}
_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


class Screen:
    """Standard output, in one of its two voices. Rich is loaded for a terminal only."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.styled = not as_json and sys.stdout.isatty()
        self._console: Any = None
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than mail

    def record(self, fields: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own."""
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        self._write(_UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1] if found[0] > "\x7f" else "\\u007f", text))

    def line(self, *parts: Part) -> None:
        """One line for people, whoever wrote its parts. What must stay on its line is passed through `one_line`."""
        texts = [visible(part if isinstance(part, str) else part[0]) for part in parts]
        if not self.styled:
            self._write("".join(texts))
            return
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        from rich.text import Text

        styles = ["" if isinstance(part, str) else part[1] for part in parts]
        self._console.print(Text.assemble(*zip(texts, styles, strict=True)))

    def flush(self) -> None:
        sys.stdout.flush()

    def message(self, message: Message) -> None:
        """A message, with everything that is known about it."""
        if self.as_json:
            self.record(message_fields(message))
            return
        subject, body = _envelope(message)
        head: list[Part] = [(f"#{message.msg_id}", "bold"), " ", (message.priority, _STYLES.get(message.priority, ""))]
        head += [f"  {age(message.create_time)}"]
        if message.sender:
            head += ["  from ", (one_line(message.sender), "cyan")]
        if message.reply_to:
            head += ["  reply to ", (message.reply_to, "cyan")]
        self.line(*head)
        if subject:
            self.line("  ", (one_line(subject), "bold"))
        for line in visible(body).split("\n"):
            self.line("  " + line)

    def listed(self, mailbox: Listed, width: int) -> None:
        """A line of the directory; names are padded to `width`."""
        if self.as_json:
            fields = {"mail_id": mailbox.mail_id, "desc": mailbox.desc, "ttl": mailbox.ttl}
            self.record({**fields, "expires_at": mailbox.expires_at})
            return
        name = one_line(mailbox.mail_id)
        self.line(
            (name, "cyan"), " " * (width - len(name)), f"  {expiry(mailbox.expires_at)}  {one_line(mailbox.desc)}"
        )

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")


def message_fields(message: Message) -> dict[str, Any]:
    """The JSON form of a message; `payload` is text, or base64 with `encoding` when it is not UTF-8."""
    fields: dict[str, Any] = {"msg_id": message.msg_id, "priority": message.priority, "from": message.sender}
    fields |= {"reply_to": message.reply_to, "create_time": message.create_time, "headers": dict(message.headers)}
    try:
        return fields | {"payload": message.payload.decode()}
    except UnicodeDecodeError:
        import base64

        return fields | {"payload": base64.b64encode(message.payload).decode(), "encoding": "base64"}


def visible(text: str) -> str:
    """`text` with everything that acts on a terminal, or hides on it, written out as an escape."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """`visible`, for what must stay on its line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def age(then: int) -> str:
    """How long ago, in words."""
    seconds = int(time.time()) - then
    return f"{words(seconds)} ago" if seconds >= 10 else "just now"


def expiry(expires_at: int | None) -> str:
    """When it ends, in words."""
    return "never expires" if expires_at is None else f"expires in {words(max(1, expires_at - int(time.time())))}"


def words(seconds: int) -> str:
    """A duration in its largest unit, rounded: `3 hours`."""
    for size, unit in _UNITS:
        if 100 * seconds >= 99 * size:  # what was an hour a moment ago is still called so
            count = (seconds + size // 2) // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "0 seconds"


def _envelope(message: Message) -> tuple[str, str]:
    """The subject and the text of a message: of an agent's envelope, or all of it."""
    letter = unseal(message.payload)
    if letter.encoding:
        return "", f"({len(message.payload)} bytes that are not text: --json shows them as base64)"
    return letter.subject, letter.body
