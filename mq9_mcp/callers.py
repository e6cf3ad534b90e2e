"""Who calls a tool: from an MCP request to the agent it belongs to.

Over stdio the host that started this process speaks for its user: it names the session in the environment, or the
thread in `_meta` of each call. Over HTTP anyone may have sent a request, so nothing in it is believed but its token:
one with a name is that agent's. Else a session is one that this server itself opened (handshake era); a request without
one comes from whoever knows the private address that it gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mq9_mcp.identity import caller_key, session_key
from mq9_mcp.loops import Recent
from mq9_mcp.reading import Inbox
from mq9_mcp.service import Agent, Service

SESSION_HEADER = "mcp-session-id"
HANDED = "mq9.handed"  # in the scope of an HTTP request: what takes back what was handed, if it is not answered
REMEMBERED = 100  # results that can be taken back

Request = ServerRequestContext[Service, Any]


def agent_of(request: Request, address: str | None = None) -> Agent:
    """The agent that calls. `address` is the argument that can prove one when there is no session."""
    service = request.lifespan_context
    if request.request is not None:
        if name := name_of(request.request.scope):
            return service.remembered(caller_key(name, service.broker))
        session = _http_session(request)
        return service.passing(session) if session else service.nobody(address)
    meta = (request.params or {}).get("_meta")
    thread_id = meta.get("threadId") if isinstance(meta, dict) else None
    key = session_key(service.environ, thread_id if isinstance(thread_id, str) else None, service.broker)
    if isinstance(thread_id, str) and service.codex is not None:
        service.codex.watch(thread_id)
    if key:
        return service.remembered(key)
    # A host with threads names them when it calls tools, and at no other time.
    only = service.only() if request.method != "tools/call" else None
    return only or service.passing("this process")


def name_of(scope: Mapping[str, Any]) -> str:
    """The agent that the token of an HTTP request is for; "" when it says nothing of that."""
    token = getattr(scope.get("user"), "access_token", None)
    return (token.subject or "") if token is not None else ""


class Handed:
    """What was handed to agents, by request, so that a result which its client no longer waited for is taken back.

    A client that cancels a call drops its result, even one that was on the way already. The mail in it comes again.
    """

    def __init__(self) -> None:
        self._results: Recent[tuple[str, str], tuple[Agent, Inbox]] = Recent(REMEMBERED)

    def over(self, request: Request, agent: Agent, inbox: Inbox) -> None:
        """The call is answered with this: what is in it may be acknowledged when the agent reads again."""
        agent.reader.handed(inbox)
        self._results[_http_session(request), str(request.request_id)] = (agent, inbox)
        if request.request is not None:
            request.request.scope.get(HANDED, []).append(partial(agent.reader.take_back, inbox))

    async def __call__(self, ctx: Request, call_next: CallNext) -> HandlerResult:
        """The server's middleware: takes back what a cancelled call was answered with; begins to connect to the broker
        when the first request is answered, so that no start waits for it."""
        if ctx.method == "notifications/cancelled":
            found = self._results.get((_http_session(ctx), str((ctx.params or {}).get("requestId"))))
            if found:
                agent, inbox = found
                agent.reader.take_back(inbox)
        result = await call_next(ctx)
        ctx.lifespan_context.start()
        return result


def _http_session(request: Request) -> str:
    """The session that this server opened for an HTTP client of the handshake era; "" for everything else."""
    if request.request is None or request.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return ""
    # The transport has checked it: a session that is not open never gets here.
    return str(request.request.headers.get(SESSION_HEADER, ""))
