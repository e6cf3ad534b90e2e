"""What the simulation promises, in the few seconds that a run of the tests has for it."""

from __future__ import annotations

import pytest

from simulation.ledger import Broken
from simulation.world import World

SEEDS = 200
_BATCH = 20


@pytest.mark.parametrize("first", range(0, SEEDS, _BATCH))
def test_no_seed_breaks_a_promise(first: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")  # the broker is about to report every fault
    for seed in range(first, first + _BATCH):
        try:
            World(seed).run()
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}\nPYTHONPATH=tests python -m simulation --seeds 1 --from {seed} --trace")


def test_a_seed_is_the_same_every_time() -> None:
    """Else the command that a failing seed is said with would show something else."""
    runs = []
    for _ in range(2):
        world = World(7)
        world.run()
        runs.append((world.trace, world.written.digest()))
    assert runs[0] == runs[1]
