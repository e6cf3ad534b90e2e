"""What every request of the client library has in common: the connection, made when it is first needed."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mq9_mcp.autostart import data_dir, find, find_or_start
from mq9_mcp.connection import ANSWER_WITHIN, ATTEMPTS, Connection
from mq9_mcp.endpoint import shown
from mq9_mcp.errors import BrokerUnavailable, InvalidRequest, Misused, PayloadTooLarge, refusal
from mq9_mcp.mail import PREFIX, as_bytes

if TYPE_CHECKING:
    from nats.aio.client import Client

    from mq9_mcp.receiving import Receiver


class Requests:
    """One connection to a broker, and the way a request takes over it."""

    def __init__(self, url: str | None = None, *, autostart: bool = True, name: str = "mq9") -> None:
        self._named = url or os.environ.get("MQ9_URL") or None
        self._autostart = autostart
        self._name = name
        self._link: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._receivers: set[Receiver] = set()
        self._readers: weakref.WeakSet[Requests] = weakref.WeakSet()  # with connections of their own

    @classmethod
    async def connect(cls, url: str | None = None, *, autostart: bool = True, name: str = "mq9") -> Self:
        """A client that is connected already. Raises BrokerUnavailable when it can't be."""
        made = cls(url, autostart=autostart, name=name)
        await made._connected()
        return made

    @property
    def nats(self) -> Client:
        """The nats-py connection, for core NATS. It changes when a broker closed it for good. Raises Misused before
        the first use of this client, or the `async with` around it."""
        if self._link is None:
            raise Misused("this client has no connection yet: use it in `async with`, or make it with `connect()`")
        return self._link.nats

    @property
    def url(self) -> str:
        """Where the broker was last reached, without credentials; "" before the first use, when no URL was given."""
        return self._link.url if self._link is not None else shown(self._named or "")

    async def close(self) -> None:
        """Closes the connection. What was fetched for a group and not acknowledged goes back to its mailbox."""
        self._closed = True
        for receiver in tuple(self._receivers):
            await receiver.cancel()
        for reader in tuple(self._readers):
            await reader.close()
        async with self._connecting:
            if self._link is not None:
                await self._link.close()

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _connected(self) -> Connection:
        """The connection, made by the first who needs it."""
        if self._link is None:
            async with self._connecting:
                if self._closed:
                    raise BrokerUnavailable("this client is closed: make another one")
                if self._link is None:
                    self._link = await self._open()
        if asyncio.get_running_loop() is not self._loop:
            raise Misused(
                "this client belongs to another event loop: make one inside of each asyncio.run(), or use Mailbox, "
                "which has a loop of its own"
            )
        return self._link

    async def _open(self) -> Connection:
        url, home = self._named, None
        if url is None:
            directory = data_dir()
            home = directory if self._autostart else None
            url = await asyncio.to_thread(_local_broker, directory, self._autostart)
        link = Connection(url, home=home, name=self._name)
        await link.open()
        self._loop = asyncio.get_running_loop()
        return link

    async def _ask(
        self,
        verb: str,
        asked: Mapping[str, Any],
        address: str = "",
        *,
        timeout: float = ANSWER_WITHIN,
        attempts: int = ATTEMPTS,
    ) -> dict[str, Any]:
        body = as_bytes({name: value for name, value in asked.items() if value is not None})
        try:
            return await self._request(verb, body, address, timeout=timeout, attempts=attempts)
        except PayloadTooLarge as error:
            longest = max(asked, key=lambda name: len(str(asked[name])))
            raise InvalidRequest(
                f"{longest} is too long: with it the request has {error.size} bytes, and the broker takes at most "
                f"{error.limit}"
            ) from None

    async def _request(
        self,
        verb: str,
        body: bytes,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = ANSWER_WITHIN,
        attempts: int = ATTEMPTS,
    ) -> dict[str, Any]:
        link = await self._connected()
        reply = await link.request(PREFIX + verb, body, headers=headers, timeout=timeout, attempts=attempts)
        if error := reply.get("error"):
            raise refusal(str(error), address)
        return reply


def _local_broker(directory: Path, start: bool) -> str:
    url = find_or_start(directory) if start else find(directory)
    if url is None:
        raise BrokerUnavailable(f"no broker is running in {directory}: start one with `mq9 broker`")
    return url
