"""What the figures are held against: one row for each piece of work, shown beside its ratio, never asserted."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.report import Figure, Report, number

_RATE = "msg/s"
_JETSTREAM, _REDIS, _MAIL = "nats-server", "redis", "mcp_agent_mail"


@dataclass(frozen=True, slots=True)
class Mark:
    """mq9's median divided by that of `peer` (or by itself, without one) is at least or at most this."""

    work: str
    workload: str
    case: str
    unit: str
    peer: str | None = _JETSTREAM
    least: float | None = None
    most: float | None = None
    x: float | None = None

    @property
    def shown_unit(self) -> str:
        """(which percentile it is, says the work)"""
        return self.unit.rpartition(" ")[2].replace("us", "µs").replace("msg/s", "/s")

    @property
    def text(self) -> str:
        bound = f"≥ {self.least:,}" if self.least is not None else f"≤ {self.most:,}"
        return f"{bound}×" if self.peer else f"{bound} {self.shown_unit}"


@dataclass(frozen=True, slots=True)
class Row:
    """A mark beside what was measured; `low` and `high` are the ratios of the worst and the best round."""

    mark: Mark
    ours: float | None
    theirs: float | None
    ratio: float | None
    low: float | None
    high: float | None
    redis: float | None

    @property
    def met(self) -> bool | None:
        """None: it was not measured."""
        value = self.ratio if self.mark.peer else self.ours
        if value is None:
            return None
        if self.mark.least is not None:
            return value >= self.mark.least
        return value <= (self.mark.most or 0.0)


#: (work, client, case) of the MCP tools.
_CALLS = [
    (work, client, f"{tool}, {client}")
    for client in ("bare client", "SDK's client")
    for work, tool in (
        ("`send`", "send"),
        ("`check_inbox`, one message", "check_inbox, one message"),
        ("`check_inbox`, nothing there", "check_inbox, empty"),
    )
]
MARKS = (
    Mark("stored sends, 1,000 in flight", "sends", "1,000 in flight", _RATE, least=1.0),
    Mark("stored sends, 64 in flight", "sends", "64 in flight", _RATE, least=1.0),
    Mark("stored sends, 64 connections with 1 in flight each", "sends", "64 connections x 1", _RATE, least=1.0),
    Mark("stored sends one at a time, p50", "sends", "1 in flight", "p50 us", most=1.25),
    Mark("stored sends one at a time, p99", "sends", "1 in flight", "p99 us", most=1.25),
    Mark("durable sends (synced to the disk), 64 in flight", "durable", "64 in flight", _RATE, least=1.0),
    Mark("creating mailboxes, 64 in flight (streams)", "create", "64 in flight", _RATE, least=50.0),
    Mark("creating mailboxes, 64 in flight", "create", "64 in flight", _RATE, None, least=20_000),
    Mark("memory of a mailbox that exists", "mailboxes", "memory of one that exists", "bytes", None, most=100),
    Mark("offline drain: 100,000 waiting to a new subscriber", "drain", "100,000 waiting", _RATE, least=1.0),
    Mark("FETCH and ACK of 100, confirmed", "fetch", "batches of 100", _RATE, least=1.0),
    Mark("FETCH and ACK of 100, ACK with the next FETCH", "groups", "1 member fetches 100", _RATE, least=1.0),
    Mark("8 members FETCH and ACK 100", "groups", "8 members fetch 100", _RATE, least=1.0),
    Mark("queue group of 8, acknowledged (8 pullers)", "groups", "queue group of 8, acknowledged", _RATE, least=1.0),
    Mark(
        "queue group of 8, no acknowledgements (8 pullers, acknowledged)",
        "groups",
        "queue group of 8, no acknowledgements",
        _RATE,
        least=1.0,
    ),
    Mark("stored send to push on another connection, p50", "push", "send to delivery", "p50 us", most=1.0),
    Mark("stored send to push on another connection, p99", "push", "send to delivery", "p99 us", most=1.0),
    Mark(
        "the same beside core publish, nothing stored, p50", "push", "send to delivery", "p50 us", "nats core", most=1.5
    ),
    Mark(
        "the same beside core publish, nothing stored, p99", "push", "send to delivery", "p99 us", "nats core", most=1.5
    ),
    Mark("critical message, 1,000,000 waiting: next FETCH", "priority", "next FETCH", "p99 ms", None, most=5),
    Mark("the same: push to a reader of 50 MB/s", "priority", "push to a slow reader", "longest ms", None, most=20),
    Mark("stored sends of 1 MiB, 8 in flight", "sizes", "8 in flight", "MB/s", least=0.7, x=1_048_576),
    *(
        Mark(f"MCP {work}, {client} (an empty tool and a nats-py request)", "tools", case, "p50 ms", "empty", most=1.5)
        for work, client, case in _CALLS
    ),
    *(
        Mark(f"MCP {work}, {client} ({_MAIL}, stated)", "tools", case, "p50 ms", _MAIL, most=0.05)
        for work, client, case in _CALLS
        if not case.startswith("check_inbox, empty")
    ),
    Mark(
        "MCP server, spawn to `initialize`, a broker runs (an empty server)",
        "tools",
        "spawn to initialize, a broker runs",
        "ms",
        "empty",
        most=1.15,
    ),
    Mark(
        "MCP server, spawn to `initialize`, no broker yet (an empty server)",
        "tools",
        "spawn to initialize, no broker yet",
        "ms",
        "empty",
        most=1.15,
    ),
    Mark(
        "one connection floods: message to an idle mailbox, p99",
        "saturation",
        "send to delivery in an idle place",
        "p99 ms",
        None,
        most=50,
        x=1,
    ),
)


def rows(report: Report) -> Iterator[Row]:
    """Every mark, with what was measured of it."""
    for mark in MARKS:
        figure = report.figure(mark.workload, mark.case, mark.unit, mark.x)
        yield _row(mark, figure or Figure(mark.workload, mark.case, mark.unit))


def _row(mark: Mark, figure: Figure) -> Row:
    ours = figure.median("mq9")
    theirs = figure.median(mark.peer or _JETSTREAM)
    ratio = ours / theirs if mark.peer and ours is not None and theirs else None
    # rounds are neighbours in time: what slows the machine slows both
    pairs = zip(figure.samples.get("mq9", []), figure.samples.get(mark.peer or "", []), strict=False)
    ratios = [first / second for first, second in pairs if second]
    low, high = min(ratios, default=None), max(ratios, default=None)
    return Row(mark, ours, theirs, ratio, low, high, figure.median(_REDIS))


def table(report: Report) -> str:
    """The marks of what was measured, as lines of text."""
    measured = [row for row in rows(report) if row.met is not None]
    lines = [[row.mark.work, *cells(row)] for row in measured]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def cells(row: Row) -> list[str]:
    """mq9, the peer, their ratio and its range, the mark, whether it is met, and Redis."""
    unit = row.mark.shown_unit
    return [
        *(f"{number(value)} {unit}" if value is not None else "" for value in (row.ours, row.theirs)),
        f"{row.ratio:.2f}×" if row.ratio is not None else "",
        f"{row.low:.2f} to {row.high:.2f}" if row.low is not None and row.low != row.high else "",
        row.mark.text,
        {True: "met", False: "not met", None: "not measured"}[row.met],
        f"{number(row.redis)} {unit}" if row.redis is not None else "",
    ]
