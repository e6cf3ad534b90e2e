"""What each command does: `async def <command>(options, screen) -> exit code`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from mq9_mcp import autostart
from mq9_mcp.endpoint import Endpoint, shown
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.screen import Screen, expiry, one_line

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox

BATCH = 100  # messages asked for at a time


class UsageError(Exception):
    """The command line cannot be carried out as it was given."""


async def connect(options: argparse.Namespace) -> AsyncMailbox:
    from mq9_mcp.client import AsyncMailbox

    return await AsyncMailbox.connect(options.url, name=f"mq9 {options.command}")


async def create(options: argparse.Namespace, screen: Screen) -> int:
    if options.public and options.name is None:
        raise UsageError("--public needs a name: mq9 create --public NAME")
    async with await connect(options) as mq9:
        made = await mq9.create(
            name=options.name,
            public=options.public,
            ttl=options.ttl,
            desc=options.desc,
            type=options.type,
            storage=options.storage,
        )
    if screen.as_json:
        fields = {
            name: getattr(made, name) for name in ("mail_id", "send_only", "is_new", "ttl", "expires_at", "owner")
        }
        screen.record(fields)
        return 0
    if not screen.styled:
        screen.line(made.mail_id)
        if made.owner:
            print("mq9 create: its owner address, which drops it, is told once: by --json", file=sys.stderr)
        return 0
    kind = "private mailbox" if options.name is None else "public mailbox" if options.public else "named mailbox"
    screen.line(f"{'A new' if made.is_new else 'Joined the'} {kind}, {expiry(made.expires_at)}.", "")
    screen.line(
        "  address    ", (made.mail_id, "bold cyan"), "   (secret: it reads the mail)" if not options.name else ""
    )
    if not options.name:
        screen.line("  hand out   ", (made.send_only, "bold cyan"), "   (can only be sent to)")
    if made.owner:
        screen.line("  owner      ", (made.owner, "bold cyan"), "   (secret: deletes, drops, renews; shown only now)")
    if not options.name:
        screen.line("\nThe commands of this shell use it after:  ", ("export MQ9_MAILBOX=<address>", "bold"))
    screen.line("Others write:  ", (f"mq9 send {options.name or made.send_only} 'hello'", "bold"))
    screen.line("Read the mail: ", (f"mq9 inbox {options.name or ''} --wait 60".replace("  ", " "), "bold"))
    return 0


async def send(options: argparse.Namespace, screen: Screen) -> int:
    if options.to == "-" and options.body == "-":
        raise UsageError("'-' stands for both the recipient and the body: only one of them can come from stdin")
    to = _address(options.to)
    body = _body(options)
    sender = None
    if options.sign:
        sender = os.environ.get("MQ9_MAILBOX")
        if not sender:
            raise UsageError("--sign needs your own mailbox: export MQ9_MAILBOX=<its mail_id or owner address>")
    event = to.removeprefix("broadcast.")
    async with await connect(options) as mq9:
        if event != to:
            _only_for_mailboxes(options)
            await mq9.broadcast(event, body, headers=dict(options.header))
            if screen.as_json:
                screen.record({"stored": False})
            else:
                screen.line(f"Broadcast to everyone who listens to {event} now; nothing is stored.")
            return 0
        sent = await mq9.send(
            to,
            body,
            priority=options.priority,
            reply_to=options.reply_to,
            sender=sender,
            ttl=options.ttl,
            delay=options.delay,
            dedup_id=options.dedup_id,
            headers=dict(options.header),
        )
    if screen.as_json:
        screen.record({"msg_id": sent.msg_id, "stored": True, "duplicate": sent.duplicate})
    elif sent.duplicate:
        screen.line(f"Stored before, as message {sent.msg_id}: not stored again.")
    else:
        screen.line("Stored, to be delivered later." if sent.msg_id < 0 else f"Stored as message {sent.msg_id}.")
    return 0


async def inbox(options: argparse.Namespace, screen: Screen) -> int:
    mailbox = _mailbox(options)
    left = options.limit or sys.maxsize
    done: tuple[int, ...] = ()
    wait, shown = options.wait, 0
    async with await connect(options) as mq9:
        while left:
            # Acknowledged only once it is written. With --peek never: it returns when the connection ends.
            got = await mq9.fetch(mailbox, group=options.group, ack=done, limit=min(BATCH, left), wait=wait)
            for message in got.messages:
                screen.message(message)
            screen.flush()
            shown += len(got.messages)
            left -= len(got.messages)
            done = () if options.peek else tuple(message.msg_id for message in got.messages)
            wait = 0.0
            if not got.messages or not got.more:
                break
        if options.peek and left and got.more:
            print(f"mq9 inbox: more wait; --peek shows {shown} at most", file=sys.stderr)
        if done:
            await mq9.ack(mailbox, options.group, done)
    if not shown and screen.styled:
        screen.line("No mail.")
    return 0 if shown else 1


async def watch(options: argparse.Namespace, screen: Screen) -> int:
    mailbox = _mailbox(options)
    async with await connect(options) as mq9, aclosing(mq9.messages(mailbox, group=options.group)) as messages:
        async for message in messages:
            screen.message(message)
            screen.flush()
    if not screen.as_json:
        print("mq9 watch: the mailbox has ended: it expired, or was dropped", file=sys.stderr)
    return 0


async def list_public(options: argparse.Namespace, screen: Screen) -> int:
    found = []
    async with await connect(options) as mq9:
        page = await mq9.list(options.prefix)
        found += page.mailboxes
        while page.next:
            page = await mq9.list(options.prefix, after=page.next)
            found += page.mailboxes
    width = max((len(mailbox.mail_id) for mailbox in found), default=0)
    for mailbox in found:
        screen.listed(mailbox, width)
    if not found and screen.styled:
        screen.line("No public mailboxes. Make one: mq9 create --public NAME --desc 'what it is for'")
    return 0


async def query(options: argparse.Namespace, screen: Screen) -> int:
    mailbox = _mailbox(options)
    left = options.limit or sys.maxsize
    after, stored, shown = None, 0, 0
    async with await connect(options) as mq9:
        while left:
            page = await mq9.query(mailbox, after=after, limit=min(BATCH, left), since=options.since)
            for message in page.messages:
                screen.message(message)
            shown += len(page.messages)
            left -= len(page.messages)
            stored, after = page.unread, page.next
            if after is None:
                break
    if screen.styled:
        screen.line((f"{shown} of {stored} stored messages.", "dim"))
    return 0


async def drop(options: argparse.Namespace, screen: Screen) -> int:
    mailbox = _mailbox(options)
    async with await connect(options) as mq9:
        await mq9.drop(mailbox)
    if screen.as_json:
        screen.record({"dropped": True})
    else:
        screen.line("Dropped, with everything in it.")
    return 0


async def status(options: argparse.Namespace, screen: Screen) -> int:
    directory = autostart.data_dir()
    named = options.url or os.environ.get("MQ9_URL")
    url = named or autostart.find(directory)
    version, problem = None, "none is running: the next command or agent starts one"
    if url:
        try:
            version = await asyncio.to_thread(Endpoint.at(url).version)
            await _try_out(url)
            problem = ""
        except BrokerUnavailable as error:
            problem = str(error)
    if screen.as_json:
        fields = {"url": url and shown(url), "version": version, "reachable": not problem}
        screen.record({**fields, "data_dir": str(directory), "problem": problem or None})
    else:
        found = f"{shown(url or '')}  mq9 {version}"
        state = (one_line(problem), "yellow") if problem else (one_line(found), "green")
        screen.line("broker    ", state)
        screen.line(f"data      {directory}" + ("  (not of this broker: it was named by its URL)" if named else ""))
    return 1 if problem else 0


def wait(options: argparse.Namespace, screen: Screen) -> int:
    from mq9_mcp import wait

    if options.monitor:
        return wait.monitor(options.monitor)
    return wait.wait(options.url, _mailbox(options), options.group, options.timeout)


async def backup(options: argparse.Namespace, screen: Screen) -> int:
    from mq9_mcp.backup import backup

    return await backup(options, screen)


async def _try_out(url: str) -> None:
    """Raises BrokerUnavailable when the broker does not take the credentials that this shell has for it."""
    from mq9_mcp.client import AsyncMailbox

    await (await AsyncMailbox.connect(url, name="mq9 status")).close()


def _mailbox(options: argparse.Namespace) -> str:
    given = options.mailbox or os.environ.get("MQ9_MAILBOX")
    if not given:
        raise UsageError("which mailbox? Give its address, '-' to read it from stdin, or export MQ9_MAILBOX")
    return _address(given)


def _address(given: str) -> str:
    if given != "-":
        return given
    line = sys.stdin.readline().strip()
    if not line:
        raise UsageError("'-' reads the address from stdin, and there was none: write it as the first line")
    return line


def _body(options: argparse.Namespace) -> bytes:
    if options.file is not None:
        if options.body is not None:
            raise UsageError("there is a body and a --file: give one of them")
        try:
            return Path(options.file).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {options.file}: {error.strerror}") from None
    if options.body is not None and options.body != "-":
        return os.fsencode(options.body)
    if options.body is None and (options.to == "-" or sys.stdin.isatty()):
        raise UsageError("no body: give it as an argument, with --file, or through a pipe")
    return sys.stdin.buffer.read()


def _only_for_mailboxes(options: argparse.Namespace) -> None:
    for name in ("priority", "reply_to", "ttl", "delay", "dedup_id", "sign"):
        if getattr(options, name):
            raise UsageError(f"a broadcast is not stored, so it takes no --{name.replace('_', '-')}: leave it out")
