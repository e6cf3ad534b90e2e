"""An MCP client that is two pipes and nothing else, so that what is measured is the server."""

import os
import subprocess
from itertools import count
from types import TracebackType
from typing import Any, Self

import orjson
from mcp import StdioServerParameters

from benchmarks.link import WireError

_CHUNK = 1 << 16
#: What agents' clients say first; the protocol version is the newest that begins like this.
_HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class PipeClient:
    """A server that is started, asked by JSON-RPC a line each, one request at a time, and ended by the end of its
    input. It blocks the loop while it waits."""

    def __init__(self, parameters: StdioServerParameters) -> None:
        command = [parameters.command, *parameters.args]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=parameters.env, cwd=parameters.cwd, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._ids = count(1)

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The structured result of a tool. Raises WireError when it is an error."""
        result = self._request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError") or "structuredContent" not in result:
            raise WireError(f"{tool} {arguments}: {result}")
        structured: dict[str, Any] = result["structuredContent"]
        return structured

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        self._write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        answer = self._read()
        if answer.get("id") != number or "result" not in answer:
            raise WireError(f"{method} number {number} was answered by {answer}")
        result: dict[str, Any] = answer["result"]
        return result

    def _write(self, message: dict[str, Any]) -> None:
        try:
            self._input.write(orjson.dumps(message) + b"\n")
        except BrokenPipeError:
            raise WireError("the server ended") from None

    def _read(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            if not (data := os.read(self._output.fileno(), _CHUNK)):
                raise WireError("the server ended")
            line += data
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def __enter__(self) -> Self:
        try:
            self._request("initialize", _HELLO)
            self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the end of the server."""
        self._input.close()
        self._output.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
