"""Header blocks to drafts: what a sender asks for beside its payload."""

from __future__ import annotations

import re

from mq9_broker import addresses, headers
from mq9_broker.errors import Mq9Error
from mq9_broker.mailboxes import Mailboxes
from mq9_broker.model import CODES, PREFIX, RECEIPTS, WORDS, Draft, Limits

_PREFIX = PREFIX.encode()
_OURS = (
    *("mq9-priority", "mq9-ttl", "mq9-delay", "mq9-hops", "mq9-from", "mq9-key", "mq9-tags", "mq9-receipt"),
    "nats-msg-id",
)
_BROKER_ONLY = ("mq9-msg-id", "mq9-time", "mq9-expires", "mq9-deliveries", "mq9-subject", "mq9-reply-to")
#: A hundred years: no longer time is meant.
SECONDS = 3_155_760_000
_FROM = re.compile(rb"(?im)^(mq9-from:[ \t]*)(m-[a-z2-7]{26})")


class Drafts:
    """Reads what senders say in headers; `mailboxes` proves who they are."""

    def __init__(self, mailboxes: Mailboxes, limits: Limits) -> None:
        self._mailboxes = mailboxes
        self._limits = limits

    def of_message(self, block: bytes, now: int) -> Draft:
        """What the header block asks for; the headers that are ours are taken out of it. Mq9Error names a bad one."""
        draft = Draft()
        if len(block) > self._limits.max_headers:
            raise Mq9Error(f"the headers have {len(block)} bytes, allowed are {self._limits.max_headers}")
        lines = headers.lines_of(block)
        pairs = headers.parse(lines)
        kept = []
        seen = set()
        for line, (name, value) in zip(lines.split(b"\r\n"), pairs, strict=False):
            name = name.lower()
            if name in _BROKER_ONLY or name.startswith("mq9-dead-"):
                continue
            if name not in _OURS:
                kept.append(line + b"\r\n")
                continue
            if name in seen:
                raise Mq9Error(f"header {name} is given twice")
            seen.add(name)
            if name == "mq9-tags":
                kept.append(b"mq9-tags: " + ",".join(_tags(value)).encode() + b"\r\n")
            else:
                self._header(draft, name, value, now)
        if draft.receipts and not draft.sender:
            raise Mq9Error("header mq9-receipt needs mq9-from, the mail_id or owner address that receipts go to")
        draft.lines = b"".join(kept)
        return draft

    def _header(self, draft: Draft, name: str, value: str, now: int) -> None:
        if name == "mq9-priority":
            if value not in CODES:
                raise Mq9Error(f"header mq9-priority: unknown priority {value[:60]!r}, use {', '.join(WORDS)}")
            draft.code = CODES[value]
        elif name == "mq9-ttl":
            draft.ttl = _number(name, value, SECONDS)
        elif name == "mq9-delay":
            draft.delay = _number(name, value, SECONDS)
        elif name == "mq9-hops":
            draft.hops = _number(name, value, 65_534)
        elif name == "nats-msg-id":
            if not value:
                raise Mq9Error("header Nats-Msg-Id is empty")
            draft.dedup = value.encode()
        elif name == "mq9-from":
            mailbox = self._mailboxes.find(addresses.send_only(value), now) if addresses.is_secret(value) else None
            if mailbox is None:
                shown = "that address" if addresses.is_secret(value) else repr(value[:60])
                raise Mq9Error(f"header mq9-from: {shown} is not the mail_id or owner address of a living mailbox")
            draft.sender = mailbox.address.encode()
        elif name == "mq9-key":
            if not value:
                raise Mq9Error("header mq9-key is empty")
            draft.key = value.encode()
        else:
            for event in value.split(","):
                if event.strip() not in RECEIPTS:
                    raise Mq9Error(
                        f"header mq9-receipt: unknown event {event.strip()[:60]!r}, use {', '.join(RECEIPTS)}"
                    )
                draft.receipts |= RECEIPTS[event.strip()]

    def of_broadcast(self, subject: str, reply: bytes, block: bytes, payload: bytes, now: int) -> Draft:
        """A broadcast as it is stored. It is pub/sub in the first place, which takes any headers: where those that are
        ours would be refused in a message they do not count."""
        try:
            draft = self.of_message(block, now)
        except Mq9Error:
            lines = [line for line in block.split(b"\r\n") if not line.lower().startswith(b"mq9-")]
            try:
                draft = self.of_message(b"\r\n".join(lines), now)
            except Mq9Error:
                draft = Draft()
        draft.lines = b"mq9-subject: " + subject.encode() + b"\r\n" + draft.lines
        draft.payload = payload
        draft.reply = reply if reply.startswith(_PREFIX) else b""
        return draft

    def without_secret(self, block: bytes, now: int) -> bytes:
        """The header block of a broadcast, in which a secret mq9-from is replaced by what others may know of it."""

        def shareable(line: re.Match[bytes]) -> bytes:
            send_only = addresses.send_only(line[2].decode())
            mailbox = self._mailboxes.find(send_only, now)
            return line[1] + (mailbox.address if mailbox is not None else send_only).encode()

        return _FROM.sub(shareable, block)


def _tags(value: str) -> list[str]:
    tags = [tag.strip() for tag in value.split(",")]
    if not all(tags):
        raise Mq9Error(f"header mq9-tags must be tags with commas between them, not {value[:60]!r}")
    return tags


def _number(name: str, value: str, highest: int) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 12 or int(value) > highest:
        raise Mq9Error(f"header {name} must be a whole number from 0 to {highest}, not {value[:60]!r}")
    return int(value)
