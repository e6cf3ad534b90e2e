"""The client library: mailboxes over one NATS connection.

    async with AsyncMailbox() as mq9:
        mine = await mq9.create()
        await mq9.send("reports", {"done": True}, reply_to=mine.send_only)
        got = await mq9.fetch(mine.mail_id, wait=30)

Times are seconds. An address is a private `mail_id` (a secret), a `send_only` address or a public name; their subjects
(`$mq9.AI.INBOX.<address>`) are understood too. Everything raises MailboxError and its kinds (mq9_mcp.errors).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import ceil
from typing import Any, Literal

from mq9_mcp.connection import ANSWER_WITHIN, ATTEMPTS, RECONNECT_WITHIN
from mq9_mcp.errors import BrokerUnavailable, Interrupted, InvalidRequest, MailboxError, MailboxNotFound, NoAnswer
from mq9_mcp.feed import Batches, hear, remembered
from mq9_mcp.live import Following, Stream, follow
from mq9_mcp.mail import (
    CORRELATION_ID,
    PREFIX,
    REPLY_TO,
    Broadcast,
    Capability,
    Change,
    Created,
    Directory,
    Fetched,
    Listed,
    Message,
    Page,
    Payload,
    Priority,
    Sent,
    address_of,
    as_bytes,
    capability_of,
    checked,
    event_of,
    heard,
    ids_of,
    list_of,
    listed_of,
    message_of,
    owner_of,
    pattern_of,
    priority_of,
    public_form,
    seconds_of,
    words_of,
)
from mq9_mcp.receiving import Callback, Receiver, must_be_called
from mq9_mcp.requests import Requests
from mq9_mcp.work import Work

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
GIVE_UP_WITHIN = 1.0  # seconds the end of a question waits for the broker
BOARD = "system.capability"  # the broadcast that is remembered


class AsyncMailbox(Requests):
    """Mailboxes over one connection: use it in `async with`, share it between tasks of one event loop.

    `url` is a broker's, like `nats://host:4222`; without it there is $MQ9_URL, and without that the broker of this
    machine, which is started if none runs (unless `autostart` is False). `name` is what the broker's monitoring calls
    the connection, which is made by `async with` or by the first call. When the broker restarts, a request waits for it
    up to ten seconds; one that was found or started through the data directory is found or started again.

    Addresses are a `mail_id` or owner address (secrets), a `send_only` address (to send), or a public name; or what
    `create` gave, of which each method takes the address that it needs. A message is named by itself or its msg_id.
    Every method raises MailboxError or one of its kinds, among them BrokerUnavailable, InvalidRequest for arguments
    that cannot be sent, and MailboxNotFound where an address is taken.
    """

    async def create(
        self,
        *,
        name: str | None = None,
        public: bool = False,
        ttl: int | None = None,
        desc: str | None = None,
        type: Literal["standard", "latest"] | None = None,
        storage: Literal["disk", "memory"] | None = None,
        max_msgs: int | None = None,
        retain: Literal["ttl", "ack"] | None = None,
        ack: Literal["none", "explicit"] | None = None,
        ack_wait: int | None = None,
        max_deliver: int | None = None,
        dead_letter: str | Created | None = None,
        subscribe: Iterable[str] = (),
    ) -> Created:
        """Makes a mailbox: private without a `name`. A name that exists is joined and kept alive (`is_new` False); its
        settings, `subscribe` among them, stay what they are.

        `ttl`: seconds it lives (a day), 0 for no end. `public`: it is listed in the directory, with `desc`.
        `type`: "latest" keeps the newest message alone. `storage`: "memory" is gone when the broker stops.
        `max_msgs`: how many messages it holds; a send beyond raises MailboxFull.

        For readers in groups: a message that is not acknowledged within `ack_wait` seconds (60) comes again, up to
        `max_deliver` times (5; 0: no limit), and then goes to the mailbox `dead_letter`. `retain`: "ack" deletes what
        was acknowledged. `ack`: "explicit" lets queue subscriptions of plain NATS clients acknowledge.

        `subscribe`: up to 8 patterns of broadcasts, like `pipeline.*`, that are stored into it.
        """
        reply = await self._ask(
            "MAILBOX.CREATE",
            {
                "name": name,
                "public": public or None,
                "ttl": ttl,
                "desc": desc,
                "type": type,
                "storage": storage,
                "max_msgs": max_msgs,
                "retain": retain,
                "ack": ack,
                "ack_wait": ack_wait,
                "max_deliver": max_deliver,
                "dead_letter": None if dead_letter is None else public_form(dead_letter),
                "subscribe": list_of("subscribe", subscribe) or None,
            },
        )
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
        to: str | Created,
        payload: Payload,
        *,
        priority: Priority | None = None,
        reply_to: str | Created | None = None,
        sender: str | Created | None = None,
        ttl: int | None = None,
        delay: int | None = None,
        key: str | None = None,
        tags: Iterable[str] = (),
        correlation_id: str | None = None,
        hops: int | None = None,
        dedup_id: str | None = None,
        receipts: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        """Stores a message in the mailbox `to` and returns when it is stored; a broken connection stores it once.

        `payload`: bytes, text, or what becomes JSON: a dict, a list, a pydantic model. `priority`: without it normal.
        `reply_to`: the address answers go to, one that readers may know. `sender`: a mail_id or owner address of one's
        own; readers see its public form, checked by the broker. `ttl`, `delay`: seconds from now until it expires, and
        until it is delivered. `key`: of the messages with this key the newest alone stays. `tags`: words for `query`.
        `correlation_id`: what connects question and answer. `hops`: how many replies led to this one. `dedup_id`: the
        same within two minutes stores nothing new. `receipts`: what `sender`'s mailbox is told of: delivered, acked,
        expired, dead. `headers`: any others.

        Raises MailboxFull, PayloadTooLarge, and NotAllowed when `sender` is not one's own.
        """
        address = address_of(to)
        sent = dict(headers or {})
        if reply_to is not None:
            sent[REPLY_TO] = f"{PREFIX}INBOX.{public_form(reply_to)}"
        if sender is not None:
            sent["mq9-from"] = owner_of(sender)
        for header, value in (
            ("mq9-priority", priority or priority_of(to)),
            ("mq9-ttl", ttl),
            ("mq9-delay", delay),
            ("mq9-key", key),
            ("mq9-tags", ",".join(words_of("tags", tags)) or None),
            ("mq9-receipt", ",".join(words_of("receipts", receipts)) or None),
            ("mq9-hops", hops),
            (CORRELATION_ID, correlation_id),
        ):
            if value is not None:
                sent[header] = str(value)
        # An id of our own makes it safe to send again what a broken connection may or may not have stored.
        sent["Nats-Msg-Id"] = dedup_id or secrets.token_hex(12)
        reply = await self._request(f"INBOX.{address}", as_bytes(payload), address, headers=checked(sent))
        return Sent(reply["msg_id"], reply.get("duplicate", False))

    async def ask(
        self,
        to: str | Created,
        payload: Payload,
        *,
        timeout: float = 60.0,
        priority: Priority | None = None,
        sender: str | Created | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Sends a question to the mailbox `to` and waits up to `timeout` seconds for the answer, however it comes: what
        is sent to the question's `reply_to`, by `answer` or an agent's `send`. Raises NoAnswer, also when the broker
        has lost the mailbox for the answer meanwhile.

        Each question has a private mailbox of its own for the answer, so that no answer is taken for another's. The
        question expires with it: a reader who comes later does not find it.
        """
        lives = seconds_of("timeout", timeout) + 1
        mine = await self.create(ttl=lives + ceil(RECONNECT_WITHIN))  # an outage may delay the question, and the answer
        try:
            await self.send(
                to,
                payload,
                priority=priority,
                reply_to=mine.send_only,
                sender=sender,
                ttl=lives,
                correlation_id=secrets.token_hex(8),
                headers=headers,
            )
            try:
                got = await self.fetch(mine.mail_id, limit=1, wait=timeout)
            except MailboxNotFound:
                raise NoAnswer(
                    f"the mailbox for the answer of {address_of(to)} ended before one came (a broker that keeps mail "
                    f"in memory loses it in a restart): ask again"
                ) from None
        finally:
            await self._give_up(mine.mail_id)
        if not got.messages:
            raise NoAnswer(
                f"{address_of(to)} did not answer within {timeout:g} s: see whether anybody reads it, or ask with a "
                f"longer timeout"
            )
        return got.messages[0]

    async def answer(
        self,
        message: Message,
        payload: Payload,
        *,
        priority: Priority | None = None,
        sender: str | Created | None = None,
    ) -> Sent:
        """Answers `message`: sends to its `reply_to`, else to its `sender`, with its correlation_id and one hop more.

        `sender` is one's own mail_id or owner address, as in `send`. Raises InvalidRequest when it names nobody to
        answer to, and MailboxNotFound when nobody waits for the answer any more.
        """
        to = message.reply_to or message.sender
        if to is None:
            raise InvalidRequest(
                f"message {message.msg_id} has neither a reply_to nor a sender, so it cannot be answered: its sender "
                f"must give one"
            )
        return await self.send(
            to,
            payload,
            priority=priority,
            sender=sender,
            correlation_id=message.correlation_id,
            hops=message.hops + 1,
        )

    async def fetch(
        self,
        mailbox: str | Created,
        *,
        group: str | None = None,
        member: str | None = None,
        deliver: Literal["earliest", "latest", "from_id"] | None = None,
        from_id: int | None = None,
        ack: Iterable[int | Message] = (),
        limit: int = 100,
        wait: float = 0.0,
    ) -> Fetched:
        """Up to `limit` messages, most urgent first; when there is none, waits up to `wait` seconds for one.

        With a `group` they are leased to this connection (and `member`) until acknowledged, here by the next fetch's
        `ack` or by `ack`; without one nothing is recorded. What is not acknowledged in the mailbox's `ack_wait` goes to
        the next reader. A named `member` that asks again is given what it has not acknowledged first. `deliver`
        ("earliest", "latest") and `from_id` say where a new group, or a read without group, starts.

        Cancelled while it waits for a group, it may have been given a message, which then comes again when its lease
        ends. Raises LeaseLost when something in `ack` is another reader's by now: nothing is acknowledged then.
        """
        address = address_of(mailbox)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        asked: dict[str, Any] = {
            "group_name": group,
            "member": member,
            "deliver": "from_id" if deliver is None and from_id is not None else deliver,
            "from_id": from_id,
            "ack": ids_of(ack) or None,
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

    async def ack(
        self, mailbox: str | Created, group: str, messages: Iterable[int | Message], *, member: str | None = None
    ) -> None:
        """Acknowledges exactly these messages for the group: nobody in it gets them again.

        Raises LeaseLost when one of them is another reader's by now: nothing is acknowledged then.
        """
        address = address_of(mailbox)
        await self._ask(
            f"MSG.ACK.{address}", {"group_name": group, "member": member, "msg_ids": ids_of(messages)}, address
        )

    def messages(self, mailbox: str | Created, *, group: str | None = None) -> Stream[Message]:
        """Live: everything waiting, most urgent first, then what arrives, for `async for`. Ends with the mailbox.

        Without a group everyone who listens gets every message, each once, and nothing is consumed. With a group each
        message goes to one reader of it, is kept from the others while that reader works, and counts as read when it
        asks for the next one; what it had not finished when it stopped comes again, to whoever is there.
        """
        return Stream(self._batches(address_of(mailbox), group)[0])

    def receive(self, mailbox: str | Created, callback: Callback, *, resume: str | None = None) -> Receiver:
        """Calls `callback` with each message: everything waiting, most urgent first, then what arrives, one by one.

        `callback` is a coroutine function, or a function that does not block. It runs in the background from now on:
        `await` what is returned to wait for its end, `stop()` it, or use it in `async with`. It ends with the mailbox.

        `resume` is the name of a group: each message goes to one receiver of it, wherever that runs, is kept from the
        others while the callback works, and is acknowledged when it returns; after a restart it goes on where it was.
        Without it every message is received, each time from the first that is stored, and nothing is consumed.

        A callback that raises is logged (logger mq9.client) and the next message received. With `resume` the message is
        not acknowledged: it comes again when its lease ends (the mailbox's `ack_wait`), to any receiver, and after
        `max_deliver` times it goes to the mailbox's `dead_letter`.
        """
        must_be_called(callback)
        address = address_of(mailbox)
        batches, work = self._batches(address, resume)
        return Receiver(batches, work, callback, address, self._receivers)

    async def query(
        self,
        mailbox: str | Created,
        *,
        after: str | None = None,
        limit: int = 100,
        since: int | None = None,
        key: str | None = None,
        tags: Iterable[str] = (),
        group: str | None = None,
    ) -> Page:
        """What the mailbox holds, most urgent first, read or not; consumes nothing.

        `after`: the `next` of the page before. `limit`: from 0 to 1000. `since`: sent after these unix seconds. `key`:
        the newest message of that key. `tags`: only what has all of them. `group`: tells what it has not had, in
        `waiting`.
        """
        address = address_of(mailbox)
        asked = {
            "after": after,
            "limit": limit,
            "since": since,
            "key": key,
            "tags": words_of("tags", tags) or None,
            "group_name": group,
        }
        reply = await self._ask(f"MAILBOX.QUERY.{address}", asked, address)
        messages = [message_of(item) for item in reply["messages"]]
        return Page(messages, reply["unread"], reply.get("next"), reply.get("waiting"))

    async def delete(self, mailbox: str | Created, message: int | Message) -> None:
        """Deletes one message. A public mailbox needs its owner address (NotAllowed). Raises MessageNotFound."""
        address = owner_of(mailbox)
        (msg_id,) = ids_of([message])
        await self._ask(f"MAILBOX.DELETE.{address}.{msg_id}", {}, address, attempts=1)

    async def renew(self, mailbox: str | Created, ttl: int | None = None) -> int | None:
        """Moves the expiry to `ttl` seconds from now (0: none; without it: as long as it was created for), and gives it
        in unix seconds, None for never. A public mailbox needs its owner address (NotAllowed)."""
        address = owner_of(mailbox)
        reply = await self._ask(f"MAILBOX.RENEW.{address}", {"ttl": ttl}, address)
        expires_at: int | None = reply.get("expires_at")
        return expires_at

    async def drop(self, mailbox: str | Created) -> None:
        """Destroys the mailbox and its messages now. A public mailbox needs its owner address (NotAllowed)."""
        address = owner_of(mailbox)
        await self._ask(f"MAILBOX.DROP.{address}", {}, address, attempts=1)

    async def list(self, prefix: str = "", limit: int = 100, after: str | None = None) -> Directory:
        """The public mailboxes whose names begin with `prefix`, by name. `after`: the `next` of the page before."""
        asked = {"prefix": prefix or None, "limit": limit, "after": after}
        reply = await self._ask("PUBLIC.LIST", asked)
        return Directory([listed_of(item) for item in reply["mailboxes"]], reply.get("next"))

    def watch(self) -> Stream[Change]:
        """The directory as it changes, for `async for`: `created` for each public mailbox there is, then what happens.

        A worker that keeps its mailbox alive and dies is seen to be `expired`. What happened while no broker could be
        reached is told afterwards; what was dropped meanwhile is `expired`, too.
        """
        following = Following(lambda after: self.list(limit=1000, after=after))
        subject = f"{PREFIX}PUBLIC.LIST"
        return Stream(hear(self._connected, subject, following.news, catch_up=following.missed))

    async def broadcast(self, domain_event: str, payload: Payload, *, headers: Mapping[str, str] | None = None) -> None:
        """Sends to everyone who listens to `domain.event` at this moment, and to the mailboxes that were created with
        a matching pattern in `subscribe`."""
        subject = f"{PREFIX}BROADCAST.{event_of(domain_event)}"
        link = await self._connected()
        await link.publish(subject, as_bytes(payload), checked(headers or {}))

    def listen(self, pattern: str, *, group: str | None = None) -> Stream[Broadcast]:
        """The broadcasts of events like `pattern`, for `async for`: `pipeline.done`, `pipeline.*` (one word), or
        `pipeline.>` (all that follows). With a `group` each goes to one listener of it.

        What is broadcast while nobody listens is gone: `async with mq9.listen(...) as heard` listens from its first
        line on. To have it stored, create a mailbox with `subscribe`.
        """
        return Stream(hear(self._connected, f"{PREFIX}BROADCAST.{pattern_of(pattern)}", heard, group or ""))

    async def declare(
        self, address: str | Created, can: Iterable[str], *, details: Mapping[str, Any] | None = None
    ) -> None:
        """Says on the capability board what whoever reads the mailbox `address` can do.

        `address` is a public name or send-only address. It is remembered as long as that mailbox lives, and replaces
        what was said of it before. `details` are further fields, as JSON.
        """
        said = {**(details or {}), "from": public_form(address), "can": list_of("can", can)}
        await self.broadcast(BOARD, said)

    async def find(self, can: str | None = None) -> tuple[Capability, ...]:
        """Who can do `can`, by the capability board; without it, everybody who is on it. What they say of themselves
        is not proven."""
        said = await remembered(self._connected, f"{PREFIX}BROADCAST.{BOARD}", capability_of)
        newest = {one.address: one for one in said}
        return tuple(one for one in newest.values() if can is None or can in one.can)

    def _batches(self, address: str, group: str | None) -> tuple[Batches[Message], Work | None]:
        """What comes in a mailbox, and the group's reader, if there is one."""
        if group is None:
            return follow(self._connected, address, lambda: self.query(address, limit=0)), None
        own = AsyncMailbox(self._named, autostart=self._autostart, name=self._name)
        self._readers.add(own)
        work = Work(self._connected, own, address, group)
        return work.batches(), work

    async def _give_up(self, mail_id: str) -> None:
        """Drops what ends by its ttl anyway: no outage is waited out for it."""
        if self._link is not None and self._link.online:
            with suppress(MailboxError, TimeoutError):
                async with asyncio.timeout(GIVE_UP_WITHIN):
                    await self.drop(mail_id)
