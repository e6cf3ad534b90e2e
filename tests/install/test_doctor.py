"""`mq9-mcp doctor` on machines that are well, and on others."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.harness import PRIVATE_ID, Broker, StartBroker
from install.documents import VALUES, documents, patiently
from install.homes import Said, run, snapshot, user
from mq9_mcp import autostart

PASSWORD = "hunter2"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")


@pytest.fixture
def home() -> Iterator[Path]:
    with user() as folder:
        yield folder


def problems(said: Said) -> list[str]:
    return [line.partition("✗ ")[2] for line in said.out.splitlines() if "✗" in line]


def notes(said: Said) -> list[str]:
    return [line.partition("· ")[2] for line in said.out.splitlines() if "· " in line]


@contextmanager
def greeter(*greetings: bytes) -> Iterator[str]:
    """A server that says its greetings, one to each who connects, and then nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # nobody has to come so often
                for greeting in greetings:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"


def test_a_machine_without_anything_is_well(home: Path) -> None:
    said = run("doctor")
    assert (said.code, said.err) == (0, "")
    assert "none runs now" in said.out
    assert snapshot(home) == {}
    assert not autostart.data_dir().exists()


def test_a_broker_is_told_by_its_folder_and_a_message_goes_through_it(
    server: Broker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQ9_DATA_DIR", str(server.data_dir))
    said = run("doctor")
    assert said.code == 0, said
    assert f"at {server.url}, with {server.data_dir}, running for " in said.out
    assert "a message was stored and read in " in said.out
    assert not PRIVATE_ID.search(said.out.encode())


def test_scripts_get_the_same(server: Broker, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_URL", server.url)
    (home / ".cursor").mkdir()
    said = run("doctor", "--json")
    answer = json.loads(said.out)
    assert (said.code, answer["healthy"]) == (0, True)
    by_area: dict[str, list[dict[str, Any]]] = {}
    for finding in answer["findings"]:
        by_area.setdefault(finding["area"], []).append(finding)
    assert by_area["broker"][1]["text"].startswith("a message was stored and read in ")
    assert by_area["cursor"] == [
        {"area": "cursor", "kind": "note", "text": "Cursor is here, without mq9", "mend": "`mq9-mcp install cursor`"}
    ]


def test_a_broker_that_does_not_answer_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_URL", f"nats://me:{PASSWORD}@127.0.0.1:1")
    said = run("doctor")
    assert said.code == 1
    (problem,) = problems(said)
    assert problem.startswith("no broker answers at nats://127.0.0.1:1 ")
    assert "start one with `mq9 broker`, or correct MQ9_URL" in problem
    assert PASSWORD not in said.out
    assert json.loads(run("doctor", "--json").out)["healthy"] is False
    assert problems(run("doctor", "--url", "nats://127.0.0.1:2"))[0].startswith(
        "no broker answers at nats://127.0.0.1:2"
    )


def test_credentials_that_the_broker_does_not_take_are_a_problem(
    start_broker: StartBroker, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mq9.toml"
    config.write_text(f'[[users]]\nuser = "alice"\npassword = "{PASSWORD}"\n')
    config.chmod(0o600)
    broker = start_broker("--config", str(config))
    monkeypatch.setenv("MQ9_URL", f"nats://alice:wrong-one@127.0.0.1:{broker.port}")
    said = run("doctor")
    assert said.code == 1
    assert problems(said) == [
        f"the broker at {broker.url} does not accept the password of user 'alice': correct MQ9_URL"
    ]
    monkeypatch.setenv("MQ9_URL", f"nats://alice:{PASSWORD}@127.0.0.1:{broker.port}")
    well = run("doctor")
    assert (well.code, problems(well)) == (0, [])
    assert PASSWORD not in said.out + well.out
    assert "wrong-one" not in said.out


def test_an_old_broker_and_one_that_says_nothing_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greeting = b'INFO {"mq9":"0.0.1","headers":true,"max_payload":1048576}\r\n'
    with greeter(*[greeting] * 3) as url:
        monkeypatch.setenv("MQ9_URL", url)
        said = run("doctor")
    assert said.code == 1
    assert any("older than this program" in note for note in notes(said))


@pytest.mark.parametrize("content", ["{", '{"version": 7}', '{"version": 1, "sessions": []}'])
def test_a_session_map_that_is_not_understood_is_a_problem(content: str, home: Path) -> None:
    file = autostart.data_dir() / "agents" / "sessions.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    said = run("doctor")
    assert said.code == 1
    assert problems(said)[0].startswith(f"{file}, which says whose mailbox is whose, cannot be used")
    assert file.read_text() == content


def test_what_is_remembered_is_counted_not_shown(home: Path) -> None:
    file = autostart.data_dir() / "agents" / "sessions.json"
    file.parent.mkdir(parents=True)
    secret = "m-" + "b" * 26
    entry = {"mail_id": secret, "send_only": "s-" + "c" * 26, "expires_at": 1}
    file.write_text(json.dumps({"version": 1, "sessions": {'["","thread","xyz"]': entry}}))
    said = run("doctor")
    assert "the mailboxes of 1 agent session are remembered" in said.out
    assert secret not in said.out


def test_a_data_folder_that_is_none_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("MQ9_DATA_DIR", str(home / "file"))
    assert problems(run("doctor")) == [f"{home / 'file'} is no folder"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everything")
def test_a_data_folder_that_cannot_be_written_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data").mkdir(mode=0o500)
    monkeypatch.setenv("MQ9_DATA_DIR", str(home / "data"))
    assert problems(run("doctor")) == [f"{home / 'data'} is not writable"]


def test_a_data_folder_that_others_may_see_is_noted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "data").mkdir()
    (home / "data").chmod(0o755)
    monkeypatch.setenv("MQ9_DATA_DIR", str(home / "data"))
    said = run("doctor")
    assert (said.code, notes(said)) == (0, [f"others may look into {home / 'data'}"])


@pytest.mark.parametrize("name", ["MQ9_NKEY_SEED_FILE", "MQ9_TLS_CA"])
def test_files_that_the_environment_names_must_be_there(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(home / "nothing"))
    assert problems(run("doctor")) == [f"{name} names {home / 'nothing'}, which cannot be read"]


def test_an_idle_time_that_is_none_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ9_IDLE_EXIT", "soon\x1b[31m")
    assert problems(run("doctor")) == ["MQ9_IDLE_EXIT is 'soon\\x1b[31m'"]


# --- agents


@pytest.mark.parametrize("agent", ["claude-code", "codex", "cursor", "gemini", "vscode", "windsurf"])
def test_what_install_wrote_is_well(agent: str, home: Path) -> None:
    run("install", agent, "--yes")
    said = run("doctor")
    assert (said.code, problems(said)) == (0, [])
    assert " has mq9: " in said.out
    assert ("hooks that tell it of new mail" in said.out) == (agent in ("claude-code", "codex"))
    assert not [note for note in notes(said) if "trust" not in note]


@pytest.mark.parametrize("agent", ["claude-code", "codex", "cursor"])
def test_a_program_that_is_gone_is_a_problem_until_it_is_installed_again(agent: str, home: Path) -> None:
    run("install", agent, "--yes")
    for path in home.rglob("*.*"):
        if path.suffix in (".json", ".toml") and path.name != "installed.json":
            own = str(Path(sys.prefix) / "bin")
            path.write_text(path.read_text().replace(own, "/gone/bin"))
    said = run("doctor")
    assert said.code == 1
    assert problems(said)[0].endswith("runs /gone/bin/mq9-mcp, which does not exist")
    assert "mq9-mcp install" in said.out
    run("install", agent, "--yes", "--force")
    assert run("doctor").code == 0


def test_a_broken_configuration_is_a_problem(home: Path) -> None:
    for name in (".cursor/mcp.json", ".codex/config.toml", ".gemini/settings.json"):
        (home / name).parent.mkdir()
        (home / name).write_text('{"mcpServers": ')
    said = run("doctor")
    assert said.code == 1
    assert len(problems(said)) == 3
    assert all("cannot be understood" in problem for problem in problems(said))


def test_a_server_of_somebody_else_is_noted_without_its_secrets(home: Path) -> None:
    (home / ".cursor").mkdir()
    entry = {"command": "/opt/theirs", "args": ["--token", PASSWORD], "env": {"TOKEN": PASSWORD}}
    (home / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"mq9": entry}}))
    said = run("doctor")
    assert said.code == 0
    assert f"{home / '.cursor/mcp.json'} has a server mq9 that runs another program, /opt/theirs" in notes(said)
    assert PASSWORD not in said.out


def test_a_broker_that_an_agent_names_is_tried_too(home: Path) -> None:
    run("install", "cursor", "--yes", "--url", "nats://127.0.0.1:1")
    said = run("doctor")
    assert said.code == 1
    assert problems(said)[0].startswith("no broker answers at nats://127.0.0.1:1 ")


def test_servers_that_claude_added_itself_are_seen(home: Path) -> None:
    (home / ".claude").mkdir()
    ours = {"type": "stdio", "command": sys.executable.replace("python", "mq9-mcp"), "args": []}
    state = {"projects": {str(home): {"mcpServers": {"mq9": {**ours, "command": "/gone/mq9-mcp"}}}}}
    (home / ".claude.json").write_text(json.dumps(state))
    assert problems(run("doctor")) == [f"{home / '.claude.json'} runs /gone/mq9-mcp, which does not exist"]
    installed = run("install", "claude-code", "--yes")
    assert installed.code == 0
    assert "`claude mcp remove mq9` removes it" in installed.out
    assert json.loads((home / ".claude.json").read_text()) == state


def test_hooks_that_codex_does_not_trust_yet_are_noted(home: Path) -> None:
    run("install", "codex", "--yes")
    assert any("you have not said that you trust it" in note for note in notes(run("doctor")))
    with (home / ".codex/config.toml").open("a") as config:
        for event in ("session_start", "user_prompt_submit", "post_tool_use", "stop"):
            place = f"{home}/.codex/hooks.json:{event}:0:0"
            config.write(f'\n[hooks.state."{place}"]\ntrusted_hash = "sha256:0"\n')
    assert not any("trust" in note for note in notes(run("doctor")))


def configure(home: Path, agent: str, **values: Any) -> None:
    """`agent` with mq9 and its hooks, and these values in the server's entry, as its user writes them."""
    run("install", agent, "--yes")
    if agent == "codex":
        with (home / ".codex/config.toml").open("a") as file:
            for name, value in values.items():
                pairs = ", ".join(f"{key} = {json.dumps(text)}" for key, text in value.items())
                file.write(
                    f"{name} = {{ {pairs} }}\n" if isinstance(value, dict) else f"{name} = {json.dumps(value)}\n"
                )
    else:
        entry = {"command": str(Path(sys.prefix) / "bin/mq9-mcp"), **values}
        (home / ".mcp.json").write_text(json.dumps({"mcpServers": {"mq9": entry}}))


def apart(said: Said) -> list[str]:
    return [note for note in notes(said) if "the server in " in note or "its server alone" in note]


HOOKED = ["claude-code", "codex"]


@pytest.mark.parametrize("agent", HOOKED)
def test_credentials_that_a_server_has_alone_are_noted_and_not_shown(
    agent: str, server: Broker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"nats://me:{PASSWORD}@127.0.0.1:{server.port}"
    configure(home, agent, env={"MQ9_URL": url, "MQ9_TOKEN": PASSWORD, "MQ9_NKEY_SEED_FILE": "/seeds/mine"})
    said = run("doctor")
    (note,) = apart(said)
    assert " gives MQ9_URL, MQ9_TOKEN, MQ9_NKEY_SEED_FILE to its server alone: hooks and `mq9` in an " in note
    assert "→ set MQ9_URL, MQ9_TOKEN, MQ9_NKEY_SEED_FILE where " in said.out
    assert PASSWORD not in said.out
    monkeypatch.setenv("MQ9_TOKEN", PASSWORD)
    monkeypatch.setenv("MQ9_URL", url)
    configure(home, "claude-code", env={"MQ9_URL": url, "MQ9_TOKEN": "${MQ9_TOKEN}"})
    assert not [note for note in apart(run("doctor")) if ".mcp.json" in note]


@pytest.mark.parametrize("args", [["--url", "nats://127.0.0.1:1"], ["--url=nats://127.0.0.1:1"]])
def test_a_broker_that_only_the_server_knows_is_noted(
    args: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, "claude-code", args=args)
    said = run("doctor")
    assert apart(said) == [
        f"the server in {home}/.mcp.json uses the broker at nats://127.0.0.1:1; `mq9` here uses the one of this machine"
    ]
    assert "→ `export MQ9_URL=nats://127.0.0.1:1` for programs and people that write to this agent" in said.out
    assert problems(said)[0].startswith("no broker answers at nats://127.0.0.1:1 ")
    monkeypatch.setenv("MQ9_URL", "nats://127.0.0.1:1")
    assert apart(run("doctor")) == []


@pytest.mark.parametrize("agent", HOOKED)
def test_a_data_folder_that_only_the_server_knows_is_noted(
    agent: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, agent, env={"MQ9_DATA_DIR": "/elsewhere/mq9"})
    said = run("doctor")
    (note,) = apart(said)
    assert note.endswith(
        f" keeps which mailbox is whose in /elsewhere/mq9; its hooks and `mq9` here look into {autostart.data_dir()}"
    )
    assert "→ set MQ9_DATA_DIR to the same folder where " in said.out
    monkeypatch.setenv("MQ9_DATA_DIR", "/elsewhere/mq9")
    assert apart(run("doctor")) == []


@pytest.mark.parametrize("name", ["MQ9_DATA_DIR", pytest.param("XDG_DATA_HOME", marks=LINUX)])
def test_a_data_folder_that_codex_keeps_from_its_server_is_noted(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = autostart.data_dir()
    monkeypatch.setenv(name, str(home / "chosen"))
    here = autostart.data_dir()
    configure(home, "claude-code")
    assert apart(run("doctor")) == [], "its server has what it has"
    configure(home, "codex")
    said = run("doctor")
    (note,) = apart(said)
    assert note.endswith(f" keeps which mailbox is whose in {before}; its hooks and `mq9` here look into {here}")
    assert f"→ give the server MQ9_DATA_DIR={here} in its `env`" in said.out
    with (home / ".codex/config.toml").open("a") as file:
        file.write(f'env_vars = ["{name}"]\n')
    assert apart(run("doctor")) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "uvx", "args": ["mq9-mcp"]},
        {"command": "uvx", "args": ["mq9-mcp@0.1.0", "--url", "nats://127.0.0.1:1"]},
        {"command": "/gone/uv", "args": ["tool", "run", "mq9-mcp"]},
    ],
)
def test_a_server_that_is_run_from_the_registry_is_ours(
    entry: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    (home / "uvx").write_text("#!/bin/sh\n")
    (home / "uvx").chmod(0o755)
    (home / ".cursor").mkdir()
    (home / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"mq9": entry}}))
    said = run("doctor")
    assert not any("another program" in note for note in notes(said))
    if entry["command"] == "uvx":
        assert f"Cursor has mq9: {home}/.cursor/mcp.json runs uvx" in said.out
    else:
        assert f"{home}/.cursor/mcp.json runs /gone/uv, which does not exist" in problems(said)


