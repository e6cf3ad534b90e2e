"""Where a broker is and what it is shown: an address, credentials and certificates, from a URL and the environment.

    nats://host:port     TCP, and TLS when the broker asks for it
    tls://host:port      TLS, or no connection
    unix:///path         a socket of this machine
    ws://host:port       WebSocket; wss:// with TLS

Credentials are `token@` or `user:password@` in the URL, percent-encoded where they hold signs of their own; without
them an nkey ($MQ9_NKEY_SEED_FILE) or a token ($MQ9_TOKEN). $MQ9_TLS_CA, $MQ9_TLS_CERT and $MQ9_TLS_KEY name PEM files.
Nothing here is heavy to import, and nothing shows a secret.
"""

from __future__ import annotations

import json
import os
import socket

from mq9_mcp.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Any

INFO_WITHIN = 2.0  # seconds to wait for a greeting from whatever listens there
DEFAULT_PORT = 4222
SCHEMES = {"nats": DEFAULT_PORT, "tls": DEFAULT_PORT, "unix": 0, "ws": 80, "wss": 443}

NO_TLS = "does not offer TLS: give it a certificate, or write nats:// where nobody else is on the way"


def shown(url: str) -> str:
    """`url` without the credentials it may hold, whether it is a right one or not."""
    scheme, at, rest = url.partition("://") if "://" in url else ("", "", url)
    if scheme == "unix":
        _, found, path = rest.rpartition("@/")
        return f"unix://{'/' if found else ''}{path}"
    return f"{scheme}{at}{rest.rpartition('@')[2]}"


def has_credentials(url: str) -> bool:
    """Whether `url` holds what nobody else should read."""
    return shown(url) != url


def public_url(text: str) -> str:
    """A URL from a command line. Raises argparse's error when it holds credentials: everybody could read them there."""
    if has_credentials(text):
        import argparse

        raise argparse.ArgumentTypeError(
            f"the URL of {shown(text)} holds credentials, which everybody on this machine can see in a command: "
            f"set MQ9_URL to it instead"
        )
    return text


