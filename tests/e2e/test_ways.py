"""The ways in: TLS at its several moments, WebSocket, both together, and the Unix socket, each to a real broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from e2e.harness import AI, Broker, Connect, StartBroker, Wire, dial, eventually, fresh_name, pub
from e2e.ways import Certificates, Frames, Upgraded, address, port_of, read_info, settings, tls_first, unix

pytestmark = pytest.mark.anyio

MAY_GROW = 64 * 2**20
TIERS = ("critical", "urgent", "normal", "low")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def over() -> Iterator[Callable[..., Wire]]:
    """A Wire over a stream: `over(Frames(url))`; closes it."""
    opened: list[Wire] = []

    def open_wire(stream: Any, **options: Any) -> Wire:
        opened.append(Wire(0, stream=stream, **options))
        return opened[-1]

    yield open_wire
    for wire in opened:
        wire.close()


@pytest.fixture
def tcp() -> Iterator[Callable[[int], socket.socket]]:
    """Opens plain sockets: `tcp(broker.port)`; closes them."""
    opened: list[socket.socket] = []

    def open_socket(port: int) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        return opened[-1]

    yield open_socket
    for each in opened:
        each.close()


Over = Callable[..., Wire]
Tcp = Callable[[int], socket.socket]


def rest_of(stream: socket.socket) -> bytes:
    """Everything up to the end of a connection, which the server must bring."""
    said = b""
    try:
        while data := stream.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    return said


class Doors:
    """A broker with every way in, and how to take each."""

    def __init__(self, broker: Broker, certificates: Certificates, path: Path) -> None:
        self.broker = broker
        self.certificates = certificates
        self.path = path
        self.wss = address(broker, "wss")

    def open(self, way: str, receive_buffer: int | None = None) -> Any:
        context = self.certificates.context()
        if way == "tls":
            return Upgraded(self.broker.port, context, receive_buffer)
        if way == "wss":
            return Frames(self.wss, ssl=context, server_hostname="127.0.0.1", receive_buffer=receive_buffer)
        return unix(self.path)


@pytest.fixture
def doors(start_broker: StartBroker, certificates: Certificates, tmp_path: Path) -> Doors:
    path = tmp_path / "s"
    values = {**certificates.flags, "tls_handshake": "auto", "ws_port": 0, "socket": str(path)}
    return Doors(start_broker(*settings(tmp_path, **values)), certificates, path)


@pytest.fixture
def web(start_broker: StartBroker, tmp_path: Path) -> tuple[Broker, str]:
    """A broker with WebSocket in the clear, and its URL; web pages of one origin may connect."""
    folder = tmp_path / "web"
    folder.mkdir()
    broker = start_broker(*settings(folder, ws_port=0, ws_origins=["https://app.example"]), folder="web/data")
    return broker, address(broker, "ws")


def exchange(one: Wire, other: Wire) -> None:
    """One client makes a mailbox, another sends to it, and the first reads; then a broadcast of each kind of bytes."""
    box = one.ask("MAILBOX.CREATE", {"ttl": 60})
    assert box["error"] == ""
    payload = bytes(range(256)) * 4096
    assert other.ask(f"MAILBOX.{box['send_only']}.urgent", payload[:1000], headers=b"A: b\r\n")["msg_id"] == 1
    assert other.ask(f"MAILBOX.{box['send_only']}", b"")["msg_id"] == 2
    one.send(f"SUB {AI}INBOX.{box['mail_id']} {box['send_only']}\r\n")
    urgent, empty = one.messages(2)
    assert (urgent.payload, urgent.header("A"), empty.payload) == (payload[:1000], "b", b"")
    subject = fresh_name("core")
    one.send(f"SUB {subject} {subject}\r\n")
    one.settle()
    other.publish(subject, payload)
    (large,) = one.messages(1)
    assert large.payload == payload


def silent(broker: Broker) -> None:
    """Nothing that clients did was a defect of the broker's."""
    assert broker.process.poll() is None
    assert b"Traceback" not in broker.log, broker.log.decode()


# every way


