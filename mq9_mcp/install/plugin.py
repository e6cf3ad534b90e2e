"""The Claude Code plugin, as it is written for one user: the package's folder, with the programs' paths where needed.

Claude Code loads what lies in its folder `skills/<name>` with a `.claude-plugin/plugin.json` when a session starts:
without a network, a marketplace or a change of anybody's settings.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any

MANIFEST = ".claude-plugin/plugin.json"
HOOKS = "hooks/hooks.json"
_PROGRAM = re.compile(r"^(exec )?mq9(?= )")


def render(server: str, command: str, url: str | None, *, hooks: bool) -> dict[str, str]:
    """The plugin's files by their names below its folder. `server` and `command` start `mq9-mcp` and `mq9`."""
    rendered = {}
    for name, text in _templates().items():
        content = json.loads(text)
        if name == MANIFEST:
            content["version"] = version("mq9-mcp")
            content["mcpServers"]["mq9"] |= {"command": server, "args": ["--url", url] if url else []}
            if not hooks:
                content.pop("experimental", None)
        elif not hooks:
            continue
        rendered[name] = json.dumps(_with(content, shlex.quote(command)), indent=2, ensure_ascii=False) + "\n"
    return rendered


def codex(command: str) -> dict[str, dict[str, Any]]:
    """The hooks for Codex: by event the group of handlers to add."""
    content = json.loads(
        files("mq9_mcp").joinpath("plugin/claude-code", HOOKS).read_text("utf-8").replace(" claude-code ", " codex ")
    )
    groups: dict[str, dict[str, Any]] = _with(
        {event: added[0] for event, added in content["hooks"].items()}, shlex.quote(command)
    )
    return groups


def _templates() -> dict[str, str]:
    found: dict[str, str] = {}

    def gather(folder: Traversable, below: PurePosixPath) -> None:
        for item in folder.iterdir():
            if item.is_dir():
                gather(item, below / item.name)
            elif item.name.endswith(".json"):
                found[str(below / item.name)] = item.read_text("utf-8")

    gather(files("mq9_mcp").joinpath("plugin/claude-code"), PurePosixPath())
    return dict(sorted(found.items()))


def _with(content: Any, command: str) -> Any:
    """`content` with `command` for the word mq9 in every command line."""
    if isinstance(content, list):
        return [_with(item, command) for item in content]
    if isinstance(content, dict):
        return {
            name: _PROGRAM.sub(lambda found: f"{found[1] or ''}{command}", value)
            if name == "command" and isinstance(value, str)
            else _with(value, command)
            for name, value in content.items()
        }
    return content
