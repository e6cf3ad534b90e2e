"""The Claude Code plugin as it is written for one user: the package's folder, with the programs' paths where needed.

Claude Code loads what lies in its folder `skills/<name>` with a `.claude-plugin/plugin.json` when a session starts:
without a network, a marketplace or a change of anybody's settings.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from typing import Any

from mq9_mcp.hooks import PLUGIN, hooks_of

MANIFEST = ".claude-plugin/plugin.json"
HOOKS = "hooks/hooks.json"
_PROGRAM = re.compile(r"^(exec )?mq9(?= )")


def render(server: str, command: str, url: str | None, *, hooks: bool) -> dict[str, str]:
    """The plugin's files by their names below its folder. `server` and `command` start `mq9-mcp` and `mq9`; without
    `hooks` it has only the tools."""
    manifest = json.loads((PLUGIN / MANIFEST).read_text("utf-8"))
    manifest["version"] = version("mq9-mcp")
    manifest["mcpServers"]["mq9"] |= {"command": server, "args": ["--url", url] if url else []}
    if hooks:
        for monitor in manifest["experimental"]["monitors"]:
            monitor["command"] = _PROGRAM.sub(
                lambda found: f"{found[1] or ''}{shlex.quote(command)}", monitor["command"]
            )
        return {MANIFEST: _text(manifest), HOOKS: _text({"hooks": hooks_of("claude-code", [command])})}
    del manifest["experimental"]
    return {MANIFEST: _text(manifest)}


def codex(command: str) -> dict[str, dict[str, Any]]:
    """The hooks for Codex: by event the group of handlers to add. `command` starts `mq9`."""
    return {event: group for event, (group,) in hooks_of("codex", [command]).items()}


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
