"""What the broker logs, and how: to stderr, one line for each event."""

from __future__ import annotations

import json
import logging
import re
import sys

from mq9_broker.addresses import without_secrets

_UNPRINTABLE = re.compile(r"[^ -~]")


class LogLine(logging.Formatter):
    """One line per record, `key=value`: time, level, where, and the message quoted."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        # nothing logs an address, but the text of an exception may hold a subject
        message = without_secrets(message)
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        where = record.name.removeprefix("mq9_broker.")
        quoted = _UNPRINTABLE.sub(_escaped, json.dumps(message, ensure_ascii=False))
        return f"time={stamp} level={record.levelname.lower()} at={where} msg={quoted}"


def _escaped(found: re.Match[str]) -> str:
    """A character that acts on a terminal or hides there, as JSON spells it. (Its text may be a client's.)"""
    character = found[0]
    if character.isprintable():
        return character
    return json.dumps(character)[1:-1] if character > "\x7f" else f"\\u{ord(character):04x}"


def set_up_logging(level: str) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
