"""Run seeds: `PYTHONPATH=tests python -m simulation --seeds 10000 --from 0`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from simulation.world import World


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one")
    parser.add_argument("--trace", action="store_true", help="say what happens, step by step")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first seed that fails")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the broker is about to report every fault
    began, failed = time.monotonic(), 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            failed += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            print(f"seed {seed}: {type(error).__name__}: {error} ({last.name})")
            print(f"  again: PYTHONPATH=tests {sys.executable} -m simulation --seeds 1 --from {seed} --trace")
        if chosen.trace:
            print("\n".join(world.trace), f"\n{world.written.hexdigest()}")
        if failed and not chosen.keep_going:
            break
    print(f"{seed + 1 - chosen.first} seeds, {failed} failed, {time.monotonic() - began:.1f} s")
    sys.exit(1 if failed else 0)


main()
