"""Who gets into a broker that asks, beside nats-server with the same users: the same answers to the same bytes."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import nats
import nats.errors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client

from e2e.harness import QUIET, Broker, Wire, eventually

pytestmark = pytest.mark.anyio

# the pair of the NATS documentation
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
VIOLATION = b"-ERR 'Authorization Violation'\r\n"
SECRETS = ("hunter2", "correct-horse", "battery-staple")


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


ALICE, BOB = {"user": "alice", "password": "hunter2"}, {"user": "bob", "password": hashed("correct-horse")}
EVERYBODY = [ALICE, BOB, {"nkey": NKEY}]


def toml(users: list[dict[str, str]], more: str = "") -> str:
    tables = (
        "[[users]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in user.items()) for user in users
    )
    return more + "\n" + "".join(tables)


class NatsServer:
    """A nats-server on a free port."""

    def __init__(self, folder: Path, settings: str) -> None:
        ports = folder / "ports"
        ports.mkdir()
        (folder / "nats.conf").write_text(f'host: "127.0.0.1"\nport: -1\nports_file_dir: "{ports}"\n{settings}\n')
        program = Path(sys.executable).parent / "nats-server"
        self.process = subprocess.Popen([program, "-c", folder / "nats.conf"], stderr=subprocess.DEVNULL)
        said = eventually(lambda: [file for file in ports.glob("*.ports") if file.read_text().endswith("}")], within=15)
        self.port = int(json.loads(said[0].read_text())["nats"][0].rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module", params=["mq9", "nats-server"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker | NatsServer]:
    """A server that knows EVERYBODY, ours and the reference."""
    folder = tmp_path_factory.mktemp("guarded")
    if request.param == "mq9":
        (folder / "mq9.toml").write_text(toml(EVERYBODY))
        server: Broker | NatsServer = Broker(
            folder / "data", "--config", str(folder / "mq9.toml"), store="memory"
        ).start()
    else:
        server = NatsServer(folder, f"authorization {{ users: {json.dumps(EVERYBODY)} }}")
    yield server
    server.kill()


@pytest.fixture(scope="module", params=["plain", "hashed"])
def with_token(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("token") / "data", store="memory")
    broker.environ["MQ9_TOKEN"] = "hunter2" if request.param == "plain" else hashed("hunter2")
    yield broker.start()
    broker.kill()


@pytest.fixture
def start_guarded(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts a broker with a configuration file: `start_guarded(users, "auth_timeout = 1", "--log-level", "debug")`."""
    started: list[Broker] = []

    def start(users: list[dict[str, str]], more: str = "", *flags: str) -> Broker:
        file = tmp_path / "mq9.toml"
        file.touch(0o600)
        file.write_text(toml(users, more))
        started.append(Broker(tmp_path / "data", "--config", str(file), *flags, store="memory"))
        return started[-1].start()

    yield start
    for broker in started:
        broker.kill()


def connect(**options: Any) -> bytes:
    return b"CONNECT " + json.dumps({"verbose": False, "pedantic": False} | options).encode() + b"\r\nPING\r\n"


def signed(nonce: str) -> str:
    raw = base64.b32decode(SEED + "=" * 6)
    signature = Ed25519PrivateKey.from_private_bytes(raw[2:34]).sign(nonce.encode())
    return base64.urlsafe_b64encode(signature).decode().rstrip("=")


def refused(port: int, data: bytes) -> bytes:
    """What a server says after its greeting up to the end, to a client that leaves nothing for it to read."""
    with Wire(port, connect=None) as wire:
        wire.send(data)
        return wire.rest()


@pytest.mark.parametrize(
    "options",
    [
        {"user": "alice", "pass": "hunter2"},
        {"user": "bob", "pass": "correct-horse"},
        {"user": "alice", "pass": "hunter2", "auth_token": "x", "jwt": "x", "sig": "x"},
    ],
)
def test_who_is_let_in(guarded: Broker | NatsServer, options: dict[str, Any]) -> None:
    with Wire(guarded.port, connect=None) as wire:
        assert wire.info["auth_required"] is True
        assert len(wire.info["nonce"]) == 15
        assert (
            wire.raw(connect(**options) + b"SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n")
            == b"PONG\r\nMSG a 1 1\r\nx\r\nPONG\r\n"
        )


def test_an_nkey(guarded: Broker | NatsServer) -> None:
    with Wire(guarded.port, connect=None) as wire, Wire(guarded.port, connect=None) as other:
        assert wire.info["nonce"] != other.info["nonce"]
        proof = connect(nkey=NKEY, sig=signed(wire.info["nonce"]))
        assert wire.raw(proof) == b"PONG\r\n"
        assert other.raw(proof) == VIOLATION, "what one connection signed opens no other"


