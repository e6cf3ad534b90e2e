"""Agents for the tests: what a model calls and is shown."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

from mcp import Client
from mcp.server import Server
from mcp.types import TextContent

from mq9_mcp.service import Service

MakeServer = Callable[..., Server[Service]]


class Clock:
    """The time, with `ahead` seconds added."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def free_port() -> int:
    """A port for a server that has to come back where it was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def call(client: Client, tool: str, meta: dict[str, Any] | None = None, /, **arguments: Any) -> dict[str, Any]:
    """What a tool gives a model, which must not be an error. The text form says the same."""
    result = await client.call_tool(tool, arguments, meta=meta)
    assert not result.is_error, result.content
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert result.structured_content == json.loads(block.text)
    return result.structured_content


async def refused(client: Client, tool: str, /, **arguments: Any) -> str:
    """What a tool says to a model when it refuses."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def own_address(client: Client) -> str:
    """Where others reach the agent."""
    return (await call(client, "check_inbox"))["address"]


def bodies(inbox: dict[str, Any]) -> list[str]:
    return [message["body"] for message in inbox["messages"]]
