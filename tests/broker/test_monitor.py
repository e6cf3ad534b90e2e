"""The monitoring port: what it tells of a broker, whom it answers, and what it never says."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.abc import SocketStream
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from broker.inprocess import AI, Broker, Client, FaultyStore, pub
from mq9_broker import __version__, addresses, reports, times
from mq9_broker.auth import User
from mq9_broker.config import Config
from mq9_broker.model import Limits
from mq9_broker.monitor import Monitor
from mq9_broker.pace import SLICE, paced

pytestmark = pytest.mark.anyio

PRIVATE = re.compile(r"m-[a-z2-7]{26}")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def broker(store: FaultyStore) -> Broker:
    return Broker(store)


async def http(port: int, path: str, method: str = "GET", at: str = "127.0.0.1", **headers: str) -> Answer:
    def blocking() -> Answer:
        connection = HTTPConnection(at, port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read().decode())
        finally:
            connection.close()

    return await anyio.to_thread.run_sync(blocking)


@pytest.fixture
async def ask(anyio_backend: str, broker: Broker, tmp_path: Path) -> AsyncIterator[Ask]:
    """Asks the broker's monitoring port: `await ask("/varz", "HEAD", Host="evil.example")`."""
    config = Config(data_dir=tmp_path, monitor_port=0)
    monitor = Monitor(broker.server, broker.committer, config, broker.clock, patience=1.5)
    await monitor.start()

    async def request(path: str, method: str = "GET", **headers: str) -> Answer:
        async def broker_runs() -> None:
            while True:
                broker.settle()
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(broker_runs)
            answer = await http(monitor.port, path, method, **headers)
            tasks.cancel_scope.cancel()
        return answer

    yield request
    await monitor.stop()


def names(answer: Answer) -> list[str]:
    """The names of the connections that /connz lists, in its order."""
    assert answer.status == 200, answer.text
    return [connection["name"] for connection in answer.json["connections"]]


# /healthz


async def test_healthy_is_a_broker_that_stores(ask: Ask, store: FaultyStore) -> None:
    before = store.commits
    answer = await ask("/healthz")
    assert (answer.status, answer.text) == (200, '{"status":"ok"}')
    assert answer.headers["content-type"] == "application/json"
    assert store.commits == before + 1
    assert (await ask("/healthz", "HEAD")).status == 200


@pytest.mark.parametrize("flag", ["js-enabled-only=true", "js-server-only=1", "js-enabled=t", "details=false", "x=y"])
async def test_what_probes_ask_of_nats_server_is_understood(ask: Ask, flag: str) -> None:
    assert (await ask(f"/healthz?{flag}")).json == {"status": "ok"}


async def test_a_store_that_refuses_is_not_healthy(ask: Ask, store: FaultyStore) -> None:
    store.failing = "No space left on device"
    for _ in range(2):
        answer = await ask("/healthz")
        assert answer.status == 503
        assert answer.json == {"status": "unavailable", "error": "No space left on device"}
    assert (await ask("/varz")).json["mq9"]["refusing"] == "No space left on device"
    store.failing = ""
    assert (await ask("/healthz")).status == 200
    assert (await ask("/varz")).json["mq9"]["refusing"] == ""


async def test_nor_is_one_that_does_not_answer(ask: Ask, store: FaultyStore, broker: Broker) -> None:
    store.by_hand = True
    answer = await ask("/healthz")
    assert answer.status == 503
    assert answer.json["error"] == "the store has not kept a probe within 1.5 seconds"
    store.by_hand = False
    store.land()
    broker.settle()
    assert (await ask("/healthz")).status == 200


# /varz


