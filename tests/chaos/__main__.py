"""Kill agents and the broker at random: `PYTHONPATH=tests python -m chaos --minutes 10`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from chaos.run import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of who is killed when")
    parser.add_argument("--durability", choices=("process", "fsync"), default="process", help="of the broker")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mq9-chaos-") as folder:
        report = run(Path(folder), chosen.minutes * 60, chosen.agents, chosen.seed, chosen.durability)
    print(report.text)
    print("\n".join(report.problems[:50]))
    sys.exit(1 if report.problems else 0)


main()