@pytest.mark.parametrize("way", ["tls", "wss", "unix"])
def test_an_exchange_between_this_way_and_another(doors: Doors, over: Over, way: str) -> None:
    exchange(over(doors.open(way)), over(doors.open("tls")))
    exchange(over(doors.open("wss")), over(doors.open(way)))
    silent(doors.broker)


@pytest.mark.parametrize("way", ["tls", "wss"])
def test_a_large_backlog_and_a_slow_reader_take_no_memory(doors: Doors, over: Over, way: str) -> None:
    sender = over(doors.open(way), timeout=60)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    count = 100_000
    for first in range(0, count, 2000):
        numbers = range(first, first + 2000)
        sender.settle(
            b"".join(pub(f"{AI}MAILBOX.{address}.{TIERS[-1 - n % 4]}", b"%06d" % n + b"." * 494) for n in numbers)
        )
    empty = doors.broker.memory()
    reader = over(doors.open(way, receive_buffer=65536), timeout=60)
    reader.send(f"SUB {AI}INBOX.{address} 1\r\n")
    peak, stalled = 0, time.monotonic() + 1
    while time.monotonic() < stalled:  # nothing is read at all
        peak = max(peak, doors.broker.memory())
        sender.ask(f"MAILBOX.QUERY.{address}", {"limit": 1})
        time.sleep(0.02)
    got: list[int] = []
    for _ in range(count // 2000):
        got += [int(message.payload[:6]) for message in reader.messages(2000)]
        peak = max(peak, doors.broker.memory())
    print(f"\n{way}: {empty / 2**20:.0f} MB before, +{(peak - empty) / 2**20:.0f} MB at most")
    assert got == [number for tier in range(4) for number in range(3 - tier, count, 4)]
    assert peak - empty < MAY_GROW


@pytest.mark.parametrize("way", ["tls", "wss"])
def test_a_subscriber_that_never_reads_is_cut_off(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over, way: str
) -> None:
    values = {**certificates.flags, "ws_port": 0, "max_pending": 4 * 2**20}
    doors = Doors(start_broker(*settings(tmp_path, **values)), certificates, tmp_path / "s")
    reader, sender = over(doors.open(way, receive_buffer=65536)), over(doors.open(way))
    reader.send(b"SUB flood 1\r\n")
    reader.settle()
    flood = pub("flood", os.urandom(2**16)) * 10
    before = doors.broker.memory()
    for _ in range(64):
        sender.settle(flood)
    assert eventually(lambda: b"slow consumer" in doors.broker.log, within=5)
    assert doors.broker.memory("VmHWM") - before < MAY_GROW
    silent(doors.broker)


def test_a_handshake_that_began_before_there_were_users(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over
) -> None:
    """Whoever comes through TLS or WebSocket after a reload is asked for what the reload asks for."""
    plain = {**certificates.flags, "ws_port": 0}
    broker = start_broker(*settings(tmp_path, **plain))
    context = certificates.context()
    early = dial(broker.port)
    read_info(early)
    web = tls_first(port_of(address(broker, "wss")), context)
    web.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    settings(tmp_path, **plain, token="open sesame")
    os.kill(broker.pid, signal.SIGHUP)
    assert eventually(lambda: b"are reloaded" in broker.log, within=5)

    with context.wrap_socket(early, server_hostname="127.0.0.1") as secured:
        secured.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert rest_of(secured) == b"-ERR 'Authorization Violation'\r\n"
    web.sendall(
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMQ==\r\n\r\n"
    )
    heard = b""
    while b"INFO" not in heard:
        heard += web.recv(65536)
    said = b'CONNECT {"verbose":false}\r\nPING\r\n'
    web.sendall(bytes((0x82, 0x80 | len(said), 0, 0, 0, 0)) + said)
    with web:
        heard = rest_of(web)
    assert b"-ERR 'Authorization Violation'\r\n" in heard
    assert b"PONG" not in heard
    silent(broker)


@pytest.mark.parametrize("way", ["tls", "wss", "unix"])
def test_credentials_are_asked_for_on_every_way(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over, way: str
) -> None:
    path = tmp_path / "s"
    values = {**certificates.flags, "ws_port": 0, "socket": str(path), "token": "open sesame", "auth_timeout": 1}
    doors = Doors(start_broker(*settings(tmp_path, **values)), certificates, path)
    client = over(doors.open(way), connect=None)
    assert client.info["auth_required"] is True
    line = b'CONNECT {"auth_token":"open sesame","verbose":false,"headers":true}\r\n'
    client.send(line[:20])
    client.send(line[20:] + pub("a", b"x"))
    assert client.ask("MAILBOX.CREATE")["error"] == ""
    for said, answer in (
        (b'CONNECT {"auth_token":"sesame"}\r\nPING\r\n', b"-ERR 'Authorization Violation'\r\n"),
        (b"SUB > 1\r\nPING\r\n", b"-ERR 'Authorization Violation'\r\n"),
        (b'CONNECT {"auth_tok', b"-ERR 'Authentication Timeout'\r\n"),
    ):
        stranger = over(doors.open(way), connect=None)
        stranger.send(said)
        assert stranger.rest().endswith(answer)
    assert client.settle() == []
    silent(doors.broker)


@pytest.mark.parametrize("way", ["tls", "wss", "unix"])
def test_who_comes_when_it_is_full_is_told_on_every_way(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over, way: str
) -> None:
    path = tmp_path / "s"
    values = {**certificates.flags, "ws_port": 0, "socket": str(path), "max_connections": 2}
    doors = Doors(start_broker(*settings(tmp_path, **values)), certificates, path)
    first, second = over(doors.open("unix")), over(doors.open("wss"))
    assert over(doors.open(way), connect=None).rest().endswith(b"-ERR 'maximum connections exceeded'\r\n")
    second.close()
    assert eventually(lambda: verdict(lambda: doors.open(way)) == "", within=5)
    assert first.settle() == []


# TLS


def secured(start_broker: StartBroker, certificates: Certificates, folder: Path, **values: Any) -> Broker:
    return start_broker(*settings(folder, **certificates.flags, **values))


def test_the_banner_says_tls(start_broker: StartBroker, certificates: Certificates, tmp_path: Path) -> None:
    broker = secured(start_broker, certificates, tmp_path, ws_port=0)
    assert " listening on tls://127.0.0.1:" in broker.banner
    assert address(broker, "wss").startswith("wss://127.0.0.1:")


def test_tls_comes_after_info(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over
) -> None:
    broker = secured(start_broker, certificates, tmp_path)
    client = over(Upgraded(broker.port, certificates.context()))
    assert client.info["tls_required"] is True
    assert "tls_available" not in client.info
    assert client.info["client_ip"] == "127.0.0.1"
    assert client.socket.version() in ("TLSv1.2", "TLSv1.3")
    assert client.ask("MAILBOX.CREATE")["error"] == ""


def test_tls_comes_first(start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_handshake="first")
    client = over(tls_first(broker.port, certificates.context()))
    assert client.info["tls_required"] is True
    assert client.ask("MAILBOX.CREATE")["error"] == ""


def test_tls_comes_when_the_client_wants_it(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_handshake="auto")
    context = certificates.context()
    for stream in (tls_first(broker.port, context), Upgraded(broker.port, context)):
        assert over(stream).ask("MAILBOX.CREATE")["error"] == ""


def test_tls_may_be_left_to_the_client(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over, wire: Callable[..., Wire]
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_optional=True)
    plain, upgraded = wire(broker), over(Upgraded(broker.port, certificates.context()))
    for client in (plain, upgraded):
        assert client.info["tls_available"] is True
        assert "tls_required" not in client.info
    exchange(plain, upgraded)


@pytest.mark.parametrize("handshake", ["after", "first", "auto"])
def test_a_plain_client_gets_nothing_where_tls_is_required(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, tcp: Tcp, handshake: str
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_handshake=handshake)
    plain = tcp(broker.port)
    plain.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
    said = rest_of(plain)
    # (what is neither protocol is answered by an INFO at most, and by TLS's own alert)
    assert b"PONG" not in said
    assert b"+OK" not in said
    silent(broker)


def test_a_tls_client_learns_that_there_is_no_tls(broker: Broker, certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLError):
        tls_first(broker.port, certificates.context())
    silent(broker)


def verdict(connect: Callable[[], Any]) -> str:
    """ "" when a PING is answered over what `connect` makes, else the name of what was raised, or "closed"."""
    try:
        stream = connect()
    except (OSError, WebSocketException) as error:
        return type(error).__name__
    with closing(stream):
        try:
            stream.settimeout(10)
            stream.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            said = b""
            while b"PONG" not in said:
                data = stream.recv(65536)
                if not data:
                    return "closed"
                said += data
            return ""
        except (OSError, WebSocketException) as error:
            return type(error).__name__


@pytest.mark.parametrize("way", ["tls", "wss"])
def test_clients_show_certificates_of_the_authority(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, way: str
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_ca=str(certificates.ca), tls_verify=True, ws_port=0)
    wss = address(broker, "wss")

    def through(own: Path | None) -> str:
        context = certificates.context(own)
        if way == "tls":
            return verdict(lambda: Upgraded(broker.port, context))
        return verdict(lambda: Frames(wss, ssl=context, server_hostname="127.0.0.1"))

    assert through(certificates.client) == ""
    for own in (None, certificates.stranger, certificates.expired, certificates.self_signed):
        assert through(own) != "", own
    assert through(certificates.client) == ""
    silent(broker)


def test_info_says_that_certificates_are_wanted(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, tcp: Tcp
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_ca=str(certificates.ca), tls_verify=True)
    info = json.loads(read_info(tcp(broker.port)).removeprefix(b"INFO "))
    assert (info["tls_required"], info["tls_verify"]) == (True, True)


@pytest.mark.parametrize("handshake", ["after", "first", "auto"])
def test_a_slow_handshake_is_cut_off(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, over: Over, tcp: Tcp, handshake: str
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_handshake=handshake)
    slow = [tcp(broker.port) for _ in range(3)]
    slow[1].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
    slow[2].sendall(b"\x16")
    context = certificates.context()
    client = over(tls_first(broker.port, context) if handshake != "after" else Upgraded(broker.port, context))
    assert client.ask("MAILBOX.CREATE")["error"] == ""
    started = time.monotonic()
    for each in slow:
        rest_of(each)
    assert time.monotonic() - started < 10
    silent(broker)


def test_a_signal_brings_a_new_certificate(start_broker: StartBroker, tmp_path: Path, over: Over) -> None:
    certificates = Certificates(tmp_path)
    broker = secured(start_broker, certificates, tmp_path, ws_port=0)
    wss = address(broker, "wss")

    def streams() -> list[Any]:
        context = certificates.context()
        return [Upgraded(broker.port, context), Frames(wss, ssl=context, server_hostname="127.0.0.1")]

    def shown() -> set[bytes]:
        """The certificates that new connections see."""
        found = set()
        for stream in streams():
            with closing(stream):
                below = stream.client.socket if isinstance(stream, Frames) else stream
                found.add(bytes(below.getpeercert(binary_form=True)))
        return found

    old = [over(stream) for stream in streams()]
    first = shown()
    assert len(first) == 1
    certificates.renew()
    assert shown() == first
    os.kill(broker.pid, signal.SIGHUP)
    assert eventually(lambda: not shown() & first, within=5)
    second = shown()
    assert len(second) == 1
    for each in old:
        assert each.ask("MAILBOX.CREATE")["error"] == ""

    certificates.cert.write_text("no certificate\n")
    os.kill(broker.pid, signal.SIGHUP)
    assert eventually(lambda: b"level=error" in broker.log, within=5)
    assert str(certificates.cert).encode() in broker.log
    assert shown() == second
    silent(broker)


def refused_start(*flags: str, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a broker that does not start."""
    command = [sys.executable, "-m", "mq9_broker", "--port", "0", "--store", "memory", "--data-dir", str(folder / "d")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=20, env=environment)
    return done.returncode, done.stderr


def test_certificates_that_cannot_be_used_are_named(certificates: Certificates, tmp_path: Path) -> None:
    missing, other = tmp_path / "missing.pem", Certificates(tmp_path)
    for values, word in (
        ({"tls_cert": str(missing), "tls_key": str(certificates.key)}, str(missing)),
        ({"tls_cert": str(certificates.cert), "tls_key": str(missing)}, str(missing)),
        ({"tls_cert": str(certificates.cert), "tls_key": str(other.key)}, str(other.key)),
        ({"tls_cert": str(certificates.key), "tls_key": str(certificates.key)}, str(certificates.key)),
        ({"tls_cert": str(certificates.cert)}, "tls_key"),
        ({"tls_key": str(certificates.key)}, "tls_cert"),
        ({**certificates.flags, "tls_ca": str(missing), "tls_verify": True}, str(missing)),
        ({**certificates.flags, "tls_handshake": "sometimes"}, "sometimes"),
        ({"tls_optional": True}, "tls_cert"),
        ({"tls_handshake": "first"}, "tls_cert"),
        ({**certificates.flags, "tls_verify": True}, "tls_ca"),
    ):
        code, said = refused_start(*settings(tmp_path, **values), folder=tmp_path)
        assert code == 2, (values, said)
        assert word in said, (values, said)
        assert "Traceback" not in said, said


@pytest.mark.parametrize("first", [False, True])
async def test_nats_py_through_tls(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path, first: bool
) -> None:
    broker = secured(start_broker, certificates, tmp_path, tls_handshake="auto")
    nc = await nats.connect(
        f"tls://127.0.0.1:{broker.port}",
        tls=certificates.context(),
        tls_hostname="127.0.0.1",
        tls_handshake_first=first,
        allow_reconnect=False,
    )
    box = json.loads((await nc.request(AI + "MAILBOX.CREATE", b"{}")).data)
    for number in range(100):
        await nc.publish(f"{AI}MAILBOX.{box['send_only']}", b"%d" % number)
    mail = await nc.subscribe(box["inbox"])
    got = [int((await mail.next_msg(timeout=10)).data) for _ in range(100)]
    assert got == list(range(100))
    large = await nc.subscribe("large")
    await nc.publish("large", bytes(2**20))
    assert len((await large.next_msg(timeout=10)).data) == 2**20
    await nc.close()


async def test_nats_py_comes_back_through_tls(
    start_broker: StartBroker, certificates: Certificates, tmp_path: Path
) -> None:
    broker = secured(start_broker, certificates, tmp_path)
    broker.command[broker.command.index("--port") + 1] = str(broker.port)
    nc = await nats.connect(
        f"tls://127.0.0.1:{broker.port}", tls=certificates.context(), tls_hostname="127.0.0.1", reconnect_time_wait=0.05
    )
    heard = await nc.subscribe("news")
    broker.restart()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            await nc.publish("news", b"back")
            await nc.flush(timeout=1)
            message = await heard.next_msg(timeout=0.5)
            break
        except nats.errors.Error:
            continue
    assert message.data == b"back"
    await nc.close()


# WebSocket


def test_info_over_websocket(web: tuple[Broker, str], doors: Doors, over: Over) -> None:
    _, url = web
    info = over(Frames(url)).info
    assert info["client_ip"] == "127.0.0.1"
    assert info["port"] == port_of(url)
    assert "tls_required" not in info
    assert "tls_available" not in info
    info = over(doors.open("wss")).info
    assert info["port"] == port_of(doors.wss)
    assert info["tls_required"] is True


@pytest.mark.parametrize("compression", ["deflate", None])
def test_an_exchange_over_websocket(
    web: tuple[Broker, str], over: Over, wire: Callable[..., Wire], compression: str | None
) -> None:
    broker, url = web
    ours, theirs = over(Frames(url, compression=compression)), wire(broker)
    agreed = ours.socket.client.protocol.extensions
    assert bool(agreed) is bool(compression)
    exchange(ours, theirs)
    exchange(theirs, ours)
    exchange(ours, over(Frames(url)))
    silent(broker)


def test_text_frames_and_parts_of_commands(web: tuple[Broker, str]) -> None:
    frames = Frames(web[1])
    client = frames.client
    assert isinstance(client.recv(5), bytes)
    client.send("CONN")
    client.send(['ECT {"verbose":false}\r\nSU', "B a", " 1\r\nPUB a 5\r\nhel"])
    client.send(b"lo\r\nPI")
    client.send([b"NG\r", b"\n"])
    said = b""
    while b"PONG\r\n" not in said:
        part = client.recv(5)
        assert isinstance(part, bytes)
        said += part
    assert b"MSG a 1 5\r\nhello\r\n" in said
    assert client.ping().wait(5)
    frames.close()
    assert client.close_code == 1000


def test_a_hundred_websockets(web: tuple[Broker, str], over: Over) -> None:
    broker, url = web
    clients = [over(Frames(url)) for _ in range(100)]
    subject = fresh_name("all")
    for client in clients:
        client.send(f"SUB {subject} 1\r\n")
    for client in clients:
        client.settle()
    for client in clients:
        client.publish(subject, b"x")
    for client in clients:
        assert len(client.messages(100)) == 100
    silent(broker)


def test_only_listed_web_pages_connect(web: tuple[Broker, str]) -> None:
    _, url = web
    Frames(url, origin="https://app.example").close()
    with pytest.raises(InvalidStatus) as refusal:
        Frames(url, origin="https://evil.example")
    response = refusal.value.response
    assert response.status_code == 403
    assert response.body is not None
    assert b"https://evil.example" in response.body
    assert b"ws_origins" in response.body


def test_a_browser_that_opens_the_port_is_told(web: tuple[Broker, str], tcp: Tcp) -> None:
    browser = tcp(port_of(web[1]))
    browser.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n")
    assert rest_of(browser).startswith(b"HTTP/1.1 426 ")


def test_clients_at_the_wrong_port_are_told(web: tuple[Broker, str], doors: Doors, tcp: Tcp) -> None:
    broker, url = web
    lost = tcp(port_of(url))
    lost.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
    assert rest_of(lost).startswith(b"HTTP/1.1 400 ")
    lost = tcp(broker.port)
    lost.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
    assert rest_of(lost).endswith(b"-ERR 'Unknown Protocol Operation'\r\n")
    lost = tcp(port_of(doors.wss))
    lost.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
    assert b"HTTP" not in rest_of(lost)
    with pytest.raises(ssl.SSLError):
        tls_first(port_of(url), doors.certificates.context())
    silent(broker)
    silent(doors.broker)


def test_a_message_of_websocket_has_a_limit(start_broker: StartBroker, tmp_path: Path) -> None:
    broker = start_broker(*settings(tmp_path, ws_port=0, max_payload=10_000))
    with closing(Frames(address(broker, "ws"))) as frames:
        frames.client.recv(5)
        try:
            frames.client.send(pub("a", bytes(9_000)) * 10_000)
            while frames.client.recv(5):
                pass
        except ConnectionClosed:
            pass
        assert frames.client.close_code == 1009
    assert broker.memory("VmHWM") < 200 * 2**20
    silent(broker)


def test_errors_close_a_websocket_after_they_are_said(web: tuple[Broker, str], over: Over) -> None:
    client = over(Frames(web[1]))
    client.send(b"NONSENSE\r\n")
    assert client.rest().endswith(b"-ERR 'Unknown Protocol Operation'\r\n")
    assert client.socket.client.close_code == 1001


def test_a_broker_that_stops_says_goodbye(web: tuple[Broker, str], over: Over) -> None:
    broker, url = web
    client = over(Frames(url))
    client.settle()
    assert broker.stop() == 0
    assert client.frame() is None
    assert client.socket.client.close_code == 1001


def test_abrupt_ends_of_websockets(web: tuple[Broker, str], over: Over, tcp: Tcp) -> None:
    broker, url = web
    for sent in (b"", b"\x82", b"\x82\xfe\xff", b"\x82\x85\0\0\0\0PI", b"\xff" * 100, b"\x89\x80\0\0\0\0" * 1000):
        stream = tcp(port_of(url))
        Handshaken(stream).sendall(sent)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.close()
    assert over(Frames(url)).ask("MAILBOX.CREATE")["error"] == ""
    silent(broker)


class Handshaken:
    """A socket on which the WebSocket handshake is done; what follows is the test's own affair."""

    def __init__(self, stream: socket.socket) -> None:
        stream.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        said = b""
        while b"\r\n\r\n" not in said:
            said += stream.recv(1)
        self.sendall = stream.sendall


def test_pings_of_a_client_that_does_not_read_take_no_memory(web: tuple[Broker, str], over: Over) -> None:
    broker, url = web
    stream = dial(port_of(url), receive_buffer=4096)
    flood = Handshaken(stream).sendall
    before = broker.memory()
    for _ in range(300):
        flood((b"\x89\xfd\0\0\0\0" + bytes(125)) * 1000)
    assert over(Frames(url)).ask("MAILBOX.CREATE")["error"] == ""
    assert broker.memory("VmHWM") - before < 16 * 2**20
    stream.close()


# the Unix socket


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "mq9.sock"


def test_the_socket_is_its_owners(start_broker: StartBroker, tmp_path: Path, over: Over, socket_path: Path) -> None:
    broker = start_broker(*settings(tmp_path, socket=str(socket_path)))
    assert address(broker, "unix") == f"unix://{socket_path}"
    mode = socket_path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    one, other = over(unix(socket_path)), over(unix(socket_path))
    assert one.info["client_ip"] == ""
    exchange(one, other)
    assert broker.stop() == 0
    assert not socket_path.exists()


def test_a_socket_that_nobody_serves_is_replaced(
    start_broker: StartBroker, tmp_path: Path, over: Over, socket_path: Path
) -> None:
    broker = start_broker(*settings(tmp_path, socket=str(socket_path)))
    address(broker, "unix")
    broker.kill()
    assert socket_path.exists()
    broker.start()
    address(broker, "unix")
    assert over(unix(socket_path)).ask("MAILBOX.CREATE")["error"] == ""


def test_a_socket_in_use_is_left_alone(
    start_broker: StartBroker, tmp_path: Path, over: Over, socket_path: Path
) -> None:
    broker = start_broker(*settings(tmp_path, socket=str(socket_path)))
    address(broker, "unix")
    code, said = refused_start("--config", str(tmp_path / "mq9.toml"), folder=tmp_path)
    assert code == 6, said
    assert str(socket_path) in said
    assert over(unix(socket_path)).ask("MAILBOX.CREATE")["error"] == ""
    assert broker.stop() == 0


def test_a_socket_whose_program_hangs_is_left_alone(tmp_path: Path, socket_path: Path) -> None:
    with ExitStack() as opened:
        busy = opened.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(socket_path))
        busy.listen(0)
        with suppress(BlockingIOError):
            for _ in range(100):
                waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(socket_path))
        code, said = refused_start(*settings(tmp_path, socket=str(socket_path)), folder=tmp_path)
    assert code == 6, said
    assert str(socket_path) in said
    assert socket_path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path, socket_path: Path) -> None:
    socket_path.write_text("somebody's letters")
    code, said = refused_start(*settings(tmp_path, socket=str(socket_path)), folder=tmp_path)
    assert code == 6, said
    assert str(socket_path) in said
    assert socket_path.read_text() == "somebody's letters"