class Endpoint:
    """One broker as a client reaches it. `url` may be shown to anybody. `tls_first` is known after `version`: whether
    the broker expects TLS before it says anything."""

    def __init__(self, url: str, scheme: str, host: str, port: int, path: str = "") -> None:
        self.url = url
        self.scheme = scheme
        self.host = host
        self.port = port
        self.path = path
        self.user: str | None = None
        self.password = ""
        self.token = ""
        self.seed_file = ""
        self.tls_files: dict[str, str] = {}
        self.tls_first = False

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    @classmethod
    def at(cls, url: str, environ: Mapping[str, str] = os.environ) -> Endpoint:
        """Reads `url` and the environment. Raises BrokerUnavailable when it is no address of a broker."""
        from urllib.parse import unquote, urlsplit

        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            host, port = parts.hostname or "", parts.port or SCHEMES[parts.scheme]
        except (KeyError, ValueError):
            raise _no_address(url) from None
        local = parts.scheme == "unix"
        if local and not hasattr(socket, "AF_UNIX"):
            raise BrokerUnavailable(
                f"this system has no Unix sockets for {shown(url)}: use the broker's nats:// address"
            )
        web = parts.scheme in ("ws", "wss")
        pathless = not parts.path.strip("/")
        if local == bool(host) or (pathless if local else not (pathless or web)) or parts.query or parts.fragment:
            raise _no_address(url)
        made = cls(shown(url), parts.scheme, host, port, unquote(parts.path) if local else "")
        if parts.password is not None:
            made.user, made.password = unquote(parts.username or ""), unquote(parts.password)
        elif parts.username:
            made.token = unquote(parts.username)
        else:
            made.seed_file = environ.get("MQ9_NKEY_SEED_FILE", "")
            made.token = environ.get("MQ9_TOKEN", "")
        names = ("MQ9_TLS_CA", "MQ9_TLS_CERT", "MQ9_TLS_KEY")
        made.tls_files = {name: environ[name] for name in names if environ.get(name)}
        return made

    def version(self) -> str:
        """The version of the mq9 broker there. Raises BrokerUnavailable when there is none, with what is wrong."""
        try:
            info = self.greeting()
        except OSError as error:
            raise self.refusal(error) or BrokerUnavailable(
                f"no broker answers at {self.url} ({error.strerror or error or type(error).__name__}): "
                f"start one with `mq9 broker`, or correct MQ9_URL or --url"
            ) from None
        unproven = self.scheme in ("tls", "wss") and "MQ9_TLS_CERT" not in self.tls_files
        if unproven and info.get("tls_verify"):
            raise BrokerUnavailable(
                f"the broker at {self.url} asks for a client's certificate: set MQ9_TLS_CERT and MQ9_TLS_KEY"
            )
        if "mq9" not in info:
            hint = " (if it asks for a client's certificate, set MQ9_TLS_CERT and MQ9_TLS_KEY)" if unproven else ""
            raise BrokerUnavailable(
                f"what listens at {self.url} is no mq9 broker: correct MQ9_URL or --url, or start one with `mq9 broker`"
                f"{'' if info else hint}"
            )
        if self.scheme == "tls" and not (self.tls_first or info.get("tls_required") or info.get("tls_available")):
            raise BrokerUnavailable(f"the broker at {self.url} {NO_TLS}")
        return str(info["mq9"])

    def tls(self) -> ssl.SSLContext | None:
        """The certificates to use with TLS; None where nothing names any. Raises BrokerUnavailable for bad files."""
        if self.scheme in ("unix", "ws") or (self.scheme == "nats" and not self.tls_files):
            return None
        import ssl

        files = self.tls_files
        name = "MQ9_TLS_CA"
        try:
            context = ssl.create_default_context(cafile=files.get(name))
            if "MQ9_TLS_CERT" in files:
                name = "MQ9_TLS_CERT"
                context.load_cert_chain(files[name], files.get("MQ9_TLS_KEY"))
        except OSError as error:  # those of ssl are among them
            reason = error.strerror or str(error)
            raise BrokerUnavailable(
                f"the certificate file {files.get(name)} can't be used ({reason}): "
                f"correct {name}{' and MQ9_TLS_KEY' if name != 'MQ9_TLS_CA' else ''}"
            ) from None
        return context

    def refusal(self, error: Exception) -> BrokerUnavailable | None:
        """What to tell whom the broker does not take in, when `error` says so and trying again would not help."""
        if "authorization violation" in str(error).lower():
            if self.user is not None:
                tried = f"the password of user {self.user!r}: correct MQ9_URL"
            elif self.seed_file:
                tried = f"the nkey in {self.seed_file}: its public key must be among the broker's users"
            elif self.token:
                tried = "the token: correct MQ9_TOKEN, or the one in MQ9_URL"
            else:
                return BrokerUnavailable(
                    f"the broker at {self.url} wants credentials: set MQ9_TOKEN, or put user:password into MQ9_URL, "
                    f"like nats://user:password@host:4222"
                )
            return BrokerUnavailable(f"the broker at {self.url} does not accept {tried}")
        if NO_TLS in str(error):
            return BrokerUnavailable(f"the broker at {self.url} {NO_TLS}")
        if type(error).__module__ != "ssl":
            return None
        reason = getattr(error, "verify_message", "")
        if reason:
            return BrokerUnavailable(
                f"the certificate of the broker at {self.url} is not trusted ({reason.rstrip('.')}): set MQ9_TLS_CA to "
                f"the file of the authority that signed it, and use the host name it is made out to"
            )
        return BrokerUnavailable(
            f"TLS with the broker at {self.url} failed ({getattr(error, 'reason', '') or error}): if it asks for a "
            f"client's certificate, set MQ9_TLS_CERT and MQ9_TLS_KEY"
        )

    def greeting(self) -> dict[str, Any]:
        """The INFO that a NATS server sends first; empty when something else listens. Raises OSError when nothing does,
        and ssl's when it can't be trusted."""
        if self.scheme in ("ws", "wss"):
            from mq9_mcp.websocket import first_message

            return _info(first_message(self))
        context = self.tls() if self.scheme == "tls" else None
        with self.dial() as plain:
            if context is None:
                return _info(_first_line(plain))
            # a server that waits for TLS says nothing before it, one that does not says INFO whatever it hears
            plain.sendall(_client_hello(context, self.host))
            self.tls_first = plain.recv(1, socket.MSG_PEEK) not in (b"I", b"")
            if not self.tls_first:
                return _info(_first_line(plain))
        with self.dial() as plain, context.wrap_socket(plain, server_hostname=self.host) as secure:
            return _info(_first_line(secure))

    def dial(self, within: float = INFO_WITHIN) -> socket.socket:
        """A connected socket, without TLS, for a broker on TCP or a Unix socket; it takes `within` seconds at most for
        each step. Raises OSError."""
        if self.scheme != "unix":
            return socket.create_connection((self.host, self.port), timeout=within)
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(within)
        try:
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        return made


def _no_address(url: str) -> BrokerUnavailable:
    hint = ""
    if has_credentials(url):
        hint = ", and the signs :/?#[]@% in a password as % and their code"
    return BrokerUnavailable(
        f"{shown(url)!r} is no broker address: write it like nats://127.0.0.1:4222, tls://host:4222, "
        f"wss://host or unix:///path{hint}"
    )


def _first_line(sock: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < 1 << 16:
        try:
            chunk = sock.recv(8192)
        except TimeoutError:
            break
        if not chunk:
            break
        data += chunk
    return data


def _info(data: bytes) -> dict[str, Any]:
    if not data.startswith(b"INFO "):
        return {}
    try:
        info = json.loads(data[5 : data.find(b"\n")])
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}


def _client_hello(context: ssl.SSLContext, host: str) -> bytes:
    """The first bytes of a TLS handshake."""
    import ssl

    said = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=host).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return said.read()
