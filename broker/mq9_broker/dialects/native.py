"""The subjects of mq9 itself: `$mq9.AI.` and what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from mq9_broker import addresses
from mq9_broker.board import SUBJECT as CAPABILITY
from mq9_broker.dialects.acks import SUBJECT as ACK
from mq9_broker.dialects.acks import Acknowledger
from mq9_broker.dialects.drafts import SECONDS, Drafts
from mq9_broker.dialects.fields import Fields
from mq9_broker.dialects.reading import Fetch, Reader
from mq9_broker.errors import Mq9Error
from mq9_broker.feeds import listing
from mq9_broker.hub import Hub
from mq9_broker.mailboxes import Mailbox, require_ttl
from mq9_broker.messages import EXAMINED
from mq9_broker.model import CODES, NEVER, NORMAL, PREFIX, TIER_OF, TIERS, WORDS, Draft, Settings
from mq9_broker.patterns import MAX_PATTERNS, check_patterns
from mq9_broker.session import Session

_PREFIX = PREFIX.encode()
_ROUTES = 16_384
_LONGEST_ROUTE = 192
_WANTED = 256
_LONGEST_WANTED = 1024
_MOST = 1_000_000_000
#: So many mailboxes store a broadcast at the most.
_KEEPERS = 1000
_DOMAIN = len(PREFIX) + len("BROADCAST.")


Operation = Callable[["Request"], bytes | None]


class Route(NamedTuple):
    """What a subject means. `shown` is the address as it was given, `kept` the one it is kept under, `code` the
    priority in the subject (-1 none), `msg_id` that of a DELETE."""

    operate: Operation | None
    shown: str = ""
    kept: str = ""
    code: int = -1
    msg_id: int = 0

    @property
    def secret(self) -> bool:
        """Whether the address was given in its secret form."""
        return self.shown != self.kept


@dataclass(slots=True)
class Request:
    """One publish under the prefix."""

    session: Session
    route: Route
    reply: bytes
    header: bytes
    payload: bytes
    now: int


class Native:
    """Publishes to operations, results to JSON."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._mailboxes = hub.mailboxes
        self._messages = hub.messages
        self._reader = Reader(hub)
        self._acknowledger = Acknowledger(hub)
        self._drafts = Drafts(hub.mailboxes, hub.limits)
        self._routes: dict[bytes, Route] = {}
        self._wanted: dict[bytes, tuple[str, Settings, str]] = {}
        self._operations: dict[tuple[str, str], Operation | None] = {
            ("MAILBOX", "QUERY"): self._query,
            ("MAILBOX", "DELETE"): self._delete,
            ("MAILBOX", "RENEW"): self._renew,
            ("MAILBOX", "DROP"): self._drop,
            ("MSG", "SEND"): None,
            ("MSG", "QUERY"): self._query,
            ("MSG", "FETCH"): self._fetch,
            ("MSG", "ACK"): self._ack,
            ("MSG", "DELETE"): self._delete,
        }

    def publish(self, session: Session, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes | None:
        route = self._routes.get(subject)
        if route is None:
            if subject.startswith(ACK) and subject != ACK:
                # (each comes once: there is no route to remember)
                if reply.startswith(_PREFIX):
                    raise _no_answer(reply)
                return self._acknowledger.acknowledge(session, subject, payload, self._hub.now)
            route = self._route(subject)
        if route.operate is None:
            return self._send(session, route, reply, header, payload)
        if reply.startswith(_PREFIX):
            if route.operate != self._broadcast:
                raise _no_answer(reply)
            reply = self._answer_address(reply)
        return route.operate(Request(session, route, reply, header, payload, self._hub.now))

    def store(self, subject: bytes, replies: list[bytes], payloads: list[bytes]) -> list[bytes]:
        route = self._routes.get(subject)
        # (answers for others may go to any subject under the prefix: each is looked at)
        if route is None or self._hub.refusing or _PREFIX in b" ".join(replies):
            return []
        now = self._hub.now
        if route.operate == self._create:
            return self._create_all(payloads, now)
        if route.operate is not None:
            return []
        mailbox = self._mailboxes.find(route.kept, now)
        if mailbox is None or mailbox.latest or mailbox.max_msgs:
            return []
        first = self._messages.append_all(mailbox, route.code if route.code >= 0 else NORMAL, payloads, now)
        return [b'{"error":"","msg_id":%d}' % msg_id for msg_id in range(first, first + len(payloads))]

    def acknowledge(self, session: Session, signals: list[tuple[bytes, bytes]]) -> bool:
        return self._acknowledger.acknowledge_all(session, signals, self._hub.now)

    def view(self, subject: bytes) -> tuple[str, bytes, bool, tuple[int, ...]] | None:
        text = subject.decode("utf-8", "replace")
        family, _, rest = text[len(PREFIX) :].partition(".")
        if family not in ("MAILBOX", "INBOX") or not rest:
            return None
        address, _, last = rest.rpartition(".")
        if last in CODES:
            tiers: tuple[int, ...] = (TIER_OF[CODES[last]],)
        elif last == ">" or (last == "*" and family == "INBOX"):
            tiers = TIERS
        elif last == "*":
            tiers = tuple(tier for tier in TIERS if tier != TIER_OF[NORMAL])
        else:
            address, last = rest, ""
            tiers = TIERS if family == "INBOX" else (TIER_OF[NORMAL],)
        if addresses.is_secret(address):
            kept = addresses.send_only(address)
        elif addresses.name_problem(address) is None:
            kept = address
        else:
            return None
        form = f"{PREFIX}{family}.{address}".encode()
        return kept, form, family == "MAILBOX" and not last, tiers

    # subjects

    def _route(self, subject: bytes) -> Route:
        route = self._parse(subject)
        # only broadcasts can be long, and they need not be remembered
        if len(subject) <= _LONGEST_ROUTE:
            if len(self._routes) >= _ROUTES:
                # the oldest go, not all of them: who comes to more places in turn than these finds some of them
                for oldest in list(islice(self._routes, _ROUTES // 16)):
                    del self._routes[oldest]
            self._routes[subject] = route
        return route

    def _parse(self, subject: bytes) -> Route:
        text = subject.decode("utf-8", "replace")
        family, _, rest = text[len(PREFIX) :].partition(".")
        verb, _, address = rest.partition(".")
        if family == "BROADCAST" and verb and address:
            return Route(self._broadcast, text)
        if text == PREFIX + "PUBLIC.LIST":
            return Route(self._list)
        if text == PREFIX + "MAILBOX.CREATE":
            return Route(self._create)
        if text == PREFIX + "BROKER.BACKUP":
            return Route(self._back_up, text)
        if address and (family, verb) in self._operations:
            msg_id = 0
            if verb == "DELETE":
                address, _, last = address.rpartition(".")
                if not last.isascii() or not last.isdigit() or len(last) > 18:
                    raise Mq9Error(f"{last!r} is not a msg_id: the subject of a DELETE ends in one")
                msg_id = int(last)
            return Route(self._operations[family, verb], *self._address(address), msg_id=msg_id)
        if family in ("MAILBOX", "INBOX") and rest and not verb.isupper():
            address, _, last = rest.rpartition(".")
            if last in CODES:
                return Route(None, *self._address(address), CODES[last])
            if address and last and (addresses.is_secret(address) or addresses.is_send_only(address)):
                raise Mq9Error(f"unknown priority {last!r}: use {', '.join(WORDS)}")
            return Route(None, *self._address(rest))
        raise _unknown(text)

    @staticmethod
    def _address(shown: str) -> tuple[str, str]:
        if addresses.is_secret(shown):
            return shown, addresses.send_only(shown)
        if addresses.is_send_only(shown) or addresses.name_problem(shown) is None:
            return shown, shown
        raise _missing(shown)

    def _answer_address(self, reply: bytes) -> bytes:
        """A reply subject under the prefix that others will see: a sending subject, with no secret in it."""
        try:
            route = self._routes.get(reply) or self._route(reply)
        except Mq9Error:
            raise _no_answer(reply) from None
        if route.operate is not None:
            raise _no_answer(reply)
        if not route.secret:
            return reply
        mailbox = self._mailboxes.find(route.kept, self._hub.now)
        address = mailbox.address if mailbox is not None else route.kept
        return reply.replace(route.shown.encode(), address.encode())

    def _mailbox(self, route: Route, now: int) -> Mailbox:
        mailbox = self._mailboxes.find(route.kept, now)
        if mailbox is None:
            raise _missing(route.shown)
        return mailbox

    def _readable(self, route: Route, now: int) -> Mailbox:
        """The mailbox of an address that may read it; a send-only one answers as if it did not exist."""
        if not route.secret and addresses.is_send_only(route.kept):
            raise _missing(route.shown)
        return self._mailbox(route, now)

    def _owned(self, request: Request, doing: str) -> Mailbox:
        """The mailbox of an address that may change it: its secret one."""
        mailbox = self._readable(request.route, request.now)
        if mailbox.is_public and not request.route.secret:
            raise Mq9Error(f"only the owner may {doing} {mailbox.address}: use the owner address that CREATE gave")
        self._writable()
        return mailbox

    def _writable(self) -> None:
        if self._hub.refusing:
            raise Mq9Error(f"the store cannot write: {self._hub.refusing}")

    # sending

    def _send(self, session: Session, route: Route, reply: bytes, header: bytes, payload: bytes) -> bytes | None:
        hub = self._hub
        now = hub.now
        answers = reply[:8] == _PREFIX
        if answers:
            reply = self._answer_address(reply)
        # (the draft may look up the sender, and a mailbox that is looked up may push out one that was)
        draft = self._drafts.of_message(header, now) if header or answers else None
        mailbox = self._mailboxes.find(route.kept, now)
        if mailbox is None:
            raise _missing(route.shown)
        if hub.refusing:
            self._writable()
        if draft is None:
            code = route.code if route.code >= 0 else NORMAL
            return b'{"error":"","msg_id":%d}' % self._messages.send_plain(mailbox, code, payload, now)
        if route.code >= 0:
            draft.code = route.code
        draft.payload = payload
        draft.reply = reply if answers else b""
        msg_id, duplicate = self._messages.send(mailbox, draft, now)
        if answers:
            return None
        return b'{"error":"","msg_id":%d%b}' % (msg_id, b',"duplicate":true' if duplicate else b"")

    def _broadcast(self, request: Request) -> None:
        hub, header = self._hub, request.header
        subject = request.route.shown.encode()
        if header and b"mq9-from" in header.lower():
            header = self._drafts.without_secret(header, request.now)
        if not hub.refusing:
            if subject == CAPABILITY:
                hub.board.declare(request.payload, request.now)
            wanted = self._mailboxes.patterns.matching(request.route.shown[_DOMAIN:])
            if wanted:
                self._keep_broadcast(request, wanted)
        hub.router.route(request.session, subject, request.reply, header, request.payload)

    def _keep_broadcast(self, request: Request, wanted: Iterable[str]) -> None:
        """Store a broadcast into the mailboxes of these addresses that have room."""
        now = request.now
        draft: Draft | None = None
        kept: set[Mailbox] = set()
        for address in islice(wanted, EXAMINED):
            if draft is None:
                draft = self._drafts.of_broadcast(
                    request.route.shown, request.reply, request.header, request.payload, now
                )
            mailbox = self._mailboxes.find(address, now)
            if mailbox is None or mailbox in kept or not self._messages.has_room(mailbox, draft.key, now):
                continue
            self._messages.send(mailbox, draft, now)
            kept.add(mailbox)
            if len(kept) >= _KEEPERS:
                return

    # mailboxes

    def _create(self, request: Request) -> bytes:
        payload = request.payload
        wanted = self._wanted.get(payload)
        if wanted is None:
            wanted = self._want(Fields.parse(payload))
            # (most ask for the same; what asks for a name hardly comes again)
            if len(payload) <= _LONGEST_WANTED and not wanted[0]:
                if len(self._wanted) >= _WANTED:
                    self._wanted.clear()
                self._wanted[payload] = wanted
        name, settings, dead_letter = wanted
        self._writable()
        now = request.now
        if name:
            self._mailboxes.retire(name, now)
            existing = self._mailboxes.find(name, now)
            if existing is not None:
                self._mailboxes.prolong(existing, settings.ttl, now)
                return _created(existing, name, False)
        if dead_letter:
            settings = replace(settings, dead_letter=self._hub.groups.dead_letters.check(dead_letter, name, now))
        mailbox, secret = self._mailboxes.create(name, settings, now)
        return _created(mailbox, name or secret, True, secret if name else "")

    def _create_all(self, payloads: list[bytes], now: int) -> list[bytes]:
        """The answers to CREATEs that all ask for what another one asked for; empty when they don't."""
        wanted = self._wanted.get(payloads[0])
        if wanted is None or wanted[2] or payloads.count(payloads[0]) < len(payloads):
            return []
        # (what is remembered has no name)
        made = self._mailboxes.create_all(len(payloads), wanted[1], now)
        return [_created(mailbox, secret, True) for mailbox, secret in made]

    def _want(self, fields: Fields) -> tuple[str, Settings, str]:
        """(name, settings, dead letter address as it was given) of a CREATE."""
        limits = self._hub.limits
        ttl = require_ttl(fields.integer("ttl", min(86_400, limits.max_ttl or 86_400), 0, SECONDS), limits)
        public, name = fields.boolean("public"), fields.text("name", limit=4096)
        dead_letter = fields.text("dead_letter", limit=4096)
        settings = Settings(
            ttl=ttl,
            public=public,
            desc=fields.text("desc", limit=limits.max_desc),
            latest=fields.choice("type", ("standard", "latest")) == "latest",
            memory=fields.choice("storage", ("disk", "memory")) == "memory",
            ack_wait=fields.integer("ack_wait", 60, 1, 86_400),
            explicit=fields.choice("ack", ("none", "explicit")) == "explicit",
            retain_ack=fields.choice("retain", ("ttl", "ack")) == "ack",
            max_deliver=fields.integer("max_deliver", 5, 0, _MOST),
            max_msgs=fields.integer("max_msgs", 0, 0, _MOST),
            subscribe=check_patterns(fields.texts("subscribe", MAX_PATTERNS)),
        )
        if public and not name:
            raise Mq9Error("a public mailbox needs a name: give one, or leave out public for a private mailbox")
        if fields.has("name"):
            addresses.check_name(name)
        return name, settings, dead_letter

    def _renew(self, request: Request) -> bytes:
        fields = Fields.parse(request.payload)
        mailbox = self._owned(request, "renew")
        limits = self._hub.limits
        ttl = require_ttl(fields.integer("ttl", mailbox.settings.ttl, 0, SECONDS), limits)
        self._mailboxes.renew(mailbox, ttl, request.now)
        return _json({"error": "", "ttl": ttl, "expires_at": _seconds(mailbox.expires)})

    def _drop(self, request: Request) -> bytes:
        Fields.parse(request.payload)
        self._mailboxes.drop(self._owned(request, "drop"))
        return b'{"error":""}'

    def _delete(self, request: Request) -> bytes:
        Fields.parse(request.payload)
        route = request.route
        mailbox = self._owned(request, "delete messages of")
        if not self._messages.delete(mailbox, route.msg_id, request.now):
            raise Mq9Error(f"message {route.msg_id} does not exist in mailbox {route.shown}")
        return b'{"error":"","deleted":true}'

    def _back_up(self, request: Request) -> None:
        """For the owner of the data folder: the payload is the name of a folder that waits for a copy in it. To
        everybody else there is no such subject."""
        session, reply = request.session, request.reply

        def answer(problem: str) -> None:
            if not session.closed:
                session.reply(reply, _json({"error": problem}))

        if not reply or not self._hub.back_up(request.payload.decode("utf-8", "replace"), answer):
            raise _unknown(request.route.shown)

    def _list(self, request: Request) -> bytes:
        fields = Fields.parse(request.payload)
        prefix, after = fields.text("prefix", limit=128), fields.text("after", limit=128)
        limit = fields.integer("limit", 100, 1, 1000)
        found: list[str] = []
        room = self._hub.limits.max_payload - 256
        following = last = ""
        for number, (name, change) in enumerate(self._mailboxes.listed(prefix, after, request.now)):
            entry = json.dumps(listing(change), separators=(",", ":"), ensure_ascii=False) if change is not None else ""
            room -= len(entry.encode()) + 1
            if number >= EXAMINED or (found and entry and (len(found) >= limit or room < 0)):
                following = last
                break
            if entry:
                found.append(entry)
            last = name
        tail = f',"next":{json.dumps(following)}' if following else ""
        return f'{{"error":"","mailboxes":[{",".join(found)}]{tail}}}'.encode()

    # reading

    def _query(self, request: Request) -> bytes:
        mailbox = self._readable(request.route, request.now)
        return self._reader.query(mailbox, Fields.parse(request.payload), request.now)

    def _fetch(self, request: Request) -> bytes | None:
        if request.session.gone:
            return None  # nothing is leased to nobody
        mailbox = self._readable(request.route, request.now)
        fields = Fields.parse(request.payload)
        if fields.text("group_name", limit=4096):
            self._writable()
        fetch = Fetch(self._reader, request.session, request.reply, mailbox, request.route.shown, fields, request.now)
        return self._reader.fetch(fetch, request.now)

    def _ack(self, request: Request) -> bytes:
        mailbox = self._readable(request.route, request.now)
        self._writable()
        return self._reader.ack(request.session, mailbox, Fields.parse(request.payload), request.now)


def _created(mailbox: Mailbox, mail_id: str, is_new: bool, owner: str = "") -> bytes:
    """The answer to CREATE. (Addresses and names have no character that JSON would write otherwise.)"""
    expires = _seconds(mailbox.expires)
    tail = f',"owner":"{owner}"' if owner else ""
    return (
        f'{{"error":"","mail_id":"{mail_id}","is_new":{"true" if is_new else "false"},'
        f'"inbox":"{PREFIX}INBOX.{mail_id}","send_only":"{mailbox.owner or mailbox.address}",'
        f'"ttl":{mailbox.settings.ttl},"expires_at":{"null" if expires is None else expires}{tail}}}'
    ).encode()


def _no_answer(reply: bytes) -> Mq9Error:
    return Mq9Error(f"reply subject {reply.decode('utf-8', 'replace')} is not one that answers can be sent to")


def _unknown(subject: str) -> Mq9Error:
    return Mq9Error(f"unknown mq9 subject: {subject}")


def _missing(shown: str) -> Mq9Error:
    return Mq9Error(f"mailbox {shown} does not exist")


def _seconds(expires: int) -> int | None:
    return None if expires >= NEVER else expires // 1000


def _json(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply, separators=(",", ":"), ensure_ascii=False).encode()
