"""What has to be changed to add mq9 to an agent, or to take it out again; nothing is written here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mq9_mcp.install import files, hooks, plugin, program, record
from mq9_mcp.install.agents import USER, Agent
from mq9_mcp.install.document import Document, Edit
from mq9_mcp.install.files import Refused
from mq9_mcp.install.settings import Settings
from mq9_mcp.install.tables import Tables

NAME = "mq9"  # of the server, in every agent
_PLAIN = re.compile(r"-[A-Za-z]|--[a-z]+(-[a-z]+)*|[a-z]+://[\w.:-]+/?")  # options, and where a server is


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for. `url` is the broker's, None for what was installed before or this machine's; `wake` is
    for idle sessions of Codex, `force` for what others wrote."""

    scope: str = USER
    project: Path = Path()
    url: str | None = None
    hooks: bool = True
    wake: bool = False
    force: bool = False


@dataclass(slots=True)
class Plan:
    """`edits` are to be done in their order. `kept` says what is in the way and was left as it is, `notes` what to know
    afterwards."""

    edits: list[Edit] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, edit: Edit | None) -> None:
        if edit is not None:
            self.edits.append(edit)


def install(agent: Agent, wish: Wish) -> Plan:
    """Raises Refused when a file cannot be read or understood."""
    plan = Plan()
    if agent.plugin and wish.scope == USER:
        _put_plugin(plan, agent.plugin, agent, wish)
        plan.notes += beside(agent, Path.cwd())
        return plan
    settings, path = _settings(agent, wish)
    wanted = entry(agent, wish)
    if (known := settings.document.known) and isinstance(known.wrote, dict):  # what was asked for before stays so
        if not wish.url:
            wanted["args"] = known.wrote.get("args", [])
        if "env" in known.wrote:
            wanted["env"] = known.wrote["env"]
    if _put_entry(plan, settings, path, wanted, wish.force):
        plan.add(settings.installed(wanted))
    if wish.scope != USER and os.path.isabs(wanted["command"]):
        plan.notes.append(f"{wanted['command']} is a path of this machine: others who share the project have another")
    if agent.hooks and wish.scope == USER and wish.hooks and not plan.kept:
        there, groups = Settings(agent.hooks), _groups(agent)
        hooks.put(there, groups, wish.force)
        plan.add(there.installed(hooks.commands(groups)))
        inline = settings.get(("hooks",))
        if plan.edits and isinstance(inline, dict) and inline.keys() - {"state"}:
            plan.notes.append(
                f"{settings.document.path} has hooks, too. {agent.title} runs both, and says at its start that it "
                f"would rather have them in one file"
            )
    return plan


def uninstall(agent: Agent, wish: Wish) -> Plan:
    """Raises Refused when a file cannot be read or understood."""
    plan = Plan()
    if agent.plugin and wish.scope == USER:
        _take_plugin(plan, agent.plugin, agent, wish)
        plan.edits.reverse()  # the first one knows the folders that were made
        plan.notes += beside(agent, Path.cwd())
        return plan
    settings, path = _settings(agent, wish)
    if _take_entry(plan, settings, path, entry(agent, wish), wish.force):
        plan.add(settings.uninstalled())
    if agent.hooks and wish.scope == USER:
        there = Settings(agent.hooks)
        hooks.take(there, _groups(agent), wish.force)
        plan.add(there.uninstalled())
    plan.edits.reverse()
    return plan


def entry(agent: Agent, wish: Wish) -> dict[str, Any]:
    """The server as the agent's settings have it."""
    command = program.command(program.SERVER, desktop=agent.desktop and wish.scope == USER)
    env = {"env": {"MQ9_WAKE_CODEX": "1"}} if wish.wake else {}
    return {**agent.extra, "command": command, "args": ["--url", wish.url] if wish.url else [], **env}


def covers(there: Any, wanted: Any) -> bool:
    """Whether an entry says `wanted`, whatever it says beside it. A program may be named in another way."""
    if not isinstance(there, dict) or not isinstance(wanted, dict):
        return False
    said = {"args": [], **there}
    return all(
        said.get(name) == value or (name == "command" and program.same(said.get(name), value))
        for name, value in wanted.items()
    )


def entries(agent: Agent, project: Path) -> Iterator[tuple[Path, Any]]:
    """The entries mq9 in the agent's settings, those of its user and of `project`, and the file of each. Raises
    Refused."""
    for scope in agent.files:
        if agent.plugin and scope == USER:
            yield from _of_plugin(agent, agent.plugin, project)
            continue
        settings, path = _settings(agent, Wish(scope, project), rewind=False)
        there = settings.get(path)
        if there is not None:
            yield settings.document.path, there


def _of_plugin(agent: Agent, folder: Path, project: Path) -> Iterator[tuple[Path, Any]]:
    """The plugin's entry, and those that the agent's own command wrote, of which it keeps all in one large file."""
    file = agent.file(USER, project)
    try:
        state = json.loads(files.read(file) or "{}")
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file} cannot be understood: {error}. Correct it, or move it away") from None
    for place in ((agent.servers, NAME), ("projects", str(project), agent.servers, NAME)):
        there = state
        for name in place:
            there = there.get(name) if isinstance(there, dict) else None
        if there is not None:
            yield file, there
    there = Settings(folder / plugin.MANIFEST, rewind=False).get((agent.servers, NAME))
    if there is not None:
        yield folder / plugin.MANIFEST, there


