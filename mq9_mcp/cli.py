"""The command line: `mq9 create|send|inbox|wait|watch|list|query|drop|status|backup|restore|check|broker`.

Exit codes: 0 done, 1 nothing there (`inbox`, `wait`: no mail; `status`: no broker), 2 an error, 130 Ctrl-C. What a
command needs is imported when it runs, so that `mq9 --version` and `mq9 --help` come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import runpy
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from mq9_mcp.endpoint import public_url

INBOX_GROUP = "mq9-inbox"  # the group in which `mq9 inbox` remembers what it has shown
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _reopen_what_is_closed()
    if arguments[:1] == ["broker"]:
        return _broker(arguments[1:])
    if arguments[:1] in (["check"], ["restore"]):
        return _broker(arguments)
    if arguments[:1] == ["hook"]:
        from mq9_mcp import hook

        return hook.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        return 2
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from mq9_mcp import commands
    from mq9_mcp.errors import MailboxError
    from mq9_mcp.screen import Screen, one_line

    screen = Screen(as_json=options.json)
    try:
        running = getattr(commands, options.run)(options, screen)
        code: int = running if isinstance(running, int) else asyncio.run(running)
        screen.flush()
        return code
    except (MailboxError, commands.UsageError) as error:
        print(f"mq9 {options.command}: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0 if options.command == "watch" else 130
    except BrokenPipeError:
        # Whoever read our output has had enough. The interpreter would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"mq9 {options.command}: {error.strerror or error}: make room, or write elsewhere", file=sys.stderr)
        return 2


def _reopen_what_is_closed() -> None:
    """A shell can start us without stdin, stdout or stderr (`<&-`, `>&-`): nothing to read, nobody who reads."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _broker(arguments: list[str]) -> int:
    """Becomes the broker's own program: the same process, its options and exit code."""
    sys.argv = ["mq9 broker", *arguments]
    runpy.run_module("mq9_broker", run_name="__main__")
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and keeps the examples in its help as they are written."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        from mq9_mcp.screen import one_line

        self.exit(2, f"{self.prog}: {one_line(message)}; see `{self.prog} --help`\n")


class _Command(_Parser):
    """A command's own parser: its options may stand anywhere, between `to` and the body of a message, too."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._mixing:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"mq9 {version('mq9-mcp')}")
        parser.exit()


def _duration(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write seconds, or like 90s, 15m, 2h, 7d")
    return float(found[1]) * _SECONDS[found[2]]


def _whole_duration(text: str) -> int:
    seconds = _duration(text)
    if seconds != int(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(seconds)


def _ago(text: str) -> int:
    return int(time.time() - _duration(text))


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count: write a whole number, 0 for no limit")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write it like 'Name: value'")
    return name.strip(), value.strip()


EXAMPLES = """\
examples:
  mq9 create                                 a private mailbox: keep its address, hand out its send-only one
  export MQ9_MAILBOX=$(mq9 create)           the same, for the commands of this shell
  mq9 create --public builds --desc 'CI'     a public mailbox, in the directory
  mq9 send builds 'it is green'              stored until somebody reads it, or it expires
  mq9 inbox builds --wait 60                 what is new, most urgent first; waits up to a minute for it
  mq9 watch builds --json | jq .payload      everything, as it arrives

The broker is found through $MQ9_URL or the data directory ($MQ9_DATA_DIR); if none runs on this machine, one is
started in the background, and goes away by itself when nobody has used it for 15 minutes. Mail stays.

