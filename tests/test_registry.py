"""What the MCP registry is told: it must fit the package, and the registry's rules."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from mq9_broker import __version__
from mq9_mcp.__main__ import EXAMPLES

ROOT = Path(__file__).parent.parent
SERVER = json.loads((ROOT / "server.json").read_bytes())


def test_it_is_what_the_registry_takes() -> None:
    """The rules of its schema for what is used here."""
    assert re.fullmatch(
        r"https://static\.modelcontextprotocol\.io/schemas/[\d-]+/server\.schema\.json", SERVER["$schema"]
    )
    assert SERVER.keys() <= {
        "$schema",
        "name",
        "title",
        "description",
        "version",
        "websiteUrl",
        "repository",
        "packages",
    }
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["title"]) <= 100
    assert 1 <= len(SERVER["description"]) <= 100
    for package in SERVER["packages"]:
        assert package.keys() <= {
            *("registryType", "identifier", "version", "runtimeHint", "transport"),
            *("runtimeArguments", "packageArguments", "environmentVariables"),
        }
        assert package["transport"] == {"type": "stdio"}
        for variable in package["environmentVariables"]:
            assert variable.keys() <= {"name", "description", "isSecret", "isRequired", "format", "default"}
            assert variable.get("format", "string") in ("string", "filepath")


def test_it_is_this_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (package,) = SERVER["packages"]
    assert (package["registryType"], package["identifier"]) == ("pypi", project["name"])
    assert package["identifier"] in project["scripts"], "what `uvx mq9-mcp` runs"
    assert {SERVER["version"], package["version"]} == {__version__}
    assert f"mcp-name: {SERVER['name']}" in (ROOT / project["readme"]).read_text(), "how the registry knows the owner"
    for variable in package["environmentVariables"]:
        assert variable["name"] in EXAMPLES