def beside(agent: Agent, project: Path) -> Iterator[str]:
    """What stands beside a plugin and was written by the agent's own command. Raises Refused."""
    for file, there in _of_plugin(agent, agent.plugin, project) if agent.plugin else ():
        if file == agent.file(USER, project):
            yield (
                f"{file} has a server {NAME}, too: {shown(there, words=1)}. Of two that run the same program "
                f"{agent.title} takes that one, of others both: `{agent.program} mcp remove {NAME}` removes it"
            )


def shown(entry: Any, words: int | None = None) -> str:
    """An entry that somebody else wrote, as the first `words` of its command; its arguments without those that
    may be secrets."""
    if not isinstance(entry, dict):
        return "something that is no server"
    if isinstance(entry.get("command"), str):
        args = entry.get("args")
        given = [word for word in args if isinstance(word, str)] if isinstance(args, list) else []
        line = [entry["command"], *(word if _PLAIN.fullmatch(word) else "…" for word in given)]
        return f"`{' '.join(line[:words])}`"
    return "a server at a URL" if entry.get("url") else "a server without a command"


def _settings(agent: Agent, wish: Wish, *, rewind: bool = True) -> tuple[Settings | Tables, tuple[str, ...]]:
    file = agent.file(wish.scope, wish.project)
    kind = Tables if file.suffix == ".toml" else Settings
    return kind(file, rewind=rewind), (agent.servers, NAME)


def _put_entry(
    plan: Plan, settings: Settings | Tables, path: tuple[str, ...], wanted: dict[str, Any], force: bool
) -> bool:
    """Whether the entry will be as it is wanted."""
    there = settings.get(path)
    known = settings.document.known
    if there is None:
        settings.put(path, wanted)
    elif covers(there, wanted):
        pass
    elif known and covers(there, known.wrote):
        settings.put(path, {**there, **wanted})
    elif force:
        settings.drop(path)
        settings.put(path, wanted)
    else:
        plan.kept.append(
            f"{settings.document.path} has a server {NAME} that was not written from here: {shown(there)}. "
            f"--force replaces it"
        )
        return False
    return True


def _take_entry(
    plan: Plan, settings: Settings | Tables, path: tuple[str, ...], wanted: dict[str, Any], force: bool
) -> bool:
    there = settings.get(path)
    known = settings.document.known
    if there is None:
        return True
    ours = covers(there, known.wrote) if known else there == wanted
    if not ours and not force:
        plan.kept.append(
            f"{settings.document.path} has a server {NAME} that was not written from here: {shown(there)}. "
            f"--force removes it"
        )
        return False
    settings.drop(path)
    return True


def _groups(agent: Agent) -> hooks.Groups:
    return plugin.codex(program.command(program.COMMAND, desktop=agent.desktop))


def rendered(agent: Agent, folder: Path, wish: Wish) -> dict[str, str]:
    """The files of the agent's plugin by their names below its `folder`."""
    server = program.command(program.SERVER, desktop=agent.desktop)
    command = program.command(program.COMMAND, desktop=agent.desktop)
    return plugin.render(server, command, wish.url or _url_before(folder), hooks=wish.hooks)


def _url_before(folder: Path) -> str | None:
    """The broker that the plugin which is there names."""
    try:
        words = Settings(folder / plugin.MANIFEST, rewind=False).get(("mcpServers", NAME, "args"))
    except Refused:
        return None
    return str(words[1]) if isinstance(words, list) and len(words) == 2 and words[0] == "--url" else None


def _put_plugin(plan: Plan, folder: Path, agent: Agent, wish: Wish) -> None:
    wanted = rendered(agent, folder, wish)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / plugin.MANIFEST).exists():
        plan.kept.append(f"{folder} holds something else: move it away, mq9's plugin goes there")
        return
    for name, text in wanted.items():
        document = Document(folder / name)
        if document.text not in ("", text) and not wish.force:
            plan.kept.append(f"{document.path} was changed, or not written from here. --force replaces it")
        elif document.before is None or document.text != text:
            document.fill(text)
        plan.add(document.installed(True))
    for path in _left(folder, wanted):
        plan.add(Document(path).uninstalled(empty=True))
    if plan.kept:
        plan.edits.clear()


def _take_plugin(plan: Plan, folder: Path, agent: Agent, wish: Wish) -> None:
    wanted = rendered(agent, folder, wish)
    for path in [*(folder / name for name in wanted), *_left(folder, wanted)]:
        document = Document(path)
        if document.before is None:
            continue
        if document.text not in ("", wanted.get(path.relative_to(folder).as_posix())) and not wish.force:
            plan.kept.append(f"{path} was changed, or not written from here. --force removes it")
        folders = document.known.folders if document.known else [str(path.parent), str(folder)]
        plan.add(Edit(path, document.before, None, None, tuple(folders)))
    if plan.kept:
        plan.edits.clear()


def _left(folder: Path, wanted: dict[str, str]) -> list[Path]:
    """Files of an earlier plugin that the one of today does not have."""
    written = [Path(path) for path in record.load() if Path(path).is_relative_to(folder)]
    return [path for path in written if path.relative_to(folder).as_posix() not in wanted]