async def test_varz_tells_what_the_broker_is_and_did(ask: Ask, broker: Broker) -> None:
    client, gone = broker.client(), broker.client()
    client.put(client.mailbox(), b"kept")
    gone.hang_up()
    broker.advance(3725)
    told = (await ask("/varz")).json
    assert told["server_id"] == broker.server.id
    assert (told["host"], told["port"], told["http_host"]) == ("127.0.0.1", 4222, "127.0.0.1")
    assert told["start"] == "2027-01-15T08:00:00.000Z"
    assert told["now"] == "2027-01-15T09:02:05.000Z"
    assert told["uptime"] == "1h2m5s"
    assert (told["connections"], told["total_connections"], told["subscriptions"]) == (1, 2, 1)
    assert told["mem"] > 1_000_000
    assert told["cpu"] > 0
    assert "auth_required" not in told
    assert told["mq9"]["version"] == __version__
    assert told["mq9"]["messages_stored"] == 1
    assert told["mq9"]["connections"] == {"nats": 1, "websocket": 0, "unix": 0}
    assert (await ask("/varz")).json["http_req_stats"] == {"/varz": 2}


async def test_what_went_through_closed_connections_is_not_forgotten(ask: Ask, broker: Broker) -> None:
    one, other = broker.client(), broker.client()
    one.subscribe("=a")
    other.send(pub("=a", b"12345"), pub("=a", b"678"))

    async def sums() -> tuple[int, ...]:
        told = (await ask("/varz")).json
        return tuple(told[name] for name in ("in_msgs", "in_bytes", "out_msgs", "out_bytes"))

    assert await sums() == (2, 8, 2, 8)
    other.hang_up()
    one.hang_up()
    assert await sums() == (2, 8, 2, 8)


async def test_what_waits_for_clients_is_told_and_who_had_to_go(ask: Ask, broker: Broker) -> None:
    broker.hub.limits = Limits(max_pending=5000)
    writer, reader = broker.client(name="writer"), broker.client(name="reader")
    reader.subscribe("=a")
    reader.transport.stalled = True
    writer.send(pub("=a", b"x" * 2000))
    assert (await ask("/varz")).json["mq9"]["pending_bytes"] == len("MSG a s1 2000\r\n") + 2002
    (first, _) = (await ask("/connz?sort=pending")).json["connections"]
    assert (first["name"], first["pending_bytes"]) == ("reader", len("MSG a s1 2000\r\n") + 2002)
    writer.send(pub("=a", b"x" * 4000))
    assert reader.gone
    broker.client(pong=False)
    broker.advance(600)
    told = (await ask("/varz")).json
    assert (told["connections"], told["slow_consumers"], told["stale_connections"]) == (1, 1, 1)
    assert told["stale_connection_stats"] == {"clients": 1, "routes": 0, "gateways": 0, "leafs": 0}


# /connz


async def test_connz_describes_each_connection(ask: Ask, broker: Broker) -> None:
    broker.advance(1)
    client = broker.client(name="worker", lang="go", version="1.2.3")
    broker.advance(61)
    client.send("SUB a 1\r\n", pub("=a", b"123"))
    broker.advance(5)
    answer = await ask("/connz")
    assert answer.json == {
        "server_id": broker.server.id,
        "now": "2027-01-15T08:01:07.000Z",
        "num_connections": 1,
        "total": 1,
        "offset": 0,
        "limit": 1024,
        "connections": [
            {
                "cid": 1,
                "kind": "Client",
                "type": "nats",
                "ip": "127.0.0.1",
                "port": 50_000,
                "start": "2027-01-15T08:00:01.000Z",
                "last_activity": "2027-01-15T08:01:02.000Z",
                "rtt": "0s",
                "uptime": "1m6s",
                "idle": "5s",
                "pending_bytes": 0,
                "in_msgs": 1,
                "out_msgs": 1,
                "in_bytes": 3,
                "out_bytes": 3,
                "subscriptions": 2,
                "name": "worker",
                "lang": "go",
                "version": "1.2.3",
            }
        ],
    }


async def test_what_a_client_did_not_say_is_not_made_up(ask: Ask, broker: Broker) -> None:
    broker.client(connect=None)
    (told,) = (await ask("/connz?subs=1&auth=1")).json["connections"]
    assert not told.keys() & {"name", "lang", "version", "rtt", "subscriptions_list", "authorized_user"}
    assert not [name for name in told if name.startswith("tls")]


