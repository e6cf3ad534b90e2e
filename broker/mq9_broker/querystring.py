"""What a monitoring request asks for, read as nats-server reads it: of a repeated name the first counts, an empty value
is none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mq9_broker.errors import Mq9Error

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE = frozenset(("", "0", "f", "F", "false", "False", "FALSE"))


class QueryString:
    """The values of a URL's query. Every reading of a bad value raises Mq9Error, which says what is allowed."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """The value as it is; empty when there is none."""
        return self._values.get(name, "")

    def flag(self, name: str) -> bool:
        """Whether it is set to true."""
        value = self.text(name)
        if value not in _TRUE and value not in _FALSE:
            raise Mq9Error(f"{name} must be true or false, not {value[:100]!r}")
        return value in _TRUE

    def number(self, name: str, default: int = 0) -> int:
        """A whole number; `default` when there is none, or one below 1."""
        value = self.text(name)
        if value and not _NUMBER.fullmatch(value):
            raise Mq9Error(f"{name} must be a whole number, not {value[:100]!r}")
        found = int(value or 0)
        return found if found > 0 else default

    def word(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of `allowed`, of which the first is the default."""
        value = self.text(name).lower() or allowed[0]
        if value not in allowed:
            raise Mq9Error(f"{name} must be one of {', '.join(allowed)}, not {value[:100]!r}")
        return value
