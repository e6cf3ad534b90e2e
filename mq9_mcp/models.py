"""Payloads as typed values: what pydantic knows, with errors that show no values."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from mq9_mcp.errors import InvalidPayload

SHOWN = 5  # problems that an error names

T = TypeVar("T")


def read(kind: type[T], payload: bytes, name: str) -> T:
    """`payload`, JSON, as `kind`. Raises InvalidPayload; `name` is what the payload is called in it."""
    try:
        value: T = _adapter(cast(Hashable, kind)).validate_json(payload)
        return value
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        said = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'all of it'}: {problem['msg']}" for problem in problems[:SHOWN]
        )
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        wanted = getattr(kind, "__name__", str(kind))
        raise InvalidPayload(
            f"{name} is no {wanted} ({said}{more}): ask its sender, or read it with .json() or .text"
        ) from None


@lru_cache(64)
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))
