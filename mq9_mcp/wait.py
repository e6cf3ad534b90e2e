"""`mq9 wait`: sleeps until there is mail, for scripts; or says again and again what came, for the hosts of agents."""

from __future__ import annotations

import os
import sys
import time

from mq9_mcp import autostart, unread
from mq9_mcp.endpoint import Endpoint
from mq9_mcp.errors import MailboxError, MailboxNotFound
from mq9_mcp.watch import REST, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOK_EVERY = 1.0  # seconds between two looks whether the session has a mailbox by now
QUIET = 3.0  # seconds between two lines: what comes meanwhile is one


def wait(url: str | None, mailbox: str, group: str, timeout: float | None) -> int:
    """0 as soon as there is mail for the group, 1 when there was none for `timeout` seconds (None: for ever)."""
    from mq9_mcp.mail import address_of

    named = url or os.environ.get("MQ9_URL")
    data_dir = autostart.data_dir()

    def where() -> Endpoint | None:
        found = named or autostart.located(data_dir)
        return Endpoint.at(found) if found else None

    at = where()
    if at is None:
        print("mq9 wait: no broker runs here yet; waiting for it", file=sys.stderr)
    elif named and not _answers(at):
        print(f"mq9 wait: no broker answers at {at.url} yet; waiting for it", file=sys.stderr)
    end = None if timeout is None else time.monotonic() + timeout
    until = (lambda: 60.0) if end is None else (lambda: end - time.monotonic())
    for state in watch(where, address_of(mailbox), group, name="mq9 wait", until=until):
        if unread.unread(state):
            return 0
    return 1


def _answers(endpoint: Endpoint) -> bool:
    try:
        endpoint.greeting()
    except OSError:
        return False
    return True


def monitor(host: str) -> int:
    """A line on stdout for all that is new in the mailbox of the session that runs this, with nothing but counts, until
    the host ends or nobody reads. 2 when the host does not say which session it is."""
    session = os.environ.get("CLAUDE_CODE_SESSION_ID")
    if not session:
        print(
            f"mq9 wait: --monitor is for a plugin of {host}, which says in CLAUDE_CODE_SESSION_ID whose mail it is: "
            f"without it use `mq9 wait MAILBOX`",
            file=sys.stderr,
        )
        return 2

    def say(words: str) -> bool:
        print(words, flush=True)
        time.sleep(QUIET)
        return True

    parent = os.getppid()
    try:
        follow(host, session, autostart.data_dir(), say, until=lambda: 60.0 if os.getppid() == parent else 0.0)
    except BrokenPipeError:  # nobody reads: the interpreter would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        pass
    return 0


def follow(
    host: str,
    session: str,
    data_dir: Path,
    say: Callable[[str], bool],
    *,
    until: Callable[[], float],
    rest: float = REST,
) -> None:
    """Calls `say` with the words for all that is new in the session's own mailbox, from when it has one. What `say`
    gives False for was not heard: it stays news for a hook, and is said again with what comes next."""
    while until() > 0:
        mailbox = unread.mailbox_of(host, session, data_dir)
        if mailbox is not None:
            try:
                _follow(mailbox, data_dir, say, until, rest)
            except MailboxNotFound:
                pass  # the session makes another one when it needs it
            except MailboxError as error:
                print(f"mq9 wait: {str(error)!a:.300}", file=sys.stderr, flush=True)
                return  # a broker that refuses us does so until its settings change
        time.sleep(LOOK_EVERY)


def _follow(
    mailbox: unread.Mailbox, data_dir: Path, say: Callable[[str], bool], until: Callable[[], float], rest: float
) -> None:
    told = unread.Told(mailbox, data_dir)
    unheard: unread.Counts | None = None

    def where() -> Endpoint | None:
        return unread.endpoint_of(mailbox.broker, data_dir)

    for state in watch(where, mailbox.mail_id, unread.GROUP, name="mq9 wait", until=until, rest=rest):
        if state != unheard and told.is_news(state) and not say(unread.words(state)):
            unheard = state
            told.forget()
