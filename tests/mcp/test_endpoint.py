"""Where a broker is and what it is shown: URLs, the environment, greetings, and what is said of what is wrong."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mq9_mcp import endpoint
from mq9_mcp.endpoint import Endpoint, has_credentials, shown
from mq9_mcp.errors import BrokerUnavailable

NATS_SAYS_NO = Exception("nats: 'Authorization Violation'")


@contextmanager
def listener(*greeting: bytes) -> Iterator[int]:
    """A server on a free port that says something to its one client, in pieces, and waits until it leaves."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for piece in greeting:
                    connection.send(piece)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("nats://a:b@h:1", "nats://h:1"),
        ("nats://token@h:1", "nats://h:1"),
        ("u:p@h:1", "h:1"),
        ("nats://h:1", "nats://h:1"),
        ("h", "h"),
        ("tls://a:p%40ss@h", "tls://h"),
        ("nats://a:p@ss@h", "nats://h"),
        ("nats://a:p/s@h", "nats://h"),
        ("nats://a:p?s#s@h/", "nats://h/"),
        ("unix:///run/mq9.sock", "unix:///run/mq9.sock"),
        ("unix://a:b@/run/mq9.sock", "unix:///run/mq9.sock"),
        ("unix://a:b/c@/run/mq9.sock", "unix:///run/mq9.sock"),
        ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
    ],
)
def test_an_url_is_shown_without_its_password(url: str, seen: str) -> None:
    assert shown(url) == seen
    assert has_credentials(url) is (url != seen)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("nats://h:1", "nats", "h", 1, ""),
        ("nats://h", "nats", "h", 4222, ""),
        ("nats://h/", "nats", "h", 4222, ""),
        ("h:1", "nats", "h", 1, ""),
        ("h", "nats", "h", 4222, ""),
        ("127.0.0.1", "nats", "127.0.0.1", 4222, ""),
        ("nats://[::1]:7", "nats", "::1", 7, ""),
        ("tls://h:1", "tls", "h", 1, ""),
        ("TLS://h:1", "tls", "h", 1, ""),
        ("ws://h", "ws", "h", 80, ""),
        ("wss://h", "wss", "h", 443, ""),
        ("wss://u:p@h:1/any/path", "wss", "h", 1, ""),
        ("unix:///run/my%20mq9.sock", "unix", "", 0, "/run/my mq9.sock"),
        ("unix://u:p@/run/mq9.sock", "unix", "", 0, "/run/mq9.sock"),
    ],
)
def test_the_parts_of_an_url(url: str, scheme: str, host: str, port: int, path: str) -> None:
    at = Endpoint.at(url, {})
    assert (at.scheme, at.host, at.port, at.path) == (scheme, host, port, path)
    assert (at.token, at.seed_file, at.tls_files) == ("", "", {})
    assert not at.url.partition("://")[2].startswith("u:p")


@pytest.mark.parametrize(
    "url",
    [
        *("", "nats://", "nats://:1", "http://h", "ws://", "nats://h:x", "nats://h:99999", "nats://h/path"),
        *("nats://[::1", "unix://", "unix:///", "unix://h/path", "unix:path", "nats://h?x=1", "nats://h#x"),
        *("nats://u:pa/hunter2@h", "nats://u:hunter2#x@h", "nats://hunter2?@h", "nats://h:p:hunter2"),
    ],
)
def test_an_url_that_is_none(url: str) -> None:
    with pytest.raises(BrokerUnavailable, match="is no broker address: write it like") as wrong:
        Endpoint.at(url, {})
    assert "hunter2" not in str(wrong.value) or "@" not in url
    assert ("as % and their code" in str(wrong.value)) is ("@" in url)


ENVIRONMENT = {"MQ9_TOKEN": "from-environment", "MQ9_NKEY_SEED_FILE": "/seed"}


@pytest.mark.parametrize(
    ("url", "environ", "user", "password", "token", "seed_file"),
    [
        ("nats://h", {}, None, "", "", ""),
        ("nats://h", {"MQ9_TOKEN": ""}, None, "", "", ""),
        ("nats://h", ENVIRONMENT, None, "", "from-environment", "/seed"),
        ("nats://t@h", ENVIRONMENT, None, "", "t", ""),
        ("t@h", ENVIRONMENT, None, "", "t", ""),
        ("nats://u:p@h", ENVIRONMENT, "u", "p", "", ""),
        ("nats://u:@h", ENVIRONMENT, "u", "", "", ""),
        ("tls://u%40x:p%3A%2F%3F%23%5B%5D%40%25%C3%A4@h", {}, "u@x", "p:/?#[]@%ä", "", ""),
        ("unix://u:p@/s", ENVIRONMENT, "u", "p", "", ""),
        ("unix:///s", ENVIRONMENT, None, "", "from-environment", "/seed"),
    ],
)
def test_credentials(
    url: str, environ: dict[str, str], user: str | None, password: str, token: str, seed_file: str
) -> None:
    at = Endpoint.at(url, environ)
    assert (at.user, at.password, at.token, at.seed_file) == (user, password, token, seed_file)
    assert "from-environment" not in repr(at)
    assert "p:/?#" not in repr(at)


