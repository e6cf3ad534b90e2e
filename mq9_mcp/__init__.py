"""mq9 for agents: the MCP server, the client library and the command line.

`from mq9_mcp import Mailbox` (or `AsyncMailbox`) is the way in for programs; what is heavy is loaded when it is first
used, so that `mq9 --version` and the MCP server's start do not pay for a NATS client they have not asked for yet.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed, and costs a hook a tenth of its time
if TYPE_CHECKING:
    from typing import Any

    from mq9_mcp.client import AsyncMailbox
    from mq9_mcp.errors import (
        BrokerUnavailable,
        Interrupted,
        InvalidPayload,
        InvalidRequest,
        LeaseLost,
        MailboxError,
        MailboxFull,
        MailboxNotFound,
        MessageNotFound,
        Misused,
        NoAnswer,
        NotAllowed,
        PayloadTooLarge,
    )
    from mq9_mcp.live import Stream
    from mq9_mcp.mail import Broadcast, Capability, Change, Created, Directory, Fetched, Listed, Message, Page, Sent
    from mq9_mcp.receiving import Receiver
    from mq9_mcp.sync import BlockingReceiver, BlockingStream, Mailbox

__all__ = [
    "AsyncMailbox",
    "BlockingReceiver",
    "BlockingStream",
    "Broadcast",
    "BrokerUnavailable",
    "Capability",
    "Change",
    "Created",
    "Directory",
    "Fetched",
    "Interrupted",
    "InvalidPayload",
    "InvalidRequest",
    "LeaseLost",
    "Listed",
    "Mailbox",
    "MailboxError",
    "MailboxFull",
    "MailboxNotFound",
    "Message",
    "MessageNotFound",
    "Misused",
    "NoAnswer",
    "NotAllowed",
    "Page",
    "PayloadTooLarge",
    "Receiver",
    "Sent",
    "Stream",
]

_HOMES = {
    "AsyncMailbox": "client",
    "BlockingReceiver": "sync",
    "BlockingStream": "sync",
    "Mailbox": "sync",
    "Receiver": "receiving",
    "Stream": "live",
}
_VALUES = frozenset(
    ("Broadcast", "Capability", "Change", "Created", "Directory", "Fetched", "Listed", "Message", "Page", "Sent")
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mq9_mcp' has no attribute {name!r}")
    import importlib

    module = _HOMES.get(name) or ("mail" if name in _VALUES else "errors")
    return getattr(importlib.import_module(f"mq9_mcp.{module}"), name)


def __dir__() -> list[str]:
    return __all__
