"""The transports and keys that nats-py is given, with real servers at the other end.

These notice when a new nats-py no longer looks where `client_of` puts them.
"""

from __future__ import annotations

import asyncio
import json
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import certificates
import nats.errors
import pytest
from certificates import Certificates
from nats.aio.client import Client

from mq9_mcp.endpoint import Endpoint
from mq9_mcp.errors import BrokerUnavailable
from mq9_mcp.transport import client_of, public_nkey, read_seed

pytestmark = pytest.mark.anyio

# the pair of the NATS documentation
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

Start = Callable[..., int]


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Start]:
    """Starts nats-servers: `port = nats_server("authorization { token: t }")`; `kind` is whose port it is."""
    started: list[subprocess.Popen[bytes]] = []

    def start(settings: str, kind: str = "nats") -> int:
        file = tmp_path / f"nats-{len(started)}.conf"
        ports = tmp_path / f"ports-{len(started)}"
        ports.mkdir()
        file.write_text(f'host: "127.0.0.1"\nport: -1\nports_file_dir: "{ports}"\n{settings}\n')
        program = Path(sys.executable).parent / "nats-server"
        started.append(subprocess.Popen([program, "-c", file], stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            for said in ports.glob("*.ports"):
                try:
                    return int(json.loads(said.read_text())[kind][0].rpartition(":")[2])
                except ValueError:
                    pass  # half written
            assert started[-1].poll() is None, settings
            time.sleep(0.02)
        raise AssertionError("nats-server did not start")

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@asynccontextmanager
async def connected(url: str, **environ: str) -> AsyncIterator[Client]:
    """A client by the way of a real one, which fails at once when it is refused."""
    at = Endpoint.at(url, environ)
    try:
        await asyncio.to_thread(at.version)
    except BrokerUnavailable as error:
        if "is no mq9 broker" not in str(error):  # nats-server is everything but that
            raise
    client, options = client_of(at)

    async def on_error(error: Exception) -> None:
        if refusal := at.refusal(error):
            raise refusal

    try:
        await client.connect(**options, error_cb=on_error, connect_timeout=5, reconnect_time_wait=0.1)
        yield client
    finally:
        await client.close()


async def connect_only(url: str, **environ: str) -> None:
    async with connected(url, **environ):
        pass


async def works(client: Client) -> bool:
    """Whether messages go there and back, large ones too."""
    subscription = await client.subscribe("there.and.back")
    sent = [b"", b"x", bytes(range(256)) * 2000]
    for payload in sent:
        await client.publish("there.and.back", payload)
    return [(await subscription.next_msg(timeout=5)).data for _ in sent] == sent


def pass_on(here: socket.socket, there: socket.socket) -> bool:
    """Moves what there is to move; False once one side has closed."""
    for one in select.select([here, there], [], [])[0]:
        data = one.recv(1 << 16)
        if not data:
            return False
        (there if one is here else here).sendall(data)
    return True


@contextmanager
def relay(path: Path, port: int) -> Iterator[None]:
    """Passes everything between a Unix socket and a port, until the test ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    here, _ = server.accept()
                except OSError:
                    return
                with here, socket.create_connection(("127.0.0.1", port)) as there, suppress(ConnectionError):
                    while pass_on(here, there):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


async def test_a_unix_socket(nats_server: Start, tmp_path: Path) -> None:
    path = tmp_path / "mq9.sock"
    with relay(path, nats_server("authorization { token: hunter2 }")):
        async with connected(f"unix://{path}", MQ9_TOKEN="hunter2") as client:
            assert await works(client)
            await client.force_reconnect()
            async with asyncio.timeout(10):
                while client.stats["reconnects"] < 1:
                    await asyncio.sleep(0.01)
            assert await works(client)


async def test_a_unix_socket_is_never_sought_elsewhere(tmp_path: Path) -> None:
    """Were nats-py to overlook the socket, credentials would go to whoever listens on a port."""
    client, options = client_of(Endpoint.at(f"unix://{tmp_path}/none", {}))
    with pytest.raises(FileNotFoundError):
        await client.connect(**options, error_cb=raising, allow_reconnect=False)
    assert options["servers"] == ["nats://mq9.invalid:4222"]


async def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("settings", "userinfo", "environ"),
    [
        ("authorization { token: hunter2 }", "hunter2@", {}),
        ("authorization { token: hunter2 }", "", {"MQ9_TOKEN": "hunter2"}),
        ('authorization { token: "h/2@:%" }', "h%2F2%40%3A%25@", {}),
        ("authorization { user: u, password: hunter2 }", "u:hunter2@", {"MQ9_TOKEN": "other"}),
        ('authorization { users: [{user: "ü@", password: "h/2@:%"}] }', "%C3%BC%40:h%2F2%40%3A%25@", {}),
    ],
)
async def test_credentials(nats_server: Start, settings: str, userinfo: str, environ: dict[str, str]) -> None:
    port = nats_server(settings)
    async with connected(f"nats://{userinfo}127.0.0.1:{port}", **environ) as client:
        assert await works(client)
    with pytest.raises(BrokerUnavailable, match=rf"the broker at nats://127\.0\.0\.1:{port} wants credentials"):
        await connect_only(f"nats://127.0.0.1:{port}")
    with pytest.raises(BrokerUnavailable, match="does not accept the token"):
        await connect_only(f"nats://127.0.0.1:{port}", MQ9_TOKEN="wrong")
    with pytest.raises(BrokerUnavailable, match="does not accept the password of user 'u'"):
        await connect_only(f"nats://u:wrong@127.0.0.1:{port}")


async def test_an_nkey(nats_server: Start, tmp_path: Path) -> None:
    port = nats_server(f"authorization {{ users: [{{nkey: {NKEY}}}, {{user: u, password: p}}] }}")
    seed = tmp_path / "seed.nk"
    seed.write_text(f"{SEED}\n")
    async with connected(f"nats://127.0.0.1:{port}", MQ9_NKEY_SEED_FILE=str(seed)) as client:
        assert await works(client)
    async with connected(f"nats://u:p@127.0.0.1:{port}", MQ9_NKEY_SEED_FILE="/none") as client:
        assert await works(client)
    seed.write_text("SUAID2OR2ZT2TFKZSCLR45RYLV5DQRYQDSR773UZQ2YMENLZMGUSK4XYPY\n")
    with pytest.raises(BrokerUnavailable, match=r"does not accept the nkey in .*seed\.nk"):
        await connect_only(f"nats://127.0.0.1:{port}", MQ9_NKEY_SEED_FILE=str(seed))


async def test_an_nkey_where_none_is_asked_for(nats_server: Start, tmp_path: Path) -> None:
    port = nats_server("authorization { token: hunter2 }")
    (tmp_path / "seed").write_text(SEED)
    environ = {"MQ9_NKEY_SEED_FILE": str(tmp_path / "seed"), "MQ9_TOKEN": "hunter2"}
    async with connected(f"nats://127.0.0.1:{port}", **environ) as client:
        assert await works(client)


@pytest.mark.parametrize(
    "text", [SEED, f"\n  {SEED}\n# UABC\n", f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END\n"]
)
def test_a_seed_is_found_in_its_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "seed"
    file.write_text(text)
    assert public_nkey(read_seed(file)) == NKEY


@pytest.mark.parametrize("text", ["", NKEY, SEED[:-1], SEED[:-1] + "A", SEED.lower(), "SU" + "1" * 56, "SA" + SEED[2:]])
def test_a_file_without_a_seed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "seed"
    file.write_text(text)
    with pytest.raises(BrokerUnavailable, match=r"holds no seed of a user.*: correct MQ9_NKEY_SEED_FILE") as wrong:
        read_seed(file)
    assert SEED[10:20] not in str(wrong.value)


def test_a_seed_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"can't be read \(No such file or directory\)"):
        read_seed(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(BrokerUnavailable, match=r"can't be read \(it is no text\)"):
        read_seed(tmp_path / "binary")


def tls(pem: Certificates, more: str = "") -> str:
    return f'tls {{ cert_file: "{pem.server}", key_file: "{pem.server_key}", {more} }}'


@pytest.mark.parametrize("scheme", ["tls", "nats"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls(nats_server: Start, pem: Certificates, scheme: str, host: str) -> None:
    port = nats_server(tls(pem))
    async with connected(f"{scheme}://{host}:{port}", MQ9_TLS_CA=str(pem.ca)) as client:
        assert await works(client)
        await client.force_reconnect()
        async with asyncio.timeout(10):
            while client.stats["reconnects"] < 1:
                await asyncio.sleep(0.01)
        assert await works(client)


@pytest.mark.parametrize("mode", ["handshake_first: true", 'handshake_first: "auto"'])
async def test_tls_first(nats_server: Start, pem: Certificates, mode: str) -> None:
    port = nats_server(tls(pem, mode))
    async with connected(f"tls://127.0.0.1:{port}", MQ9_TLS_CA=str(pem.ca)) as client:
        assert await works(client)


async def test_tls_that_is_only_offered_is_taken(nats_server: Start, pem: Certificates) -> None:
    port = nats_server(tls(pem) + "\nallow_non_tls: true")
    async with connected(f"tls://127.0.0.1:{port}", MQ9_TLS_CA=str(pem.ca)) as client:
        assert await works(client)
        assert client._transport._writer.get_extra_info("cipher")


async def test_nothing_is_said_without_tls(nats_server: Start) -> None:
    """Somebody on the way can take TLS out of a greeting: credentials must not follow it."""
    heard = b""

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b'INFO {"headers":true,"max_payload":1048576}\r\n')
        heard += await reader.read(4096)
        writer.close()

    async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        at = Endpoint.at(f"tls://u:hunter2@127.0.0.1:{port}", {})
        client, options = client_of(at)
        with pytest.raises(nats.errors.Error, match="does not offer TLS") as caught:
            await client.connect(**options, error_cb=raising, allow_reconnect=False)
        assert str(at.refusal(caught.value)).startswith(f"the broker at tls://127.0.0.1:{port} does not offer TLS: ")
        await client.close()
    assert heard == b""


@pytest.mark.parametrize("mode", ["", "handshake_first: true"])
async def test_a_certificate_that_is_not_trusted(nats_server: Start, pem: Certificates, mode: str) -> None:
    port = nats_server(tls(pem, mode))
    for scheme in ("tls",) if mode else ("tls", "nats"):
        text = rf"the broker at {scheme}://127\.0\.0\.1:{port} is not trusted \(.*\): set MQ9_TLS_CA"
        with pytest.raises(BrokerUnavailable, match=text):
            async with asyncio.timeout(10):
                await connect_only(f"{scheme}://hunter2@127.0.0.1:{port}")


async def test_a_certificate_of_another_host(nats_server: Start, pem: Certificates) -> None:
    port = nats_server(tls(pem))
    with pytest.raises(BrokerUnavailable, match=r"is not trusted \(.*mismatch.*\).*use the host name"):
        await connect_only(f"tls://127.1:{port}", MQ9_TLS_CA=str(pem.ca))


@pytest.mark.parametrize("mode", ["", "handshake_first: true"])
async def test_a_client_with_a_certificate(nats_server: Start, pem: Certificates, mode: str) -> None:
    port = nats_server(tls(pem, f'ca_file: "{pem.ca}", verify: true, {mode}'))
    mine = {"MQ9_TLS_CERT": str(pem.client), "MQ9_TLS_KEY": str(pem.client_key)}
    async with connected(f"tls://127.0.0.1:{port}", MQ9_TLS_CA=str(pem.ca), **mine) as client:
        assert await works(client)
    with pytest.raises(BrokerUnavailable, match=r"client's certificate.* set MQ9_TLS_CERT and MQ9_TLS_KEY"):
        await connect_only(f"tls://127.0.0.1:{port}", MQ9_TLS_CA=str(pem.ca))


@pytest.mark.parametrize("path", ["", "/", "/any/path"])
async def test_a_websocket(nats_server: Start, path: str) -> None:
    port = nats_server("authorization { token: hunter2 }\nwebsocket { port: -1, no_tls: true }", "websocket")
    async with connected(f"ws://hunter2@127.0.0.1:{port}{path}") as client:
        assert await works(client)
        await client.force_reconnect()
        async with asyncio.timeout(10):
            while client.stats["reconnects"] < 1:
                await asyncio.sleep(0.01)
        assert await works(client)
    with pytest.raises(BrokerUnavailable, match=rf"the broker at ws://127\.0\.0\.1:{port}{path} wants credentials"):
        await connect_only(f"ws://127.0.0.1:{port}{path}")


async def test_a_websocket_with_tls(nats_server: Start, pem: Certificates) -> None:
    port = nats_server(f"websocket {{ port: -1, {tls(pem)} }}", "websocket")
    async with connected(f"wss://localhost:{port}", MQ9_TLS_CA=str(pem.ca)) as client:
        assert await works(client)
    with pytest.raises(BrokerUnavailable, match=r"wss://localhost:\d+ is not trusted"):
        await connect_only(f"wss://localhost:{port}")


async def test_a_websocket_whose_server_goes_away(nats_server: Start) -> None:
    lost = asyncio.Event()

    async def on_lost() -> None:
        lost.set()

    port = nats_server("websocket { port: -1, no_tls: true }\nmax_payload: 1000", "websocket")
    client, options = client_of(Endpoint.at(f"ws://127.0.0.1:{port}", {}))
    await client.connect(**options, disconnected_cb=on_lost, reconnect_time_wait=0.1)
    await client.publish("too.large", b"", headers={"x": "y" * 2000})
    async with asyncio.timeout(10):
        await lost.wait()
    await client.close()
