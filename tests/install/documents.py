"""Settings files as people and programs write them, for Hypothesis."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

patiently = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.sampled_from(["mcpServers", "mq9", "servers", "other", "a", "", 'say "x"', "ключ", "hooks", "Stop"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["// no comment", "/* nor this */", ",", "}", "]", "\\", "{"]),
)
COMMENTS = st.sampled_from(
    ["// to the end", "//", "/* in between */", "/**/", "/* two\n lines */", '// "mq9": {},', "/*,*/"]
)


@st.composite
def blanks(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.one_of(st.sampled_from([" ", "\n", "\r\n", "\t", "\n  ", "\n\n"]), COMMENTS), max_size=3))
    return "".join(part + "\n" if part.startswith("//") else part for part in parts)


@st.composite
def wild(draw: st.DrawFn, value: Any) -> str:
    """`value` with blanks and comments wherever they may be, and perhaps commas before closing brackets."""

    def gap() -> str:
        return str(draw(blanks()))

    if isinstance(value, dict):
        parts = [f"{gap()}{json.dumps(name)}{gap()}:{gap()}{draw(wild(item))}{gap()}" for name, item in value.items()]
        brackets = "{}"
    elif isinstance(value, list):
        parts = [f"{gap()}{draw(wild(item))}{gap()}" for item in value]
        brackets = "[]"
    else:
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    last = "," + gap() if parts and draw(st.booleans()) else "" if parts else gap()
    return brackets[0] + ",".join(parts) + last + brackets[1]


@st.composite
def tidy(draw: st.DrawFn, value: Any) -> str:
    """`value` as programs write it."""
    text = json.dumps(value, indent=draw(st.sampled_from([None, 2, 4, "\t"])), ensure_ascii=draw(st.booleans()))
    text = text.replace("\n", "\r\n") if draw(st.booleans()) else text
    return draw(st.sampled_from(["", "\ufeff"])) + text + draw(st.sampled_from(["", "\n", "\n\n"]))


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def documents(draw: st.DrawFn, **known: st.SearchStrategy[Any]) -> str:
    """The text of an object; the values at the names that are given are of the given kind, where there are any."""
    value = draw(st.dictionaries(NAMES, VALUES, max_size=4))
    for name, kind in known.items():
        value.pop(name, None)
        if draw(st.booleans()):
            value[name] = draw(kind)
    if draw(st.booleans()):
        items = list(value.items())
        value = dict(draw(st.permutations(items)))
    return str(draw(st.one_of(tidy(value), wild(value))))
