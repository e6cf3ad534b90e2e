"""`mq9-mcp demo`: the main job on this machine, every step checked and told in a line.

A broker in a temporary folder, the MCP server as a coding agent starts it, and a program that knows nothing but NATS.
Everything that was started is ended, and the folder removed, however it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mq9_mcp import autostart
from mq9_mcp.install import program
from mq9_mcp.install.files import Refused
from mq9_mcp.screen import Screen, one_line

if TYPE_CHECKING:
    from mcp import Client, types

WITHIN = 30.0  # seconds for all of it; it takes about three
TOOLS = {"create_mailbox", "send", "check_inbox", "list_public"}
MAILBOX = "demo.reviews"
FLEETING = "demo.fleeting"
TASKS = (("low", "tidy the changelog"), ("normal", "review the parser"), ("critical", "the build is broken"))

# A program of somebody else: nats-py and JSON, nothing of this package. It takes three tasks, answers each, and leaves.
PROGRAM = """
import asyncio, json, sys, nats

async def main(url, mailbox):
    nc = await nats.connect(url)

    async def ask(subject, content):
        reply = json.loads((await nc.request("$mq9.AI." + subject, json.dumps(content).encode(), timeout=10)).data)
        assert reply["error"] == "", reply["error"]
        return reply

    for _ in range(3):
        wanted = {"group_name": "reviewers", "config": {"num_msgs": 1, "max_wait_ms": 5000}}
        task = (await ask("MSG.FETCH." + mailbox, wanted))["messages"][0]
        letter = json.loads(task["payload"])
        answer = {"from": mailbox, "type": "result", "subject": "Re: " + letter["subject"],
                  "body": "done: " + letter["body"], "correlation_id": letter["correlation_id"]}
        await ask("INBOX." + letter["reply_to"], answer)
        await ask("MSG.ACK." + mailbox, {"group_name": "reviewers", "msg_ids": [task["msg_id"]]})
        print(json.dumps([task["priority"], letter["body"]]))
    await nc.close()

