"""Other people's client libraries against our broker, and against nats-server: the proof that the checks are right."""

from __future__ import annotations

import pytest

from clients.conftest import Outcome
from clients.servers import NATS_SERVER
from clients.suites import SUITES

CASES = [
    pytest.param(library, kind, check, id=f"{library}-{kind}-{check}")
    for library, suite in SUITES.items()
    for kind in ("mq9", "nats-server")
    for check in suite.checks(kind)
]


@pytest.mark.parametrize(("library", "kind", "check"), CASES)
def test_client(library: str, kind: str, check: str, outcome: Outcome) -> None:
    if why := SUITES[library].missing():
        pytest.skip(f"the {library} suite did not run: {why}")
    if kind == "nats-server" and not NATS_SERVER.exists():
        pytest.skip("nats-server is not installed beside this Python")
    wrong = outcome(library, kind, check)
    assert not wrong, wrong
