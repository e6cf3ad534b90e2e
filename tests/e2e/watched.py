"""A server with a monitoring port, and what that says."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from e2e.harness import Broker


class Watched(NamedTuple):
    """A server with a port for clients and one for monitoring."""

    port: int
    monitor: int

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.monitor, timeout=20)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, text = self.get(path)
        assert status == 200, text
        return json.loads(text)

    def figures(self) -> dict[str, float]:
        """What /metrics says, by name; labels do not count."""
        status, text = self.get("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples}


def watched(broker: Broker) -> Watched:
    """A broker that was started with --monitor-port 0."""
    assert broker.process.stdout is not None
    line = broker.process.stdout.readline().decode()
    found = re.fullmatch(r"mq9 broker \S+ monitoring on http://127\.0\.0\.1:(\d+)\n", line)
    assert found is not None, line
    return Watched(broker.port, int(found[1]))
