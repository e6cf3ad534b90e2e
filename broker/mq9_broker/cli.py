"""`mq9 broker`: the broker's own command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mq9_broker import __version__

_EPILOG = """\
examples:
  mq9 broker                          on 127.0.0.1:4222, mail kept in your data folder
  mq9 broker --port 0                 on any free port: printed, and in the file "port" of the data folder
  mq9 broker --store memory           keeps nothing on disk
  mq9 broker --durability fsync       an answered send survives a power cut, not only a killed process
  mq9 broker --config mq9.toml        these settings by their names (data_dir = …), and limits (max_ttl = …)

exit codes: 0 stopped on request, 2 wrong settings, 3 the data folder is in use, 4 it has a newer format,
5 it can't be used, 6 the address can't be had, 1 anything else
"""


def parser() -> argparse.ArgumentParser:
    """The flags of `mq9 broker`."""
    flags = argparse.ArgumentParser(
        prog="mq9 broker",
        description="Run the mq9 broker: mailboxes for agents, over the NATS client protocol.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--host", help="address to bind (default 127.0.0.1: this machine only)")
    flags.add_argument("--port", type=int, help="port to bind, 0 for any free one (default 4222)")
    flags.add_argument("--data-dir", metavar="DIR", help="where mail is kept (default $MQ9_DATA_DIR, else your own)")
    flags.add_argument("--store", choices=("rocksdb", "memory"), help="what keeps the mail (default rocksdb)")
    flags.add_argument(
        "--durability",
        choices=("process", "fsync"),
        help="what an answered send survives: a killed process (default), or a power cut too",
    )
    flags.add_argument("--config", metavar="FILE", type=Path, help="a TOML file with these settings by name")
    flags.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="(default info)")
    flags.add_argument(
        "--idle-exit",
        type=int,
        metavar="SECONDS",
        help="stop after so many seconds without a client; such a broker takes a free port when 4222 is taken",
    )
    flags.add_argument("--version", action="version", version=f"mq9 {__version__}")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker; gives the exit code."""
    flags = vars(parser().parse_args(argv))
    file = flags.pop("config")
    from mq9_broker.config import load
    from mq9_broker.errors import StartError
    from mq9_broker.runner import run, set_up_logging

    try:
        config = load(file, os.environ, flags)
        set_up_logging(config.log_level)
        return run(config)
    except StartError as wrong:
        print(f"mq9 broker: {wrong}", file=sys.stderr)
        return wrong.code