async def test_connz_lists_subscriptions_when_asked(ask: Ask, broker: Broker) -> None:
    client = broker.client()
    client.send("SUB a.* workers 7\r\nSUB b 8\r\nUNSUB 8 5\r\n", pub("=b"))
    (plain,) = (await ask("/connz?subs=true")).json["connections"]
    assert sorted(plain["subscriptions_list"]) == ["_INBOX.c1.*", "a.*", "b"]
    (full,) = (await ask("/connz?subs=detail")).json["connections"]
    assert sorted(full["subscriptions_list_detail"], key=lambda each: each["sid"]) == [
        {"subject": "a.*", "qgroup": "workers", "sid": "7", "msgs": 0, "cid": 1},
        {"subject": "b", "sid": "8", "msgs": 1, "max": 5, "cid": 1},
        {"subject": "_INBOX.c1.*", "sid": "r", "msgs": 0, "cid": 1},
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("cid", "abc"),
        ("start", "abc"),
        ("uptime", "cba"),
        ("subs", "bac"),
        ("msgs_from", "cab"),
        ("bytes_from", "acb"),
        ("msgs_to", "bac"),
        ("bytes_to", "bac"),
        ("last", "cab"),
        ("idle", "bac"),
        ("pending", "abc"),
    ],
)
async def test_connz_sorts(ask: Ask, broker: Broker, order: str, expected: str) -> None:
    a, b, c = (later(broker, broker.client(name=name)) for name in "abc")
    b.send("SUB x 1\r\nSUB y 2\r\n")
    broker.advance(1)
    a.send(pub("=x", b"a long message"), pub("=z"))
    broker.advance(1)
    c.send(pub("=y", b"1"), pub("=z", b"2"), pub("=z", b"3"))
    assert "".join(names(await ask(f"/connz?sort={order}"))) == expected


def later(broker: Broker, client: Client) -> Client:
    broker.advance(1)
    return client


async def test_connz_pages(ask: Ask, broker: Broker) -> None:
    for name in "abcde":
        broker.client(name=name)
    page = await ask("/connz?limit=2&offset=1")
    assert names(page) == ["b", "c"]
    assert {name: page.json[name] for name in ("num_connections", "total", "offset", "limit")} == {
        "num_connections": 2,
        "total": 5,
        "offset": 1,
        "limit": 2,
    }
    assert names(await ask("/connz?limit=0&offset=-3")) == [*"abcde"]
    assert names(await ask("/connz?limit=2&limit=x&offset=")) == ["a", "b"]
    beyond = (await ask("/connz?offset=9")).json
    assert (beyond["num_connections"], beyond["connections"]) == (0, [])
    assert names(await ask("/connz?cid=4")) == ["d"]
    assert (await ask("/connz?cid=99")).json["connections"] == []


async def test_connz_knows_only_open_connections(ask: Ask, broker: Broker) -> None:
    broker.client(name="here")
    broker.client(name="gone").hang_up()
    for state in ("open", "OPEN", "any", "all"):
        assert names(await ask(f"/connz?state={state}")) == ["here"]
    closed = (await ask("/connz?state=closed&sort=stop")).json
    assert (closed["total"], closed["connections"]) == (0, [])


async def test_connz_finds_a_user(ask: Ask, broker: Broker) -> None:
    for name, user in (
        ("a", None),
        ("b", User(name="joe", password="secret")),
        ("c", User(nkey="UABC")),
        ("d", User(password="token")),
    ):
        broker.client(name=name).connection.user = user
    assert names(await ask("/connz?user=joe")) == ["b"]
    assert names(await ask("/connz?user=UABC")) == ["c"]
    shown = (await ask("/connz?auth=true")).json["connections"]
    assert [connection.get("authorized_user") for connection in shown] == [None, "joe", "UABC", "[REDACTED]"]
    assert "authorized_user" not in (await ask("/connz")).text


# /subsz


