"""The command line of the benchmarks."""

import argparse
import gc
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.marks import table as marks_table
from benchmarks.page import write as write_page
from benchmarks.report import Report
from benchmarks.servers import redis_program
from benchmarks.workloads import LONG, SERVERS, WORKLOADS, Run


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # (the servers are stopped then, too)
    report = Report.from_json(arguments.from_json) if arguments.from_json else _measure(arguments)
    if arguments.json:
        report.write_json(arguments.json)
    if arguments.write:
        write_page(report, arguments.write)
    print(marks_table(report))
    for line in report.missing:
        print(line, file=sys.stderr)
    return 1 if report.missing else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures mq9 beside nats-server with JetStream and Redis Streams on this machine, in alternating "
        "rounds. Each figure is the median of the rounds; a ratio above 1 is in favour of mq9.",
    )
    parser.add_argument(
        "workloads",
        nargs="*",
        metavar="WORKLOAD",
        help=f"one or more of {', '.join(WORKLOADS)}, all by default (20 minutes); or {', '.join(LONG)}, which takes a "
        "quarter of an hour and 10 GB, and compares a broker that holds a lot with one that holds little",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page, and its plots beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round to this file")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing: take the figures of this file")
    parser.add_argument("--server", dest="servers", action="append", choices=SERVERS, help="measure this one alone")
    parser.add_argument(
        "--backlog", type=int, default=1_000_000, metavar="N", help="how long it grows; 1,000,000 (try 10,000,000)"
    )
    parser.add_argument(
        "--mailboxes", type=int, default=1_000_000, metavar="N", help="of flat, with ten messages each; 1,000,000"
    )
    parser.add_argument("--quick", action="store_true", help="see that everything works; the figures mean nothing")
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.workloads if name not in WORKLOADS | LONG]:
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS | LONG)}")
    if arguments.write and find_spec("matplotlib") is None:
        parser.error("--write needs matplotlib for its plots: pip install 'mq9-mcp[bench]'")
    for file in (arguments.write, arguments.json):
        if file and not file.parent.is_dir():
            parser.error(f"there is no folder {file.parent} for {file.name}")
    arguments.servers = arguments.servers or list(SERVERS)
    return arguments


def _measure(arguments: argparse.Namespace) -> Report:
    report = Report()
    report.machine = describe()
    if "redis" in arguments.servers and redis_program() is None:
        arguments.servers.remove("redis")
        report.missing.append("redis is not measured: redis-server is not installed (apt-get install redis-server)")
    gc.disable()  # what the load generator makes is gone by itself, and a pause of its own would be the server's
    for name in arguments.workloads or WORKLOADS:
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="mq9-benchmark-") as folder, ExitStack() as stack:
                run = Run(report, arguments, Path(folder), stack)
                (WORKLOADS | LONG)[name](run)
        except Exception as error:  # what the others measured is worth something without it
            traceback.print_exc()
            report.missing.append(f"{name} was not measured to its end: {error}")
        gc.collect()
        print(report.table(name), end="\n\n", flush=True)
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    sys.exit(main())
