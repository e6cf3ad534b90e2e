"""An MCP server with one tool that does nothing: what the SDK and a pipe cost. `python -m benchmarks.empty_mcp`."""

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel


class Nothing(BaseModel):
    """The result of a tool that did nothing."""

    done: bool


server = MCPServer("empty")


@server.tool(name="nothing")
async def nothing(body: str) -> Nothing:
    """Does nothing."""
    return Nothing(done=bool(body))


if __name__ == "__main__":
    server.run("stdio")
