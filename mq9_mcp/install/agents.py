"""The agents that mq9 can be added to, and where each keeps its settings."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

USER, PROJECT = "user", "project"


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent. `files` are its settings with MCP servers by scope (those of a project below its folder), `servers`
    the name of the object there; `program` is its own command line; `home` the folder by which one sees that it is
    here. `desktop`: it is started from a desktop, which knows no shell's PATH. `extra` is what a server's entry has
    beside its command. `plugin` is the folder of a plugin for its user, `hooks` the file with the user's hooks.
    `inherited`: its servers have its environment, and not only what their entries say.
    """

    name: str
    title: str
    home: Path
    files: dict[str, Path]
    servers: str = "mcpServers"
    program: str | None = None
    desktop: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    plugin: Path | None = None
    hooks: Path | None = None
    inherited: bool = True

    def is_here(self) -> bool:
        return self.home.is_dir() or bool(self.program and shutil.which(self.program))

    def file(self, scope: str, project: Path) -> Path:
        """Raises KeyError when the agent has no such scope."""
        return project / self.files[scope]


def known() -> dict[str, Agent]:
    """All agents by name."""
    home = Path.home()
    claude = Path(os.environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")
    codex = Path(os.environ.get("CODEX_HOME") or home / ".codex")
    code = _applications(home) / "Code"
    desktop = _applications(home) / "Claude"
    agents = [
        Agent(
            "claude-code",
            "Claude Code",
            claude,
            # (without CLAUDE_CONFIG_DIR this one file stands beside the folder)
            {
                USER: (claude if "CLAUDE_CONFIG_DIR" in os.environ else home) / ".claude.json",
                PROJECT: Path(".mcp.json"),
            },
            program="claude",
            desktop=False,
            plugin=claude / "skills" / "mq9",
        ),
        Agent(
            "codex",
            "Codex",
            codex,
            {USER: codex / "config.toml"},
            servers="mcp_servers",
            program="codex",
            desktop=False,
            hooks=codex / "hooks.json",
            inherited=False,
        ),
        Agent("cursor", "Cursor", home / ".cursor", _both(home, ".cursor/mcp.json")),
        Agent(
            "vscode",
            "VS Code",
            code,
            {USER: code / "User" / "mcp.json", PROJECT: Path(".vscode/mcp.json")},
            servers="servers",
            program="code",
            extra={"type": "stdio"},
        ),
        Agent(
            "gemini",
            "Gemini CLI",
            home / ".gemini",
            _both(home, ".gemini/settings.json"),
            program="gemini",
            desktop=False,
        ),
        Agent(
            "windsurf",
            "Windsurf",
            home / ".codeium" / "windsurf",
            {USER: home / ".codeium" / "windsurf" / "mcp_config.json"},
        ),
    ]
    if sys.platform in ("darwin", "win32"):
        agents.append(
            Agent("claude-desktop", "Claude Desktop", desktop, {USER: desktop / "claude_desktop_config.json"})
        )
    return {agent.name: agent for agent in agents}


def _both(home: Path, name: str) -> dict[str, Path]:
    return {USER: home / name, PROJECT: Path(name)}


def _applications(home: Path) -> Path:
    """Where desktop programs keep their settings."""
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
