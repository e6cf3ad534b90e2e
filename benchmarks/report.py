"""Collects the figures of a run and shows them as tables or JSON."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.servers import Server

_HIGHER_IS_BETTER = "/s"
_Key = tuple[str, str, str, float | None]


@dataclass(slots=True)
class Figure:
    """One measured thing: the values of its rounds, per server.

    `unit` ending in `/s` means that higher is better, every other unit that lower is. `x` is where on a curve it is.
    """

    workload: str
    case: str
    unit: str
    x: float | None = None
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
        self._figures: dict[_Key, Figure] = {}
        #: What was measured with what: lines of text by name.
        self.machine: dict[str, str] = {}
        #: What could not be measured, and why.
        self.missing: list[str] = []

    def add(self, workload: str, case: str, unit: str, server: str, value: float, x: float | None = None) -> None:
        key = workload, case, unit, x
        self._figures.setdefault(key, Figure(*key)).samples.setdefault(server, []).append(value)

    def add_cpu(
        self, workload: str, case: str, server: Server, before: float | None, messages: int, x: float | None = None
    ) -> None:
        """The processor time that the server took per message since `before`, where the system tells it."""
        after = server.cpu_seconds()
        if before is not None and after is not None:
            self.add(workload, case, "server cpu us", server.name, (after - before) / messages * 1e6, x)

    def add_busy(
        self,
        workload: str,
        case: str,
        server: Server,
        before: float | None,
        client_cpu: float,
        seconds: float,
        x: float | None = None,
    ) -> None:
        """The shares of one processor that the load generator and the server had in so many seconds."""
        self.add(workload, case, "client busy %", server.name, client_cpu / seconds * 100, x)
        after = server.cpu_seconds()
        if before is not None and after is not None:
            self.add(workload, case, "server busy %", server.name, (after - before) / seconds * 100, x)

    def figure(self, workload: str, case: str, unit: str, x: float | None = None) -> Figure | None:
        return self._figures.get((workload, case, unit, x))

    def curve(self, workload: str, case: str, unit: str) -> list[Figure]:
        """The figures along a curve, by x."""
        points = [
            figure
            for figure in self._figures.values()
            if (figure.workload, figure.case, figure.unit) == (workload, case, unit) and figure.x is not None
        ]
        return sorted(points, key=lambda figure: figure.x or 0.0)

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(figure.workload for figure in self._figures.values()))

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
        figures = [asdict(figure) for figure in self._figures.values()]
        content = {"machine": self.machine, "missing": self.missing, "figures": figures}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> "Report":
        content = json.loads(path.read_text())
        report = cls()
        report.machine, report.missing = content["machine"], content["missing"]
        for values in content["figures"]:
            figure = Figure(**values)
            report._figures[figure.workload, figure.case, figure.unit, figure.x] = figure
        return report


def _heading(workload: str, servers: list[str]) -> Iterator[str]:
    yield from (workload, "unit")
    for server in servers:
        yield from (server, "best")
    if "mq9" in servers:
        yield from ("ratio" if len(servers) == 2 else f"to {other}" for other in servers if other != "mq9")


def _row(figure: Figure, servers: list[str]) -> Iterator[str]:
    yield from (figure.case if figure.x is None else f"{figure.case}, {figure.x:,.0f}", figure.unit)
    for server in servers:
        yield from (number(figure.median(server)), number(figure.best(server)))
    if "mq9" in servers:
        for other in servers:
            if other != "mq9":
                ratio = figure.ratio(figure.median("mq9"), figure.median(other))
                yield "" if ratio is None else f"{ratio:.2f}"


def number(value: float | None) -> str:
    """A figure as it is read: three digits, or all before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def short(value: float) -> str:
    """A figure as it fits an axis: 2k, 1M."""
    for bound, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g}{letter}"
    return f"{value:.3g}"


def _aligned(row: list[str], widths: list[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if column < 2 else cell.rjust(width)