@pytest.mark.parametrize(
    "data",
    [
        connect(),
        connect(user="alice"),
        connect(user="alice", **{"pass": "wrong"}),
        connect(user="alice", **{"pass": "correct-horse"}),
        connect(user="bob", **{"pass": BOB["password"]}),
        connect(user="nobody", **{"pass": "hunter2"}),
        connect(auth_token="hunter2"),
        connect(nkey=NKEY, sig=signed("another nonce")),
        connect(nkey=NKEY, user="alice", **{"pass": "hunter2"}),
        b"PING\r\n",
        b"PUB a 1\r\nx\r\n",
        b"SUB > 1\r\n",
        b"+OK\r\n",
        b"\r\n",
        b" CONNECT {}\r\n",
        b"X",
    ],
)
def test_who_is_not(guarded: Broker | NatsServer, data: bytes) -> None:
    assert refused(guarded.port, data) == VIOLATION


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"CONNECT\r\n", b""),
        (b"CONNECT {\r\n", b""),
        (b"CONNECT []\r\n", b""),
        (b'CONNECT "x"\r\n', b""),
        (b"CONNECT \xff\r\n", b""),
        (b"CONNECT " + b"[" * 4000 + b"\r\n", b""),
        (b"CLOSE {}\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"CONNECT " + b"x" * 5000 + b"\r\n", b"-ERR 'maximum control line exceeded'\r\n"),
        (b'CONNECT {"name":"' + b"x" * 5000 + b'"}\r\n', b"-ERR 'maximum control line exceeded'\r\n"),
    ],
)
def test_garbage_at_the_door(guarded: Broker | NatsServer, data: bytes, answer: bytes) -> None:
    assert refused(guarded.port, data) == answer


@pytest.mark.parametrize("space", [b"", b"\x0b", b"\x0c", b"\r", b"\x1c", b"\x85", b"\xa0", b"\0"])
def test_nobody_gets_in_by_another_kind_of_space(guarded: Broker | NatsServer, space: bytes) -> None:
    assert refused(guarded.port, b"CONNECT" + space + b"{}\r\nSUB > 1\r\nPING\r\n") in (b"", VIOLATION)


def test_credentials_in_pieces(guarded: Broker | NatsServer) -> None:
    with Wire(guarded.port, connect=None) as wire:
        for byte in connect(user="bob", **{"pass": "correct-horse"}):
            wire.send(bytes([byte]))
        assert wire.raw(b"") == b"PONG\r\n"


def test_who_connects_again_has_to_be_as_good(guarded: Broker | NatsServer) -> None:
    with Wire(guarded.port, connect=None) as wire:
        wire.raw(connect(user="alice", **{"pass": "hunter2"}))
        wire.send(connect(user="alice", **{"pass": "wrong"}))
        assert wire.rest().endswith(VIOLATION)


@pytest.mark.parametrize(
    ("options", "admitted"),
    [
        ({"auth_token": "hunter2"}, True),
        ({"auth_token": "hunter2", "user": "x", "pass": "y"}, True),
        ({"auth_token": "wrong"}, False),
        ({"user": "hunter2"}, False),
        ({}, False),
    ],
)
def test_a_token(with_token: Broker, options: dict[str, Any], admitted: bool) -> None:
    with Wire(with_token.port, connect=None) as wire:
        assert wire.info["auth_required"] is True
        assert "nonce" not in wire.info
        assert wire.raw(connect(**options)).endswith(b"PONG\r\n" if admitted else VIOLATION)


async def test_the_client_library(guarded: Broker | NatsServer) -> None:
    url = f"127.0.0.1:{guarded.port}"
    for right in (f"nats://alice:hunter2@{url}", f"nats://bob:correct-horse@{url}"):
        client = await nats.connect(right)
        await client.flush()
        await client.close()
    for wrong in (f"nats://{url}", f"nats://alice:wrong@{url}", f"nats://hunter2@{url}"):
        client = Client()
        # (what it is refused with can be lost: nats-py sends more to a connection that is closed by then)
        with pytest.raises((nats.errors.Error, ConnectionResetError), match=r"Authorization Violation|reset"):
            await client.connect(wrong, allow_reconnect=False, error_cb=ignore)
        await client.close()


async def ignore(_: Exception) -> None:
    pass


@pytest.mark.parametrize("said", [b"", b"C", b'CONNECT {"user":"alice",'])
def test_a_slow_client(start_guarded: Callable[..., Broker], said: bytes) -> None:
    broker = start_guarded([ALICE], "auth_timeout = 1")
    begun = time.monotonic()
    assert refused(broker.port, said) == b"-ERR 'Authentication Timeout'\r\n"
    assert 0.9 < time.monotonic() - begun < 5


def test_a_broker_that_asks_for_nothing_says_so(server: Broker) -> None:
    with Wire(server.port) as wire:
        assert not {"auth_required", "nonce"} & wire.info.keys()


def test_credentials_are_seen_nowhere(start_guarded: Callable[..., Broker]) -> None:
    broker = start_guarded([*EVERYBODY, {"user": "carol", "password": "battery-staple"}], "", "--log-level", "debug")
    for options in (
        {"user": "alice", "pass": "hunter2"},
        {"user": "alice", "pass": "correct-horse"},
        {"user": "hunter2", "pass": "alice"},
        {"auth_token": "battery-staple"},
        {"nkey": SEED, "sig": SEED},
    ):
        with Wire(broker.port, connect=None) as wire:
            wire.raw(connect(**options))
    assert refused(broker.port, b'CONNECT {"pass":"battery-staple"\r\n') == b""
    assert b"has wrong credentials" in broker.log
    with Wire(broker.port, connect=None) as wire:
        shown = wire.info
    for secret in (*SECRETS, BOB["password"][7:], SEED):
        assert secret.encode() not in broker.log
        assert secret.encode() not in Path(f"/proc/{broker.pid}/cmdline").read_bytes()
        assert secret not in json.dumps(shown)
    assert broker.log.count(b"everybody can read") == 0


