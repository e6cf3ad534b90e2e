"""The monitoring port: HTTP for people, probes and Prometheus, which answers only what may be known to whoever asks.

What it says is in `reports` and `metrics`. Import this module only where there is such a port: it brings a web server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mq9_broker import __version__, reports
from mq9_broker.addresses import without_secrets
from mq9_broker.clock import Clock
from mq9_broker.commit import Committer
from mq9_broker.config import Config
from mq9_broker.errors import Mq9Error
from mq9_broker.hosts import Named, is_local
from mq9_broker.metrics import Metrics, process_figures
from mq9_broker.pace import paced
from mq9_broker.process import Processor
from mq9_broker.querystring import QueryString
from mq9_broker.server import Server
from mq9_broker.tally import tally

_PATIENCE = 2.0
#: Seconds in which a connection has to ask something, and how many there may be.
_ASK_SECONDS = 5.0
_MOST_VISITS = 256
_log = logging.getLogger(__name__)

#: How much of a report is sent at a time, in characters.
_CHUNK = 32_768
_STOP_SECONDS = 1
_JSON = "application/json"
_PAGES = {
    "/healthz": "whether messages can be stored now",
    "/varz": "the broker as a whole",
    "/connz": "connections (?subs=1 or detail, sort=, limit=, offset=, cid=, user=, auth=1, state=)",
    "/subsz": "subscriptions (?subs=1, test=SUBJECT, limit=, offset=)",
    "/metrics": "figures for Prometheus",
}
#: What nats-server's probes say: here there is one check, and these choose nothing.
_HEALTH_FLAGS = ("js-enabled", "js-enabled-only", "js-server-only", "details")


class Monitor:
    """Answers on the monitoring port. `port` is known once it listens."""

    def __init__(
        self, server: Server, committer: Committer, config: Config, clock: Clock, *, patience: float = _PATIENCE
    ) -> None:
        """`patience`: seconds that a store may take to keep a probe."""
        self._patience = patience
        self._server = server
        self._committer = committer
        self._config = config
        self._clock = clock
        self._processor = Processor()
        self._asked: Counter[str] = Counter()
        self._http: _Http | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = config.monitor_port or 0

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address can't be had."""
        host = self._config.monitor_host
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found)
        listener = socket.create_server(address, family=family)
        self.port = listener.getsockname()[1]
        self._http = _Http(
            uvicorn.Config(
                self._application(
                    frozenset((host.lower(), "localhost")) if is_local(listener.getsockname()[0]) else None
                ),
                http=_Visit,
                ws="none",
                lifespan="off",
                interface="asgi3",
                workers=1,
                log_config=None,
                log_level="critical",  # bad requests are not the operator's concern, and our defects we log
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("cache-control", "no-store"), ("x-content-type-options", "nosniff")],
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        # what the first long answer would load takes 25 ms: better now than while clients wait
        async with anyio.create_task_group():
            self._serving = asyncio.create_task(self._http.serve([listener]))

    async def stop(self) -> None:
        """Finish what is being answered, for a second at most, and close the port."""
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving

    def _application(self, names: frozenset[str] | None) -> Starlette:
        pages = (
            ("/", self._index),
            ("/healthz", self._healthz),
            ("/varz", self._varz),
            ("/connz", self._connz),
            ("/subsz", self._subsz),
            ("/subscriptionsz", self._subsz),
            ("/metrics", self._metrics),
        )
        application = Starlette(
            routes=[Route(path, page, methods=["GET"]) for path, page in pages],
            middleware=[Middleware(Named, names=names)] if names is not None else [],
            exception_handlers={Mq9Error: _bad_request, HTTPException: _no_page, Exception: _defect},
        )
        application.router.redirect_slashes = False
        return application

    # the pages

    async def _index(self, request: Request) -> Response:
        self._asked["/"] += 1
        lines = "".join(f'<dt><a href=".{path}">{path}</a><dd>{text}' for path, text in _PAGES.items())
        title = f"mq9 broker {__version__}"
        return HTMLResponse(f"<!doctype html><title>{title}</title><h1>{title}</h1><dl>{lines}</dl>\n")

    async def _healthz(self, request: Request) -> Response:
        query = self._query(request)
        for name in _HEALTH_FLAGS:
            query.flag(name)
        stored: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._committer.try_store(lambda reason: None if stored.done() else stored.set_result(reason))
        try:
            reason = await asyncio.wait_for(stored, self._patience)
        except TimeoutError:
            reason = f"the store has not kept a probe within {self._patience:g} seconds"
        if not reason:
            return Response(b'{"status":"ok"}', media_type=_JSON)
        body = json.dumps({"status": "unavailable", "error": without_secrets(reason)}, separators=(",", ":"))
        return Response(body, 503, media_type=_JSON)

    async def _varz(self, request: Request) -> Response:
        self._query(request)
        total = await tally(self._server)
        report = reports.varz(self._server, self._config, total, self._clock.now())
        report |= {"http_port": self.port, "cpu": self._processor.percent(), "http_req_stats": dict(self._asked)}
        return Response(without_secrets(json.dumps(report, indent=2)), media_type=_JSON)

    async def _connz(self, request: Request) -> Response:
        return _streamed(await reports.connz(self._server, self._query(request), self._clock.now()))

    async def _subsz(self, request: Request) -> Response:
        return _streamed(await reports.subsz(self._server, self._query(request), self._clock.now()))

    async def _metrics(self, request: Request) -> Response:
        self._query(request)
        total = await tally(self._server)
        # (to count many open files takes milliseconds, in which Python waits for the system)
        process = await asyncio.to_thread(process_figures)
        body, content_type = Metrics(self._server.hub, total, process).text(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    def _query(self, request: Request) -> QueryString:
        self._asked[request.url.path.replace("/subscriptionsz", "/subsz")] += 1
        # of a repeated name the first counts
        return QueryString(dict(reversed(request.query_params.multi_items())))


class _Visit(H11Protocol):
    """A connection to the port. There are only so many, and none stays that asks nothing: each holds an open file, and
    the store needs files too."""

    _watch: asyncio.TimerHandle | None = None
    _answered: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > _MOST_VISITS:
            transport.abort()
        else:
            self._watch = self.loop.call_later(_ASK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        if self.cycle is self._answered:
            self.transport.abort()
            return
        if self.cycle is not None and self.cycle.response_complete:
            self._answered = self.cycle
        self._watch = self.loop.call_later(_ASK_SECONDS, self._look)


class _Http(uvicorn.Server):
    """A web server that leaves the signals to the broker."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _streamed(report: dict[str, Any]) -> Response:
    return StreamingResponse(_slices(_pieces(report)), media_type=_JSON)


async def _slices(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    """The text, a chunk at a time."""
    gathered: list[str] = []
    size = 0
    async for piece in paced(pieces):
        gathered.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield without_secrets("".join(gathered)).encode()
            gathered, size = [], 0
    yield without_secrets("".join(gathered)).encode()


def _pieces(value: Any) -> Iterator[str]:
    """JSON of which iterators are lists with a line for each item. A string is never cut in two."""
    if isinstance(value, Iterator):
        mark = "[\n"
        for item in value:
            yield mark
            yield from _pieces(item)
            mark = ",\n"
        yield "[]" if mark == "[\n" else "\n]"
    elif isinstance(value, dict) and any(isinstance(each, Iterator) for each in value.values()):
        mark = "{"
        for name, each in value.items():
            yield f"{mark}{json.dumps(name)}: "
            yield from _pieces(each)
            mark = ", "
        yield "}"
    else:
        yield json.dumps(value)


async def _bad_request(request: Request, wrong: Exception) -> Response:
    return PlainTextResponse(without_secrets(f"{wrong}\n"), 400)


async def _no_page(request: Request, wrong: Exception) -> Response:
    assert isinstance(wrong, HTTPException)
    if wrong.status_code == 405:
        text = f"{request.method} is not possible here: pages are read with GET or HEAD"
    else:
        text = f"there is no page {request.url.path[:200]!r}: there are {', '.join(_PAGES)}"
    return PlainTextResponse(without_secrets(f"{text}\n"), wrong.status_code, headers=dict(wrong.headers or {}))


async def _defect(request: Request, defect: Exception) -> Response:
    # (a client whose request turns out to be malformed while it is answered can't be answered: that is no defect)
    if not isinstance(defect, h11.LocalProtocolError):
        _log.error("the page %s hit a defect", request.url.path, exc_info=defect)
    return PlainTextResponse("this page hit a defect of the broker, which its log describes\n", 500)
