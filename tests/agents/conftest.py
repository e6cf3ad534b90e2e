"""Fixtures for tests with real coding agents, which are skipped by name where the programs are not installed.

    def test_it(model, claude):                  # `codex` likewise
        model.then(call("check_inbox"), say())
        claude(environ=…, plugin=…).run("go")

All agents of a test share the one `model` unless they are made with another: `claude(model=other)`. They share the data
folder of `broker`, which is found there as the broker of this machine would be; each gets a home of its own by `name`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import claude as claude_code
import codex as codex_cli
import pytest
from model import Model

from e2e.harness import Broker, eventually


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as made:
        yield made


@pytest.fixture
def nothing_left(broker: Broker) -> Iterator[None]:
    """What an agent starts ends with it: servers, hooks, monitors. They are known by their environment."""
    yield
    assert eventually(lambda: not _started_with(broker.data_dir), within=15), _started_with(broker.data_dir)


def _started_with(data_dir: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MQ9_DATA_DIR={data_dir}\0".encode() in (process / "environ").read_bytes() + b"\0":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def claude(model: Model, broker: Broker, tmp_path: Path, nothing_left: None) -> Callable[..., claude_code.Claude]:
    if claude_code.find() is None:
        pytest.skip(claude_code.NEEDS)

    def make(name: str = "claude", **options: Any) -> claude_code.Claude:
        options["environ"] = {"MQ9_DATA_DIR": str(broker.data_dir), **options.get("environ", {})}
        return claude_code.Claude(tmp_path / name, options.pop("model", model), **options)

    return make


@pytest.fixture
def codex(model: Model, broker: Broker, tmp_path: Path, nothing_left: None) -> Callable[..., codex_cli.Codex]:
    if codex_cli.find() is None:
        pytest.skip(codex_cli.NEEDS)

    def make(name: str = "codex", **options: Any) -> codex_cli.Codex:
        options["environ"] = {"MQ9_DATA_DIR": str(broker.data_dir), **options.get("environ", {})}
        return codex_cli.Codex(tmp_path / name, options.pop("model", model), **options)

    return make
