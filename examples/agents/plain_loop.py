"""An agent in a plain loop: a model is given mq9's four tools over MCP and calls them until it has something to say.

A program asks, the agent works. The model is a script here, so that this runs anywhere: put yours in its place.
"""

import asyncio
import json
import os
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client

from mq9_mcp import AsyncMailbox

TASK = "Work off example.reviews, as one of the group reviewers: answer whoever asks."


async def model(conversation: list[dict[str, Any]], tools: list[Any]) -> dict[str, Any]:
    """A tool call or a text. A real model is shown the names, descriptions and schemas in `tools`."""
    shown = json.loads(conversation[-1]["content"]) if conversation[-1]["role"] == "tool" else {}
    if shown.get("messages"):
        (task,) = shown["messages"]
        body = f"{task['body']}: one typo in line 3"
        return {"tool": "send", "arguments": {"to": task.get("reply_to") or task["from"], "body": body}}
    if "messages" in shown:
        return {"text": "nothing is left to review"}
    # What was shown before counts as done with this, so that it is asked for again after the last task, too.
    return {"tool": "check_inbox", "arguments": {"mailbox": "example.reviews", "group": "reviewers", "limit": 1}}


async def agent(mcp: Client) -> None:
    tools = (await mcp.list_tools()).tools
    conversation: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    while "tool" in (turn := await model(conversation, tools)):
        print(f"agent: {turn['tool']}")
        result = await mcp.call_tool(turn["tool"], turn["arguments"])
        text = " ".join(getattr(block, "text", "") for block in result.content)
        conversation += [{"role": "assistant", **turn}, {"role": "tool", "content": text}]
    print(f"agent: {turn['text']}")


async def main() -> None:
    server = StdioServerParameters(command="mq9-mcp", env=dict(os.environ))
    async with AsyncMailbox() as program, Client(stdio_client(server)) as mcp:
        reviews = await program.create(name="example.reviews", public=True, ttl=600, desc="code to review")
        mine = await program.create(ttl=600)
        for file in ("parser.py", "store.py"):
            await program.send("example.reviews", file, sender=mine)
        await agent(mcp)
        for answer in await program.fetch(mine, wait=10):
            print(f"program: {answer.json()['body']}")
        await program.drop(reviews)
        await program.drop(mine)


asyncio.run(main())
