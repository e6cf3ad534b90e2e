"""The client library: mailboxes over one NATS connection.

    async with await AsyncMailbox.connect() as mq9:
        mine = await mq9.create()
        await mq9.send("reports", {"done": True}, reply_to=mine.send_only)
        got = await mq9.fetch(mine.mail_id, wait=30)

Times are seconds. An address is a private `mail_id` (a secret), a `send_only` address or a public name; their subjects
(`$mq9.AI.INBOX.<address>`) are understood too. Everything raises MailboxError and its kinds (mq9_mcp.errors).
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mq9_mcp import live
from mq9_mcp.autostart import data_dir, find, find_or_start
from mq9_mcp.connection import ANSWER_WITHIN, ATTEMPTS, Connection
from mq9_mcp.errors import BrokerUnavailable, Interrupted, MailboxError, MailboxNotFound
from mq9_mcp.mail import (
    PREFIX,
    REPLY_TO,
    Created,
    Directory,
    Fetched,
    Listed,
    Message,
    Page,
    Payload,
    Sent,
    address_of,
    as_bytes,
    checked,
    message_of,
    priority_of,
)

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = [
    "AsyncMailbox",
    "BrokerUnavailable",
    "Created",
    "Directory",
    "Fetched",
    "Listed",
    "MailboxError",
    "MailboxNotFound",
    "Message",
    "Page",
    "Sent",
]

LONGEST_POLL = 300.0  # seconds a broker waits at most; longer waits are several polls
SECRET_LENGTH = 28  # characters of a mail_id
_EVENT = re.compile(r"[^\s.*>]+(?:\.[^\s.*>]+)+")


class AsyncMailbox:
    """Mailboxes over one connection. Make one with `connect`, share it between tasks, `close` it in the end.

    When the broker restarts, a request waits for it up to ten seconds; when the broker was found or started through the
    data directory, it is found or started again.
    """

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._members: set[live.Claim] = set()

    @classmethod
    async def connect(cls, url: str | None = None, *, autostart: bool = True, name: str = "mq9") -> AsyncMailbox:
        """Connects to `url`, else to $MQ9_URL, else to this machine's broker, started if none is running."""
        url = url or os.environ.get("MQ9_URL") or None
        home = None
        if url is None:
            directory = data_dir()
            home = directory if autostart else None
            url = await asyncio.to_thread(_local_broker, directory, autostart)
        link = Connection(url, home=home, name=name)
        await link.open()
        return cls(link)

    @property
    def nats(self) -> Client:
        """The nats-py connection, for core NATS. It changes when a broker closed it for good."""
        return self._link.nats

    @property
    def url(self) -> str:
        """Where the broker was last reached."""
        return self._link.url

    async def close(self) -> None:
        """Closes the connection. What was fetched for a group and not acknowledged goes back to its mailbox."""
        await self._link.close()

    async def __aenter__(self) -> AsyncMailbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def create(
        self,
        *,
        name: str | None = None,
        public: bool = False,
        ttl: int | None = None,
        desc: str | None = None,
        type: str | None = None,
        storage: str | None = None,
    ) -> Created:
        """Makes a mailbox: private without a name. A name that exists is joined and kept alive (`is_new` False)."""
        asked = {"name": name, "public": public or None, "ttl": ttl, "desc": desc, "type": type, "storage": storage}
        reply = await self._ask("MAILBOX.CREATE", asked)
        return Created(
            mail_id=reply["mail_id"],
            send_only=reply["send_only"],
            inbox=reply["inbox"],
            is_new=reply["is_new"],
            ttl=reply["ttl"],
            expires_at=reply.get("expires_at"),
            owner=reply.get("owner"),
        )

    async def send(
        self,
        to: str,
        payload: Payload,
        *,
        priority: str | None = None,
        reply_to: str | None = None,
        sender: str | None = None,
        ttl: int | None = None,
        delay: int | None = None,
        hops: int | None = None,
        dedup_id: str | None = None,
        receipts: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        """Stores a message in the mailbox `to` and returns when it is stored; a broken connection stores it once.

        `sender` is a mail_id or owner address of one's own: readers see its public form, checked by the broker.
        `reply_to` is the address answers go to, one that readers may know; it travels in the header Reply-To.
        `ttl` and `delay` count from now. The same `dedup_id` within two minutes stores nothing new. `hops` is how many
        replies led to this one. `receipts` names what `sender`'s mailbox is told of: delivered, acked, expired, dead.
        """
        address = address_of(to)
        sent = dict(headers or {})
        if reply_to is not None:
            sent[REPLY_TO] = f"{PREFIX}INBOX.{_public_form(reply_to)}"
        priority = priority or priority_of(to)
        if sender is not None:
            sent["mq9-from"] = address_of(sender)
        if events := ",".join(receipts):
            sent["mq9-receipt"] = events
        for header, value in (("mq9-ttl", ttl), ("mq9-delay", delay), ("mq9-hops", hops), ("mq9-priority", priority)):
            if value is not None:
                sent[header] = str(value)
        # An id of our own makes it safe to send again what a broken connection may or may not have stored.
        sent["Nats-Msg-Id"] = dedup_id or secrets.token_hex(12)
        reply = await self._request(f"INBOX.{address}", as_bytes(payload), address, headers=checked(sent))
        return Sent(reply["msg_id"], reply.get("duplicate", False))

    async def broadcast(
        self,
        domain_event: str,
        payload: Payload,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Sends to everyone who listens to `domain.event` at this moment. Nothing is stored."""
        if not _EVENT.fullmatch(domain_event):
            raise MailboxError(
                f"{domain_event!r} is no broadcast event: write it like 'pipeline.done', without wildcards"
            )
        await self._link.publish(f"{PREFIX}BROADCAST.{domain_event}", as_bytes(payload), checked(headers or {}))

    async def fetch(
        self,
        mailbox: str,
        *,
        group: str | None = None,
        member: str | None = None,
        deliver: str | None = None,
        from_id: int | None = None,
        ack: Iterable[int] = (),
        limit: int = 100,
        wait: float = 0.0,
    ) -> Fetched:
        """Up to `limit` messages, most urgent first; when there is none, waits up to `wait` seconds for one.

        With a `group` they are leased to this connection (and `member`) until acknowledged, here by the next fetch's
        `ack` or by `ack`; without one nothing is recorded. `deliver` ("earliest", "latest") and `from_id` say where
        a new group, or a read without group, starts.
        """
        address = address_of(mailbox)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        asked: dict[str, Any] = {
            "group_name": group,
            "member": member,
            "deliver": "from_id" if deliver is None and from_id is not None else deliver,
            "from_id": from_id,
            "ack": [*ack] or None,
        }
        attempts = ATTEMPTS
        while True:
            left = max(0.0, deadline - loop.time())
            rest = min(left, LONGEST_POLL)
            asked["config"] = {"num_msgs": limit, "max_wait_ms": int(rest * 1000)}
            attempts -= 1
            try:
                reply = await self._ask(
                    f"MSG.FETCH.{address}", asked, address, timeout=rest + ANSWER_WITHIN, attempts=1
                )
            except Interrupted:  # asking again is safe: what it leased went back when the connection broke
                if attempts < 1:
                    raise
                continue
            if not reply["messages"] and rest < left:
                attempts = ATTEMPTS
                asked["ack"] = None
                continue
            return Fetched([message_of(item) for item in reply["messages"]], reply["more"], reply.get("waiting"))

    async def ack(self, mailbox: str, group: str, msg_ids: Iterable[int], *, member: str | None = None) -> None:
        """Acknowledges exactly these messages for the group: nobody in it gets them again."""
        address = address_of(mailbox)
        await self._ask(f"MSG.ACK.{address}", {"group_name": group, "member": member, "msg_ids": [*msg_ids]}, address)

    async def query(
        self,
        mailbox: str,
        *,
        after: str | None = None,
        limit: int = 100,
        since: int | None = None,
        group: str | None = None,
    ) -> Page:
        """Reads and consumes nothing. `after` is a page's `next`; `since` unix seconds; `group` adds its `waiting`."""
        address = address_of(mailbox)
        asked = {"after": after, "limit": limit, "since": since, "group_name": group}
        reply = await self._ask(f"MAILBOX.QUERY.{address}", asked, address)
        messages = [message_of(item) for item in reply["messages"]]
        return Page(messages, reply["unread"], reply.get("next"), reply.get("waiting"))

    async def delete(self, mailbox: str, msg_id: int) -> None:
        """Deletes one message. A public mailbox needs its owner address."""
        address = address_of(mailbox)
        await self._ask(f"MAILBOX.DELETE.{address}.{int(msg_id)}", {}, address, attempts=1)

    async def renew(self, mailbox: str, ttl: int) -> None:
        """Moves the expiry to `ttl` seconds from now. A public mailbox needs its owner address."""
        address = address_of(mailbox)
        await self._ask(f"MAILBOX.RENEW.{address}", {"ttl": ttl}, address)

    async def drop(self, mailbox: str) -> None:
        """Destroys the mailbox and its messages now. A public mailbox needs its owner address."""
        address = address_of(mailbox)
        await self._ask(f"MAILBOX.DROP.{address}", {}, address, attempts=1)

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> Directory:
        """The public mailboxes whose names begin with `prefix`."""
        asked = {"prefix": prefix or None, "limit": limit, "after": after}
        reply = await self._ask("PUBLIC.LIST", asked)
        found = [
            Listed(item["mail_id"], item.get("desc") or "", item["ttl"], item.get("expires_at"))
            for item in reply["mailboxes"]
        ]
        return Directory(found, reply.get("next"))

    def messages(self, mailbox: str, *, group: str | None = None) -> AsyncGenerator[Message, None]:
        """Live: everything waiting, then what arrives. Ends when the mailbox expires or is dropped.

        Without a group everyone who listens gets every message, each once, and nothing is consumed. With a group each
        message goes to one reader of it, and counts as read when that reader asks for the next one.
        """
        address = address_of(mailbox)
        if group is None:
            return live.follow(self._link, address, lambda: self.query(address, limit=1))
        return live.work(self._link, self.fetch, address, group, self._members)

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
        return await self._request(verb, body, address, timeout=timeout, attempts=attempts)

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
        reply = await self._link.request(PREFIX + verb, body, headers=headers, timeout=timeout, attempts=attempts)
        error = reply.get("error")
        if error == f"mailbox {address} does not exist":
            raise MailboxNotFound(
                address, f"{error}: check the address, or create it; a mailbox ends when its ttl does"
            )
        if error:
            raise MailboxError(str(error))
        return reply


def _local_broker(directory: Path, start: bool) -> str:
    url = find_or_start(directory) if start else find(directory)
    if url is None:
        raise BrokerUnavailable(f"no broker is running in {directory}: start one with `mq9 broker`")
    return url


def _public_form(address: str) -> str:
    """`address` if readers may see it. Raises MailboxError for a secret: whoever reads it could read all its mail."""
    address = address_of(address)
    if address.startswith("m-") and len(address) == SECRET_LENGTH:
        raise MailboxError(
            "reply_to is a mail_id, which opens the mailbox to everybody who reads the message: give its send_only "
            "address (s-…), which creating it also gave"
        )
    return address
