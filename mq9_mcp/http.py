"""Streamable HTTP: who may come in, and as whom.

A page in a browser may not (its Origin gives it away, and the Host by which it was led here). Beyond this machine, and
wherever there are tokens, only who shows one may: `Authorization: Bearer <token>`. A token with a name is that agent's.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mq9_mcp.callers import HANDED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/mcp"
VARIABLE = "MQ9_HTTP_TOKEN"
SHORTEST = 16  # characters of a token
STOP_WITHIN = 3  # seconds open streams have to end
_HERE = ("localhost", "127.0.0.1", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAKE_ONE = "`openssl rand -hex 32` makes one"


class BadTokens(Exception):
    """Tokens that cannot be used; the text says why, and shows none of them."""


@dataclass(frozen=True, slots=True)
class Token:
    """What lets in, by its hash. `name` is the agent it belongs to, "" when it says nothing of that."""

    digest: bytes
    name: str = ""


def read_tokens(file: str | None, environ: Mapping[str, str]) -> list[Token]:
    """The tokens in `file`, a line each, `TOKEN` or `NAME TOKEN`, and that in $MQ9_HTTP_TOKEN. Raises BadTokens."""
    tokens = []
    if file is not None:
        path = Path(file).expanduser()
        try:
            if os.name == "posix" and path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise BadTokens(f"everybody on this machine can open the token file {file}: chmod 600 it")
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise BadTokens(f"the token file {file} can't be read ({reason}): correct --token-file") from None
        for number, line in enumerate(lines, 1):
            where = f"line {number} of the token file {file}"
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) > 2 or (len(words) == 2 and not _NAME.fullmatch(words[0])):
                raise BadTokens(f"{where} is neither `TOKEN` nor `NAME TOKEN` (a name has a-z 0-9 . - _)")
            tokens.append(_token(words[-1], where, *words[:-1]))
        if not tokens:
            raise BadTokens(f"the token file {file} holds no token: write one into it; {_MAKE_ONE}")
    if environ.get(VARIABLE):
        tokens.append(_token(environ[VARIABLE], f"${VARIABLE}"))
    return tokens


def _token(text: str, where: str, name: str = "") -> Token:
    if len(text) < SHORTEST or not _TOKEN.fullmatch(text):
        raise BadTokens(f"{where} is no token: it needs {SHORTEST} letters and digits or more; {_MAKE_ONE}")
    return Token(_digest(text.encode()), name)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Door:
    """Lets in who may come in, and says to the SDK who that is: a session is then its opener's alone."""

    def __init__(self, app: ASGIApp, tokens: Sequence[Token], host: str) -> None:
        """`host` is the address that is listened on."""
        self._app = app
        self._tokens = tokens
        self._hosts = {*_HERE, host.lower()}
        self._local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        if self._local and not (hosts and all(_host_of(b"//" + value) in self._hosts for value in hosts)):
            await _answer(send, 421, "this server is reached by the address it listens on, and by no other name")
            return
        if not all(_host_of(value) in self._hosts for value in origins):
            await _answer(send, 403, "pages of other sites may not use this server")
            return
        if self._tokens:
            shown = [value for name, value in headers if name == b"authorization"]
            token = self._known(shown)
            if token is None:
                wrong = b', error="invalid_token"' if shown else b""
                text = "show one of this server's tokens: Authorization: Bearer <token>"
                await _answer(send, 401, text, (b"www-authenticate", b'Bearer realm="mq9"' + wrong))
                return
            scope["user"] = _user(token)
        await self._answered(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Has the request answered, and takes back what was handed to a caller who left before the answer was."""
        handed: list[Callable[[], None]] = []
        scope[HANDED] = handed
        gone = answered = False

        async def hear() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def say(message: Message) -> None:
            nonlocal answered
            await send(message)
            last = message["type"] == "http.response.body" and not message.get("more_body")
            answered = answered or (last and not gone)

        try:
            await self._app(scope, hear, say)
        finally:
            if not answered:
                for take_back in handed:
                    take_back()

    def _known(self, shown: Sequence[bytes]) -> Token | None:
        """The token in the one Authorization header. All are compared, each in a time that tells nothing."""
        if len(shown) != 1:
            return None
        scheme, _, text = shown[0].partition(b" ")
        digest = _digest(text.strip(b" "))
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found if scheme.lower() == b"bearer" else None


def _host_of(url: bytes) -> str | None:
    """The host in an origin or, behind `//`, in a Host header; None where there is none to be sure of."""
    try:
        parts = urlsplit(url.decode("ascii"))
        port = parts.port  # that it is one
    except ValueError:
        return None
    plain = parts.scheme in ("http", "https", "") and not (
        parts.path or parts.query or parts.fragment or parts.username
    )
    return parts.hostname if plain and port != 0 else None


def _user(token: Token) -> object:
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    client = token.digest.hex()[:16]
    return AuthenticatedUser(AccessToken(token="", client_id=client, scopes=[], subject=token.name or None))


async def _answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode() + b"\n"
    given = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(url: str | None, host: str, port: int, tokens: Sequence[Token]) -> None:
    """Serves until it is told to stop. Raises OSError when it cannot listen there. Port 0: any."""
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    from mq9_mcp.server import make_server, run

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        port = listener.getsockname()[1]
        server = make_server(url, environ={})
        app = server.streamable_http_app(
            streamable_http_path=PATH,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the door's work
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"mq9-mcp {version('mq9-mcp')} serving MCP at http://{shown}:{port}{PATH}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            Door(app, tokens, host), log_config=None, access_log=False, timeout_graceful_shutdown=STOP_WITHIN
        )
        run(partial(uvicorn.Server(config).serve, [listener]))