async def test_subsz_counts_and_lists(ask: Ask, broker: Broker) -> None:
    one, other = broker.client(), broker.client()
    one.send("SUB a.* 1\r\nSUB a.b q 2\r\n")
    other.send("SUB a.> 3\r\n")
    told = (await ask("/subsz")).json
    assert (told["num_subscriptions"], told["total"]) == (5, 0)
    assert "subscriptions_list" not in told
    listed = (await ask("/subscriptionsz?subs=1&limit=2&offset=1")).json
    assert listed["total"] == 5
    assert [each["subject"] for each in listed["subscriptions_list"]] == ["a.*", "a.b"]
    tested = (await ask("/subsz?subs=1&test=a.b")).json
    assert [(each["subject"], each["cid"]) for each in tested["subscriptions_list"]] == [
        ("a.*", 1),
        ("a.b", 1),
        ("a.>", 2),
    ]
    assert "subscriptions_list" not in (await ask("/subsz?subs=1&test=z")).json


async def test_no_pattern_hears_what_goes_to_a_mailbox(ask: Ask, broker: Broker) -> None:
    client = broker.client()
    client.create(name="box")
    client.send(f"SUB > 1\r\nSUB {AI}INBOX.box 2\r\n")
    tested = (await ask(f"/subsz?subs=1&test={AI}INBOX.box")).json
    assert [each["sid"] for each in tested["subscriptions_list"]] == ["2"]
    broadcast = (await ask(f"/subsz?subs=1&test={AI}BROADCAST.a.b")).json
    assert [each["sid"] for each in broadcast["subscriptions_list"]] == ["1"]


# what is asked badly, and by whom


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/connz?limit=x", "limit must be a whole number, not 'x'"),
        ("/connz?offset=1_0", "offset must be a whole number, not '1_0'"),
        ("/connz?cid=%D9%A3", "cid must be a whole number, not '٣'"),
        ("/connz?subs=bogus", "subs must be true or false, not 'bogus'"),
        ("/connz?auth=yes", "auth must be true or false, not 'yes'"),
        ("/connz?sort=size", "sort must be one of cid, start, subs, pending, msgs_to,"),
        ("/connz?sort=stop", "sort=stop is for closed connections: add state=closed"),
        ("/connz?state=gone", "state must be one of open, any, all, closed, not 'gone'"),
        ("/subsz?test=a..b", "test must be a subject that can be published to, not 'a..b'"),
        ("/subsz?test=a.*", "test must be a subject that can be published to, not 'a.*'"),
        ("/healthz?js-enabled=x", "js-enabled must be true or false, not 'x'"),
    ],
)
async def test_a_bad_value_is_named(ask: Ask, path: str, text: str) -> None:
    answer = await ask(path)
    assert answer.status == 400
    assert answer.text.startswith(text)


async def test_unknown_pages_and_methods(ask: Ask) -> None:
    assert (await ask("/")).status == 200
    for page in re.findall(r'href="\.(/\w+)"', (await ask("/")).text):
        assert (await ask(page)).status == 200
        assert (await ask(page, "HEAD")).text == ""
        refused = await ask(page, "POST")
        assert (refused.status, sorted(refused.headers["allow"].split(", "))) == (405, ["GET", "HEAD"])
    for path in ("/jsz", "/varz/", "//varz", "/debug/vars"):
        missing = await ask(path)
        assert missing.status == 404
        assert "there are /healthz, /varz, /connz, /subsz, /metrics" in missing.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8222", "[::1]:8222", "10.1.2.3"])
