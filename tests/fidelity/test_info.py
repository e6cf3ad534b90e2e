"""INFO: what a server says of itself, first and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from e2e.harness import Wire
from e2e.ways import Certificates
from fidelity.servers import StartServer

OpenWire = Callable[..., Wire]

#: The fields that clients read, and their types. What is not here, clients leave alone.
ALWAYS = {
    "server_id": str,
    "server_name": str,
    "version": str,
    "proto": int,
    "host": str,
    "port": int,
    "headers": bool,
    "max_payload": int,
    "client_id": int,
    "client_ip": str,
}
#: Said when they are true or have a value, and left out otherwise.
SOMETIMES = {
    "auth_required",
    "tls_required",
    "tls_available",
    "tls_verify",
    "nonce",
    "ldm",
    "connect_info",
    "connect_urls",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def typed(info: dict[str, Any]) -> dict[str, type]:
    return {name: type(info[name]) for name in ALWAYS if name in info}


def test_its_fields(shared: StartServer, kind: str, wire: OpenWire) -> None:
    server = shared(kind)
    info = wire(server).info
    assert typed(info) == ALWAYS
    assert not SOMETIMES & info.keys()
    assert info["server_id"] == info["server_name"] != ""
    assert (info["proto"], info["headers"], info["max_payload"]) == (1, True, 1_048_576)
    assert (info["host"], info["port"], info["client_ip"]) == ("127.0.0.1", server.port, "127.0.0.1")
    assert [int(part) >= 0 for part in info["version"].split(".")] == [True, True, True]


def test_its_line_ends_in_a_blank(shared: StartServer, kind: str, wire: OpenWire) -> None:
    class Raw(Wire):
        def line(self) -> bytes:
            said = super().line()
            assert said.endswith(b"} ")
            return said

    Raw(shared(kind).port).close()


def test_every_connection_has_a_number_of_its_own(shared: StartServer, kind: str, wire: OpenWire) -> None:
    infos = [wire(shared(kind)).info for _ in range(3)]
    assert infos[0]["client_id"] < infos[1]["client_id"] < infos[2]["client_id"]
    assert len({info["server_id"] for info in infos}) == 1


def test_a_limit_that_was_set(shared: StartServer, kind: str, wire: OpenWire) -> None:
    assert wire(shared(kind, max_payload=64, max_control_line=128)).info["max_payload"] == 64


def test_a_server_that_asks_for_a_token(shared: StartServer, kind: str, wire: OpenWire) -> None:
    info = wire(shared(kind, token="sesame", auth_timeout=1), connect=None).info
    assert info["auth_required"] is True
    assert typed(info) == ALWAYS
    assert not SOMETIMES - {"auth_required"} & info.keys()


def test_a_server_that_knows_keys_gives_each_client_something_to_sign(
    shared: StartServer, kind: str, wire: OpenWire
) -> None:
    server = shared(kind, nkey="UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4")
    one, other = (wire(server, connect=None).info for _ in range(2))
    assert one["auth_required"] is True
    assert not SOMETIMES - {"auth_required", "nonce"} & one.keys()
    assert len(one["nonce"]) == len(other["nonce"]) == 15
    assert one["nonce"] != other["nonce"]


@pytest.mark.parametrize("optional", [False, True], ids=["tls required", "tls available"])
def test_a_server_with_a_certificate(
    start: StartServer, wire: OpenWire, certificates: Certificates, optional: bool
) -> None:
    settings: dict[str, Any] = {"tls": (str(certificates.cert), str(certificates.key))}
    server = start(**settings, tls_optional=True) if optional else start(**settings)
    info = wire(server, connect=None).info
    assert typed(info) == ALWAYS
    assert info["tls_available" if optional else "tls_required"] is True
    assert {name: info[name] for name in SOMETIMES & info.keys()} == (
        {"tls_available": True} if optional else {"tls_required": True}
    )


def test_clients_of_protocol_1_get_it_again(shared: StartServer, kind: str, wire: OpenWire) -> None:
    client = wire(shared(kind), connect={"verbose": False, "protocol": 1})
    client.send("PING\r\n")
    pong, again = client.line(), client.line()
    assert pong == b"PONG"
    info = json.loads(again.removeprefix(b"INFO "))
    assert info.pop("connect_info") is True
    assert {name: info[name] for name in client.info if name in ALWAYS} == {name: client.info[name] for name in ALWAYS}


@pytest.mark.parametrize("kind", ["mq9"])
def test_mq9_says_that_it_is_mq9(shared: StartServer, kind: str, wire: OpenWire) -> None:
    from mq9_broker import __version__

    assert wire(shared(kind)).info["mq9"] == __version__
