"""A scripted stand-in for a model, so that real coding agents run without a network.

It speaks just enough of the Anthropic Messages API (Claude Code) and of the OpenAI Responses API (Codex). Each request
of the main conversation takes the next step of the script; side calls (titles, quotas) offer no tools and take none.
Everything that an agent shows its model is in `requests`: tool results and the texts of hooks included.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Request:
    """One request of the main conversation. `time` is of time.monotonic(), as is that of others on this machine."""

    body: dict[str, Any]
    time: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        """All of it, to look something up in."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def news(self) -> str:
        """All text since the model last spoke: results of tools, what the user and hooks said."""
        return "\n".join(_strings(self._since_last_answer()))

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of tools since the model last spoke, those that are JSON objects."""
        texts = (text.rpartition("\nOutput:\n")[2] for text in _strings(self._since_last_answer()))  # Codex puts it so
        return [found for text in texts if (found := _object(text)) is not None]

    def _since_last_answer(self) -> list[Any]:
        items = self.body.get("messages") or self.body.get("input") or []
        new: list[Any] = []
        for item in reversed(items):
            if item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning"):
                break
            new.insert(0, item)
        return new


Step = dict[str, Any] | Callable[[Request], dict[str, Any]]


def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
    """A step: the model calls a tool of the mq9 server, `call("send", to="bob", body="hi")`."""
    return {"tool": tool, "input": arguments}


def say(text: str = "done") -> dict[str, Any]:
    """A step: the model answers, and its turn ends."""
    return {"text": text}


NOT_YET = "the tools are not there yet"


class Model:
    """A model on a port of its own that follows a script; when that is over it says `done` to everything.

    A step may be a function of the request, for what depends on what the agent was shown:

        with Model([call("check_inbox"), lambda seen: call("send", to=seen.results[0]["messages"][0]["from"], …)]) as m:
    """

    def __init__(self, script: Sequence[Step] = ()) -> None:
        self.requests: list[Request] = []
        self.faults: list[str] = []  # what a step's function raised
        self.put_off = 0  # how many requests came before the tools were there
        self._script = list(script)
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Handler,), {"model": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # an agent that was ended
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def then(self, *steps: Step) -> None:
        """More steps after those there are."""
        with self._changed:
            self._script += steps

    def ask(self, ask: Callable[[], None], *, within: float) -> bool:
        """Calls `ask` and waits for what comes of it: whether a request took a step, or was put off."""
        before, put_off = len(self.requests), self.put_off
        ask()
        with self._changed:
            asked = self._changed.wait_for(lambda: len(self.requests) > before or self.put_off > put_off, within)
            assert asked, f"nothing was asked of the model in {within} s"
            return len(self.requests) > before

    def wait(self, count: int, *, within: float) -> list[Request]:
        """All requests, as soon as there are so many. Raises AssertionError when there are fewer in time."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.requests) >= count or self.faults, within)
            assert not self.faults, self.faults
            assert enough, f"{len(self.requests)} of {count} requests in {within} s"
            return list(self.requests)

    def take(self, body: dict[str, Any], offered: bool = True) -> tuple[int, dict[str, Any]]:
        """(number, step) for a request: used by the server. While the mq9 server's tools are not `offered`, no call of
        one is made, and the request does not count."""
        request = Request(body)
        with self._changed:
            at = len(self.requests)
            step = self._script[at] if at < len(self._script) else say()
            if not isinstance(step, dict) or "tool" not in step or offered:
                self.requests.append(request)
            else:
                self.put_off += 1
                step = say(f"{NOT_YET} {self.put_off}")
            self._changed.notify_all()
        if callable(step):
            try:
                step = step(request)
            except Exception as error:
                with self._changed:
                    self.faults.append(f"step {at}: {error!r}")
                    self._changed.notify_all()
                step = say(f"the script is wrong: {error!r}")
        return at, step


class _Handler(BaseHTTPRequestHandler):
    model: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"data": [], "models": [], "object": "list"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = _object(raw) or {}
        if "count_tokens" in self.path:
            self._answer({"input_tokens": 10})
        elif self.path.startswith("/v1/messages"):
            self._messages(body)
        elif self.path.startswith("/v1/responses"):
            self._responses(body)
        else:
            self._answer({"error": {"type": "not_found_error", "message": self.path}}, 404)

    def _answer(self, content: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def _messages(self, body: dict[str, Any]) -> None:
        server = _server(body)
        at, step = self.model.take(body, bool(server)) if body.get("tools") else (0, say("{}"))
        if "tool" in step:
            block: dict[str, Any] = {"type": "tool_use", "id": f"toolu_{at:04d}", "input": {}}
            block |= {"name": f"{server}{step['tool']}"}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step["input"])}
            stop, filled = "tool_use", block | {"input": step["input"]}
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": step["text"]}
            stop, filled = "end_turn", block | {"text": step["text"]}
        usage = {"input_tokens": 10, "output_tokens": 5}
        message = {"id": f"msg_{at}", "type": "message", "role": "assistant", "model": body.get("model", "scripted")}
        message |= {"usage": usage}
        if not body.get("stream"):
            self._answer(message | {"content": [filled], "stop_reason": stop, "stop_sequence": None})
            return
        opening = message | {"content": [], "stop_reason": None, "stop_sequence": None}
        ending = {"stop_reason": stop, "stop_sequence": None}
        self._stream(
            [
                {"type": "message_start", "message": opening},
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": delta},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": ending, "usage": {"output_tokens": 5}},
                {"type": "message_stop"},
            ]
        )

    def _responses(self, body: dict[str, Any]) -> None:
        at, step = self.model.take(body) if body.get("tools") else (0, say("{}"))
        if "tool" in step:
            item = {"type": "function_call", "id": f"fc_{at}", "call_id": f"call_{at}", "name": step["tool"]}
            item |= {"arguments": json.dumps(step["input"]), "namespace": "mcp__mq9"}
        else:
            content = [{"type": "output_text", "text": step["text"]}]
            item = {"type": "message", "id": f"msg_{at}", "role": "assistant", "content": content}
        usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None}
        self._stream(
            [
                {"type": "response.created", "response": {"id": f"resp_{at}"}},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
                {"type": "response.completed", "response": {"id": f"resp_{at}", "usage": usage | {"total_tokens": 2}}},
            ]
        )


def _server(body: dict[str, Any]) -> str:
    """What Claude Code puts before the names of mq9's tools: it depends on who brought the server. "" without them."""
    names = (tool.get("name", "") for tool in body.get("tools") or [])
    return next((name.removesuffix("check_inbox") for name in names if name.endswith("__check_inbox")), "")


def _strings(part: Any) -> Iterator[str]:
    """Every text in it, whatever it is nested in."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from _strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from _strings(value)


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
