"""The short form of `python -m chaos`: real processes, killed at random, and every message accounted for."""

from __future__ import annotations

from pathlib import Path

from chaos.run import run


def test_every_message_is_accounted_for(tmp_path: Path) -> None:
    report = run(tmp_path, 8, agents=6, seed=1)
    assert report.problems == [], report.text
