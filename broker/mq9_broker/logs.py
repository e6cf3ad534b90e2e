"""What the broker logs, and how: to stderr, one line for each event."""

from __future__ import annotations

import json
import logging
import sys

from mq9_broker.addresses import without_secrets


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
        return f"time={stamp} level={record.levelname.lower()} at={where} msg={json.dumps(message, ensure_ascii=False)}"


def set_up_logging(level: str) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
