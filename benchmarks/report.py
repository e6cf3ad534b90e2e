"""Collects the figures of a run and shows them as tables or JSON."""

import json
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import Server

_HIGHER_IS_BETTER = "/s"


@dataclass(slots=True)
class Figure:
    """One measured thing: the values of its rounds, per server.

    `unit` ending in `/s` means that higher is better, every other unit that lower is.
    """

    workload: str
    case: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, server: str) -> float | None:
        return statistics.median(values) if (values := self.samples.get(server)) else None

    def best(self, server: str) -> float | None:
        if not (values := self.samples.get(server)):
            return None
        return max(values) if self.unit.endswith(_HIGHER_IS_BETTER) else min(values)

    def ratio(self, first: float | None, second: float | None) -> float | None:
        """How many times better `first` is than `second`: above 1 is better, whatever the unit."""
        if not first or not second:
            return None
        return first / second if self.unit.endswith(_HIGHER_IS_BETTER) else second / first


class Report:
    """Every figure of a run, in the order in which they were first measured."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str, str], Figure] = {}

    def add(self, workload: str, case: str, unit: str, server: str, value: float) -> None:
        figure = self._figures.setdefault((workload, case, unit), Figure(workload, case, unit))
        figure.samples.setdefault(server, []).append(value)

    def add_cpu(self, workload: str, case: str, server: Server, before: float | None, messages: int) -> None:
        """The processor time that the server took per message since `before`, where the system tells it."""
        after = server.cpu_seconds()
        if before is not None and after is not None:
            self.add(workload, case, "server cpu us", server.name, (after - before) / messages * 1e6)

    def workload(self, name: str) -> list[Figure]:
        return [figure for figure in self._figures.values() if figure.workload == name]

    def table(self, workload: str) -> str:
        """The figures of one workload as lines of text, `mq9` first and what it is compared with beside it."""
        figures = self.workload(workload)
        servers = list(dict.fromkeys(server for figure in figures for server in figure.samples))
        servers.sort(key=lambda server: server != "mq9")
        rows = [list(_heading(workload, servers)), *(list(_row(figure, servers)) for figure in figures)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def write_json(self, path: Path) -> None:
        figures = [
            {
                "workload": figure.workload,
                "case": figure.case,
                "unit": figure.unit,
                "servers": {
                    server: {"median": figure.median(server), "best": figure.best(server), "rounds": values}
                    for server, values in figure.samples.items()
                },
            }
            for figure in self._figures.values()
        ]
        machine = {"python": platform.python_version(), "system": platform.platform()}
        path.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1) + "\n")


def _heading(workload: str, servers: list[str]) -> Iterator[str]:
    yield from (workload, "unit")
    for server in servers:
        yield from (server, "best")
    if len(servers) == 2:
        yield from ("ratio", "best")


def _row(figure: Figure, servers: list[str]) -> Iterator[str]:
    yield from (figure.case, figure.unit)
    for server in servers:
        yield from (_number(figure.median(server)), _number(figure.best(server)))
    if len(servers) == 2:
        first, second = servers
        for ratio in (
            figure.ratio(figure.median(first), figure.median(second)),
            figure.ratio(figure.best(first), figure.best(second)),
        ):
            yield "" if ratio is None else f"{ratio:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _aligned(row: list[str], widths: list[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)
