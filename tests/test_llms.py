"""llms.txt, which coding agents are given instead of the documentation: its form, and that it says what there is.

(Its code blocks are run with those of the documentation.)
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from mcp import Client

from mq9_mcp import AsyncMailbox, Mailbox, errors
from mq9_mcp.server import make_server

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "llms.txt").read_text()
CALL = re.compile(r"`(\w+)\(([^)]*)\)`", re.S)


def words(text: str) -> set[str]:
    """The names of arguments, without what marks them as optional or as keywords."""
    return {word.strip(" ?=\n") for word in text.split(",")} - {""}


def test_it_has_the_form_of_an_llms_txt() -> None:
    title, summary, rest = TEXT.split("\n\n", 2)
    assert title == "# mq9"
    assert summary.startswith("> ")
    assert "\n" not in summary
    about, *sections = re.split(r"^## .+$", rest, flags=re.M)
    prose = re.sub(r"^```.*?^```$", "", about, flags=re.M | re.S)
    assert not re.search(r"^#", prose, re.M)
    assert sections
    for section in sections:
        for line in section.strip().splitlines():
            link = re.match(r"- \[[^\]]+\]\(([^)]+)\)(: .+)?$", line)
            assert link, line
            assert (ROOT / link[1]).is_file(), line


def test_it_is_a_page() -> None:
    assert len(TEXT) < 12_000


def test_it_names_what_a_mailbox_client_can_do() -> None:
    methods = {name for name, _ in inspect.getmembers(Mailbox, callable) if not name.startswith("_")}
    named = set(re.findall(r"`(\w+)(?:\([^)]*\))?`", TEXT))
    assert methods - {"close"} - named == set()
    for name, arguments in CALL.findall(TEXT):
        if hasattr(AsyncMailbox, name) and "=" in arguments:
            known = inspect.signature(getattr(AsyncMailbox, name)).parameters.keys()
            assert words(arguments) <= known, name
    kinds = set(re.findall(r"`((?:Mailbox|Broker|No)[A-Z]\w+)`", TEXT))
    assert kinds
    assert all(issubclass(getattr(errors, kind), errors.MailboxError) for kind in kinds)


@pytest.mark.anyio
async def test_it_names_the_tools_and_their_arguments(tmp_path: Path) -> None:
    async with Client(make_server("nats://127.0.0.1:1", environ={}, data_dir=tmp_path)) as client:
        tools = {tool.name: set(tool.input_schema["properties"]) for tool in (await client.list_tools()).tools}
    said = {name: words(arguments) for name, arguments in CALL.findall(TEXT) if "?" in arguments}
    assert said == tools
