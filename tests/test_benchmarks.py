"""The programs that measure run to their end and write what they promise. A figure is no test's matter."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters

from benchmarks.link import WireError, read
from benchmarks.load import Frames, one_in_flight_each
from benchmarks.pipes import PipeClient
from benchmarks.targets import alternating

ROOT = Path(__file__).parent.parent
#: The servers that every machine with the tests' packages can run.
EXPECTED = {"mq9", "nats-server"}
ALONE = {"priority": {"mq9"}, "tools": {"mq9", "empty"}, "listeners": {"mq9", "nats core"}}
WORKLOADS = (
    *("sends", "durable", "create", "drain", "fetch", "groups", "push", "priority", "sizes", "tools"),
    *("mailboxes", "backlog", "listeners", "connections", "saturation", "core", "fanout", "subscriptions", "idle"),
)


def benchmarks(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def measured(file: Path, *workloads: str) -> dict[str, Any]:
    done = benchmarks("--quick", "--json", file, *workloads)
    assert file.exists(), done.stderr
    content: dict[str, Any] = json.loads(file.read_text())
    # (Redis is measured where it is installed)
    assert [line for line in content["missing"] if not line.startswith("redis is not measured")] == []
    return content


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_measures_every_server(workload: str, tmp_path: Path) -> None:
    figures = measured(tmp_path / "figures.json", workload)["figures"]
    assert {figure["workload"] for figure in figures} == {workload}
    assert {server for figure in figures for server in figure["samples"]} >= ALONE.get(workload, EXPECTED)


def test_all_are_measured_unless_some_are_named() -> None:
    shown = benchmarks("--help").stdout
    assert ", ".join(WORKLOADS) in " ".join(shown.split())


def test_a_page_is_drawn_again_from_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures, page = tmp_path / "figures.json", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    measured(figures, "sends", "sizes")
    benchmarks("--from-json", figures, "--write", page)
    text, plot = page.read_text(), (tmp_path / "docs" / "page" / "sizes.svg").read_text()
    benchmarks("--from-json", figures, "--write", page)
    assert page.read_text() == text
    assert (tmp_path / "docs" / "page" / "sizes.svg").read_text() == plot
    assert "| stored sends, 64 in flight |" in text
    assert "(page/sizes.svg)" in text


def test_a_mark_says_whether_it_is_met(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    content = {
        "machine": {},
        "missing": [],
        "figures": [
            {
                "workload": "sends",
                "case": case,
                "unit": unit,
                "x": None,
                "samples": {"mq9": [ours], "nats-server": [10.0]},
            }
            for case, unit, ours in (
                ("64 in flight", "msg/s", 11.0),
                ("1,000 in flight", "msg/s", 9.0),
                ("1 in flight", "p50 us", 12.0),
                ("1 in flight", "p99 us", 13.0),
            )
        ],
    }
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    figures.write_text(json.dumps(content))
    done = benchmarks("--from-json", figures, "--write", page)
    assert done.returncode == 0, done.stderr
    rows = {line.split(" | ")[0]: line for line in page.read_text().splitlines() if line.startswith("| ")}
    assert rows["| stored sends, 64 in flight"].endswith("| 11 /s | 10 /s | 1.10× |  | ≥ 1.0× | met |  |")
    assert rows["| stored sends, 1,000 in flight"].endswith("| 0.90× |  | ≥ 1.0× | not met |  |")
    assert rows["| stored sends one at a time, p50"].endswith("| 12 µs | 10 µs | 1.20× |  | ≤ 1.25× | met |  |")
    assert rows["| stored sends one at a time, p99"].endswith("| 1.30× |  | ≤ 1.25× | not met |  |")
    assert rows["| offline drain: 100,000 waiting to a new subscriber"].endswith("| ≥ 1.0× | not measured |  |")


def test_no_server_always_follows_the_same_one() -> None:
    measured = [name for turns in alternating("abcd", 4) for _ in range(3) for name in turns]
    before: dict[str, set[str]] = {name: set() for name in "abcd"}
    for one, other in pairwise(measured):
        before[other].add(one)
    assert all(len(names - {name}) == 2 for name, names in before.items())
    assert Counter(measured[::12]) == {"a": 2, "d": 2}


class Peer:
    """A connection whose other end is in this test."""

    def __init__(self) -> None:
        self.sock, self.far = socket.socketpair()

    def receive(self) -> bytes:
        return read(self.sock)


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    peers = [Peer() for _ in range(3)]
    yield peers
    for peer in peers:
        peer.sock.close()
        peer.far.close()


class Lines:
    """Replies of a line each, the last of which may not be whole."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> int:
        whole, end, self._rest = (self._rest + data).rpartition(b"\n")
        return (whole + end).count(b"\n")


def test_one_request_is_in_flight_on_each_connection(peers: list[Peer]) -> None:
    requests = [b"one", b"two", b"three"]
    seen: list[list[bytes]] = [[] for _ in peers]

    def answer(far: socket.socket, got: list[bytes]) -> None:
        while request := far.recv(100):
            got.append(request)
            for piece in (b"o", b"k\n") if request == b"two" else (b"ok\n",):
                far.sendall(piece)

    answering = [threading.Thread(target=answer, args=(peer.far, got)) for peer, got in zip(peers, seen, strict=True)]
    for thread in answering:
        thread.start()
    result = one_in_flight_each(peers, [Frames(requests, 1, Lines) for _ in peers], seconds=0.02)
    for peer, thread in zip(peers, answering, strict=True):
        peer.sock.close()
        thread.join(10)
    assert result.replies == len(result.latencies) == sum(map(len, seen))
    for got in seen:
        assert got == [requests[i % 3] for i in range(len(got))]
        assert got


def test_a_connection_that_a_server_closes_is_no_result(peers: list[Peer]) -> None:
    peers[0].far.shutdown(socket.SHUT_WR)
    with pytest.raises(WireError, match="closed"):
        one_in_flight_each(peers, [Frames([b"one"], 1, Lines) for _ in peers], seconds=1)


def test_a_tool_is_called_over_two_pipes() -> None:
    parameters = StdioServerParameters(command=sys.executable, args=["-m", "benchmarks.empty_mcp"], cwd=ROOT)
    with PipeClient(parameters) as client:
        assert asyncio.run(client.call("nothing", {"body": "x"})) == {"done": True}
        with pytest.raises(WireError, match="nothing"):
            asyncio.run(client.call("nothing", {}))
        with pytest.raises(WireError, match="something"):
            asyncio.run(client.call("something", {}))
        assert asyncio.run(client.call("nothing", {"body": ""})) == {"done": False}


def test_a_program_that_is_no_mcp_server_is_no_result() -> None:
    with pytest.raises(WireError, match="ended"):
        PipeClient(StdioServerParameters(command=sys.executable, args=["-c", ""])).__enter__()


def test_a_workload_that_does_not_exist_is_named() -> None:
    done = benchmarks("speed")
    assert done.returncode == 2
    assert "there is no workload 'speed'; there are sends, " in done.stderr
