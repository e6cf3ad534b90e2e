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


def put(settings: Settings, groups: Groups) -> None:
    """Adds the group of each event, or puts its command into the handler of ours that is there. Raises Refused."""
    for event, group in groups.items():
        command = group["hooks"][0]["command"]
        place = next((place for place, _ in _ours(settings, event)), None)
        if place is None:
            settings.add(("hooks", event), group)
        else:
            settings.put((*place, "command"), command)


def take(settings: Settings) -> None:
    """Takes out our handlers, and the groups that held nothing else. Raises Refused."""
    events = settings.get(("hooks",))
    for event in list(events) if isinstance(events, dict) else []:
        while left := list(_ours(settings, event)):
            place, alone = left[-1]
            settings.drop(place[:3] if alone else place)


def ours(settings: Settings) -> Iterator[tuple[str, tuple[int, int], str]]:
    """Our hooks: the event, the numbers of the group and of the handler in it, and the command."""
    events = settings.get(("hooks",))
    for event in events if isinstance(events, dict) else {}:
        for place, _ in _ours(settings, event):
            yield event, (int(place[2]), int(place[4])), str(settings.get((*place, "command")))


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
