"""Standard output of a server: in order, whole, and nobody waits for a client that does not read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest

from mq9_mcp.stdout import AT_ONCE, Wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """(to read from, to write to)"""
    if request.param == "pipe":
        reading, writing = os.pipe()
    else:
        one, other = socket.socketpair()
        reading, writing = one.detach(), other.detach()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("size", [1, AT_ONCE - 1, AT_ONCE, 1 << 20])
async def test_what_is_written_arrives(ends: tuple[int, int], size: int) -> None:
    reading, writing = ends
    wire = Wire(writing)
    lines = [f"{number}é".ljust(size, "x") + "\n" for number in range(5)]

    async def write() -> None:
        for line in lines:
            await wire.write(line)
            await wire.flush()

    expected = "".join(lines).encode()
    got = b""
    async with anyio.create_task_group() as tg:
        tg.start_soon(write)
        while len(got) < len(expected):
            got += await anyio.to_thread.run_sync(os.read, reading, 1 << 16)
    assert got == expected


async def test_nobody_waits_for_a_client_that_does_not_read(ends: tuple[int, int]) -> None:
    reading, writing = ends
    wire = Wire(writing)
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(2000):
            await wire.write("x" * 999 + "\n")
            await wire.flush()
            written += 1000

    async with anyio.create_task_group() as tg:
        tg.start_soon(write)
        before = -1
        with anyio.fail_after(20):
            while written > before:  # until the pipe is full: this task still runs
                before = written
                await anyio.sleep(0.1)
        assert 0 < written < 2_000_000
        got = 0
        while got < 2_000_000:
            got += len(await anyio.to_thread.run_sync(os.read, reading, 1 << 16))
    assert written == got


def test_what_is_printed_is_no_answer() -> None:
    code = "import anyio\nfrom mq9_mcp import stdout\nwire = stdout.taken()\nprint('stray', flush=True)\n"
    code += "async def say():\n    await wire.write('answer\\n')\n    await wire.flush()\nanyio.run(say)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("answer\n", "stray\n")
