"""`mq9-mcp`: the MCP server on stdio, or over HTTP, and the commands that add it to agents, examine and show it."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mq9_mcp.endpoint import public_url

DEFAULT_PORT = 8009
EXAMPLES = """\
examples:
  mq9-mcp install claude-code           adds it to Claude Code; also codex, cursor, gemini, vscode, windsurf
  mq9-mcp uninstall claude-code         takes it out again
  mq9-mcp doctor                        what is installed and running, what is wrong, and how to mend it
  mq9-mcp demo                          what it does, shown in a few seconds
  mq9-mcp --http --port 8009            for clients that speak streamable HTTP, at http://127.0.0.1:8009/mcp
  mq9-mcp --http --host 10.0.0.5 --token-file tokens
                                        the same for other machines, each caller with a token. A line of the file is
                                        a token, or a name and a token: then the caller is the agent of that name

environment:
  MQ9_URL              the broker, like nats://127.0.0.1:4222, tls://user:password@mail.example:4222 or unix:///path
                       (default: this machine's, started when there is none)
  MQ9_TOKEN            the token to show it
  MQ9_NKEY_SEED_FILE   the file with the seed of the nkey to sign with
  MQ9_TLS_CA, MQ9_TLS_CERT, MQ9_TLS_KEY
                       files: whom to trust, and a certificate and key to show
  MQ9_HTTP_TOKEN       with --http: a token that callers must show, beside those of --token-file
  MQ9_WAKE_CODEX=1     wake idle sessions of Codex when they have new mail, with `codex queue`
  MQ9_DATA_DIR         where the broker keeps its data, and where agent sessions and their mailboxes are remembered
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until the client leaves or the process is told to stop. Exit codes: 0 done, 2 cannot run like this."""
    _nothing_closed()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        from mq9_mcp import demo

        return demo.main(arguments[1:])
    if arguments[:1] in (["install"], ["uninstall"], ["doctor"]):
        return _say(arguments[0], arguments[1:])
    options = _parser().parse_args(arguments)
    if options.version:
        from importlib.metadata import version

        print(f"mq9-mcp {version('mq9-mcp')}")
        return 0
    return _serve_http(options) if options.http else _serve_stdio(options)


def _say(verb: str, arguments: Sequence[str]) -> int:
    try:
        if verb == "doctor":
            from mq9_mcp.doctor import command as doctor

            code = doctor.main(arguments)
        else:
            from mq9_mcp.install import command

            code = command.main(verb, arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has had enough. The interpreter would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _serve_stdio(options: argparse.Namespace) -> int:
    if options.host is not None or options.port is not None or options.token_file is not None:
        print("mq9-mcp: --host, --port and --token-file go with --http: add it, or leave them out", file=sys.stderr)
        return 2
    if sys.stdin is None or sys.stdout is None:
        print("mq9-mcp: stdin or stdout is closed, and MCP is spoken there: start it with both open", file=sys.stderr)
        return 2
    if sys.stdin.isatty():
        print(
            "mq9-mcp speaks MCP on stdin and stdout, to a program that starts it: `mq9-mcp install` adds it to "
            "an agent, `mq9-mcp demo` shows what it does. Ctrl-D ends it.",
            file=sys.stderr,
        )
    # A thread that reads a terminal cannot be interrupted: without this, Ctrl-C would wait for the client to leave.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with _nothing_collected():
        from mq9_mcp import server

    server.set_up_logging()
    server.serve_stdio(options.url)
    return 0


def _serve_http(options: argparse.Namespace) -> int:
    with _nothing_collected():
        from mq9_mcp import http, server

    host = options.host or "127.0.0.1"
    port = DEFAULT_PORT if options.port is None else options.port
    try:
        tokens = http.read_tokens(options.token_file, os.environ)
    except http.BadTokens as error:
        print(f"mq9-mcp: {error}", file=sys.stderr)
        return 2
    os.environ.pop(http.VARIABLE, None)  # none of the processes that this one starts needs it
    if not http.is_loopback(host):
        if not tokens:
            print(
                f"mq9-mcp: other machines reach {host}:{port}, so callers need a token: write one into a file that "
                f"only you can read and name it with --token-file, or set {http.VARIABLE} (`openssl rand -hex 32` "
                f"makes one). Without --host only this machine reaches it, and none is needed",
                file=sys.stderr,
            )
            return 2
        print(
            "mq9-mcp: warning: tokens and mail cross the network as they are: put a proxy that speaks TLS before it",
            file=sys.stderr,
        )
    server.set_up_logging()
    try:
        http.serve(options.url, host, port, tokens)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        print(
            f"mq9-mcp: cannot listen on {host}:{port} ({reason}): choose another with --port or --host",
            file=sys.stderr,
        )
        return 2
    return 0


def _nothing_closed() -> None:
    """Puts the null device where a standard stream is closed: the event loop's descriptors would come there, which
    uvloop does not bear, and stray output into them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Around imports: looking for garbage among what they make, where there is none, is a fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number up to 65535, 0 for any free one")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mq9-mcp",
        description="The MCP server of mq9: mailboxes for AI agents. Without options it serves one client on stdin and "
        "stdout:\n`mq9-mcp install` makes an agent start it like that.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument(
        "--url", type=public_url, default=None, metavar="URL", help="the broker to use, instead of MQ9_URL"
    )
    parser.add_argument("--http", action="store_true", help="serve streamable HTTP instead of stdio")
    parser.add_argument("--host", default=None, help="with --http: the address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, default=None, help=f"with --http: the port to listen on (default {DEFAULT_PORT}; 0: any)"
    )
    parser.add_argument("--token-file", metavar="FILE", help="with --http: the tokens, one of which callers must show")
    return parser


if __name__ == "__main__":
    sys.exit(main())
