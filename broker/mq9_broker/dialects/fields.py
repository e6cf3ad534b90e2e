"""The fields of a JSON request, each read with its rule: what breaks it is named, with its value."""

from __future__ import annotations

import json
from typing import Any, TypeGuard

import orjson

from mq9_broker.errors import Mq9Error

#: Bytes of a request above which it is not read again to say what was wrong with it: these take a millisecond.
_LONG = 16_384


class Fields:
    """One request, or an object in it: `text` is that of the request, `within` the names that lead to the object.
    Unknown fields are ignored, `null` is absent, an empty payload is `{}`."""

    __slots__ = ("_text", "_values", "_within")

    def __init__(self, values: dict[str, Any], text: bytes = b"", within: tuple[str, ...] = ()) -> None:
        self._values = values
        self._text = text
        self._within = within

    @classmethod
    def parse(cls, payload: bytes) -> Fields:
        if not payload:
            return cls({})
        try:
            values = orjson.loads(payload)
        except orjson.JSONDecodeError:
            try:
                # it takes what orjson does not: another encoding than UTF-8, half of a surrogate pair, NaN
                values = json.loads(payload)
            except (ValueError, RecursionError):
                raise Mq9Error("the request is not valid JSON") from None
        if not isinstance(values, dict):
            raise Mq9Error(f"the request must be a JSON object, not {_kind(values)}")
        return cls(values, payload)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not int:
            value = self._said(name)
        if type(value) is not int:
            raise Mq9Error(f"{name} must be an integer, not {_shown(value)}")
        if low <= value <= high:
            return value
        raise Mq9Error(f"{name} must be from {low} to {high}, not {_shown(value)}")

    def boolean(self, name: str) -> bool:
        value = self._values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise Mq9Error(f"{name} must be true or false, not {_shown(self._said(name))}")
        return value

    def text(self, name: str, default: str = "", limit: int = 1024) -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise Mq9Error(f"{name} must be a string, not {_shown(self._said(name))}")
        if len(value) > limit:
            raise Mq9Error(f"{name} has {len(value)} characters, allowed are {limit}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Mq9Error(f"{name} holds half of a surrogate pair, which is not text") from None
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, allowed[0])
        if value not in allowed:
            raise Mq9Error(f"{name} must be {' or '.join(allowed)}, not {_shown(value)}")
        return value

    def ids(self, name: str) -> list[int] | None:
        """A list of msg_ids; None when absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not _are_ids(value):
            value = self._said(name)
        if not _are_ids(value):
            raise Mq9Error(f"{name} must be a list of msg_ids, not {_shown(value)}")
        if len(value) > 10_000:
            raise Mq9Error(f"{name} has {len(value)} msg_ids, allowed are 10000 at a time")
        return value

    def texts(self, name: str, most: int) -> list[str]:
        """A list of at most so many strings; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise Mq9Error(f"{name} must be a list of strings, not {_shown(self._said(name))}")
        if len(value) > most:
            raise Mq9Error(f"{name} has {len(value)} entries, allowed are {most}")
        return [Fields({name: text}).text(name) for text in value]

    def nested(self, name: str) -> Fields:
        value = self._values.get(name)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            raise Mq9Error(f"{name} must be a JSON object, not {_shown(self._said(name))}")
        return Fields(value, self._text, (*self._within, name))

    def _said(self, name: str) -> Any:
        """A value as json reads it: orjson makes a float of an integer of more than 64 bits. In a long request it stays
        one: it is not worth to let everybody wait."""
        if len(self._text) > _LONG:
            return self._values.get(name)
        try:
            values = json.loads(self._text or b"{}")
        except RecursionError:
            values = {}
        for outer in self._within:
            values = values.get(outer, {})
        return values.get(name, self._values.get(name))


def _are_ids(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and (not value or ({*map(type, value)} == {int} and min(value) >= 1))


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def _shown(value: object) -> str:
    text = ""
    # (no more of it is written than is shown)
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += part
        if len(text) > 60:
            return text[:57] + "..."
    return text