@pytest.mark.parametrize("name", ["x" * 200, "missing/mq9.sock"])
def test_a_socket_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    code, said = refused_start(*settings(tmp_path, socket=str(tmp_path / name)), folder=tmp_path)
    assert code == 6, said
    assert name in said
    assert "Traceback" not in said, said


# too many


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_broker_without_free_descriptors_lives_on(
    tmp_path: Path, wire: Callable[..., Wire], tcp: Tcp, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    if loop == "asyncio":
        shadow = tmp_path / "shadow"
        shadow.mkdir()
        (shadow / "uvloop.py").write_text("raise ImportError\n")
        monkeypatch.setenv("PYTHONPATH", str(shadow))
    broker = Broker(tmp_path / "few", store="memory")
    broker.command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *broker.command]
    broker.start()
    try:
        first = wire(broker)
        crowd = [tcp(broker.port) for _ in range(150)]
        assert first.ask("MAILBOX.CREATE")["error"] == ""
        time.sleep(0.3)  # (the crowd is there to be refused: there is nothing to wait for)
        assert broker.process.poll() is None
        for each in crowd:
            each.close()

        def served() -> bool:
            with closing(dial(broker.port)) as stream:
                try:
                    return Wire(0, stream=stream, timeout=2).ask("MAILBOX.CREATE")["error"] == ""
                except (OSError, ValueError, AssertionError):
                    return False

        assert eventually(served, within=10)
        assert first.ask("MAILBOX.CREATE")["error"] == ""
        silent(broker)
    finally:
        broker.kill()


