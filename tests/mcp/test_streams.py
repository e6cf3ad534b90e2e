"""Standard input and output of a server: in order, whole, and nobody waits for a client that does not read or write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification

from mq9_mcp.stdio import AHEAD, CHUNK, Incoming, Outgoing

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
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test did


@pytest.fixture
def outgoing(ends: tuple[int, int]) -> Outgoing:
    os.set_blocking(ends[1], False)
    return Outgoing(ends[1])


def said(text: str) -> SessionMessage:
    return SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="x", params={"text": text}))


def line(text: str) -> bytes:
    return said(text).message.model_dump_json(exclude_unset=True).encode() + b"\n"


def text_of(item: SessionMessage | Exception) -> str:
    assert isinstance(item, SessionMessage)
    assert isinstance(item.message, JSONRPCNotification)
    assert item.message.params is not None
    return str(item.message.params["text"])


async def read(descriptor: int, size: int) -> bytes:
    got = b""
    with anyio.fail_after(20):
        while len(got) < size:
            await anyio.wait_readable(descriptor)
            got += os.read(descriptor, CHUNK)
    return got


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 1 << 20])
async def test_what_is_sent_arrives(ends: tuple[int, int], outgoing: Outgoing, size: int) -> None:
    texts = [f"{number}é".ljust(size, "x") for number in range(5)]
    expected = b"".join(map(line, texts))
    async with anyio.create_task_group() as tg:
        for text in texts:
            tg.start_soon(outgoing.send, said(text))
        assert await read(ends[0], len(expected)) == expected


async def test_nobody_waits_for_a_client_that_does_not_read(ends: tuple[int, int], outgoing: Outgoing) -> None:
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(2000):
            await outgoing.send(said("x" * 1000))
            sent += 1

    async with anyio.create_task_group() as tg:
        tg.start_soon(send)
        before = -1
        with anyio.fail_after(20):
            while sent > before:  # until the pipe is full: this task still runs
                before = sent
                await anyio.sleep(0.1)
        assert 0 < sent < 2000
        await read(ends[0], 2000 * len(line("x" * 1000)))
    assert sent == 2000


async def test_what_is_cancelled_is_sent_whole_or_not_at_all(ends: tuple[int, int], outgoing: Outgoing) -> None:
    scope = anyio.CancelScope()

    async def send(*texts: str) -> None:
        with scope:
            async with anyio.create_task_group() as tg:
                for text in texts:
                    tg.start_soon(outgoing.send, said(text))

    begun = "a" * (1 << 20)
    expected = line(begun) + line("c")
    async with anyio.create_task_group() as tg:
        tg.start_soon(send, begun, "b")
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        tg.start_soon(outgoing.send, said("c"))
        await anyio.wait_all_tasks_blocked()
        got = await read(ends[0], len(expected))
    assert got == expected


async def test_a_client_that_is_gone(ends: tuple[int, int], outgoing: Outgoing) -> None:
    os.close(ends[0])
    with pytest.raises(anyio.BrokenResourceError):
        await outgoing.send(said("x"))


@pytest.mark.parametrize("step", [1, 7, CHUNK])
async def test_what_comes_is_read_by_lines(ends: tuple[int, int], step: int) -> None:
    reading, writing = ends
    data = line("é") + b"\n" + line("x" * 300) + b"no message\n" + line("\N{SNOWMAN}")[:-1]

    def write() -> None:
        for start in range(0, len(data), step):
            os.write(writing, data[start : start + step])
        os.close(writing)

    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.to_thread.run_sync, write)
        incoming = Incoming(reading, Outgoing(writing))
        items = [item async for item in incoming]
    assert [isinstance(item, ValueError) for item in items] == [False, True, False, True, False]
    assert [text_of(item) for item in items[::2]] == ["é", "x" * 300, "\N{SNOWMAN}"]
    with pytest.raises(anyio.EndOfStream):
        await incoming.receive()


async def test_what_is_no_utf8_is_replaced(ends: tuple[int, int]) -> None:
    os.write(ends[1], line("x").replace(b'"x"}', b'"\xff"}'))
    assert text_of(await Incoming(ends[0], Outgoing(ends[1])).receive()) == "\N{REPLACEMENT CHARACTER}"


async def test_what_nobody_receives_is_not_read(ends: tuple[int, int]) -> None:
    reading, writing = ends
    incoming = Incoming(reading, Outgoing(writing))
    os.set_blocking(writing, False)
    os.write(writing, line("first"))
    assert text_of(await incoming.receive()) == "first"
    data = line("x" * 1000)
    written, before = 0, -1
    while before < written < 8_000_000:  # until no more fits, though there is time to read it
        before = written
        try:
            while True:
                written += os.write(writing, data)
        except BlockingIOError:
            await anyio.sleep(0.05)
    assert written == before
    for _ in range(written // len(data)):
        assert text_of(await incoming.receive()) == "x" * 1000
    await incoming.aclose()


async def test_who_reads_no_answers_cannot_go_on_asking(ends: tuple[int, int], outgoing: Outgoing) -> None:
    asked, asking = os.pipe()
    os.set_blocking(asking, False)
    questions = [f"{number}".ljust(1000) for number in range(3 * AHEAD)]
    received = 0

    async def ask() -> None:
        asker = Outgoing(asking)
        for question in questions:
            await asker.send(said(question))
        os.close(asking)

    async def answer() -> None:
        nonlocal received
        async for item in Incoming(asked, outgoing):
            assert isinstance(item, SessionMessage)
            received += 1
            tg.start_soon(outgoing.send, item)

    expected = b"".join(map(line, questions))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            tg.start_soon(answer)
            before = 0
            while received <= AHEAD or received > before:  # until no more is taken
                before = received
                await anyio.sleep(0.1)
            assert received < 2 * AHEAD
            assert await read(ends[0], len(expected)) == expected
    os.close(asked)


ECHO = """
import anyio, os
from mq9_mcp import stdio
async def echo():
    async with stdio.streams() as (incoming, outgoing), incoming, outgoing:
        print("stray", os.read(0, 1), flush=True)
        async for item in incoming:
            await outgoing.send(item)
anyio.run(echo)
"""


def test_what_is_printed_is_no_answer() -> None:
    done = subprocess.run([sys.executable, "-c", ECHO], input=line("x"), capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (line("x"), b"stray b''\n")


def test_files_are_served_too(tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    asked.write_bytes(line("x") + line("y"))
    with asked.open() as stdin:
        done = subprocess.run([sys.executable, "-c", ECHO], stdin=stdin, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (asked.read_bytes(), b"stray b''\n")
    with asked.open() as stdin, answered.open("w") as stdout:
        subprocess.run([sys.executable, "-c", ECHO], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=True)
    assert answered.read_bytes() == asked.read_bytes()


def test_one_socket_for_both_is_left_as_it_was() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([sys.executable, "-c", ECHO], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
        ours.sendall(line("x"))
        ours.shutdown(socket.SHUT_WR)
        _, complaint = process.communicate(timeout=20)
        assert (ours.recv(CHUNK), complaint, process.returncode) == (line("x"), b"stray b''\n", 0)
        assert os.get_blocking(theirs.fileno())


LOG = """
import anyio, sys
from mq9_mcp import stdio
async def log():
    async with stdio.streams() as (incoming, outgoing), incoming, outgoing:
        sys.stderr.write("x" * 5_000_000)
anyio.run(log)
"""


def test_nothing_that_is_logged_where_the_answers_go_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOG], input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20
    )
    assert (done.stdout == b"x" * 5_000_000, done.returncode) == (True, 0)
