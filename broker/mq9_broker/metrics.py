"""/metrics: the broker's figures for Prometheus. No label's values grow with use."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mq9_broker import __version__

if TYPE_CHECKING:
    from mq9_broker.hub import Hub
    from mq9_broker.tally import Tally

_OPENMETRICS = "application/openmetrics-text"
_process = ProcessCollector(registry=None)


def process_figures() -> list[Metric]:
    """What the system knows of this process; nothing where there is no /proc."""
    return list(_process.collect())


class Metrics(Collector):
    """One scrape."""

    def __init__(self, hub: Hub, total: Tally, process: list[Metric]) -> None:
        self._process = process
        self._hub = hub
        self._total = total

    def collect(self) -> Iterable[Metric]:
        yield from self._broker()
        yield from self._process

    def text(self, accept: str) -> tuple[bytes, str]:
        """(body, content type): OpenMetrics for a client that accepts it, else Prometheus' own text."""
        # (what else an Accept header holds makes no difference here, and some of it makes the library fail)
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return encode(registry), content_type

    def describe(self) -> Iterable[Metric]:
        return ()

    def _broker(self) -> Iterator[Metric]:
        hub, total, counters = self._hub, self._total, self._hub.counters
        build = {"version": __version__, "python": platform.python_version()}
        info = GaugeMetricFamily("mq9_build_info", "What runs here.", labels=list(build))
        info.add_metric(list(build.values()), 1)
        yield info
        connections = GaugeMetricFamily("mq9_connections", "Connections that are open.", labels=["kind"])
        for kind, number in total.open.items():
            connections.add_metric([kind], number)
        yield connections
        now: tuple[tuple[str, str, float], ...] = (
            ("subscriptions", "Subscriptions of all connections.", total.subscriptions),
            ("pending_bytes", "Bytes that wait for clients to take them.", total.pending),
            ("store_refusing", "1 while the store takes no writes, else 0.", bool(hub.refusing)),
        )
        for name, text, value in now:
            yield GaugeMetricFamily(f"mq9_{name}", text, value)
        ever: tuple[tuple[str, str, float], ...] = (
            ("connections_accepted", "Connections that were opened.", total.connections),
            ("messages_in", "Messages that clients published.", total.in_msgs),
            ("bytes_in", "Bytes of messages that clients published.", total.in_bytes),
            ("messages_out", "Messages that were delivered to clients.", total.out_msgs),
            ("bytes_out", "Bytes of messages that were delivered to clients.", total.out_bytes),
            ("slow_consumers", "Clients that were closed because they did not read.", counters.slow_consumers),
            ("stale_connections", "Clients that were closed because they did not answer.", counters.stale_connections),
            ("messages_stored", "Messages that were stored in mailboxes.", counters.stored),
            ("commits", "Commits that the store took.", counters.commits),
            ("commits_failed", "Commits that the store did not take.", counters.failed),
            ("commit_seconds", "Time it took until commits were kept.", counters.commit_seconds),
        )
        for name, text, value in ever:
            yield CounterMetricFamily(f"mq9_{name}", text, value)
