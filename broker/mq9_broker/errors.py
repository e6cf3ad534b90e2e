"""Every exception of the broker.

    BrokerError
    ├── Mq9Error        what a user asked for can't be had: becomes `{"error": …}` or `-ERR`, never a log line
    ├── ProtocolError   ends one connection, with the `-ERR` text that NATS clients know (or without a word)
    ├── StoreError      the store could not keep or read something: writes are refused until it can
    └── StartError      the broker can't start; carries the exit code of the process

Anything else that is raised is a defect: logged once, its connection closed, the broker lives on.
"""

from __future__ import annotations

#: The exit code for settings that can't be used.
BAD_SETTINGS = 2


class BrokerError(Exception):
    """The root: catching it catches everything the broker raises on purpose."""


class Mq9Error(BrokerError):
    """A refused operation. `text` names what was wrong with which value; the one who caused it reads it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class ProtocolError(BrokerError):
    """A frame that ends the connection. `text` goes out as `-ERR '<text>'`; `None` closes without a word."""

    def __init__(self, text: str | None) -> None:
        super().__init__(text or "closed without a word")
        self.text = text


class StoreError(BrokerError):
    """The store failed. The text is the operating system's or the store's own reason."""


class StartError(BrokerError):
    """The broker can't start. `code` is the exit code of the process."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
