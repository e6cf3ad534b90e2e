"""Which host a request was meant for."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mq9_broker.addresses import without_secrets


def is_local(address: str) -> bool:
    """Whether an address is this machine's own, which no other can reach."""
    return ip_address(address).is_loopback


class Named:
    """Refuses requests for another host's name: on a port of this machine only, that is a web page of somebody else's
    which had its own name point here, to read with the user's browser what is not for it."""

    def __init__(self, application: ASGIApp, names: frozenset[str]) -> None:
        self._application = application
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._application
        for name, value in scope.get("headers", ()):
            if name == b"host" and not self._ours(value.decode("latin-1")):
                text = f"{value.decode('latin-1')!r} is no name of this port: ask for localhost, or for its address\n"
                answer = PlainTextResponse(without_secrets(text), 403)
        await answer(scope, receive, send)

    def _ours(self, value: str) -> bool:
        try:
            host = urlsplit(f"//{value}").hostname or ""
            if host in self._names:
                return True
            ip_address(host)
        except ValueError:
            return False
        return True
