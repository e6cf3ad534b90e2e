"""A group's messages, given to one of its readers one by one."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from mq9_mcp.connection import Connection
from mq9_mcp.errors import BrokerUnavailable, LeaseLost, MailboxError, MailboxNotFound
from mq9_mcp.feed import Batches, Open
from mq9_mcp.mail import Fetched, Message

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox

POLL = 60.0  # seconds one long poll waits
KEEP_EVERY = 5.0  # seconds between two prolongations of the lease on what a reader is busy with


class Work:
    """A group's messages one by one, each acknowledged when the next is asked for.

    One at a time, so that what is urgent overtakes and nothing waits behind a slow reader. The lease on the message
    that the reader is busy with is prolonged until it is done. It all happens on a connection of its own: when the
    reader ends, the broker gives back at once what it had begun, and no long poll of it takes another message.
    """

    def __init__(self, connected: Open, own: AsyncMailbox, address: str, group: str) -> None:
        self._connected = connected
        self._client = own
        self._address = address
        self._group = group
        self._member = "reader"
        self._busy: int | None = None  # with the message of this id

    async def batches(self) -> Batches[Message]:
        await self._begin()
        async with self._client as client:
            link = await client._connected()
            await client.query(self._address, limit=0, group=self._group)
            keeping = asyncio.create_task(self._keep(link))
            done: tuple[int, ...] = ()
            try:
                yield []
                while True:
                    await link.ready(patient=True)
                    try:
                        got = await self._take(ack=done, wait=POLL)
                    except MailboxNotFound:
                        return
                    except BrokerUnavailable:
                        if link.online:
                            raise
                        continue  # `done` goes along again
                    except MailboxError:
                        if not done:
                            raise
                        done = ()  # it took longer than its lease, and is somebody else's now
                        continue
                    done = ()
                    for message in got.messages:
                        self._busy = message.msg_id
                        yield [message]
                        if self._busy is not None:
                            done = (message.msg_id,)
                        self._busy = None
            finally:
                keeping.cancel()

    def leave(self) -> None:
        """The message that was given out last is not done: it goes back when its lease ends, and counts as delivered.

        A member is given its own unfinished messages first, at once: so this reader is another member from now on.
        """
        self._busy = None
        self._member = secrets.token_hex(8)

    async def finish(self) -> None:
        """The message that was given out last is done, and no other is asked for."""
        if self._busy is not None:
            try:
                await self._client.ack(self._address, self._group, [self._busy], member=self._member)
            except (LeaseLost, MailboxNotFound):
                pass  # somebody else's by now, or nobody's
            self._busy = None

    async def _begin(self) -> None:
        """Connects. A broker that is away at this moment is waited for, as by every reader."""
        first = await self._connected()
        while True:
            await first.ready(patient=True)
            number = first.made
            try:
                await self._client._connected()
                return
            except BrokerUnavailable:
                try:
                    await first.flush()
                except BrokerUnavailable:
                    continue
                if first.made == number:
                    raise

    async def _take(self, *, ack: tuple[int, ...] = (), wait: float = 0.0) -> Fetched:
        return await self._client.fetch(
            self._address, group=self._group, member=self._member, ack=ack, limit=1, wait=wait
        )

    async def _keep(self, link: Connection) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY)
            if self._busy is not None and link.online:
                try:
                    await self._take()  # a member's own come first, and are leased anew
                except MailboxError:
                    pass