def reload(broker: Broker, text: str) -> str:
    """Writes the configuration file anew and has it read; what the broker logs of it."""
    before = len(broker.log)
    file = Path(broker.command[broker.command.index("--config") + 1])
    file.write_text(text)
    os.kill(broker.pid, signal.SIGHUP)
    eventually(lambda: b"reloaded" in broker.log[before:], within=10)
    return broker.log[before:].decode()


def test_users_come_and_go(start_guarded: Callable[..., Broker], wire: Callable[..., Wire]) -> None:
    broker = start_guarded(EVERYBODY)
    alice = wire(broker, connect=QUIET | {"user": "alice", "pass": "hunter2"})
    bob = wire(broker, connect=QUIET | {"user": "bob", "pass": "correct-horse"})
    key = wire(broker, connect=None)
    key.send(connect(**QUIET, nkey=NKEY, sig=signed(key.info["nonce"])))
    silent = wire(broker, connect=None)
    for client in (alice, bob, key):
        assert client.settle() == []

    assert "are reloaded" in reload(broker, toml([*EVERYBODY, {"user": "carol", "password": "battery-staple"}]))
    for client in (alice, bob, key):
        assert client.settle() == [], "who is still known stays"
    carol = wire(broker, connect=QUIET | {"user": "carol", "pass": "battery-staple"})
    assert carol.settle() == []

    reload(broker, toml([{"user": "alice", "password": "other"}, BOB]))
    for client in (alice, key, carol):
        assert client.rest().endswith(VIOLATION)
    assert silent.rest().endswith(VIOLATION)
    assert bob.settle() == []
    assert refused(broker.port, connect(user="alice", **{"pass": "hunter2"})) == VIOLATION
    again = wire(broker, connect=QUIET | {"user": "alice", "pass": "other"})
    assert again.settle() == []

    log = reload(broker, toml([{"user": "alice", "password": "other"}]) + 'pasword = "battery-staple"\n')
    assert "nothing is reloaded: user 1 has an unknown field 'pasword'" in log
    assert "nothing is reloaded" in reload(broker, 'token = "battery-staple\n')
    for client in (bob, again):
        assert client.settle() == []

    reload(broker, "")
    assert bob.settle() == []
    assert wire(broker).settle() == []
    for secret in SECRETS:
        assert secret.encode() not in broker.log


def test_the_door_is_closed_behind_those_inside(
    start_guarded: Callable[..., Broker], wire: Callable[..., Wire]
) -> None:
    broker = start_guarded([])
    inside = wire(broker)
    assert inside.settle() == []
    reload(broker, 'token = "hunter2"')
    assert inside.rest().endswith(VIOLATION)
    assert wire(broker, connect=QUIET | {"auth_token": "hunter2"}).settle() == []


def test_passwords_are_checked_beside_the_work(start_guarded: Callable[..., Broker], wire: Callable[..., Wire]) -> None:
    """While 20 wrong passwords are looked at, which takes seconds, somebody else's pings are answered."""
    broker = start_guarded([{"user": "slow", "password": hashed("correct-horse", 11)}, ALICE], "auth_timeout = 1")
    alice = wire(broker, connect=QUIET | {"user": "alice", "pass": "hunter2"})
    assert alice.settle() == []
    strangers = [wire(broker, connect=None) for _ in range(20)]
    begun = time.monotonic()
    for stranger in strangers:
        stranger.send(b'CONNECT {"user":"slow","pass":"wrong"}\r\n')
    waited = []
    while not select.select([strangers[-1].socket], [], [], 0)[0]:
        asked = time.monotonic()
        alice.settle()
        waited.append(time.monotonic() - asked)
    assert [stranger.rest() for stranger in strangers] == [VIOLATION] * 20, "none was too slow: it was we who took long"
    everything = time.monotonic() - begun
    assert max(waited) < everything / 4, f"{len(waited)} pings, the slowest {max(waited):.3f} s of {everything:.3f} s"


def test_a_file_that_everybody_can_read(start_guarded: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_guarded(EVERYBODY)
    assert broker.stop() == 0
    assert b"everybody can read" not in broker.log
    (tmp_path / "mq9.toml").chmod(0o644)
    broker.start()
    warning = f"{tmp_path}/mq9.toml holds credentials and everybody can read it: chmod 600 {tmp_path}/mq9.toml"
    assert eventually(lambda: warning in broker.log.decode(), within=5)
    assert broker.stop() == 0
    (tmp_path / "mq9.toml").write_text("port = 0\n")
    broker.start()
    assert broker.stop() == 0
    assert broker.log.count(b"everybody can read") == 1
