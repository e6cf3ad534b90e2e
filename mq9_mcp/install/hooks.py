"""The hooks of agents that keep them in a JSON file: by event a list of groups, each with a list of handlers.

    {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "mq9 hook codex Stop"}]}]}}

Ours stand behind all others of an event: agents remember by a hook's place that the user trusts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mq9_mcp.install.settings import Settings

Groups = dict[str, dict[str, Any]]

_OURS = re.compile(r"""(?:^|[/\\"' ])mq9(?:\.exe)?["']? (?:--url \S+ )?hook (?:codex|claude-code) """)


def put(settings: Settings, groups: Groups, force: bool) -> None:
    """Adds the group of each event in which nothing of ours is. What an earlier `install` wrote, and with `force` what
    anybody did, gets the command of today. Raises Refused."""
    written = _written(settings, groups)
    for event, group in groups.items():
        (command,) = commands({event: group})
        there = [place for place, _ in _ours(settings, event)]
        if not there:
            settings.add(("hooks", event), group)
        for place in there:
            if force or settings.get((*place, "command")) in written:
                settings.put((*place, "command"), command)


def take(settings: Settings, groups: Groups, force: bool) -> None:
    """Takes out the handlers that `install` wrote, with `force` all of ours, and the groups that held nothing else.
    Raises Refused."""
    written = _written(settings, groups)
    events = settings.get(("hooks",))
    for event in list(events) if isinstance(events, dict) else []:
        for place, alone in reversed(list(_ours(settings, event))):
            if force or settings.get((*place, "command")) in written:
                settings.drop(place[:3] if alone else place)


def commands(groups: Groups) -> list[str]:
    """The commands of all handlers."""
    return [handler["command"] for group in groups.values() for handler in group["hooks"]]


def ours(settings: Settings) -> Iterator[tuple[str, tuple[int, int], str]]:
    """Our hooks: the event, the numbers of the group and of the handler in it, and the command."""
    events = settings.get(("hooks",))
    for event in events if isinstance(events, dict) else {}:
        for place, _ in _ours(settings, event):
            yield event, (int(place[2]), int(place[4])), str(settings.get((*place, "command")))


def _written(settings: Settings, groups: Groups) -> list[str]:
    """The commands that the last `install` wrote; where that is not known, those that it would write."""
    known = settings.document.known
    return known.wrote if known and isinstance(known.wrote, list) else commands(groups)


def _ours(settings: Settings, event: str) -> Iterator[tuple[tuple[str | int, ...], bool]]:
    """Where our handlers of `event` are, and whether each is alone in its group."""
    groups = settings.get(("hooks", event))
    for at, group in enumerate(groups if isinstance(groups, list) else []):
        handlers = group.get("hooks") if isinstance(group, dict) else None
        if not isinstance(handlers, list):
            continue
        for number, handler in enumerate(handlers):
            if isinstance(handler, dict) and _OURS.search(str(handler.get("command", ""))):
                yield ("hooks", event, at, "hooks", number), len(handlers) == 1
