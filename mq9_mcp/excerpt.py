"""How much of a mailbox fits into one tool result, and how to go on reading where a result stopped.

Lengths are those of JSON text, because that is what a model is shown. A place to go on from is an address with a
fragment, `<mailbox>#<msg_id>+<characters>` inside a message and `<mailbox>#~<cursor>` in a list; without `<mailbox>` it
is the agent's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring

RESULT = 20_000  # characters in one result, about
ROOM = RESULT - 500  # characters of it for messages
FRAME = 200  # characters of names, quotes and numbers around a message, about
HEAD = 400  # characters of a body that are shown before another message is left for the next result

_PLACE = re.compile(r"(?P<mailbox>[^#]*)#(?:(?P<msg_id>[0-9]{1,18})\+(?P<offset>[0-9]{1,9})|~(?P<cursor>.+))")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on reading: inside the message `msg_id`, or in a list at `cursor`. `mailbox` is "" for one's own."""

    mailbox: str
    msg_id: int = 0
    offset: int = 0
    cursor: str = ""

    def __str__(self) -> str:
        return f"{self.mailbox}#~{self.cursor}" if self.cursor else f"{self.mailbox}#{self.msg_id}+{self.offset}"


def place(text: str) -> Place | None:
    """The place that `text` names, or None when it is a plain address."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return None
    if found["cursor"]:
        return Place(found["mailbox"], cursor=found["cursor"])
    return Place(found["mailbox"], int(found["msg_id"]), int(found["offset"]))


def cost(text: str) -> int:
    """The length of `text` as a JSON string."""
    return len(encode_basestring(text))


def cut(text: str, room: int, step: int = 1) -> str:
    """A beginning of `text` that costs at most `room` (10 or more), about as long as can be, in multiples of `step`."""
    if cost(text) <= room:
        return text
    text = text[:room]
    while (length := cost(text)) > room:
        text = text[: min(len(text) - 1, len(text) * room // length)]
    return text[: max(step, len(text) - len(text) % step)]


def fitting(messages: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """How many of `messages` fit into one result, and the room each body has then.

    A message is given as the cost of everything but its body, and the cost of its body. The first always fits. Short
    bodies leave their room to long ones.
    """
    count = used = 0
    for rest, body in messages:
        need = FRAME + rest + min(body, HEAD)
        if count and used + need > ROOM:
            break
        used += need
        count += 1
    room = max(HEAD, ROOM - sum(FRAME + rest for rest, _ in messages[:count]))
    bodies = sorted(body for _, body in messages[:count])
    for position, body in enumerate(bodies):
        share = room // (count - position)
        if body > share:
            return count, share
        room -= body
    return count, RESULT