A broker that asks who you are is shown $MQ9_TOKEN, the user and password in $MQ9_URL, or the nkey whose seed is in the
file $MQ9_NKEY_SEED_FILE. $MQ9_TLS_CA, $MQ9_TLS_CERT and $MQ9_TLS_KEY name files with certificates."""


def _parser() -> _Parser:
    parser = _Parser(
        prog="mq9",
        description="Mailboxes for agents and programs: mail waits until its reader comes.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    _common(parser, {"url": None, "json": False})
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=_Command)

    def command(name: str, words: str, examples: str, run: str | None = None) -> _Parser:
        made = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".", epilog=examples)
        made.set_defaults(run=run or name)
        _common(made)
        return made

    _create(command("create", "make a mailbox, or join a named one", CREATE_EXAMPLES))
    _send(command("send", "store a message in a mailbox, or broadcast it", SEND_EXAMPLES))
    _inbox(command("inbox", "show the mail that is new, and take it as read", INBOX_EXAMPLES))
    _wait(command("wait", "wait until there is mail, and take none of it", WAIT_EXAMPLES))
    _watch(command("watch", "show everything in a mailbox, then what arrives, until Ctrl-C", WATCH_EXAMPLES))
    _list(command("list", "list the public mailboxes", LIST_EXAMPLES, "list_public"))
    _query(command("query", "show what a mailbox holds, read or not; takes nothing", QUERY_EXAMPLES))
    _mailbox(command("drop", "destroy a mailbox and everything in it, now", DROP_EXAMPLES))
    command("status", "say whether a broker runs, and where", STATUS_EXAMPLES)
    _backup(command("backup", "copy all mail into a new folder, while the broker runs", BACKUP_EXAMPLES))
    commands.add_parser("restore", help="make a data folder from a backup (mq9 restore --help)", add_help=False)
    commands.add_parser("check", help="verify a data folder or a backup (mq9 check --help)", add_help=False)
    commands.add_parser("hook", help="tell a coding agent of its mail (mq9 hook --help)", add_help=False)
    commands.add_parser("broker", help="run a broker in this terminal (mq9 broker --help)", add_help=False)
    return parser


def _common(parser: argparse.ArgumentParser, defaults: dict[str, Any] | None = None) -> None:
    """The options that may stand before and after the command; only those before it have defaults."""
    kept = defaults or {"url": argparse.SUPPRESS, "json": argparse.SUPPRESS}
    parser.add_argument(
        "--url",
        type=public_url,
        default=kept["url"],
        help="the broker, like nats://127.0.0.1:4222 (default: $MQ9_URL)",
    )
    parser.add_argument(
        "--json", action="store_true", default=kept["json"], help="for scripts: one JSON object per line"
    )


CREATE_EXAMPLES = """\
examples:
  mq9 create                               a private mailbox for a day
  id=$(mq9 create)                         in a pipe: its address and nothing else
  mq9 create --json                        mail_id, send_only, expires_at, ...
  mq9 create --public builds --ttl 7d --desc 'build results'

Whoever knows a private address can read its mail; hand out the send-only one. The owner address of a public mailbox is
shown once: with it one deletes, drops and renews. Creating a name that exists keeps it alive, no more."""


def _create(parser: _Parser) -> None:
    parser.add_argument(
        "name", nargs="?", help="lower case letters, digits, '.', '-', '_' (default: a private mailbox)"
    )
    parser.add_argument("--public", action="store_true", help="list it in the directory")
    parser.add_argument(
        "--ttl", type=_whole_duration, help="how long it lives, like 90s, 15m, 7d; 0: for ever (default: 1d)"
    )
    parser.add_argument("--desc", help="what it is for, in the directory")
    parser.add_argument("--type", choices=("standard", "latest"), help="latest: only the newest message is kept")
    parser.add_argument("--storage", choices=("disk", "memory"), help="memory: gone when the broker stops")


SEND_EXAMPLES = """\
examples:
  mq9 send builds 'it is green'
  mq9 send builds --priority urgent --file report.json
  date | mq9 send builds
  mq9 send builds --sign --reply-to status-board -- '-v is no option here'
  mq9 send broadcast.build.done '{"ok":true}'     to everyone who listens now; not stored"""


def _send(parser: _Parser) -> None:
    parser.add_argument(
        "to", help="a send-only address, public name or mail_id ('-': from stdin), or broadcast.DOMAIN.EVENT"
    )
    parser.add_argument("body", nargs="?", help="the text; '-' or nothing reads it from stdin")
    parser.add_argument("--file", help="read the body from a file, byte for byte")
    parser.add_argument("--priority", choices=("critical", "urgent", "high", "normal", "low", "notify"))
    parser.add_argument("--reply-to", metavar="ADDRESS", help="where answers go: a send-only address or public name")
    parser.add_argument("--sign", action="store_true", help="prove who sends it: $MQ9_MAILBOX's public form is shown")
    parser.add_argument("--ttl", type=_whole_duration, help="how long it is worth delivering, like 90s, 15m, 7d")
    parser.add_argument("--delay", type=_whole_duration, help="deliver it only after this time")
    parser.add_argument("--dedup-id", metavar="ID", help="store only the first message with this id in two minutes")
    parser.add_argument("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'")


INBOX_EXAMPLES = """\
examples:
  mq9 inbox builds                         what is new; shown once
  mq9 inbox --wait 5m                      $MQ9_MAILBOX, waiting for mail if there is none
  mq9 inbox builds --peek                  look without taking
  mq9 inbox builds --group worker --limit 1 --json     one task for one of several workers

