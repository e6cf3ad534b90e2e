"""What a coding agent is given so that it is told of its mail: the content of its hook configuration, a plugin."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mq9_mcp.hook import EVENTS

PLUGIN = Path(__file__).parent / "plugin" / "claude-code"  # a folder for `claude --plugin-dir` and marketplaces
TIMEOUT = 5  # seconds a host waits for a hook; it ends itself long before


def hooks_of(host: str, command: Sequence[str] = ("mq9",)) -> dict[str, Any]:
    """The value of `hooks` in Claude Code's settings.json, or all of Codex's hooks.json but that word around it.

    `host` is "claude-code" or "codex", `command` how that host starts the `mq9` program.
    """
    words = shlex.join([*command, "hook", host])
    return {
        event: [{"hooks": [{"type": "command", "command": f"{words} {event}", "timeout": TIMEOUT}]}] for event in EVENTS
    }
