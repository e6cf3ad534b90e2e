"""The MCP tools as an agent calls them, over stdio, beside an empty server and one nats-py request."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import nats
from mcp import Client, StdioServerParameters

from benchmarks.link import WireError
from benchmarks.report import Report
from benchmarks.servers import Server

_EMPTY = "empty"
#: What another mail server for agents takes, measured on a machine of this kind: stated, not measured here.
_STATED = "mcp_agent_mail"
_STATED_MS = {"send": 85.0, "check_inbox, one message": 13.0}


def run(report: Report, broker: Server, *, rounds: int = 5, calls: int = 100) -> None:
    """The column `empty` is a tool that does nothing, of a server that has no other, plus one nats-py request."""
    asyncio.run(_calls(report, broker, rounds, calls))
    for number in range(rounds):
        running, none = broker.folder / "data", broker.folder / f"none{number}"
        _add_start(report, "a broker runs", "mq9", asyncio.run(_start(_mq9(running), "check_inbox", {})))
        _add_start(report, "a broker runs", _EMPTY, asyncio.run(_start(_empty(), "nothing", {"body": "x"})))
        _add_start(report, "no broker yet", "mq9", asyncio.run(_start(_mq9(none), "check_inbox", {})))
        _add_start(report, "no broker yet", _EMPTY, asyncio.run(_start(_empty(), "nothing", {"body": "x"})))
        _until_gone(none / "port")


def _add_start(report: Report, case: str, server: str, milliseconds: tuple[float, float]) -> None:
    for what, value in zip(("spawn to initialize", "spawn to first result"), milliseconds, strict=True):
        report.add("tools", f"{what}, {case}", "ms", server, value)


def _mq9(data: Path) -> StdioServerParameters:
    """The MCP server with this data directory; a broker that it has to start ends itself a second after it was left."""
    environment = {name: value for name, value in os.environ.items() if name != "MQ9_URL"}
    environment |= {"MQ9_DATA_DIR": str(data), "MQ9_IDLE_EXIT": "1"}
    return StdioServerParameters(command=sys.executable, args=["-m", "mq9_mcp"], env=environment)


def _empty() -> StdioServerParameters:
    root = Path(__file__).parent.parent
    return StdioServerParameters(command=sys.executable, args=["-m", "benchmarks.empty_mcp"], cwd=root)


def _until_gone(port_file: Path) -> None:
    """Waits for the end of a broker that ends itself."""
    deadline = time.monotonic() + 10
    while port_file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


async def _calls(report: Report, broker: Server, rounds: int, calls: int) -> None:
    connection = await nats.connect(f"nats://127.0.0.1:{broker.port}")
    async with Client(_mq9(broker.folder / "data")) as mq9, Client(_empty()) as empty:
        mailbox = (await _call(mq9, "create_mailbox", {}))["mail_id"]
        unused = (await _call(mq9, "create_mailbox", {}))["mail_id"]
        plain = json.loads((await connection.request("$mq9.AI.MAILBOX.CREATE")).data)["mail_id"]

        async def send(i: int) -> None:
            await _call(mq9, "send", {"to": mailbox, "body": f"a message of an agent, number {i}"})

        async def check(i: int) -> None:
            await _call(mq9, "check_inbox", {"mailbox": mailbox, "limit": 1})

        async def check_empty(i: int) -> None:
            await _call(mq9, "check_inbox", {"mailbox": unused})

        async def nothing(i: int) -> None:
            await _call(empty, "nothing", {"body": f"a message of an agent, number {i}"})

        async def request(i: int) -> None:
            answer = await connection.request(f"$mq9.AI.MAILBOX.{plain}", b"a message of a program, number %d" % i)
            if b'"msg_id":' not in answer.data:
                raise WireError(f"the send was not stored: {answer.data!r}")

        for step in (send, check, check_empty, nothing):
            await _median_ms(step, 10, 0)
        for number in range(1, rounds + 1):
            first = number * calls
            floor = await _median_ms(nothing, calls, first)
            steps = (("send", send), ("check_inbox, one message", check), ("check_inbox, empty", check_empty))
            times = {name: await _median_ms(step, calls, first) for name, step in steps}
            own = await _median_ms(request, calls, first)
            for name, value in times.items():
                report.add("tools", name, "p50 ms", "mq9", value)
                report.add("tools", name, "p50 ms", _EMPTY, floor + own)
                if name in _STATED_MS:
                    report.add("tools", name, "p50 ms", _STATED, _STATED_MS[name])
            report.add("tools", "the tool that does nothing alone", "p50 ms", _EMPTY, floor)
            report.add("tools", "the nats-py request alone", "p50 ms", _EMPTY, own)
    await connection.close()


async def _median_ms(step: Callable[[int], Awaitable[None]], calls: int, first: int) -> float:
    times = []
    for i in range(first, first + calls):
        started = time.perf_counter()
        await step(i)
        times.append(time.perf_counter() - started)
    return median(times) * 1e3


async def _call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise WireError(f"{tool} {arguments}: {result.content}")
    return dict(result.structured_content)


async def _start(parameters: StdioServerParameters, tool: str, arguments: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds from the spawn to the answered `initialize`, and to the result of a first tool call."""
    started = time.perf_counter()
    async with Client(parameters, mode="legacy") as client:
        initialized = time.perf_counter() - started
        await _call(client, tool, arguments)
        return initialized * 1e3, (time.perf_counter() - started) * 1e3
