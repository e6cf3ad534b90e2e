"""An agent's own mailbox: made when it is first needed, found again, renewed while in use, replaced when it expired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound
from mq9_mcp.identity import Own, SessionMap

if TYPE_CHECKING:
    from mq9_mcp.client import AsyncMailbox

TTL = 7 * 86_400  # seconds it lives without being used
RENEW_AFTER = 3600.0  # seconds between two renewals of one that is used

Result = TypeVar("Result")


class Home:
    """Where one agent lives. `key` is the name of its session in `sessions`; without one the mailbox is forgotten with
    the process. `brought` is a mailbox whose address the agent gave: it is never renewed nor replaced. `now` is in unix
    seconds. `moved` is set when the mailbox had to be replaced."""

    def __init__(
        self,
        client: Callable[[], Awaitable[AsyncMailbox]],
        now: Callable[[], float],
        *,
        sessions: SessionMap | None = None,
        key: str | None = None,
        brought: Own | None = None,
    ) -> None:
        self.moved = False
        self._client = client
        self._now = now
        self._sessions = sessions
        self._key = key
        self._own = brought
        self._fixed = brought is not None
        self._lost: str | None = None
        self._sought = False
        self._renewed_at = 0.0
        self._changing = anyio.Lock(fast_acquire=True)

    async def known(self) -> Own | None:
        """The mailbox if there is one already."""
        async with self._changing:
            return await self._find()

    async def within(self, work: Callable[[Own], Awaitable[Result]]) -> Result:
        """`work` with the mailbox, made if there is none; once more with a new one if it turns out to have expired."""
        own = await self._settle()
        try:
            return await work(own)
        except BrokerUnavailable:
            raise
        except MailboxError:
            if self._fixed or not await self._is_gone(own):
                raise
        return await work(await self._settle())

    async def _settle(self) -> Own:
        async with self._changing:
            return await self._find() or await self._make()

    async def _find(self) -> Own | None:
        if self._own is None and not self._sought and self._sessions and self._key:
            self._own = self._sessions.find(self._key)
        self._sought = True
        if self._own is not None and not self._fixed and self._renewed_at + RENEW_AFTER <= self._now():
            mail_id = self._own.mail_id
            client = await self._client()
            try:
                await _with_ttl(lambda ttl: client.renew(mail_id, ttl))
            except MailboxNotFound:
                self._leave(mail_id)
            else:
                self._own = self._remember(self._own)
        return self._own

    async def _make(self) -> Own:
        client = await self._client()
        made = await _with_ttl(lambda ttl: client.create(ttl=ttl))
        self._own = self._remember(Own(made.mail_id, made.send_only))
        if self._own.mail_id != made.mail_id:  # another process of this session was first
            await client.drop(made.mail_id)
        return self._own

    async def _is_gone(self, own: Own) -> bool:
        client = await self._client()
        try:
            await client.query(own.mail_id, limit=0)
        except MailboxNotFound:
            async with self._changing:
                if self._own is not None and self._own.mail_id == own.mail_id:
                    self._leave(own.mail_id)
            return True
        return False

    def _leave(self, mail_id: str) -> None:
        self._lost = mail_id
        self._own = None
        self.moved = True

    def _remember(self, own: Own) -> Own:
        now = self._renewed_at = self._now()
        own = replace(own, expires_at=int(now) + TTL)
        if self._sessions and self._key:
            own = self._sessions.remember(self._key, own, now=now, lost=self._lost)
        return own


async def _with_ttl(work: Callable[[int], Awaitable[Result]]) -> Result:
    """`work` with TTL, or with the broker's maximum (asked for with 0) where that is less."""
    try:
        return await work(TTL)
    except (MailboxNotFound, BrokerUnavailable):
        raise
    except MailboxError:
        return await work(0)
