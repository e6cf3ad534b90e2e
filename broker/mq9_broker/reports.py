"""What monitoring tells, in the words and shapes of nats-server: /varz, /connz, /subsz.

Nothing here takes the loop for long, however many connections there are: a list is an iterator, of which `monitor`
writes as much at a time as it likes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mq9_broker import __version__, subjects
from mq9_broker.errors import Mq9Error
from mq9_broker.model import PREFIX
from mq9_broker.pace import paced
from mq9_broker.process import resident
from mq9_broker.times import duration, span, stamp

if TYPE_CHECKING:
    from mq9_broker.config import Config
    from mq9_broker.connection import Connection
    from mq9_broker.querystring import QueryString
    from mq9_broker.server import Server
    from mq9_broker.session import Subscription
    from mq9_broker.tally import Tally

_PAGE = 1024
_PREFIX = PREFIX.encode()
_BROADCAST = _PREFIX + b"BROADCAST."
_NS = 1_000_000_000

#: By what /connz sorts, lowest first. (The later a client came, the higher its number.)
_ORDERS: dict[str, Callable[[Connection], int]] = {
    "cid": lambda connection: connection.session.client_id,
    "start": lambda connection: connection.session.client_id,
    "subs": lambda connection: -len(connection.session.subscriptions),
    "pending": lambda connection: -connection.buffered(),
    "msgs_to": lambda connection: -connection.session.out_msgs,
    "msgs_from": lambda connection: -connection.session.in_msgs,
    "bytes_to": lambda connection: -connection.session.out_bytes,
    "bytes_from": lambda connection: -connection.session.in_bytes,
    "last": lambda connection: -connection.last_activity,
    "idle": lambda connection: connection.last_activity,
    "uptime": lambda connection: -connection.session.client_id,
    "rtt": lambda connection: -round((connection.session.rtt or 0) * 1000),
}
#: More bits than the number of a client has.
_RANK = 48
#: Who has shown a token has no name (and nats-server's tools know this one).
_NAMELESS = "[REDACTED]"
_ONLY_CLOSED = ("stop", "reason")


def varz(server: Server, config: Config, total: Tally, now: int) -> dict[str, Any]:
    """The broker as a whole."""
    info = server.info()
    limits, counters = config.limits, server.hub.counters
    asked = {
        "auth_required": server.users.required,
        "tls_required": server.tls is not None and not server.tls.optional,
        "tls_verify": server.tls is not None and server.tls.verify,
    }
    websocket = {
        "host": config.ws_host,
        "port": server.ws_port,
        "no_tls": server.tls is None,
        "allowed_origins": config.ws_origins,
    }
    traffic = {
        "in_msgs": total.in_msgs,
        "in_bytes": total.in_bytes,
        "in_client_msgs": total.in_msgs,
        "in_client_bytes": total.in_bytes,
        "out_msgs": total.out_msgs,
        "out_bytes": total.out_bytes,
        "out_client_msgs": total.out_msgs,
        "out_client_bytes": total.out_bytes,
        "slow_consumers": counters.slow_consumers,
        "stale_connections": counters.stale_connections,
    }
    return {
        "server_id": info["server_id"],
        "server_name": info["server_name"],
        "version": info["version"],
        "proto": info["proto"],
        "host": info["host"],
        "port": info["port"],
        **{name: True for name, value in asked.items() if value},
        "max_connections": limits.max_connections,
        "max_subscriptions": limits.max_subscriptions,
        "ping_interval": limits.ping_interval * _NS,
        "ping_max": limits.max_pings_out,
        "http_host": config.monitor_host,
        "http_port": config.monitor_port,
        "http_base_path": "",
        "https_port": 0,
        "auth_timeout": limits.auth_timeout,
        "max_control_line": limits.max_control_line,
        "max_payload": limits.max_payload,
        "max_pending": limits.max_pending,
        "cluster": {},
        "gateway": {},
        "leaf": {},
        "mqtt": {},
        "websocket": websocket if server.ws_port else {},
        "jetstream": {},
        "tls_timeout": limits.auth_timeout,
        "start": stamp(server.started),
        "now": stamp(now),
        "uptime": span(now - server.started),
        "mem": resident(),
        "cores": os.cpu_count() or 1,
        "cpu": 0,
        "connections": sum(total.open.values()),
        "total_connections": total.connections,
        "routes": 0,
        "remotes": 0,
        "leafnodes": 0,
        **traffic,
        "subscriptions": total.subscriptions,
        "slow_consumer_stats": _of_clients(counters.slow_consumers),
        "stale_connection_stats": _of_clients(counters.stale_connections),
        "mq9": {
            "version": __version__,
            "store": config.store,
            "durability": config.durability,
            "refusing": server.hub.refusing,
            "messages_stored": counters.stored,
            "commits": counters.commits,
            "commits_failed": counters.failed,
            "commit_seconds": counters.commit_seconds,
            "pending_bytes": total.pending,
            "connections": total.open,
        },
    }


async def connz(server: Server, query: QueryString, now: int) -> dict[str, Any]:
    """The connections that are open, page by page. Of those that are gone nothing is kept but sums."""
    order = query.word("sort", (*_ORDERS, *_ONLY_CLOSED))
    state = query.word("state", ("open", "any", "all", "closed"))
    if order in _ONLY_CLOSED and state != "closed":
        raise Mq9Error(f"sort={order} is for closed connections: add state=closed")
    detail = query.text("subs").lower() == "detail"
    listed = detail or query.flag("subs")
    named = query.flag("auth")
    cid, user = query.number("cid"), query.text("user")
    offset, limit = query.number("offset"), 1 if cid else query.number("limit", _PAGE)
    everyone = await _ranked(server, _ORDERS.get(order, _ORDERS["cid"])) if state != "closed" else []
    found = everyone
    if cid or user:
        found = [each for each in everyone if cid in (0, each.session.client_id) and user in ("", user_of(each))]
    page = found[offset : offset + limit]

    def one(connection: Connection) -> dict[str, Any]:
        fields = _connection(connection, now)
        if named and user_of(connection):
            fields["authorized_user"] = user_of(connection)
        if listed and connection.session.subscriptions:
            subscriptions = iter(list(connection.session.subscriptions.values()))
            if detail:
                fields["subscriptions_list_detail"] = (_subscription(each) for each in subscriptions)
            else:
                fields["subscriptions_list"] = (_text(each.subject) for each in subscriptions)
        return fields

    return {
        "server_id": server.id,
        "now": stamp(now),
        "num_connections": len(page),
        "total": len(everyone),
        "offset": offset,
        "limit": limit,
        "connections": (one(connection) for connection in page),
    }


async def _ranked(server: Server, rank: Callable[[Connection], int]) -> list[Connection]:
    """The connections in an order; those of the same rank as they came."""
    connections = list(server.connections)
    keys = [(rank(each) << _RANK) + each.session.client_id async for each in paced(connections)]
    return [connections[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]


async def subsz(server: Server, query: QueryString, now: int) -> dict[str, Any]:
    """How many subscriptions there are, and with `subs` or `test` which."""
    test = query.text("test").encode("utf-8", "replace")
    if test and not subjects.valid_subject(test):
        raise Mq9Error(
            f"test must be a subject that can be published to, not {test[:100].decode('utf-8', 'replace')!r}"
        )
    listed = query.flag("subs")
    offset, limit = query.number("offset"), query.number("limit", _PAGE)
    connections = await _ranked(server, _ORDERS["cid"])
    found: list[Subscription] = []
    total = number = 0
    async for connection in paced(connections):
        number += len(connection.session.subscriptions)
    everything = (each for connection in connections for each in list(connection.session.subscriptions.values()))
    async for subscription in paced(everything if listed else ()):
        if not test or _hears(subscription, test):
            if offset <= total < offset + limit:
                found.append(subscription)
            total += 1
    report = {
        "server_id": server.id,
        "now": stamp(now),
        "num_subscriptions": number,
        "total": total,
        "offset": offset,
        "limit": limit,
    }
    if found:
        report["subscriptions_list"] = (_subscription(each) for each in found)
    return report


def _connection(connection: Connection, now: int) -> dict[str, Any]:
    session, (version, cipher) = connection.session, connection.tls()
    fields: dict[str, Any] = {
        "cid": session.client_id,
        "kind": "Client",
        "type": connection.kind,
        "ip": connection.peer[0],
        "port": connection.peer[1],
        "start": stamp(connection.since),
        "last_activity": stamp(connection.last_activity),
        "rtt": "" if session.rtt is None else duration(session.rtt),
        "uptime": span(now - connection.since),
        "idle": span(now - connection.last_activity),
        "pending_bytes": connection.buffered(),
        "in_msgs": session.in_msgs,
        "out_msgs": session.out_msgs,
        "in_bytes": session.in_bytes,
        "out_bytes": session.out_bytes,
        "subscriptions": len(session.subscriptions),
        "name": session.name,
        "lang": session.lang,
        "version": session.client_version,
        "tls_version": version.removeprefix("TLSv"),
        "tls_cipher_suite": cipher,
    }
    for name in ("rtt", "name", "lang", "version", "tls_version", "tls_cipher_suite"):
        if not fields[name]:
            del fields[name]
    return fields


def _of_clients(count: int) -> dict[str, int]:
    return {"clients": count, "routes": 0, "gateways": 0, "leafs": 0}


def user_of(connection: Connection) -> str:
    """The user's name, or the public key that was proved; empty for a client that did not have to say."""
    user = connection.user
    return "" if user is None else user.name or user.nkey or _NAMELESS


def _subscription(subscription: Subscription) -> dict[str, Any]:
    fields: dict[str, Any] = {"subject": _text(subscription.subject)}
    if subscription.queue:
        fields["qgroup"] = _text(subscription.queue)
    fields |= {"sid": _text(subscription.sid), "msgs": subscription.delivered}
    if subscription.limit:
        fields["max"] = subscription.limit
    return fields | {"cid": subscription.session.client_id}


def _hears(subscription: Subscription, subject: bytes) -> bool:
    # what is sent to mailboxes reaches no pattern that is not a mailbox's own
    to_mailbox = subject.startswith(_PREFIX) and not subject.startswith(_BROADCAST)
    return (not to_mailbox or subscription.subject.startswith(_PREFIX)) and subjects.matches(
        subscription.subject, subject
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
