"""`mq9 hook claude-code|codex EVENT`: tells an agent how much unread mail it has, as its host's command hook.

The host writes what it knows of the event to stdin, and shows its model what this prints. It prints nothing when there
is nothing new to say, only counts when there is, and never fails: whatever goes wrong, the exit code is 0.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import time

from mq9_mcp import autostart, unread
from mq9_mcp.errors import MailboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

EVENTS = ("SessionStart", "UserPromptSubmit", "PostToolUse", "Stop")
WITHIN = 1.0  # seconds after which it says nothing, whatever it waits for
LONGEST = 1 << 24  # bytes of an event that are read: tools can give much
USAGE = f"""\
usage: mq9 hook claude-code|codex {"|".join(EVENTS)}
       mq9 hook claude-code|codex --print
       mq9 hook claude-code --plugin

A command hook of a coding agent: reads the event from stdin and says how much unread mail its session has, if that is
news. --print shows the `hooks` for Claude Code's settings.json, or Codex's hooks.json; --plugin, where the folder of
the plugin for Claude Code is, which has the MCP server, the hooks, and what wakes an idle session.
"""


def main(arguments: Sequence[str]) -> int:
    """Always 0: an agent goes on without us."""
    if {"-h", "--help"} & {*arguments}:
        print(USAGE, end="")
        return 0
    if arguments[1:] == ["--print"] and arguments[0] in unread.KINDS:
        from mq9_mcp.hooks import hooks_of

        print(json.dumps({"hooks": hooks_of(arguments[0])}, indent=2))
        return 0
    if list(arguments) == ["claude-code", "--plugin"]:
        from mq9_mcp.hooks import PLUGIN

        print(PLUGIN)
        return 0
    if len(arguments) != 2 or arguments[0] not in unread.KINDS or arguments[1] not in EVENTS:
        _write(2, f"mq9 hook: no hook is called {' '.join(arguments)!a}; see `mq9 hook --help`\n")
        return 0
    _thread.start_new_thread(_give_up, ())
    try:
        said = _answer(arguments[0], arguments[1], _event())
    except (MailboxError, OSError) as error:
        _write(2, f"mq9 hook: {str(error)!a:.300}\n")
    except Exception as error:
        _write(2, f"mq9 hook: {type(error).__name__}\n")
    else:
        if said:
            _write(1, json.dumps(said) + "\n")
    return 0


def _write(file: int, text: str) -> None:
    """Writes to stdout or stderr, if there is one and somebody reads it: nothing is left for the end of the process."""
    try:
        os.write(file, text.encode())
    except OSError:
        pass


def _give_up() -> None:
    """Ends the process in time, in whatever call it hangs."""
    time.sleep(WITHIN)
    os._exit(0)


def _event() -> dict[str, Any]:
    """What the host says. All of it is read: a host whose pipe breaks takes that for a failure."""
    if sys.stdin is None:
        return {}
    data = sys.stdin.buffer.read(LONGEST)
    while sys.stdin.buffer.read(LONGEST):
        pass
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _answer(host: str, name: str, event: dict[str, Any]) -> dict[str, Any] | None:
    """What to print, None for nothing."""
    # What is said to a sub-agent the agent never hears; and an agent that was kept from stopping once may stop.
    if event.get("agent_id") or event.get("stop_hook_active"):
        return None
    data_dir = autostart.data_dir()
    session = event.get("session_id")
    if host == "claude-code":
        pid = os.environ.get("CLAUDE_PID", "")
        session = session or os.environ.get("CLAUDE_CODE_SESSION_ID")
        session = (unread.served(int(pid), data_dir) if pid.isdecimal() else None) or session
    mailbox = unread.mailbox_of(host, session, data_dir) if isinstance(session, str) else None
    endpoint = unread.endpoint_of(mailbox.broker, data_dir) if mailbox else None
    if mailbox is None or endpoint is None:
        return None
    from mq9_mcp.wire import Wire

    with Wire(endpoint, name="mq9 hook", within=WITHIN) as wire:
        unread.ask(wire, mailbox)
        answer = wire.answer(WITHIN)
    state = unread.counts(answer[1]) if answer else None
    if state is None:
        return None
    told = unread.Told(mailbox, data_dir)
    starts = name == "SessionStart"  # what was said before may be forgotten
    news = told.is_news(state, again=starts)
    if starts:
        told.forget_old()
    if not news or _said_by_a_tool(event) == unread.unread(state):
        return None
    return _form(host, name, unread.words(state))


def _said_by_a_tool(event: dict[str, Any]) -> int:
    """How much unread mail the result of an mq9 tool has just spoken of."""
    result = event.get("tool_response")
    server = str(event.get("tool_name")).rpartition("__")[0]
    if not (server.startswith("mcp__") and server.endswith("mq9")):  # others count what is unread, too
        return 0
    if isinstance(result, dict):
        result = result.get("structuredContent")
    elif isinstance(result, str):
        try:
            result = json.loads(result)
        except ValueError:
            return 0
    count = result.get("unread") if isinstance(result, dict) else None
    return count if isinstance(count, int) else 0


def _form(host: str, name: str, text: str) -> dict[str, Any]:
    """`text` as the host wants to be told. Codex goes on after its Stop for nothing but this."""
    if (host, name) == ("codex", "Stop"):
        return {"decision": "block", "reason": text}
    return {"hookSpecificOutput": {"hookEventName": name, "additionalContext": text}}
