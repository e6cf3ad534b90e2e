"""Fuzzing with atheris: `PYTHONPATH=tests python -m fuzz TARGET [flags of libFuzzer]`.

Begins with the seeds and what the folder `--corpus` holds (a temporary one unless it is named), and ends at the first
input that breaks a promise. That is written to `--crashes`, by default where the tests find it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from hashlib import blake2b
from importlib import import_module
from pathlib import Path

import atheris

TARGETS = ("parser", "broker", "requests")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=-1, help="executions, -1 without end")
    parser.add_argument("--corpus", type=Path, help="where inputs that reach something new are kept")
    parser.add_argument("--crashes", type=Path, help="where an input that fails is written")
    chosen, flags = parser.parse_known_args()
    # only the broker's own code guides the search
    with atheris.instrument_imports(include=["mq9_broker"]):
        target = import_module(f"fuzz.{chosen.target}")
        seeds = import_module("fuzz.seeds")
    crashes = chosen.crashes or Path(__file__).parent / "crashes" / chosen.target
    crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = chosen.corpus or Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for data in getattr(seeds, chosen.target)():
            (corpus / blake2b(data, digest_size=10).hexdigest()).write_bytes(data)
        words = Path(folder) / "words"
        words.write_text("".join(map(quoted, seeds.dictionary())))
        limits = [f"-runs={chosen.runs}", f"-max_len={target.LONGEST}", "-timeout=20", "-print_final_stats=1"]
        # libFuzzer ends its process without a word to Python, so it gets one of its own
        process = os.fork()
        if not process:
            where = [f"-dict={words}", f"-artifact_prefix={crashes}/", str(corpus)]
            atheris.Setup([sys.argv[0], *limits, *flags, *where], target.check)
            atheris.Fuzz()
        _, status = os.waitpid(process, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def quoted(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


main()
