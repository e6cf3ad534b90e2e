"""The JSON that clients send of themselves: CONNECT's options, read as nats-server reads them."""

from __future__ import annotations

import json
from typing import Any

from mq9_broker.errors import ProtocolError


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written: a name may come twice."""


#: Every option that has a type, the ones for clusters included. Others may hold anything, and mean nothing.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("verbose", "pedantic", "echo", "headers", "no_responders", "tls_required", "new_account"), bool),
    **dict.fromkeys(("name", "lang", "version", "user", "pass", "auth_token", "nkey", "sig", "jwt", "account"), str),
    **dict.fromkeys(("remote_account", "proxy_sig"), str),
    **dict.fromkeys(("import", "export"), _Pairs),
    "protocol": int,
}
_HIGHEST = 1 << 63


def read_pairs(text: bytes) -> list[tuple[str, Any]]:
    """What a JSON object holds; of `null`, nothing. Bytes that are not UTF-8 are replaced.

    ProtocolError for everything else.
    """
    try:
        found = json.loads(text.decode("utf-8", "replace"), object_pairs_hook=_Pairs, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ProtocolError(None) from None
    if found is None:
        return []
    if not isinstance(found, _Pairs):
        raise ProtocolError(None)
    return found


def read_options(text: bytes) -> dict[str, Any]:
    """What a CONNECT says, names in lower case: options that are known, of their type, and not null.

    ProtocolError when one is of another type.
    """
    options: dict[str, Any] = {}
    for name, value in read_pairs(text):
        name = name.lower()
        kind = _TYPES.get(name)
        if kind is None or value is None:
            continue
        if type(value) is not kind or (isinstance(value, int) and not -_HIGHEST <= value < _HIGHEST):
            raise ProtocolError(None)
        options[name] = value
    return options


def _refuse(constant: str) -> None:
    raise ValueError(constant)
