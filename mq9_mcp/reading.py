"""How one agent reads mailboxes: what it was shown is leased to it until it reads again, and acknowledged then.

A lease lasts a minute at the broker. `keep` prolongs the leases of what an agent was shown and has not answered for:
where it competes with others in a group so that they do not get it, for a while; in what it reads alone so that mail
does not count as unread again, and nobody tells it of what it knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from mq9_mcp.envelope import FIELD_LIMIT, Letter, unseal
from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound
from mq9_mcp.excerpt import RESULT, Place, cost, cut, fitting
from mq9_mcp.identity import is_private
from mq9_mcp.loops import LoopGuard, Recent
from mq9_mcp.mail import TIERS

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox
    from mq9_mcp.mail import Message

SLICE = 5.0  # seconds a single request waits: what it is given after a cancelled call waits no longer for its reader
KEEP_EVERY = 20.0  # seconds between two prolongations
KEEP_FOR = 3600.0  # seconds an agent that does not read again keeps what it was shown from others of its group
ALWAYS = float("inf")
LARGE = 10_000  # bytes of a payload that takes a while to read
RECEIPT = "receipt"  # the type of what the broker says of a message of one's own
PLACES = 1000  # mailboxes and groups one agent reads

OnWait = Callable[[float], Awaitable[None]]
Client = Callable[[], Awaitable["AsyncMailbox"]]


@dataclass(frozen=True, slots=True)
class Mail:
    """A message as an agent is shown it. `sender` is proven, everything in `letter` is what its author wrote.

    `cut` is the full length of a body that is not shown to its end, in characters, and `more` where it goes on.
    """

    msg_id: int
    letter: Letter
    priority: str
    create_time: int
    sender: str = ""
    hops: int = 0
    deliveries: int = 1
    cut: int = 0
    more: str = ""


@dataclass(frozen=True, slots=True)
class Inbox:
    """What one reading gave, most urgent first.

    `waiting`: how many the reader still has to get (1000 and above: at least so many). `more`: where a list goes on.
    `source` is (address, group) when it was taken and not only looked at. `address` is where others reach the agent if
    this is its own mailbox, and `unread` what waits there if that is known. `moved`: the one before had expired.
    """

    mails: list[Mail]
    waiting: int = 0
    more: str = ""
    source: tuple[str, str] | None = None
    address: str = ""
    unread: int | None = None
    moved: bool = False


@dataclass(slots=True)
class _Shown:
    """What was shown from one mailbox and group and is not acknowledged: msg_id to time of creation, because a mailbox
    that was made again under its old name counts from 1 again. `leased` counts what came with it, too."""

    mailbox: str
    group: str
    messages: dict[int, int] = field(default_factory=dict)
    leased: int = 0
    keep_until: float = 0.0


class Reader:
    """One agent's reading. `now` is a clock in seconds; `client` gives the connection."""

    def __init__(self, client: Client, guard: LoopGuard, now: Callable[[], float], member: str) -> None:
        self._client = client
        self._guard = guard
        self._now = now
        self._member = member
        self._shown: Recent[tuple[str, str], _Shown] = Recent(PLACES)

    async def take(
        self, mailbox: str, group: str, *, limit: int, wait: float, name: str, shared: bool, on_wait: OnWait | None
    ) -> Inbox:
        """The next messages for the group, after acknowledging those of the reading before.

        Waits up to `wait` seconds for the first one, calling `on_wait` with the seconds that went by. `name` is what
        the agent calls the mailbox. `shared` says that others compete in the group.
        """
        shown = self._shown.get((mailbox, group))
        if shown is None:
            shown = self._shown[mailbox, group] = _Shown(mailbox, group)
        client = await self._client()
        start = anyio.current_time()
        rest = wait
        # What a secret address opens is always the same mailbox, and mostly read by one alone.
        sure = not is_private(mailbox)
        done = await self._still_ours(shown, limit) if sure else [*shown.messages]
        while True:
            try:
                fetched = await client.fetch(
                    mailbox, group=group, member=self._member, ack=done, limit=limit, wait=min(rest, SLICE)
                )
            except (MailboxNotFound, BrokerUnavailable):
                raise
            except MailboxError:
                if sure or not done:
                    raise
                sure, done = True, await self._still_ours(shown, limit)
                continue
            for msg_id in done:
                shown.messages.pop(msg_id, None)
            done = []
            rest = start + wait - anyio.current_time()
            if fetched.messages or rest < 0.005:
                break
            if on_wait is not None:
                await on_wait(wait - rest)
        mails = await self._show(
            sorted(fetched.messages, key=lambda found: (TIERS[found.priority], found.msg_id)), name
        )
        shown.leased = len(fetched.messages)
        shown.keep_until = self._now() + KEEP_FOR if shared else ALWAYS
        waiting = sum((fetched.waiting or {}).values()) + len(fetched.messages) - len(mails)
        return Inbox(mails, waiting, source=(mailbox, group))

    async def look(self, mailbox: str, group: str, *, limit: int, cursor: str, name: str) -> Inbox:
        """Everything stored, read or not; nothing is acknowledged."""
        client = await self._client()
        page = await client.query(mailbox, after=cursor or None, limit=limit, group=group)
        mails = await self._show(page.messages, name)
        if len(mails) < len(page.messages):
            page = await client.query(mailbox, after=cursor or None, limit=len(mails), group=group)
            mails = await self._show(page.messages, name)
        more = str(Place(name, cursor=page.next)) if page.next else ""
        return Inbox(mails, more=more, unread=sum((page.waiting or {}).values()))

    async def go_on(self, mailbox: str, where: Place) -> Inbox:
        """The next part of one message."""
        client = await self._client()
        cursor: str | None = None
        while True:
            page = await client.query(mailbox, after=cursor)
            for message in page.messages:
                if message.msg_id == where.msg_id:
                    return Inbox([self._part(message, where)])
            cursor = page.next
            if cursor is None:
                raise MailboxError(
                    f"message {where.msg_id} is no longer in the mailbox: it has expired, or was deleted by its owner"
                )

    def handed(self, inbox: Inbox) -> None:
        """What was read is on its way to the agent. What was taken is acknowledged by the next reading of its place."""
        for mail in inbox.mails:
            addresses = (mail.sender, mail.letter.reply_to)
            self._guard.heard(mail.hops, addresses, mail.letter.correlation_id, again=inbox.source is None)
        shown = self._shown.get(inbox.source) if inbox.source else None
        if shown is not None:
            shown.messages.update((mail.msg_id, mail.create_time) for mail in inbox.mails)

    def take_back(self, inbox: Inbox) -> None:
        """What was taken did not reach the agent: it is not acknowledged, and comes again."""
        shown = self._shown.get(inbox.source) if inbox.source else None
        if shown is not None:
            for mail in inbox.mails:
                shown.messages.pop(mail.msg_id, None)

    async def keep(self) -> None:
        """Prolongs the leases on what others compete for. To be called every KEEP_EVERY seconds."""
        for shown in self._shown.values():
            if not shown.messages or shown.keep_until < self._now():
                continue
            before = {**shown.messages}
            try:
                ours = await self._fetch_again(shown, shown.leased)
            except MailboxError:
                continue
            if len(ours) < len(before) and shown.messages == before:  # else the agent has read on meanwhile
                # Others have some of it by now, and nothing else may be taken in its place.
                shown.keep_until = 0.0

    async def _still_ours(self, shown: _Shown, limit: int) -> list[int]:
        """What of it can be acknowledged. The rest is forgotten: others have it by now, or its mailbox is gone."""
        if shown.messages:
            # What is new may come before it, and is leased by this, too: the next fetch gives that first.
            ours = await self._fetch_again(shown, len(shown.messages) + limit)
            shown.messages = {msg_id: created for msg_id, created in shown.messages.items() if msg_id in ours}
        return [*shown.messages]

    async def _fetch_again(self, shown: _Shown, limit: int) -> set[int]:
        """The messages of `shown` that the broker still leases, or leases again, to this agent."""
        client = await self._client()
        held = await client.fetch(shown.mailbox, group=shown.group, member=self._member, limit=limit)
        return {
            message.msg_id for message in held.messages if shown.messages.get(message.msg_id) == message.create_time
        }

    async def _show(self, messages: Sequence[Message], name: str) -> list[Mail]:
        """As many of `messages` as fit into a result."""
        mails = []
        for message in messages:
            mails.append(self._mail(message))
            if len(message.payload) > LARGE:
                await anyio.lowlevel.checkpoint()  # reading it took a while: others of this process have their turn
        if not mails:
            return mails
        count, room = fitting([(_heading(mail) + len(name), cost(mail.letter.body)) for mail in mails])
        return [self._cut(mail, 0, room, name) for mail in mails[:count]]

    def _mail(self, message: Message) -> Mail:
        letter = unseal(message.payload)
        if message.reply_to:
            letter = replace(letter, reply_to=message.reply_to)
        if message.correlation_id and not letter.correlation_id and len(message.correlation_id) <= FIELD_LIMIT:
            letter = replace(letter, correlation_id=message.correlation_id)
        if "mq9-receipt" in message.headers:
            letter = replace(letter, type=RECEIPT)
        return Mail(
            msg_id=message.msg_id,
            letter=letter,
            priority=message.priority,
            create_time=message.create_time,
            sender=message.sender or "",
            hops=_number(message.headers.get("mq9-hops"), 0),
            deliveries=_number(message.headers.get("mq9-deliveries"), 1),
        )

    def _part(self, message: Message, where: Place) -> Mail:
        mail = self._mail(message)
        if where.offset >= len(mail.letter.body):
            raise MailboxError(
                f"message {where.msg_id} ends before character {where.offset}: it has {len(mail.letter.body)}"
            )
        _, room = fitting([(_heading(mail) + len(where.mailbox), RESULT)])
        return self._cut(mail, where.offset, room, where.mailbox)

    def _cut(self, mail: Mail, offset: int, room: int, name: str) -> Mail:
        body = mail.letter.body
        part = cut(body[offset:], room, step=4 if mail.letter.encoding else 1)
        if len(part) == len(body):
            return mail
        end = offset + len(part)
        more = str(Place(name, mail.msg_id, end)) if end < len(body) else ""
        return replace(mail, letter=replace(mail.letter, body=part), cut=len(body), more=more)


def _heading(mail: Mail) -> int:
    letter = mail.letter
    return sum(
        cost(text) for text in (letter.subject, letter.type, letter.sender, letter.reply_to, letter.correlation_id)
    )


def _number(header: object, default: int) -> int:
    return int(header) if isinstance(header, str) and header.isdecimal() else default
