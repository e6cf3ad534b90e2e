"""That something changed, as the broker says it: nothing is read or delivered, and nothing asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from mq9_mcp.errors import MailboxError, MailboxNotFound
from mq9_mcp.mail import PREFIX

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from mq9_mcp.client import AsyncMailbox
    from mq9_mcp.connection import Connection

POLL = 60.0  # seconds the broker keeps one question whether there is something new
REST = 0.1  # seconds between two changes of a mailbox: what comes meanwhile is one
LONG_REST = 1.0  # the same for the directory; and before looking for a broker again that cannot be reached

Client = Callable[[], Awaitable["AsyncMailbox"]]


async def mailbox_changes(client: Client, address: str) -> AsyncGenerator[None, None]:
    """Yields when it begins to listen, then whenever the mailbox has changed, and ends after the mailbox did.

    Raises MailboxError when it cannot begin. A broker that goes away is waited for, and counts as a change.
    """
    begun = changed = False
    stored = 0
    while True:
        try:
            mq9 = await client()
            lost = _lost(await mq9._connected())
            question = asyncio.ensure_future(mq9.fetch(address, deliver="latest", limit=0, wait=POLL))
            # (however it ends, and whoever still waits for it then)
            question.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                await asyncio.sleep(REST if changed else 0)
                # The question is with the broker by now: what this does not see will be its answer.
                count = (await mq9.query(address, limit=0)).unread
                if not begun or changed or count != stored:
                    begun, stored = True, count
                    yield
                await asyncio.wait((question, lost), return_when=asyncio.FIRST_COMPLETED)
                changed = lost.done() or (await question).more
            finally:
                question.cancel()
                lost.cancel()
                await asyncio.wait((question,))
        except MailboxNotFound:
            if not begun:
                raise
            yield
            return
        except MailboxError:
            if not begun:
                raise
            changed = True
            await asyncio.sleep(LONG_REST)


def _lost(link: Connection) -> asyncio.Future[None]:
    """Done when the connection is lost: a question that is asked again then does not see what came in between."""
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    listeners = link.listeners

    def hear(error: Exception | None) -> None:
        if error is None and not lost.done():
            lost.set_result(None)

    listeners.add(hear)
    lost.add_done_callback(lambda _: listeners.discard(hear))
    return lost


async def directory_changes(client: Client) -> AsyncGenerator[None, None]:
    """Yields when it begins to listen, then whenever a public mailbox has come or gone. Raises MailboxError when it
    cannot begin."""
    import nats.errors  # which no start needs to wait for

    begun = False
    news = asyncio.Event()

    async def hear(message: Msg) -> None:
        if not message.data.startswith(b'{"event":"renewed"'):
            news.set()

    while True:
        try:
            mq9 = await client()
            subscription = await mq9.nats.subscribe(f"{PREFIX}PUBLIC.LIST", cb=hear)
            try:
                await mq9.nats.flush()
                news.clear()  # the mailboxes that were there
                begun = True
                yield
                while not mq9.nats.is_closed:
                    try:
                        await asyncio.wait_for(news.wait(), POLL)
                    except TimeoutError:
                        continue
                    await asyncio.sleep(LONG_REST)
                    news.clear()
                    yield
            finally:
                await subscription.unsubscribe()
        except (MailboxError, nats.errors.Error) as error:
            if not begun:
                raise error if isinstance(error, MailboxError) else MailboxError(str(error)) from None
            await asyncio.sleep(LONG_REST)
