"""A LangGraph agent with mq9's four tools: it works off a public mailbox and answers whoever asks.

    pip install langchain "langchain[anthropic]"
    MODEL=anthropic:NAME python langgraph_agent.py

Without MODEL a script stands for the model, so that this runs anywhere.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from mcp import Client, StdioServerParameters, Tool, stdio_client

from mq9_mcp import AsyncMailbox

TASK = "Work off example.reviews, one message at a time, as one of the group reviewers: answer whoever asks."


def tool_of(mcp: Client, tool: Tool) -> BaseTool:
    """A tool of an MCP server, for LangChain."""

    async def call(**arguments: Any) -> str:
        print(f"agent: {tool.name}")
        result = await mcp.call_tool(tool.name, arguments)
        return " ".join(getattr(block, "text", "") for block in result.content)

    return StructuredTool(
        name=tool.name, description=tool.description or "", args_schema=tool.input_schema, coroutine=call
    )


class Script(BaseChatModel):
    """Stands for a model: checks the mailbox, answers what it finds, and checks again."""

    _llm_type = "script"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> "Script":
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        shown = json.loads(str(messages[-1].content)) if isinstance(messages[-1], ToolMessage) else {}
        calls = []
        if shown.get("messages"):
            (task,) = shown["messages"]
            answer = {"to": task.get("reply_to") or task["from"], "body": f"{task['body']}: one typo in line 3"}
            calls = [{"name": "send", "args": answer, "id": "1"}]
        elif "messages" not in shown:
            wanted = {"mailbox": "example.reviews", "group": "reviewers", "limit": 1}
            calls = [{"name": "check_inbox", "args": wanted, "id": "2"}]
        said = AIMessage("" if calls else "nothing is left to review", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=said)])


async def main() -> None:
    server = StdioServerParameters(command="mq9-mcp", env=dict(os.environ))
    async with AsyncMailbox() as program, Client(stdio_client(server)) as mcp:
        reviews = await program.create(name="example.reviews", public=True, ttl=600, desc="code to review")
        mine = await program.create(ttl=600)
        await program.send("example.reviews", "parser.py", sender=mine)

        model = init_chat_model(os.environ["MODEL"]) if "MODEL" in os.environ else Script()
        agent = create_agent(model, [tool_of(mcp, tool) for tool in (await mcp.list_tools()).tools])
        done = await agent.ainvoke({"messages": [("user", TASK)]})
        print(f"agent: {done['messages'][-1].content}")

        for answer in await program.fetch(mine, wait=10):
            print(f"program: {answer.json()['body']}")
        await program.drop(reviews)
        await program.drop(mine)


asyncio.run(main())
