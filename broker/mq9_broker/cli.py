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
  mq9 broker --config mq9.toml        these settings by their names (data_dir = …), limits (max_ttl = …), and who
                                      may connect: token = "…", or [[users]] with user and password, or nkey
  mq9 broker --tls-cert cert.pem --tls-key key.pem --host 0.0.0.0

environment: MQ9_DATA_DIR, MQ9_TOKEN (who connects has to know it)
signals: TERM stops, HUP reads users and certificates again, USR2 lets the clients go one by one, then stops

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
    flags.add_argument("--socket", metavar="PATH", help="listen on a Unix socket too, for this user's programs only")
    flags.add_argument("--data-dir", metavar="DIR", help="where mail is kept (default $MQ9_DATA_DIR, else your own)")
    flags.add_argument("--store", choices=("rocksdb", "memory"), help="what keeps the mail (default rocksdb)")
    flags.add_argument(
        "--durability",
        choices=("process", "fsync"),
        help="what an answered send survives: a killed process (default), or a power cut too",
    )
    flags.add_argument("--config", metavar="FILE", type=Path, help="a TOML file with these settings by name, and users")
    flags.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="(default info)")
    flags.add_argument(
        "--idle-exit",
        type=int,
        metavar="SECONDS",
        help="stop after so many seconds without a client; such a broker takes a free port when 4222 is taken",
    )
    tls = flags.add_argument_group("TLS")
    tls.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM): clients have to speak TLS")
    tls.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    tls.add_argument("--tls-ca", metavar="FILE", help="whose client certificates are taken (PEM)")
    tls.add_argument("--tls-verify", action="store_true", default=None, help="clients have to show a certificate")
    tls.add_argument(
        "--tls-handshake",
        choices=("after", "first", "auto"),
        help="after INFO (default), first, or whichever the client begins with",
    )
    tls.add_argument("--tls-optional", action="store_true", default=None, help="serve clients without TLS too")
    web = flags.add_argument_group("WebSocket (over TLS when there is a certificate)")
    web.add_argument("--ws-port", type=int, metavar="PORT", help="port for WebSocket clients (default: none)")
    web.add_argument("--ws-host", metavar="HOST", help="address to bind (default 127.0.0.1)")
    web.add_argument(
        "--ws-origins",
        metavar="ORIGIN,…",
        help='web pages that may connect, such as https://example.org; "*" is any (default: none)',
    )
    watch = flags.add_argument_group("monitoring")
    watch.add_argument(
        "--monitor-port",
        type=int,
        metavar="PORT",
        help="port for /healthz /varz /connz /subsz /metrics (default: none)",
    )
    watch.add_argument("--monitor-host", metavar="HOST", help="address to bind (default 127.0.0.1)")
    flags.add_argument("--version", action="version", version=f"mq9 {__version__}")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker; gives the exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] in (["backup"], ["check"], ["restore"]):
        from mq9_broker import offline

        return offline.main(arguments)
    flags = vars(parser().parse_args(arguments))
    file = flags.pop("config")
    from mq9_broker.config import Config, load
    from mq9_broker.errors import StartError
    from mq9_broker.logs import set_up_logging
    from mq9_broker.process import open_standard_streams
    from mq9_broker.runner import run

    def settings() -> Config:
        return load(file, os.environ, flags)

    open_standard_streams()
    try:
        config = settings()
        set_up_logging(config.log_level)
        return run(config, settings)
    except StartError as wrong:
        print(f"mq9 broker: {wrong}", file=sys.stderr)
        return wrong.code
