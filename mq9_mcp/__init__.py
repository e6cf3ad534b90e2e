"""mq9 for agents: the MCP server, the client library and the command line.

`from mq9_mcp import AsyncMailbox` is the way in for programs; the names below are loaded when first used, so that
`mq9 --version` and the MCP server's start do not pay for a NATS client they have not asked for yet.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox, Created, Directory, Fetched, Listed, Message, Page, Sent
    from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound

__all__ = [
    "AsyncMailbox",
    "BrokerUnavailable",
    "Created",
    "Directory",
    "Fetched",
    "Listed",
    "MailboxError",
    "MailboxNotFound",
    "Message",
    "Page",
    "Sent",
]

_ERRORS = ("BrokerUnavailable", "MailboxError", "MailboxNotFound")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mq9_mcp' has no attribute {name!r}")
    return getattr(importlib.import_module("mq9_mcp.errors" if name in _ERRORS else "mq9_mcp.client"), name)
