"""The plots of the page: how figures grow, as SVG files that change only with the figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Report, short

_COLOURS = {
    "mq9": "#0b6e4f",
    "nats-server": "#3b6fb6",
    "nats core": "#8fb3de",
    "redis": "#c0392b",
    "echo server": "#999999",
    "rocksdict": "#555555",
}
_HASH_SALT = "mq9"


@dataclass(frozen=True, slots=True)
class Plot:
    """One file: a panel for each (case, unit, what stands above it); `note` says what is to be seen."""

    workload: str
    title: str
    across: str
    panels: Sequence[tuple[str, str, str]]
    note: str = ""


PLOTS = (
    Plot(
        "mailboxes",
        "Mailboxes (streams, keys) that exist",
        "that exist",
        (
            ("memory after a restart", "MiB", "memory after a restart, MiB"),
            ("creating", "msg/s", "created per second"),
            ("sends to one, 1 in flight", "p50 us", "a send to one of them, p50, µs"),
            ("sends to random ones, 64 in flight", "msg/s", "sends to random ones per second"),
            ("fetches from random ones, 64 in flight", "msg/s", "fetches from random ones per second"),
        ),
        "Memory is that of a server that was started anew on what exists and has answered 1,000 sends. Random ones are "
        "10,000 different ones, as far as there are so many: what is not in memory is read.",
    ),
    Plot(
        "backlog",
        "Messages that wait in one mailbox (stream, key)",
        "waiting",
        (
            ("filling, 1,000 in flight", "msg/s", "filling, messages per second"),
            ("sends, 64 in flight", "msg/s", "one more, 64 in flight, per second"),
            ("a new reader's first bytes", "ms", "a new reader's first bytes, ms"),
            ("fetching and acknowledging 100", "ms", "FETCH and ACK of 100, ms"),
            ("memory more than empty", "MiB", "memory more than empty, MiB"),
        ),
    ),
    Plot(
        "listeners",
        "Mailboxes that are subscribed to (core subscriptions)",
        "subscriptions",
        (
            ("send to delivery", "p50 us", "a send to one of them until its delivery, p50, µs"),
            ("send to delivery", "p99 us", "the same, p99, µs"),
            ("subscribing", "subscriptions/s", "subscriptions made per second"),
            ("memory", "MiB", "memory for all of them, MiB"),
        ),
        "nats-server has as many core subscriptions, and stores nothing.",
    ),
    Plot(
        "subscriptions",
        "Core publish beside wildcard subscriptions that do not match",
        "other subscriptions",
        (
            ("every message on a new subject", "msg/s", "every message on a new subject, per second"),
            ("a subscription comes, a message, it goes", "msg/s", "one comes, a message, it goes, per second"),
        ),
    ),
    Plot(
        "connections",
        "Connections with one stored send in flight each",
        "connections",
        (
            ("one send in flight each", "msg/s", "messages per second"),
            ("one send in flight each", "p50 us", "p50, µs"),
            ("one send in flight each", "p99 us", "p99, µs"),
            ("one send in flight each", "client busy %", "load generator, % of a processor"),
        ),
        "With many in flight latency is their number divided by the rate.",
    ),
    Plot(
        "sizes",
        "Message size, 8 stored sends in flight",
        "bytes",
        (
            ("8 in flight", "msg/s", "messages per second"),
            ("8 in flight", "MB/s", "MB per second"),
            ("8 in flight", "p50 us", "p50, µs"),
        ),
    ),
    Plot(
        "saturation",
        "Connections that send as fast as TCP lets them",
        "flooding connections",
        (
            ("send to delivery in an idle place", "p50 ms", "a message to an idle place, p50, ms"),
            ("send to delivery in an idle place", "p99 ms", "the same, p99, ms"),
            ("flooding", "msg/s", "what they get rid of, messages per second"),
            ("slowest connection, share of the mean", "%", "the slowest of them, % of the mean"),
            ("memory more than before", "MiB", "memory more than before, MiB"),
        ),
        "Only Redis answers its flood. Nobody looked whether the peers kept all of theirs.",
    ),
)


def draw(report: Report, folder: Path) -> Iterator[tuple[Plot, Path]]:
    """Writes a file for each plot that has figures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": _HASH_SALT,
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": "#e5e5e5",
        "lines.linewidth": 1.3,
        "lines.markersize": 3,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        if any(report.curve(plot.workload, case, unit) for case, unit, _ in plot.panels):
            path = folder / f"{plot.workload}.svg"
            _draw(report, plot, path)
            yield plot, path


def _draw(report: Report, plot: Plot, path: Path) -> None:
    from matplotlib import pyplot

    across = 3 if len(plot.panels) > 2 else 2
    down = -(-len(plot.panels) // across)
    figure, grid = pyplot.subplots(down, across, figsize=(3.1 * across, 2.2 * down), squeeze=False)
    for axes, (case, unit, title) in zip(grid.flat, plot.panels, strict=False):
        _panel(axes, report, plot, case, unit)
        axes.set_title(title)
        axes.set_xlabel(plot.across)
    for axes in grid.flat[len(plot.panels) :]:
        axes.axis("off")
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend([*handles.values()], [*handles], loc="lower right", ncols=len(handles), frameon=False)
    figure.suptitle(plot.title, x=0.01, ha="left", weight="bold")
    figure.tight_layout(rect=(0, 0.12 / down, 1, 1))
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _panel(axes: Any, report: Report, plot: Plot, case: str, unit: str) -> None:
    """The median of every server, and the range of its rounds."""
    points = report.curve(plot.workload, case, unit)
    if not points:
        axes.axis("off")
        return
    servers = list(dict.fromkeys(server for point in points for server in point.samples))
    values = [value for point in points for samples in point.samples.values() for value in samples]
    for server in servers:
        here = [point for point in points if server in point.samples]
        xs = [point.x or 0 for point in here]
        colour = _COLOURS.get(server, "#000000")
        axes.plot(xs, [point.median(server) for point in here], "o-", color=colour, label=server)
        if any(len(point.samples[server]) > 1 for point in here):
            low, high = ([edge(point.samples[server]) for point in here] for edge in (min, max))
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    xs = [point.x or 0 for point in points]
    if len(xs) > 2:
        axes.set_xscale("log") if all(xs) else axes.set_xscale("symlog", linthresh=xs[1])
        axes.set_xticks(xs[:: -(-len(xs) // 6)])
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
