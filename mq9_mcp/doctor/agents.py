"""The agents on this machine, and whether mq9 is in them as it should be."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from mq9_mcp.doctor.finding import Finding
from mq9_mcp.doctor.servers import check_servers
from mq9_mcp.install import hooks, plans, plugin
from mq9_mcp.install.agents import PROJECT, USER, Agent
from mq9_mcp.install.files import Refused
from mq9_mcp.install.plans import Wish
from mq9_mcp.install.settings import Settings
from mq9_mcp.install.tables import Tables

PLUGIN = "mq9@skills-dir"  # what Claude Code calls a plugin in its folder of skills
ANSWER_WITHIN = 20.0  # seconds an agent's program has


def check_agent(agent: Agent, project: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """What `agent` has of mq9, for its user and in the folder `project`; nothing when neither has anything of it.
    `environ` is taken for the environment that it is started with."""
    if not agent.is_here() and not (PROJECT in agent.files and agent.file(PROJECT, project).exists()):
        return
    try:
        found = list(check_servers(agent, project, environ, hooked=_is_hooked(agent)))
        if agent.plugin and (agent.plugin / plugin.MANIFEST).exists():
            found += _check_plugin(agent, agent.plugin)
            found += [Finding(agent.name, "note", words) for words in plans.beside(agent, project)]
        if agent.hooks:
            found += _check_hooks(agent, agent.hooks)
    except Refused as error:
        yield Finding(agent.name, "problem", str(error))
        return
    if not found and agent.is_here():
        yield Finding(agent.name, "note", f"{agent.title} is here, without mq9", f"`mq9-mcp install {agent.name}`")
    yield from found


def _is_hooked(agent: Agent) -> bool:
    files = [agent.plugin / plugin.HOOKS] if agent.plugin else [agent.hooks] if agent.hooks else []
    return any(True for file in files for _ in hooks.ours(Settings(file, rewind=False)))


def _check_plugin(agent: Agent, folder: Path) -> Iterator[Finding]:
    hooked = folder / plugin.HOOKS
    if plans.install(agent, Wish(hooks=hooked.exists())).edits:
        yield Finding(
            agent.name,
            "note",
            f"the plugin in {folder} is not the one that this program writes",
            f"`mq9-mcp install {agent.name}` brings it up to date",
        )
    yield from _loaded(agent)
    if hooked.exists():
        yield from _hooks(agent, Settings(hooked, rewind=False))


def _loaded(agent: Agent) -> Iterator[Finding]:
    """What the agent itself says of the plugin, where its program is at hand."""
    found = agent.program and shutil.which(agent.program)
    if not found:
        return
    try:
        said = subprocess.run(
            [found, "plugin", "list", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_WITHIN,
        )
        state = next((one for one in json.loads(said.stdout) if one["id"] == PLUGIN), None)
    except (OSError, ValueError, TypeError, KeyError, subprocess.TimeoutExpired):
        return  # it says nothing that can be understood
    if state is None:
        mend = f"update it: `{agent.program} update`"
        yield Finding(agent.name, "problem", f"this {agent.title} does not load plugins from {agent.plugin}", mend)
    elif not state.get("enabled"):
        mend = f"`{agent.program} plugin enable {PLUGIN}`"
        yield Finding(agent.name, "problem", f"the plugin is disabled in {agent.title}", mend)


def _check_hooks(agent: Agent, file: Path) -> Iterator[Finding]:
    settings, config = Settings(file, rewind=False), Tables(agent.file(USER, Path()), rewind=False)
    found = list(hooks.ours(settings))
    yield from _hooks(agent, settings)
    if not found and config.get((agent.servers, plans.NAME)) is not None:
        yield Finding(
            agent.name, "note", "it is not told of new mail: there are no hooks", f"`mq9-mcp install {agent.name}`"
        )
    state = config.get(("hooks", "state"))
    trusted = state if isinstance(state, dict) else {}
    for event, (group, handler), _ in found:
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", event).lower()
        if f"{file}:{name}:{group}:{handler}" not in trusted:
            yield Finding(
                agent.name,
                "note",
                f"{agent.title} does not run its hook {event} yet: you have not said that you trust it",
                "`/hooks` in a session asks you",
            )
            return


def _hooks(agent: Agent, settings: Settings) -> Iterator[Finding]:
    """One finding for all hooks, or for the first one that cannot run."""
    events = []
    for event, _, command in hooks.ours(settings):
        program = _first_word(command)
        if shutil.which(program) is None:
            yield Finding(
                agent.name,
                "problem",
                f"the hook {event} runs {program}, which does not exist",
                f"`mq9-mcp install {agent.name}` writes where it is now",
            )
            return
        events.append(event)
    if events:
        yield Finding(agent.name, "ok", f"{agent.title} has hooks that tell it of new mail: {', '.join(events)}")


def _first_word(command: str) -> str:
    try:
        return shlex.split(command)[0]
    except (ValueError, IndexError):
        return command
