"""What the tools do, without a word of MCP: one Agent per agent session, all of them over one broker connection.

Everything that a caller or the broker can get wrong is a MailboxError that says what to do next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import anyio

from mq9_mcp import autostart
from mq9_mcp.endpoint import shown
from mq9_mcp.envelope import Letter, seal
from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound
from mq9_mcp.excerpt import place
from mq9_mcp.home import Home
from mq9_mcp.identity import Own, SessionMap, is_private, is_send_only
from mq9_mcp.loops import LoopGuard, Recent
from mq9_mcp.mail import Priority, address_of
from mq9_mcp.nudge import CodexQueue
from mq9_mcp.reading import KEEP_EVERY, Inbox, OnWait, Reader

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox, Created, Directory, Sent

OWN_GROUP = "inbox"  # the group with which an agent reads its own mailbox
HEAD_START = 0.02  # seconds for the answer that began it: what is imported for a connection holds everything up
SESSIONS = 10_000  # agent sessions one process remembers
MADE = 100  # mailboxes one agent made and can speak as
RECEIPTS = ("delivered", "expired", "dead")  # what a sender who wants a receipt is told of
HOMELESS = (
    "this connection has no session and so no mailbox of its own: make one with create_mailbox, and give its mail_id "
    "as `mailbox` to check_inbox and as `reply_to` to send"
)
NAMES = 1000  # public names that are looked through for one like an unknown recipient

Agents: TypeAlias = "Recent[str, Agent]"
Result = TypeVar("Result")
log = logging.getLogger("mq9.service")


class Service:
    """The agents of one server process, and their connection: made when it is first needed, kept from then on.

    `url` names a broker; without it there is $MQ9_URL, or the broker of this machine, started if need be. `environ` is
    what the host says of the session, `now` the clock in unix seconds. `broker` is the broker that was named, if any.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        data_dir: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.environ = environ
        self.now = now
        named = url or os.environ.get("MQ9_URL")
        self.broker = shown(named) if named else None
        self.faces: Recent[str, str] = Recent(SESSIONS)  # secret to public form, of the mailboxes made from here
        self._url = url
        data_dir = data_dir or autostart.data_dir()
        self._sessions = SessionMap(data_dir)
        self.codex = CodexQueue(data_dir) if environ.get("MQ9_WAKE_CODEX", "0") not in ("", "0") else None
        self._client: AsyncMailbox | None = None
        self._connecting = anyio.Lock(fast_acquire=True)
        self._background: asyncio.Task[None] | None = None
        self._remembered: Agents = Recent(SESSIONS)
        self._passing: Agents = Recent(SESSIONS)
        self._holders: Agents = Recent(SESSIONS)  # apart: whoever makes addresses up pushes no session out

    async def client(self) -> AsyncMailbox:
        """The connection. Raises BrokerUnavailable when there is none; the next call tries again."""
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                from mq9_mcp.client import AsyncMailbox  # a tenth of a second that a start need not wait for

                self._client = await AsyncMailbox.connect(self._url, name="mq9-mcp")
            return self._client

    def start(self) -> None:
        """Connects in the background, ahead of the first call; keeps what agents work on from others who compete."""
        if self._background is None:
            self._background = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the connection: what was read and not acknowledged goes back."""
        while self._background is not None and not self._background.done():
            self._background.cancel()
            # Once may not be enough: what connects under it (wait_for, before Python 3.12) can lose a cancellation.
            await asyncio.wait((self._background,), timeout=0.1)
        if self._client is not None:
            await self._client.close()
        if self.codex is not None:
            self.codex.close()

    async def _run(self) -> None:
        await asyncio.sleep(HEAD_START)
        try:
            await self.client()
        except MailboxError as error:  # the first call will say so
            log.info("no broker yet: %s", error)
        while True:
            await asyncio.sleep(KEEP_EVERY)
            for agent in (*self._remembered.values(), *self._passing.values(), *self._holders.values()):
                await agent.reader.keep()

    def remembered(self, key: str) -> Agent:
        """The agent of a session that has the name `key` after a restart, too."""
        agent = self._remembered.get(key)
        if agent is None:
            home = Home(self.client, self.now, sessions=self._sessions, key=key)
            agent = self._remembered[key] = Agent(self, home, key)
        return agent

    def only(self) -> Agent | None:
        """The one session that has a name, if there is one and no other."""
        agents = self._remembered.values()
        return agents[0] if len(agents) == 1 else None

    def passing(self, key: str) -> Agent:
        """The agent of a session that ends with this process or its connection."""
        agent = self._passing.get(key)
        if agent is None:
            agent = self._passing[key] = Agent(self, Home(self.client, self.now), secrets.token_hex(10))
        return agent

    def nobody(self, address: str | None) -> Agent:
        """The agent of a caller without a session: whoever holds the private `address` that it gives.

        Without one it has no mailbox and nothing to remember.
        """
        if address is None or not is_private(address):
            return Agent(self, None, None)
        agent = self._holders.get(address)
        if agent is None:
            own = Own(address, self.faces.get(address) or "")
            agent = self._holders[address] = Agent(self, Home(self.client, self.now, brought=own), None)
        return agent


class Agent:
    """One agent.

    `home` is None for one that cannot have a mailbox of its own, `session` a name that no other agent has, or None when
    nothing tells this one from others who know the same addresses.
    """

    def __init__(self, service: Service, home: Home | None, session: str | None) -> None:
        self._service = service
        self._home = home
        self._session = session
        self._guard = LoopGuard(service.now)
        self._made: Recent[str, str] = Recent(MADE)  # public form to secret, of the mailboxes it made
        # What is not its own it reads as a group of one, the same after a restart.
        self._group = f"agent-{blake2b((session or '').encode(), digest_size=10).hexdigest()}"
        self.reader = Reader(service.client, self._guard, service.now, secrets.token_hex(8))

    async def create_mailbox(
        self,
        *,
        name: str | None = None,
        public: bool = False,
        ttl: int | None = None,
        description: str | None = None,
        subscribe: Iterable[str] = (),
    ) -> Created:
        """A new mailbox; a public name that exists is joined and kept alive. `ttl` in seconds, 0 for no end.
        Broadcasts that match a pattern of `subscribe`, written with or without `broadcast.`, are stored in it."""
        if public and not name:
            raise MailboxError("a public mailbox needs a name: give `name`, or leave `public` out for a private one")
        client = await self._service.client()
        patterns = [pattern.removeprefix("broadcast.") for pattern in subscribe]
        made = await client.create(name=name, public=public, ttl=ttl, desc=description, subscribe=patterns)
        secret = made.owner or (made.mail_id if is_private(made.mail_id) else None)
        if secret:
            face = made.mail_id if made.owner else made.send_only
            self._made[face] = secret
            self._service.faces[secret] = face
        return made

    async def send(
        self,
        to: str,
        body: str,
        *,
        subject: str = "",
        priority: Priority | None = None,
        reply_to: str | None = None,
        correlation_id: str = "",
        ttl: int | None = None,
        delay: int | None = None,
        receipt: bool = False,
    ) -> Sent | None:
        """Stores a message in the mailbox `to`; None for a broadcast, which nobody stores.

        The broker proves to the reader who sent it: this agent's own mailbox, or that of `reply_to` when it is a
        private address or one that this agent made. A private address itself never gets into the message. With
        `receipt` that mailbox is told when the message was first read, and when it is gone without an acknowledgement.
        """
        letter = Letter(body, subject, correlation_id=correlation_id)
        if to.startswith("broadcast."):
            if priority or ttl is not None or delay is not None or receipt:
                raise MailboxError(
                    "a broadcast is not stored: `priority`, `ttl_seconds`, `delay_seconds` and `receipt` mean nothing "
                    "to it. Leave them out, or send to a mailbox"
                )
            await self._broadcast(to, letter, reply_to)
            return None
        address = address_of(to)
        hops = self._guard.hops(address, correlation_id)
        dedup_id = secrets.token_hex(12)
        client = await self._service.client()

        async def post(voice: _Voice) -> Sent:
            return await client.send(
                address,
                seal(replace(letter, sender=voice.face, reply_to=voice.answers)),
                priority=priority,
                # for programs, which need not know the envelope to answer
                reply_to=voice.answers or None,
                correlation_id=(correlation_id if correlation_id.isprintable() else "") or None,
                sender=voice.secret,
                ttl=ttl,
                delay=delay,
                hops=hops or None,
                dedup_id=dedup_id,
                receipts=RECEIPTS if receipt else (),
            )

        with self._guard.counting(address, body):
            try:
                return await self._speaking(reply_to, post)
            except MailboxNotFound as error:
                raise await self._unknown(error, "not sent") from None

    async def check_inbox(
        self,
        mailbox: str | None = None,
        *,
        wait: float = 0.0,
        limit: int = 20,
        group: str | None = None,
        include_read: bool = False,
        on_wait: OnWait | None = None,
    ) -> Inbox:
        """What waits in the agent's own mailbox, in another one, or at a place where an earlier result stopped.

        Another mailbox is read in a group of this agent alone unless `group` is given. Waits up to `wait` seconds for
        the first message.
        """
        where = place(mailbox) if mailbox else None
        name = where.mailbox if where else mailbox or ""
        looking = where is not None or include_read

        async def read(address: str, mine: str) -> Inbox:
            if where and where.msg_id:
                return await self.reader.go_on(address, where)
            if looking:
                cursor = where.cursor if where else ""
                return await self.reader.look(address, mine, limit=limit, cursor=cursor, name=name)
            return await self.reader.take(
                address, mine, limit=limit, wait=wait, name=name, shared=group is not None, on_wait=on_wait
            )

        async def read_own(own: Own) -> Inbox:
            inbox = await read(own.mail_id, group or OWN_GROUP)
            waiting = inbox.unread if looking else inbox.waiting
            return replace(inbox, address=own.send_only, unread=waiting if group is None else None)

        if self._session is None and group is not None:
            raise MailboxError(
                "`group` has to tell apart who reads, and this connection has no session: leave it out, or run "
                "`mq9-mcp` as a stdio server"
            )
        own = await self._home.known() if self._home and name else None
        if not name or (own is not None and name in (own.mail_id, own.send_only)):
            if self._home is None:
                raise MailboxError(HOMELESS)
            inbox = await self._home.within(read_own)
            moved, self._home.moved = self._home.moved, False
            return replace(inbox, moved=moved)
        if self._session is None and not looking:
            raise MailboxError(
                f"this connection has no session, so what you read of {name} cannot be remembered: see all of it with "
                f"include_read=true, read a private mailbox by its mail_id (m-…), or run `mq9-mcp` as a stdio server"
            )
        if is_send_only(name):
            raise MailboxError(f"{name} can only be sent to: a private mailbox is read by its mail_id (m-…)")
        try:
            return replace(await read(address_of(name), group or self._group), unread=None)
        except MailboxNotFound as error:
            raise await self._unknown(error, "nothing to read") from None

    async def list_public(self, prefix: str = "", *, after: str | None = None) -> Directory:
        """The directory: public mailboxes whose names begin with `prefix`. `after` is the `next` of a page before."""
        client = await self._service.client()
        return await client.list(prefix, after=after)

    @property
    def has_home(self) -> bool:
        """Whether it has a mailbox of its own, or gets one when it needs it."""
        return self._home is not None

    async def address(self, name: str = "") -> str:
        """What reads the public mailbox `name`, or the agent's own. Raises MailboxError when there is none."""
        client = await self._service.client()
        if name:
            found = await client.list(address_of(name), limit=1)
            if name not in [listed.mail_id for listed in found.mailboxes]:
                raise MailboxNotFound(name, f"there is no public mailbox {name}; list_public shows all of them")
            return name
        if self._home is None:
            raise MailboxError(HOMELESS)

        async def alive(own: Own) -> str:
            await client.query(own.mail_id, limit=0)
            return own.mail_id

        return await self._home.within(alive)

    async def unread(self) -> int:
        """How many messages wait in the agent's own mailbox that it was not shown; 0 when that can't be known now.

        1000 and above mean at least so many.
        """
        try:
            own = await self._home.known() if self._home else None
            if own is None:
                return 0
            client = await self._service.client()
            page = await client.query(own.mail_id, limit=0, group=OWN_GROUP)
        except MailboxError:
            return 0
        return sum((page.waiting or {}).values())

    async def _broadcast(self, to: str, letter: Letter, reply_to: str | None) -> None:
        client = await self._service.client()

        async def post(voice: _Voice) -> None:
            # Never voice.secret: a broadcast goes to everybody who listens, as it is.
            await client.broadcast(
                to.removeprefix("broadcast."), seal(replace(letter, sender=voice.face, reply_to=voice.answers))
            )

        with self._guard.counting(to, letter.body):
            await self._speaking(reply_to, post)

    async def _speaking(self, reply_to: str | None, post: Callable[[_Voice], Awaitable[Result]]) -> Result:
        """`post` with the voice that `reply_to` asks for."""
        if reply_to is not None:
            reply_to = address_of(reply_to)
            private = is_private(reply_to)
            secret = reply_to if private else self._made.get(reply_to)
            if secret:
                face = self._service.faces.get(secret) or "" if private else reply_to
                try:
                    return await post(_Voice(secret, face, face))
                except (MailboxNotFound, BrokerUnavailable):
                    raise
                except MailboxError:
                    client = await self._service.client()
                    await client.query(secret, limit=0)  # says so if it is this mailbox that does not exist
                    raise
        if self._home is None:
            return await post(_Voice(None, "", reply_to or ""))
        return await self._home.within(lambda own: post(_Voice(own.mail_id, own.send_only, reply_to or own.send_only)))

    async def _unknown(self, error: MailboxNotFound, outcome: str) -> MailboxError:
        """What to say about an address that leads nowhere: the nearest public names."""
        gone = f"{outcome}: mailbox {error.address} does not exist, or has expired"
        if is_private(error.address) or is_send_only(error.address):
            return MailboxError(
                f"{gone}. Check every character, use the address of a newer message, or look for a name in list_public"
            )
        client = await self._service.client()
        directory = await client.list(limit=NAMES)
        near = get_close_matches(error.address, [listed.mail_id for listed in directory.mailboxes], n=3)
        similar = f"Similar public names: {', '.join(near)}" if near else "No public name is similar"
        return MailboxError(f"{gone}. {similar}; list_public shows all of them")


@dataclass(frozen=True, slots=True)
class _Voice:
    """Who a message is from: the secret that proves it, its public form, and where answers go."""

    secret: str | None
    face: str
    answers: str