exit code: 0 there was mail, 1 there was none, 2 an error"""


def _inbox(parser: _Parser) -> None:
    _mailbox(parser)
    parser.add_argument("--peek", action="store_true", help="take nothing: the next look shows the same (at most 1000)")
    parser.add_argument("--wait", type=_duration, default=0.0, help="wait this long for mail, like 30 or 5m")
    parser.add_argument("--limit", type=_count, default=0, metavar="N", help="show at most N (default: all there is)")
    parser.add_argument("--group", default=INBOX_GROUP, help="readers that share a group share the mail")


WAIT_EXAMPLES = """\
examples:
  mq9 wait builds && mq9 inbox builds      sleeps until there is something new
  mq9 wait --timeout 10m                   $MQ9_MAILBOX, for ten minutes at the most
  mq9 wait tasks --group workers           until there is something for one of the workers

It starts no broker, and waits for one that is gone to come back.

exit code: 0 there is mail, 1 there was none in time, 2 an error"""


def _wait(parser: _Parser) -> None:
    _mailbox(parser)
    parser.add_argument("--timeout", type=_duration, help="give up after this long, like 30 or 5m (default: never)")
    parser.add_argument("--group", default=INBOX_GROUP, help="whose mail: readers that share a group share it")
    parser.add_argument(
        "--monitor", choices=("claude-code",), help="a line for all new mail of this session, for the host that runs it"
    )


WATCH_EXAMPLES = """\
examples:
  mq9 watch builds
  mq9 watch builds --json | while read -r line; do ...; done
  mq9 watch tasks --group workers          take turns with the others of the group"""


def _watch(parser: _Parser) -> None:
    _mailbox(parser)
    parser.add_argument("--group", help="share the mail with this group: what is shown here is taken")


LIST_EXAMPLES = """\
examples:
  mq9 list
  mq9 list build --json | jq -r .mail_id"""


def _list(parser: _Parser) -> None:
    parser.add_argument("prefix", nargs="?", default="", help="only names that begin with it")


QUERY_EXAMPLES = """\
examples:
  mq9 query builds
  mq9 query builds --since 1h --limit 0"""


def _query(parser: _Parser) -> None:
    _mailbox(parser)
    parser.add_argument("--limit", type=_count, default=100, metavar="N", help="show at most N; 0: all (default: 100)")
    parser.add_argument("--since", type=_ago, metavar="AGE", help="only what was sent since, like 15m or 2h ago")


DROP_EXAMPLES = """\
examples:
  mq9 drop                                 $MQ9_MAILBOX
  mq9 drop - < owner-address.txt           a public mailbox takes its owner address"""

STATUS_EXAMPLES = """\
exit code: 0 a broker runs, 1 none does"""


BACKUP_EXAMPLES = """\
examples:
  mq9 backup /backups/mq9-$(date +%F)
  mq9 backup /backups/mq9 --data-dir /var/lib/mq9

Run it as the broker's user, or as root, on its machine. The folder must be new or empty. It becomes a data folder
of its own: `mq9 restore` copies it to where a broker is to use it, `mq9 broker --data-dir` opens it as it is."""


def _backup(parser: _Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where to: a folder that is new or empty")
    parser.add_argument("--data-dir", metavar="DIR", help="of which broker (default: $MQ9_DATA_DIR, else your own)")


def _mailbox(parser: _Parser) -> None:
    parser.add_argument(
        "mailbox", nargs="?", help="its mail_id, owner address or public name; '-': from stdin (default: $MQ9_MAILBOX)"
    )
