"""The servers mq9 in an agent's settings: whether each can run, and whether who looks for its mail finds it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from mq9_mcp import autostart
from mq9_mcp.doctor.finding import Finding
from mq9_mcp.endpoint import has_credentials, shown
from mq9_mcp.install import plans
from mq9_mcp.install.agents import USER, Agent

RUNNERS = ("uvx", "uv", "pipx")  # programs that run others, which their arguments name
SHOWN_TO_A_BROKER = ("MQ9_TOKEN", "MQ9_NKEY_SEED_FILE", "MQ9_TLS_CA", "MQ9_TLS_CERT", "MQ9_TLS_KEY")
_PACKAGE = re.compile(r"mq9-mcp(\[[\w,-]*\])?([@=<>!~].*)?")


def check_servers(agent: Agent, project: Path, environ: Mapping[str, str], *, hooked: bool) -> Iterator[Finding]:
    """The servers of `agent`, for its user and in the folder `project`. `environ` is where its hooks, if it is
    `hooked`, and the commands of people run. Raises Refused."""
    for file, entry in plans.entries(agent, project):
        command = entry.get("command") if isinstance(entry, dict) else None
        if not isinstance(command, str):
            yield Finding(
                agent.name,
                "note",
                f"{file} has a server mq9 that is no program: {plans.shown(entry, words=1)}",
                f"if it is no mq9, `mq9-mcp install {agent.name} --force` replaces it",
            )
        elif not _is_ours(command, _words(entry)):
            yield Finding(
                agent.name,
                "note",
                f"{file} has a server mq9 that runs another program, {command}",
                f"if it is no mq9, `mq9-mcp install {agent.name} --force` replaces it",
            )
        else:
            yield _program(agent, file, command)
            own = _environment(agent, entry, environ)
            yield from _check_folder(agent, file, own, environ, hooked)
            yield from _check_broker(agent, file, _url(entry), own, environ, hooked)


def brokers(agent: Agent, project: Path) -> Iterator[str]:
    """The URLs of brokers that the agent's entries name. Raises Refused."""
    for _, entry in plans.entries(agent, project):
        if isinstance(entry, dict) and (url := _url(entry) or _set(entry).get("MQ9_URL")):
            yield url


def _program(agent: Agent, file: Path, command: str) -> Finding:
    if shutil.which(command) is not None:
        return Finding(agent.name, "ok", f"{agent.title} has mq9: {file} runs {command}")
    missing = f"{command}, which does not exist" if os.path.dirname(command) else f"{command}, which is not on the PATH"
    mend = f"`mq9-mcp install {agent.name}` writes where it is now"
    if _name(command) in RUNNERS:
        mend = f"`mq9-mcp install {agent.name} --force` writes where mq9-mcp is"
    if agent.plugin and file == agent.file(USER, file):
        mend = f"`{agent.program} mcp remove {plans.NAME}` removes it, `mq9-mcp install {agent.name}` adds the plugin"
    return Finding(agent.name, "problem", f"{file} runs {missing}", mend)


def _check_folder(
    agent: Agent, file: Path, own: Mapping[str, str], environ: Mapping[str, str], hooked: bool
) -> Iterator[Finding]:
    try:
        there, here = autostart.data_dir(own), autostart.data_dir(environ)
    except (RuntimeError, ValueError):
        return  # the folder of a user who is none
    if there == here:
        return
    if own.get("MQ9_DATA_DIR"):
        mend = f"set MQ9_DATA_DIR to the same folder where {agent.title} is started, and in your shell"
    else:
        mend = f"give the server MQ9_DATA_DIR={here} in its `env`"
    yield Finding(
        agent.name,
        "note",
        f"the server in {file} keeps which mailbox is whose in {there}; {_others(hooked)} here look into {here}",
        mend,
    )


def _check_broker(
    agent: Agent, file: Path, url: str, own: Mapping[str, str], environ: Mapping[str, str], hooked: bool
) -> Iterator[Finding]:
    named = environ.get("MQ9_URL", "")
    url = url or own.get("MQ9_URL", "")
    alone = [name for name in SHOWN_TO_A_BROKER if own.get(name) and own[name] != environ.get(name)]
    if has_credentials(url) and url != named:
        alone.insert(0, "MQ9_URL")
    if alone and hooked:
        names = ", ".join(alone)
        yield Finding(
            agent.name,
            "note",
            f"{file} gives {names} to its server alone: hooks and `mq9` in an environment like this one show its "
            f"broker something else or nothing, and may hear of no mail",
            f"set {names} where {agent.title} is started, too",
        )
    elif url and shown(url) != shown(named):
        mend = "set MQ9_URL as there" if has_credentials(url) else f"`export MQ9_URL={shown(url)}`"
        yield Finding(
            agent.name,
            "note",
            f"the server in {file} uses the broker at {shown(url)}; `mq9` here uses "
            f"{f'the one at {shown(named)}' if named else 'the one of this machine'}",
            f"{mend} for programs and people that write to this agent",
        )


def _others(hooked: bool) -> str:
    return "its hooks and `mq9`" if hooked else "`mq9` and other agents"


def _environment(agent: Agent, entry: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """What the server is started with, as far as mq9 looks at it; `env_vars` is Codex's word for what it hands on."""
    if agent.inherited:
        return {**environ, **_set(entry)}
    passed = entry.get("env_vars")
    named = [one.get("name") if isinstance(one, dict) else one for one in passed] if isinstance(passed, list) else []
    return {**{name: value for name, value in environ.items() if name in named}, **_set(entry)}


def _set(entry: Mapping[str, Any]) -> dict[str, str]:
    """The variables that the entry sets itself. What refers to others (`${NAME}`) is taken for what is there."""
    env = entry.get("env")
    values = env.items() if isinstance(env, dict) else ()
    return {name: value for name, value in values if isinstance(value, str) and "${" not in value}


def _url(entry: Mapping[str, Any]) -> str:
    """The broker that the server's arguments name, "" for none."""
    words = _words(entry)
    for word, following in pairwise([*words, ""]):
        if word == "--url" or word.startswith("--url="):
            return word.removeprefix("--url=") if word != "--url" else following
    return ""


def _words(entry: Mapping[str, Any]) -> list[str]:
    words = entry.get("args")
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


def _is_ours(command: str, words: list[str]) -> bool:
    name = _name(command)
    return name == "mq9-mcp" or (name in RUNNERS and any(_PACKAGE.fullmatch(word) for word in words))


def _name(command: str) -> str:
    return Path(command.replace("\\", "/")).name.removesuffix(".exe")