def test_the_environment_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_TOKEN", "t")
    assert Endpoint.at("nats://h").token == "t"


def test_a_greeting_in_pieces() -> None:
    with listener(*(bytes([byte]) for byte in b'INFO {"mq9":"9"} \r\n')) as port:
        assert Endpoint.at(f"nats://127.0.0.1:{port}", {}).version() == "9"


def test_a_greeting_on_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "mq9.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b'INFO {"mq9":"9"}\r\n')

        thread = threading.Thread(target=serve)
        thread.start()
        assert Endpoint.at(f"unix://{path}", {}).version() == "9"
        thread.join()


@pytest.mark.parametrize(
    "greeting", [b"", b'INFO {"server_id":"x"}\r\n', b"SSH-2.0\r\n", b"INFO {\r\n", b"INFO []\r\n"]
)
def test_what_is_no_broker(greeting: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "INFO_WITHIN", 0.2)
    text = r"what listens at nats://127\.0\.0\.1:\d+ is no mq9 broker"
    with listener(greeting) as port, pytest.raises(BrokerUnavailable, match=text):
        Endpoint.at(f"nats://hunter2@127.0.0.1:{port}", {}).version()


def test_what_speaks_http_is_no_broker() -> None:
    with listener(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port:
        at = Endpoint.at(f"ws://hunter2@127.0.0.1:{port}", {})
        with pytest.raises(BrokerUnavailable, match=r"what listens at ws://127\.0\.0\.1:\d+ is no mq9 broker"):
            at.version()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no broker answers at nats://127\.0\.0\.1:1 \(Connection refused\)"):
        Endpoint.at("nats://u:hunter2@127.0.0.1:1", {}).version()
    with pytest.raises(BrokerUnavailable, match=r"no broker answers at unix:///.*/none \(No such file or directory\)"):
        Endpoint.at(f"unix://{tmp_path}/none", {}).version()


def test_tls_is_insisted_on() -> None:
    with listener(b'INFO {"mq9":"9"}\r\n') as port:
        at = Endpoint.at(f"tls://hunter2@127.0.0.1:{port}", {})
        with pytest.raises(BrokerUnavailable, match=rf"^the broker at tls://127\.0\.0\.1:{port} does not offer TLS: "):
            at.version()


@pytest.mark.parametrize("offer", ["tls_required", "tls_available"])
def test_tls_after_the_greeting(offer: str) -> None:
    with listener(f'INFO {{"mq9":"9","{offer}":true}}\r\n'.encode()) as port:
        at = Endpoint.at(f"tls://127.0.0.1:{port}", {})
        assert at.version() == "9"
        assert not at.tls_first


@pytest.mark.parametrize("name", ["MQ9_TLS_CA", "MQ9_TLS_CERT"])
@pytest.mark.parametrize("content", [None, "nonsense"])
def test_certificates_that_cannot_be_used(tmp_path: Path, name: str, content: str | None) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BrokerUnavailable, match=rf"the certificate file {file} can't be used \(.+\): correct {name}"):
        Endpoint.at("nats://h", {name: str(file)}).tls()


def test_certificates_are_read_when_they_are_needed() -> None:
    assert Endpoint.at("nats://h", {}).tls() is None
    assert Endpoint.at("ws://h", {}).tls() is None
    assert isinstance(Endpoint.at("tls://h", {}).tls(), ssl.SSLContext)
    assert isinstance(Endpoint.at("wss://h", {}).tls(), ssl.SSLContext)


@pytest.mark.parametrize(
    ("url", "environ", "text"),
    [
        (
            "nats://h",
            {},
            "the broker at nats://h wants credentials: set MQ9_TOKEN, or put user:password into MQ9_URL, like "
            "nats://user:password@host:4222",
        ),
        (
            "nats://hunter2@h",
            {},
            "the broker at nats://h does not accept the token: correct MQ9_TOKEN, or the one in MQ9_URL",
        ),
        ("nats://u:hunter2@h", {}, "the broker at nats://h does not accept the password of user 'u': correct MQ9_URL"),
        (
            "nats://h",
            {"MQ9_NKEY_SEED_FILE": "/seed", "MQ9_TOKEN": "hunter2"},
            "the broker at nats://h does not accept the nkey in /seed: its public key must be among the broker's users",
        ),
    ],
)
def test_what_a_refused_client_is_told(url: str, environ: dict[str, str], text: str) -> None:
    at = Endpoint.at(url, environ)
    assert str(at.refusal(NATS_SAYS_NO)) == text
    assert at.refusal(OSError("refused")) is None
    assert at.refusal(Exception("nats: 'Stale Connection'")) is None


def test_tls_that_fails_is_explained() -> None:
    at = Endpoint.at("tls://h", {})
    assert str(at.refusal(ssl.SSLError(1, "[SSL] alert"))) == (
        "TLS with the broker at tls://h failed ([SSL] alert): if it asks for a client's certificate, set MQ9_TLS_CERT "
        "and MQ9_TLS_KEY"
    )


def test_it_is_light_to_import() -> None:
    code = "import sys, mq9_mcp.endpoint; print({'ssl', 'nats', 'asyncio', 'cryptography'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