asyncio.run(main(*sys.argv[1:]))
"""


class Untrue(Exception):
    """Something that the demo was about to say did not happen."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; 0 only when everything it said was true."""
    parser = argparse.ArgumentParser(
        prog="mq9-mcp demo",
        description="Shows a coding agent's tools and a plain NATS program write to each other through stored "
        "mailboxes. It uses a broker and a folder of its own, takes some seconds, and leaves nothing behind.",
    )
    parser.parse_args(argv)
    screen = Screen(as_json=False)
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="mq9-demo-") as folder:
            asyncio.run(_run(screen, Path(folder)))
    except KeyboardInterrupt:
        print("mq9-mcp demo: stopped; everything it had started is gone", file=sys.stderr)
        return 130
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):  # task groups wrap what ends them
            cause = cause.exceptions[0]
        if isinstance(cause, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        said = str(cause) or f"not done within {WITHIN:.0f} seconds"
        if not isinstance(cause, (Untrue, OSError)):
            said = f"something unexpected ended it: {type(cause).__name__}: {said}"
        screen.line(("✗ ", "bold red"), one_line(said))
        return 1
    command = own_command()
    screen.line()
    screen.line((f"All of it was checked, in {time.monotonic() - begun:.1f} seconds.", "bold"), " Now for your agent:")
    screen.line("  Claude Code   ", (f"{command} install claude-code", "bold cyan"))
    screen.line("  Codex         ", (f"{command} install codex", "bold cyan"))
    screen.line("The broker starts by itself with the first agent. What a shell can do: mq9 --help")
    screen.flush()
    return 0


def own_command() -> str:
    """How to start this program from anywhere: its name where that finds this one, else its path."""
    try:
        return shlex.quote(program.command(program.SERVER, desktop=False))
    except Refused:
        return f"{shlex.quote(sys.executable)} -m mq9_mcp"


async def _run(screen: Screen, folder: Path) -> None:
    async with asyncio.timeout(WITHIN):
        with _broker(folder) as url:
            async with _agent(url, folder) as client:
                await _Story(screen, client, url).tell()


class _Story:
    """What is shown: each method does one part, checks it, and only then says it."""

    def __init__(self, screen: Screen, client: Client, url: str) -> None:
        self._screen = screen
        self._client = client
        self._url = url

    async def tell(self) -> None:
        await self._tools()
        expires = await self._fleeting()
        await self._tasks()
        await self._program()
        await self._answers()
        await self._expiry(expires)

    async def _tools(self) -> None:
        self._say(f"A broker runs at {self._url}; its folder is temporary.")
        tools = {tool.name for tool in (await self._client.list_tools()).tools}
        self._check(tools == TOOLS, f"the tools are {sorted(tools)}")
        self._say(f"The MCP server runs as a coding agent starts it. Its tools: {', '.join(sorted(tools))}.")

    async def _fleeting(self) -> float:
        """A mailbox for one second with a message in it, to be looked at in the end; the time when it has expired."""
        await self._call("create_mailbox", name=FLEETING, public=True, ttl_seconds=1)
        expires = time.monotonic() + 1.1
        sent = await self._call("send", to=FLEETING, body="in time")
        self._check(sent["stored"] is True, f"send to {FLEETING} said {sent}")
        return expires

    async def _tasks(self) -> None:
        made = await self._call("create_mailbox", name=MAILBOX, public=True, description="Reviews, one at a time")
        self._check(made["mail_id"] == MAILBOX, f"create_mailbox said {made}")
        listed = (await self._call("list_public", prefix="demo."))["mailboxes"]
        self._check(any(MAILBOX in mailbox.values() for mailbox in listed), f"list_public said {listed}")
        self._say(f"create_mailbox, list_public: {MAILBOX} is in the directory, for anyone to write to.")
        for priority, body in TASKS:
            sent = await self._call(
                "send", to=MAILBOX, subject="task", body=body, priority=priority, correlation_id=f"demo-{priority}"
            )
            self._check(sent["stored"] is True and sent["msg_id"] > 0, f"send said {sent}")
        words = ", ".join(f"{body!r} ({priority})" for priority, body in TASKS)
        self._say(f"send: three tasks are stored, and nobody runs who could read them: {words}.")

    async def _program(self) -> None:
        order = await _run_program(self._url)
        expected = [[priority, body] for priority, body in reversed(TASKS)]
        self._check(order == expected, f"the program got {order}")
        self._say(
            "A program starts that speaks only NATS (nats-py, a process of its own): all three had waited for it."
        )
        self._say(f"It got the most urgent first: {' → '.join(priority for priority, _ in order)}. It answered each.")

    async def _answers(self) -> None:
        answers: dict[str, str] = {}
        while len(answers) < len(TASKS):
            got = await self._call("check_inbox", wait_seconds=5)
            self._check(bool(got["messages"]), f"only {len(answers)} of {len(TASKS)} answers came")
            answers |= {message["correlation_id"]: message["body"] for message in got["messages"]}
        expected = {f"demo-{priority}": f"done: {body}" for priority, body in TASKS}
        self._check(answers == expected, f"check_inbox said {answers}")
        self._say(f"check_inbox: the agent has the three answers, among them {answers['demo-critical']!r}.")

    async def _expiry(self, expires: float) -> None:
        await asyncio.sleep(expires - time.monotonic())
        result = await self._client.call_tool("send", {"to": FLEETING, "body": "too late"})
        text = _text(result)
        self._check(bool(result.is_error) and "does not exist" in text, f"send to {FLEETING} said {text}")
        self._say(
            f"{FLEETING} took mail for its one second. It has expired since, and a send is refused, not swallowed."
        )

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self._client.call_tool(tool, arguments)
        self._check(not result.is_error, f"{tool} failed: {_text(result)}")
        return result.structured_content or {}

    def _check(self, true: bool, otherwise: str) -> None:
        if not true:
            raise Untrue(f"not as promised: {otherwise}")

    def _say(self, words: str) -> None:
        self._screen.line(("✓ ", "bold green"), one_line(words))
        self._screen.flush()


def _text(result: types.CallToolResult) -> str:
    return " ".join(getattr(block, "text", "") for block in result.content)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    """A broker in `folder`, by its URL. If this process is killed, the broker ends itself for want of connections."""
    data = folder / "data"
    command = [sys.executable, "-m", "mq9_broker", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(data)]
    log_path = folder / "broker.log"
    with log_path.open("wb") as log:
        broker = subprocess.Popen(
            [*command, "--idle-exit", "60"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "MQ9_TOKEN"},  # it asks for none
            start_new_session=True,  # Ctrl-C is ours to handle
        )
    try:
        deadline = time.monotonic() + autostart.START_WITHIN
        while (url := autostart.find(data)) is None:
            if broker.poll() is not None or time.monotonic() > deadline:
                raise Untrue(f"the broker does not run: {_last_line(log_path)}")
            time.sleep(0.02)
        yield url
    finally:
        broker.terminate()
        try:
            broker.wait(5)
        except subprocess.TimeoutExpired:
            broker.kill()
            broker.wait()


@asynccontextmanager
async def _agent(url: str, folder: Path) -> AsyncIterator[Client]:
    """The MCP server in a process of its own, at the other end of the SDK's stdio client."""
    from mcp import Client, MCPError, StdioServerParameters, stdio_client

    environment = {"MQ9_URL": url, "MQ9_DATA_DIR": str(folder / "agent"), **_python_path()}
    server = StdioServerParameters(command=sys.executable, args=["-m", "mq9_mcp"], env=environment, cwd=folder)
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        try:
            async with Client(stdio_client(server, errlog=log)) as client:
                yield client
        except MCPError as error:
            raise Untrue(f"the MCP server failed ({error}): {_last_line(log_path)}") from None


async def _run_program(url: str) -> list[list[str]]:
    """Runs PROGRAM: the priority and the body of each task, in the order in which it got them."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, url, MAILBOX, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Untrue(f"the program failed: {complaint.decode('utf-8', 'replace').strip().rpartition(chr(10))[2]}")
    return [json.loads(line) for line in said.splitlines()]


def _python_path() -> dict[str, str]:
    """What the SDK does not pass on and a checkout that is not installed needs."""
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
