"""Edits of JSON text: what was asked for is done, and nothing else."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from install.documents import NAMES, VALUES, documents, patiently
from mq9_mcp.install import jsontext
from mq9_mcp.install.jsontext import NotJSON

ENTRY = {"command": "mq9-mcp", "args": []}
SERVERS = st.dictionaries(NAMES.filter("mq9".__ne__), VALUES, max_size=3)
GROUPS = st.fixed_dictionaries({}, optional={"Stop": st.lists(VALUES, max_size=3)})


def value_of(text: str) -> Any:
    return jsontext.parse(text).value


def values_are_the_same(text: str, expected: Any) -> bool:
    return json.dumps(value_of(text)) == json.dumps(expected)


@patiently
@given(VALUES, st.sampled_from([None, 2]))
def test_it_reads_what_python_reads(value: Any, indent: int | None) -> None:
    assert values_are_the_same(json.dumps(value, indent=indent), value)


@patiently
@given(documents(mcpServers=SERVERS))
def test_a_member_is_put_in_and_nothing_else_changes(text: str) -> None:
    expected = value_of(text)
    expected.setdefault("mcpServers", {})["mq9"] = ENTRY
    insertions = jsontext.insert(text, ("mcpServers", "mq9"), ENTRY)
    after = jsontext.apply(text, insertions)
    assert values_are_the_same(after, expected)
    for at, piece in insertions:  # each of them first stands where it says
        assert after[at : at + len(piece)] == piece
        after = after[:at] + after[at + len(piece) :]
    assert after == text


@patiently
@given(documents(mcpServers=SERVERS))
def test_a_member_that_was_put_in_is_taken_out_again(text: str) -> None:
    before = value_of(text)
    after = jsontext.remove(
        jsontext.apply(text, jsontext.insert(text, ("mcpServers", "mq9"), ENTRY)), ("mcpServers", "mq9")
    )
    assert values_are_the_same(after, {**before, "mcpServers": before.get("mcpServers", {})})
    if before.get("mcpServers"):
        assert after == text


@patiently
@given(documents(hooks=GROUPS))
def test_an_item_goes_behind_all_others_and_out_again(text: str) -> None:
    expected = value_of(text)
    items = expected.setdefault("hooks", {}).setdefault("Stop", [])
    items.append(ENTRY)
    after = jsontext.apply(text, jsontext.insert(text, ("hooks", "Stop"), ENTRY, item=True))
    assert values_are_the_same(after, expected)
    items.pop()
    assert values_are_the_same(jsontext.remove(after, ("hooks", "Stop", len(items))), expected)


@patiently
@given(documents(), st.data())
def test_any_part_can_be_taken_out_or_replaced(text: str, data: st.DataObject) -> None:
    node, path = jsontext.parse(text), ()
    expected = holder = node.value
    while node.parts and (not path or data.draw(st.booleans())):
        part = data.draw(st.sampled_from(node.parts))
        path, node, holder = (*path, part.name), part.node, node.value
    if not path:
        return
    replaced = jsontext.replace(text, path, {"new": [1]})
    kept, holder[path[-1]] = holder[path[-1]], {"new": [1]}
    assert values_are_the_same(replaced, expected)
    holder[path[-1]] = kept
    del holder[path[-1]]
    assert values_are_the_same(jsontext.remove(text, path), expected)


@patiently
@given(st.text(st.sampled_from(list('{}[]",:/* \n\\a1-tru'))))
def test_whatever_the_text_it_reads_what_is_json_and_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(NotJSON):
        jsontext.parse(text)
    try:
        strict = json.loads(text)
    except ValueError:
        return
    assert values_are_the_same(text, strict)


def test_the_last_of_two_members_with_one_name_counts() -> None:
    text = '{"servers": {"a": 1}, "servers": {"b": 2}}'
    after = jsontext.apply(text, jsontext.insert(text, ("servers", "mq9"), 3))
    assert after == '{"servers": {"a": 1}, "servers": {"b": 2, "mq9": 3}}'
    assert jsontext.remove(after, ("servers", "mq9")) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", '{\n  "s": {\n    "mq9": 1\n  }\n}'),
        ("", '{\n  "s": {\n    "mq9": 1\n  }\n}'),
        ('{\n    "s": {}\n}\n', '{\n    "s": {\n        "mq9": 1\n    }\n}\n'),
        ('{"s": {"a": 0}}', '{"s": {"a": 0, "mq9": 1}}'),
        ('{\n\t"s": {\n\t\t"a": 0 // why\n\t}\n}', '{\n\t"s": {\n\t\t"a": 0, // why\n\t\t"mq9": 1\n\t}\n}'),
        ('{\r\n "s": {\r\n  "a": 0,\r\n }\r\n}', '{\r\n "s": {\r\n  "a": 0,\r\n  "mq9": 1,\r\n }\r\n}'),
        ('{"s": {"a": 0 // why\n}}', '{"s": {"a": 0, "mq9": 1 // why\n}}'),
    ],
)
def test_it_looks_as_if_its_author_had_written_it(before: str, after: str) -> None:
    assert jsontext.apply(before, jsontext.insert(before, ("s", "mq9"), 1)) == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"s": 1, }}', "something stands behind the end (line 1, column 11)"),
        ('{\n "s" 1}', "a colon is missing (line 2, column 6)"),
        ('{\n "s": 1 "t": 2}', "a comma or } is missing (line 2, column 9)"),
        ("{s: 1}", "a value is missing (line 1, column 2)"),
        ("{1: 1}", "a name in double quotes is missing"),
        ('{"s": /* 1}', "a value is missing"),
        ('{"s": [1', "a comma or ] is missing"),
        ('{"s": ', "it ends too early"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(NotJSON, match=re.escape(said)):
        jsontext.parse(text)


@pytest.mark.parametrize(("text", "said"), [("[]", "the document is no object"), ('{"s": []}', "at 's' is no object")])
def test_what_has_another_shape_is_not_bent(text: str, said: str) -> None:
    with pytest.raises(NotJSON, match=said):
        jsontext.insert(text, ("s", "mq9"), 1)
