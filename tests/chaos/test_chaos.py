"""The short form of `python -m chaos`: real processes, killed at random, and every message accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import run


@pytest.mark.parametrize("durability", ["process", "fsync"])
def test_every_message_is_accounted_for(tmp_path: Path, durability: str) -> None:
    report = run(tmp_path, 8, agents=6, seed=1, durability=durability)
    assert report.problems == [], report.text