def test_what_runs_something_else_from_the_registry_is_not_ours(home: Path) -> None:
    (home / ".cursor").mkdir()
    entry = {"command": "uvx", "args": ["mq9-mcpx"]}
    (home / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": {"mq9": entry}}))
    assert f"{home}/.cursor/mcp.json has a server mq9 that runs another program, uvx" in notes(run("doctor"))


ANYTHING = st.one_of(
    st.binary(max_size=20),
    VALUES.map(lambda value: json.dumps(value).encode()),
    documents(
        mcpServers=st.fixed_dictionaries({}, optional={"mq9": VALUES}),
        hooks=st.dictionaries(st.sampled_from(["Stop", "SessionStart"]), VALUES, max_size=2),
        projects=VALUES,
    ).map(str.encode),
)
GROUP = st.fixed_dictionaries({}, optional={"hooks": st.lists(st.fixed_dictionaries({}, optional={"command": VALUES}))})
HOOKS = st.one_of(
    ANYTHING,
    st.fixed_dictionaries({"hooks": st.fixed_dictionaries({"Stop": st.lists(st.one_of(GROUP, VALUES))})}).map(
        lambda value: json.dumps(value).encode()
    ),
)
TOML = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            "mcp_servers = 1",
            "[mcp_servers]\nmq9 = 1",
            "[mcp_servers.mq9]\ncommand = 1",
            "hooks = 1",
            "[hooks]\nstate = 1",
        ]
    ).map(str.encode),
)


@patiently
@given(
    st.fixed_dictionaries(
        {},
        optional={
            ".cursor/mcp.json": ANYTHING,
            ".claude.json": ANYTHING,
            ".claude/skills/mq9/.claude-plugin/plugin.json": ANYTHING,
            ".claude/skills/mq9/hooks/hooks.json": HOOKS,
            ".codex/hooks.json": HOOKS,
            ".codex/config.toml": TOML,
            ".local/share/mq9/agents/sessions.json": ANYTHING,
            ".local/state/mq9/installed.json": ANYTHING,
        },
    )
)
def test_whatever_the_files_hold_it_is_said_in_a_line(content: dict[str, bytes]) -> None:
    with user() as home:
        for name, data in content.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        before = snapshot(home)
        assert run("doctor").code in (0, 1)
        assert snapshot(home) == before
        for agent in ("claude-code", "codex", "cursor"):
            for verb in ("install", "uninstall"):
                done = run(verb, agent, "--yes", "--force")
                assert done.code in (0, 1, 2)
                assert done.err.count("\n") <= 1