def test_a_crowd_does_not_take_the_files_that_the_store_needs(
    tmp_path: Path, wire: Callable[..., Wire], tcp: Tcp
) -> None:
    broker = Broker(tmp_path / "few")
    broker.command = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *broker.command]
    broker.start()
    try:
        sender = wire(broker, timeout=30)
        address = sender.ask("MAILBOX.CREATE")["mail_id"]
        crowd = [tcp(broker.port) for _ in range(150)]
        for each in crowd[99:]:
            assert rest_of(each).endswith(b"-ERR 'maximum connections exceeded'\r\n")
        letters = pub(f"{AI}MAILBOX.{address}", bytes(200_000)) * 10
        for _ in range(20):
            assert [frame for frame in sender.settle(letters) if frame.op == "-ERR"] == []
        silent(broker)
    finally:
        broker.kill()


@pytest.mark.parametrize("way", ["tls", "ws"])
def test_handshakes_without_end_do_not_take_the_files_that_the_store_needs(
    tmp_path: Path, certificates: Certificates, wire: Callable[..., Wire], tcp: Tcp, way: str
) -> None:
    """Who has not said who he is costs a file too: so many are let in at once, the others wait outside."""
    values = {**certificates.flags, "tls_optional": True, "auth_timeout": 60} if way == "tls" else {"ws_port": 0}
    broker = Broker(tmp_path / "few", *settings(tmp_path, **values))
    broker.command = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *broker.command]
    broker.start()
    try:
        port = broker.port if way == "tls" else port_of(address(broker, "ws"))
        sender = wire(broker, timeout=30)
        box = sender.ask("MAILBOX.CREATE")["mail_id"]
        crowd = [tcp(port) for _ in range(250)]
        letters = pub(f"{AI}MAILBOX.{box}", bytes(200_000)) * 10
        for _ in range(20):
            assert [frame for frame in sender.settle(letters) if frame.op == "-ERR"] == []
        for each in crowd:
            each.close()
        assert wire(broker, timeout=30).ask("MAILBOX.CREATE")["error"] == "", "those outside come in when there is room"
        silent(broker)
    finally:
        broker.kill()


async def test_a_client_library_through_a_crowd(connect: Connect, web: tuple[Broker, str], over: Over) -> None:
    """One library's client on plain TCP, and WebSockets that come and go beside it."""
    broker, url = web
    peer = await connect(broker)
    news = await peer.listen("news")
    for number in range(20):
        client = over(Frames(url))
        client.publish("news", b"%d" % number)
        client.settle()
        client.close()
    got = [await news.next_msg(timeout=5) for _ in range(20)]
    assert [int(message.data) for message in got] == list(range(20))


def test_a_broker_without_standard_streams_serves_and_ends_when_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mq9.sock"
    command = [sys.executable, "-m", "mq9_broker", "--port", "0", "--data-dir", str(tmp_path / "data")]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command, "--socket", str(path)]
    with subprocess.Popen(closed) as process:
        try:
            assert eventually(path.exists, within=15)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                assert client.recv(4096).startswith(b"INFO ")
        finally:
            process.terminate()
        assert process.wait(10) == 0
