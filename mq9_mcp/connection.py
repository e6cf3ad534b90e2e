"""One NATS connection that outlives its broker: finds it, checks it, asks it, and finds it again after a restart."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client, Server

from mq9_mcp import autostart
from mq9_mcp.endpoint import Endpoint
from mq9_mcp.errors import BrokerUnavailable, Interrupted, InvalidRequest, PayloadTooLarge
from mq9_mcp.replies import Replies
from mq9_mcp.transport import client_of

ANSWER_WITHIN = 10.0  # seconds a broker has to answer, beyond what a long poll asked for
RECONNECT_WITHIN = 10.0  # seconds a request waits for a broker that went away
RESTART_GRACE = 1.0  # seconds a lost broker has to come back by itself before another is started
GREETING_WITHIN = 2.0  # seconds a server has to say that it is one
RETRY_EVERY = 0.1  # seconds between two attempts to reconnect
REFUSED_REST = 2.0  # seconds before showing a broker again what it refused
ATTEMPTS = 3  # how often a request that may be repeated is sent, when connections break under it

NOBODY_THERE = "503"  # the status with which a server answers for who does not listen
BAD_ADDRESS = "the address holds characters that no address has: check it"

log = logging.getLogger("mq9.client")

T = TypeVar("T")
Listener = Callable[[Exception | None], None]


class Connection:
    """A nats-py client and what it takes to keep it useful.

    `home` is the data directory whose broker this is, wherever it listens; None when there is nothing but the `url`.
    `listeners` are called with None when the connection is lost, and with the error when the broker sent an `-ERR`.
    `made` is how often there was a connection.
    """

    def __init__(self, url: str, *, home: Path | None, name: str) -> None:
        self.nats = Client()
        self.listeners: set[Listener] = set()
        self.made = 0
        self._endpoint = Endpoint.at(url)
        self._refused: BrokerUnavailable | None = None
        self._dialling = False
        self._home = home
        self._name = name
        self._closed = False
        self._online = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replies = Replies()
        self._lost_at = 0.0
        self._mending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the broker was last, without credentials."""
        return self._endpoint.url

    @property
    def online(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._online.is_set()

    async def open(self) -> None:
        """Connects for the first time. Raises BrokerUnavailable at once when nothing at `url` is an mq9 broker."""
        await asyncio.to_thread(self._endpoint.version)
        await self._dial()

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = ANSWER_WITHIN,
        attempts: int = ATTEMPTS,
    ) -> dict[str, Any]:
        """The broker's JSON reply, whatever it says. `attempts` above 1 only for what may safely be done twice."""
        while True:
            await self.ready()
            attempts -= 1
            try:
                return await self._ask(subject, payload, headers, timeout)
            except Interrupted:
                if attempts < 1:
                    raise

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publishes and waits until the broker has seen it (and, in a mailbox, stored it)."""
        await self.ready()
        self._check_size(payload, headers)
        try:
            await self.nats.publish(subject, payload, headers=dict(headers) if headers else None)
        except nats.errors.BadSubjectError:
            raise InvalidRequest(BAD_ADDRESS) from None
        except nats.errors.Error as error:
            raise Interrupted(self._interrupted()) from error
        await self.flush()

    async def flush(self) -> None:
        """Waits until the broker has seen everything that was published and subscribed to before."""

        async def through() -> None:
            # nats-py's flush() takes a connection that is just being lost for flushed, and its PING is written ahead of
            # the commands that it still holds: the second one comes after them
            await self.nats.rtt(timeout=int(ANSWER_WITHIN))
            await self.nats.rtt(timeout=int(ANSWER_WITHIN))

        try:
            await self._unless_lost(through())
        except nats.errors.Error as error:
            raise Interrupted(self._interrupted()) from error

    async def ready(self, *, patient: bool = False) -> None:
        """Returns when there is a connection. Raises BrokerUnavailable after RECONNECT_WITHIN seconds without one, or,
        `patient`, only when a broker cannot be started either."""
        loop = asyncio.get_running_loop()
        deadline = None if patient else loop.time() + RECONNECT_WITHIN
        while not self._online.is_set():
            if self._closed:
                raise BrokerUnavailable("this client is closed: connect again")
            if self._refused is not None and not self.nats.is_closed:
                raise self._refused
            rest = None if deadline is None else deadline - loop.time()
            if rest is not None and rest <= 0:
                raise BrokerUnavailable(
                    f"the mq9 broker at {self.url} went away and did not come back within "
                    f"{RECONNECT_WITHIN:.0f} s: start it again (`mq9 broker`), then repeat"
                )
            if self._mending is None or self._mending.done():
                self._mending = asyncio.create_task(self._mend())
            mending = self._mending  # shared by everyone who waits: one who gives up ends it for nobody
            await asyncio.wait((mending,), timeout=rest)
            if mending.done() and not mending.cancelled():
                problem = mending.exception()
                if problem is not None and not isinstance(problem, TimeoutError) and not self._online.is_set():
                    raise problem

    async def close(self) -> None:
        """Closes the connection; what was leased to it goes back to its mailbox."""
        self._closed = True
        self._online.clear()
        if self._mending is not None:
            self._mending.cancel()
        self._replies.interrupt("this client was closed before the broker answered")
        await self.nats.close()

    async def _ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> dict[str, Any]:
        self._check_size(payload, headers)
        replies = self._replies
        answers_to, answer = replies.expect(timeout)
        try:
            await self.nats.publish(subject, payload, answers_to, dict(headers) if headers else None)
            message = await answer
            if message.headers and message.headers.get("Status") == NOBODY_THERE:
                raise BrokerUnavailable(
                    f"the server at {self.url} does not answer mailbox requests: it is no mq9 broker"
                )
            reply = json.loads(message.data)
        except TimeoutError:
            raise BrokerUnavailable(
                f"the mq9 broker at {self.url} did not answer within {timeout:.0f} s: see `mq9 status`, then repeat"
            ) from None
        except nats.errors.BadSubjectError:
            raise InvalidRequest(BAD_ADDRESS) from None
        except nats.errors.Error as error:
            raise Interrupted(self._interrupted()) from error
        except ValueError:
            raise BrokerUnavailable(
                f"the server at {self.url} answered something that is not JSON: it is no mq9 broker"
            ) from None
        finally:
            replies.forget(answers_to)
        if not isinstance(reply, dict):
            raise BrokerUnavailable(f"the server at {self.url} is no mq9 broker: its answer is no object")
        return reply

    async def _unless_lost(self, doing: Coroutine[Any, Any, T]) -> T:
        """Ends what waits on a connection when the connection does; nats-py would let it run into its timeout."""
        task, lost = asyncio.ensure_future(doing), self._lost
        try:
            await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise Interrupted(self._interrupted())
            return task.result()
        finally:
            task.cancel()

    def _check_size(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Checked here because a broker ends the connection of a client that sends too much."""
        size = len(payload)
        if headers:
            size += 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
        if size > self.nats.max_payload:
            raise PayloadTooLarge(size, self.nats.max_payload)

    async def _dial(self) -> None:
        client, options = client_of(self._endpoint)
        options |= {
            "name": self._name,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_lost,
            "reconnected_cb": self._on_reconnected,
            "connect_timeout": GREETING_WITHIN,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RETRY_EVERY,
            "ping_interval": 20,
            "reconnect_to_server_handler": None if self._home is None else self._whereabouts,
        }
        self._dialling = True
        try:
            async with asyncio.timeout(RECONNECT_WITHIN):
                await client.connect(**options)
        except (nats.errors.Error, OSError) as error:  # a timeout is one of them
            await client.close()
            raise BrokerUnavailable(
                f"the mq9 broker at {self.url} did not take the connection "
                f"({error or 'no answer in time'}): see `mq9 status`"
            ) from None
        except BaseException:
            await client.close()
            raise
        finally:
            self._dialling = False
        if not client.is_connected:
            await client.close()
            raise BrokerUnavailable(f"the mq9 broker at {self.url} closed the connection: see its log")
        await self._replies.listen(client)
        self.nats = client
        await self._on_connected()

    async def _mend(self) -> None:
        async with asyncio.timeout(RECONNECT_WITHIN):
            if self._home is not None:
                await self._revive(self._home)
            if self.nats.is_closed:  # the broker ended the connection for a reason; nats-py gives up then
                await self._dial()
            await self._online.wait()

    async def _revive(self, home: Path) -> None:
        """Starts a broker in `home` if none comes back in time."""
        grace = self._lost_at + RESTART_GRACE - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, grace)):
                await self._online.wait()
        except TimeoutError:
            url = await asyncio.to_thread(autostart.find_or_start, home)
            if self.nats.is_closed:
                self._endpoint = Endpoint.at(url)

    def _whereabouts(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
        """Asked by nats-py where to reconnect. It would go back to the old port, whoever has that now, and show them
        the private addresses in our subscriptions; so it is sent to the broker of our folder, or nowhere yet."""
        assert self._home is not None
        url = autostart.located(self._home)
        if url is None:
            raise BrokerUnavailable("there is no broker yet")
        if url != self.url:
            self.nats.set_server_pool([url])
            self._endpoint = Endpoint.at(url)
            raise BrokerUnavailable("the broker has moved")
        return servers[0], 0.0

    async def _on_connected(self) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        self._refused = None
        self.made += 1
        self._online.set()

    async def _on_reconnected(self) -> None:
        if self._home is None or autostart.located(self._home) == self.url:
            await self._on_connected()
        else:  # it went away while we came
            self._leaving = asyncio.create_task(self.nats.force_reconnect())

    async def _on_lost(self) -> None:
        self._online.clear()
        self._lost_at = asyncio.get_running_loop().time()
        if not self._lost.done():
            self._lost.set_result(None)
        self._replies.interrupt(self._interrupted())
        for listener in tuple(self.listeners):
            listener(None)
        if self._home is not None and not self._closed:
            await asyncio.sleep(RETRY_EVERY)  # a dying broker's port can be free before its folder is

    async def _on_error(self, error: Exception) -> None:
        # The text may hold a subject, and a subject may hold a private address: never log it.
        log.debug("connection to %s: %s", self.url, type(error).__name__)
        for listener in tuple(self.listeners):
            listener(error)
        if not self.online and (refusal := self._endpoint.refusal(error)) is not None:
            if self._dialling:
                raise refusal  # nats-py would show the same again and again
            self._refused = refusal
            if self._mending is not None:
                self._mending.cancel()  # whoever waits for it is told now
            await asyncio.sleep(REFUSED_REST)
        if not self.online and self._home is not None:
            await asyncio.sleep(RETRY_EVERY)  # nats-py asks _whereabouts again at once

    def _interrupted(self) -> str:
        return (
            f"the connection to the mq9 broker at {self.url} broke before it answered, so it may "
            f"or may not have been done: check, then repeat"
        )