async def test_names_of_this_machine_are_answered(ask: Ask, host: str) -> None:
    assert (await ask("/varz", Host=host)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8222", "localhost.evil.example", "[::1", "a@127.0.0.1.x"]
)
async def test_a_foreign_name_is_refused(ask: Ask, host: str) -> None:
    """A page's own name can be made to point here: then a browser lets it read the answers."""
    answer = await ask("/connz", Host=host)
    assert answer.status == 403
    assert "ask for localhost" in answer.text
    assert (await ask("/healthz")).headers.keys() & {"access-control-allow-origin"} == set()


async def test_a_port_for_a_network_has_names_of_its_own(broker: Broker, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, monitor_host="0.0.0.0", monitor_port=0)
    monitor = Monitor(broker.server, broker.committer, config, broker.clock)
    await monitor.start()
    try:
        assert (await http(monitor.port, "/varz", Host="broker.example:8222")).status == 200
    finally:
        await monitor.stop()


@pytest.mark.parametrize("host", ["localhost", "::1"])
async def test_it_listens_where_it_is_told_to(broker: Broker, tmp_path: Path, host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    config = Config(data_dir=tmp_path, monitor_host=host, monitor_port=0)
    monitor = Monitor(broker.server, broker.committer, config, broker.clock)
    await monitor.start()
    try:
        assert (await http(monitor.port, "/varz", at=host)).status == 200
    finally:
        await monitor.stop()
    with pytest.raises(ConnectionRefusedError):
        await http(monitor.port, "/varz", at=host)


async def test_a_port_that_is_taken_is_an_error(broker: Broker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(data_dir=tmp_path, monitor_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await Monitor(broker.server, broker.committer, config, broker.clock).start()


async def test_a_defect_of_a_page_is_logged_and_ends_nothing_else(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(reports, "varz", None)
        answer = await ask("/varz")
    assert (answer.status, answer.text) == (500, "this page hit a defect of the broker, which its log describes\n")
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("mq9_broker.monitor", "the page /varz hit a defect")
    assert (await ask("/varz")).status == 200


async def test_others_go_on_during_a_long_walk(anyio_backend: str) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.sleep(0)

    def slow() -> Iterator[int]:
        for number in range(20):
            until = time.perf_counter() + SLICE
            while time.perf_counter() < until:
                pass
            yield number

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        assert [number async for number in paced(slow())] == [*range(20)]
        tasks.cancel_scope.cancel()
    assert turns >= 20


def test_a_broker_without_the_port_loads_nothing_for_it() -> None:
    code = "import sys, mq9_broker.runner; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "mq9_broker.runner" in loaded
    assert {"uvicorn", "starlette", "prometheus_client", "mq9_broker.monitor"} & set(loaded) == set()


# /metrics


def figures(families: Any) -> dict[str, float]:
    """name{labels} to value of what is mq9's."""
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("mq9_") and sample.name != "mq9_build_info"
    }


async def test_metrics_are_prometheus_text(ask: Ask, broker: Broker, store: FaultyStore) -> None:
    one, other = broker.client(), broker.client()
    one.subscribe("=a")
    other.send(pub("=a", b"12345"), pub("=a", b"678"))
    one.hang_up()
    answer = await ask("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    told = figures(parse_text(answer.text))
    assert told.pop("mq9_commits_total") >= 0
    assert told.pop("mq9_commit_seconds_total") >= 0
    assert told == {
        "mq9_connections nats": 1,
        "mq9_connections unix": 0,
        "mq9_connections websocket": 0,
        "mq9_subscriptions": 1,
        "mq9_pending_bytes": 0,
        "mq9_store_refusing": 0,
        "mq9_connections_accepted_total": 2,
        "mq9_messages_in_total": 2,
        "mq9_bytes_in_total": 8,
        "mq9_messages_out_total": 2,
        "mq9_bytes_out_total": 8,
        "mq9_slow_consumers_total": 0,
        "mq9_stale_connections_total": 0,
        "mq9_messages_stored_total": 0,
        "mq9_commits_failed_total": 0,
    }
    process = {sample.name for family in parse_text(answer.text) for sample in family.samples}
    assert process >= {
        "mq9_build_info",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    }
    store.failing = "disk full"
    other.request("MAILBOX.CREATE", {"name": "box"})
    failed = figures(parse_text((await ask("/metrics")).text))
    assert (failed["mq9_store_refusing"], failed["mq9_commits_failed_total"]) == (1, 1)


async def test_metrics_are_openmetrics_for_who_accepts_it(ask: Ask, broker: Broker) -> None:
    client = broker.client()
    client.put(client.mailbox(), b"kept")
    answer = await ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert figures(parse_openmetrics(answer.text))["mq9_messages_stored_total"] == 1


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x", "text/plain;version=..", "*/*", ";"])
async def test_any_accept_header_gets_an_answer(ask: Ask, accept: str) -> None:
    assert "mq9_connections" in (await ask("/metrics", Accept=accept)).text


# secrets


async def test_private_addresses_are_shown_in_their_send_only_form(ask: Ask, broker: Broker) -> None:
    client = broker.client()
    box, owner = client.create(), client.create(name="listed", public=True)["owner"]
    secret = box["mail_id"]
    client.send(
        f"SUB {AI}INBOX.{secret} 1\r\nSUB {AI}MAILBOX.{secret}.* {secret} {secret}\r\n"
        f"SUB *.AI.INBOX.{secret} 2\r\nSUB x.{owner}.> 3\r\nSUB {AI}ACK.abcDEF-_1 4\r\nSUB x.{AI}ACK.abcDEF-_1 5\r\n"
    )
    broker.client(name=f"agent of {secret}", lang=secret, version=owner)
    everything = ""
    for path in (
        "/connz",
        "/connz?subs=1",
        "/connz?subs=detail",
        "/subsz?subs=1",
        "/varz",
        "/metrics",
        "/healthz",
        "/",
    ):
        everything += (await ask(path)).text
    for path in (f"/{secret}", f"/connz?sort={secret}", f"/subsz?test=..{secret}", f"/subsz?subs=1&test={secret}"):
        everything += (await ask(path)).text
    everything += (await ask("/varz", Host=f"{secret}.example")).text
    everything += (await ask("/varz", secret)).text
    assert PRIVATE.findall(everything) == []
    assert "abcDEF" not in everything
    shown = [each["subject"] for each in (await ask("/subsz?subs=1")).json["subscriptions_list"]]
    assert f"{AI}INBOX.{box['send_only']}" in shown
    assert f"x.{addresses.send_only(owner)}.>" in shown
    assert f"x.{AI}ACK.…" in shown


async def test_what_clients_say_of_themselves_stays_json(ask: Ask, broker: Broker) -> None:
    odd = 'a "b" \\ \ud800 \x00 é </script>'
    client = broker.client(name=odd)
    client.send(b'SUB a"\\.\xff.$mq9.AI.ACK.x"y 1\r\n')
    (told,) = (await ask("/connz?subs=1")).json["connections"]
    assert told["name"] == odd
    assert 'a"\\.\ufffd.$mq9.AI.ACK.…"y' in told["subscriptions_list"]


# how times are written


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0s"),
        (999, "0s"),
        (61_000, "1m1s"),
        (3_600_000, "1h0m0s"),
        (90_061_000, "1d1h1m1s"),
        (31_536_000_000, "1y0d0h0m0s"),
    ],
)
def test_spans(ms: int, text: str) -> None:
    assert times.span(ms) == text


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0s"), (0.354, "354µs"), (1, "1ms"), (1.25, "1.25ms"), (2500, "2.5s"), (1000, "1s")]
)
def test_durations(ms: float, text: str) -> None:
    assert times.duration(ms) == text


async def read_to_the_end(visit: SocketStream) -> None:
    while True:
        await visit.receive()


async def test_who_asks_nothing_does_not_stay(
    anyio_backend: str, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mq9_broker.monitor._MOST_VISITS", 3)
    monkeypatch.setattr("mq9_broker.monitor._ASK_SECONDS", 0.1)
    monitor = Monitor(broker.server, broker.committer, Config(data_dir=tmp_path, monitor_port=0), broker.clock)
    await monitor.start()
    visits = [await anyio.connect_tcp("127.0.0.1", monitor.port) for _ in range(4)]
    try:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), anyio.fail_after(10):
            await visits[3].receive()  # one too many
        await visits[0].send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with anyio.fail_after(10):
            assert (await visits[0].receive()).startswith(b"HTTP/1.1 200 ")
        await visits[1].send(b"GET / HT")
        for visit in visits[:3]:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), anyio.fail_after(10):
                await read_to_the_end(visit)
        assert (await http(monitor.port, "/", "GET")).status == 200
    finally:
        for visit in visits:
            await visit.aclose()
        await monitor.stop()
