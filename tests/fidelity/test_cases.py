"""What a client sends and what must come back, byte for byte: the same cases against nats-server and against mq9."""

from __future__ import annotations

import pytest

from fidelity.replay import FOLDER, WHOLE, Case, play, read
from fidelity.servers import Settings, StartServer

BYTE_BY_BYTE = 1


def cases() -> dict[str, tuple[Settings, Case, int]]:
    """(settings, case, bytes sent at once) by what to call it: all whole, and those not too long byte by byte."""
    found = {}
    for path in sorted(FOLDER.glob("*.txt")):
        settings, written = read(path)
        for case in written:
            found[f"{case.file}: {case.name}"] = (settings, case, WHOLE)
            if case.small and not case.whole_only:
                found[f"{case.file}, byte by byte: {case.name}"] = (settings, case, BYTE_BY_BYTE)
    return found


CASES = cases()


@pytest.mark.parametrize(("settings", "case", "step"), CASES.values(), ids=CASES.keys())
def test_it_goes_as_it_is_written(shared: StartServer, kind: str, settings: Settings, case: Case, step: int) -> None:
    play(case, kind, shared(kind, **settings).port, step)


def test_no_case_is_called_as_another() -> None:
    assert sum(len(read(path)[1]) for path in FOLDER.glob("*.txt")) == sum(
        step == WHOLE for _, _, step in CASES.values()
    )
