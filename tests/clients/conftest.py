"""One run of each program per kind of server, for the checks that were selected; what could not run is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from clients.checks import VARIANTS
from clients.servers import Mq9Servers, NatsServers, Servers
from clients.suites import SUITES, run

Outcome = Callable[[str, str, str], str]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Servers]]:
    started: dict[str, Servers] = {}

    def get(kind: str) -> Servers:
        if kind not in started:
            started[kind] = {"mq9": Mq9Servers, "nats-server": NatsServers}[kind](
                tmp_path_factory.mktemp(kind) / "servers"
            )
        return started[kind]

    yield get
    for each in started.values():
        each.close()


@pytest.fixture(scope="session")
def outcome(
    request: pytest.FixtureRequest, servers: Callable[[str], Servers], tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """What was wrong with a check; nothing if it holds."""
    commands: dict[str, list[str]] = {}
    found: dict[tuple[str, str, str], dict[str, str]] = {}

    def selected(library: str, kind: str) -> Iterator[str]:
        for item in request.session.items:
            asked = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
            if (asked.get("library"), asked.get("kind")) == (library, kind):
                yield asked["check"]

    def get(library: str, kind: str, check: str) -> str:
        suite, variant = SUITES[library], VARIANTS.get(check, "plain")
        if library not in commands:
            commands[library] = suite.build(tmp_path_factory.mktemp("program"))
        if (library, kind, variant) not in found:
            checks = [each for each in selected(library, kind) if VARIANTS.get(each, "plain") == variant]
            environment = servers(kind).environment(variant, suite.websocket)
            found[library, kind, variant] = run(commands[library], checks, servers(kind), environment)
        return found[library, kind, variant][check]

    return get


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = {name: suite.missing() for name, suite in SUITES.items() if suite.missing()}
    if missing:
        terminalreporter.section("client libraries that were NOT tested", sep="!")
        for name, why in missing.items():
            terminalreporter.line(f"{name}: {why}")
