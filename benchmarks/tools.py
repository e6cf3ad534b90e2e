"""The MCP tools as an agent calls them, over stdio, beside an empty server and one nats-py request.

Each is called by two clients: a bare one, which writes a line of JSON and reads one, and that of the Python SDK, which
takes longer for that than the server for the call. Every result is looked at. The column `empty` is a tool that does
nothing, of a server that has no other, called by the same client, plus the request.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import nats
from mcp import Client, StdioServerParameters

from benchmarks.link import WireError
from benchmarks.pipes import PipeClient
from benchmarks.report import Report
from benchmarks.servers import Server

_EMPTY = "empty"
#: What another mail server for agents takes, measured on a machine of this kind: stated, not measured here.
_STATED = "mcp_agent_mail"
_STATED_MS = {"send": 85.0, "check_inbox, one message": 13.0}
BARE, SDK = "bare client", "SDK's client"

#: Calls a tool with arguments; gives its structured result.
_Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
_Step = Callable[[int], Awaitable[None]]


def run(report: Report, broker: Server, *, rounds: int = 5, calls: int = 100) -> None:
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
    plain = json.loads((await connection.request("$mq9.AI.MAILBOX.CREATE")).data)["mail_id"]

    async def request(i: int) -> None:
        answer = await connection.request(f"$mq9.AI.MAILBOX.{plain}", b"a message of a program, number %d" % i)
        if b'"msg_id":' not in answer.data:
            raise WireError(f"the send was not stored: {answer.data!r}")

    mq9, empty = _mq9(broker.folder / "data"), _empty()
    with PipeClient(mq9) as bare_mq9, PipeClient(empty) as bare_empty:
        async with Client(mq9) as sdk_mq9, Client(empty) as sdk_empty:
            clients = {
                BARE: (await _steps(bare_mq9.call), _nothing(bare_empty.call)),
                SDK: (await _steps(partial(_call, sdk_mq9)), _nothing(partial(_call, sdk_empty))),
            }
            for steps, nothing in clients.values():
                for step in (*steps.values(), nothing):
                    await _median_ms(step, 10, 0)
            for number in range(1, rounds + 1):
                first = number * calls
                own = await _median_ms(request, calls, first)
                report.add("tools", "the nats-py request alone", "p50 ms", _EMPTY, own)
                for client, (steps, nothing) in clients.items():
                    floor = await _median_ms(nothing, calls, first)
                    report.add("tools", f"the tool that does nothing alone, {client}", "p50 ms", _EMPTY, floor)
                    for name, step in steps.items():
                        case = f"{name}, {client}"
                        report.add("tools", case, "p50 ms", "mq9", await _median_ms(step, calls, first))
                        report.add("tools", case, "p50 ms", _EMPTY, floor + own)
                        if name in _STATED_MS:
                            report.add("tools", case, "p50 ms", _STATED, _STATED_MS[name])
    await connection.close()


async def _steps(call: _Call) -> dict[str, _Step]:
    """What is measured of mq9, in this order: what is checked was sent before."""
    mailbox, unused = [(await call("create_mailbox", {}))["mail_id"] for _ in range(2)]

    async def send(i: int) -> None:
        sent = await call("send", {"to": mailbox, "body": _body(i)})
        if not sent["stored"]:
            raise WireError(f"the send was not stored: {sent}")

    async def check(i: int) -> None:
        inbox = await call("check_inbox", {"mailbox": mailbox, "limit": 1})
        if [message["body"] for message in inbox["messages"]] != [_body(i)]:
            raise WireError(f"message {i} was to come: {inbox}")

    async def check_empty(i: int) -> None:
        inbox = await call("check_inbox", {"mailbox": unused})
        if inbox["messages"]:
            raise WireError(f"nothing was to come: {inbox}")

    return {"send": send, "check_inbox, one message": check, "check_inbox, empty": check_empty}


def _nothing(call: _Call) -> _Step:
    async def nothing(i: int) -> None:
        await call("nothing", {"body": _body(i)})

    return nothing


def _body(i: int) -> str:
    return f"a message of an agent, number {i}"


async def _median_ms(step: _Step, calls: int, first: int) -> float:
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
