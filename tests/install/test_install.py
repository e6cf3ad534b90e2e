"""`mq9-mcp install` and `uninstall` with every agent, and with files as users have them."""

from __future__ import annotations

import json
import os
import stat
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from install.documents import NAMES, VALUES, documents, patiently
from install.homes import run, snapshot, user
from mq9_mcp.install import agents, jsontext, plans, program
from mq9_mcp.install.files import Refused
from mq9_mcp.install.plans import Wish

FILES = {
    "codex": ".codex/config.toml",
    "cursor": ".cursor/mcp.json",
    "gemini": ".gemini/settings.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
}
IN_PROJECTS = {
    "claude-code": (".mcp.json", "mcpServers"),
    "cursor": (".cursor/mcp.json", "mcpServers"),
    "gemini": (".gemini/settings.json", "mcpServers"),
    "vscode": (".vscode/mcp.json", "servers"),
}
OWN = Path(sysconfig.get_path("scripts")) / "mq9-mcp"


@pytest.fixture
def home() -> Iterator[Path]:
    with user() as folder:
        yield folder


def every_agent() -> list[str]:
    return [*agents.known()]


def server(path: Path, servers: str = "mcpServers") -> Any:
    text = path.read_text()
    content = tomllib.loads(text) if path.suffix == ".toml" else jsontext.parse(text).value
    return content[servers]["mq9"]


@pytest.mark.parametrize("agent", every_agent())
def test_installed_once_and_taken_out_without_a_trace(agent: str, home: Path) -> None:
    before = snapshot(home)
    done = run("install", agent, "--yes")
    assert (done.code, done.err) == (0, ""), done
    installed = snapshot(home)
    assert installed != before
    assert all(f"+++ {home / name}" in done.out for name, content in installed.items() if content is not None)

    again = run("install", agent)
    assert (again.code, again.err) == (0, "")
    assert "already" in again.out
    assert snapshot(home) == installed

    gone = run("uninstall", agent, "--yes")
    assert (gone.code, gone.err) == (0, "")
    assert snapshot(home) == before
    nothing = run("uninstall", agent)
    assert (nothing.code, "not installed" in nothing.out) == (0, True)


@pytest.mark.parametrize("agent", every_agent())
def test_nothing_is_written_unless_somebody_said_so(agent: str, home: Path) -> None:
    before = snapshot(home)
    printed = run("install", agent, "--print")
    assert (printed.code, printed.err) == (0, "")
    assert "mq9" in printed.out
    refused = run("install", agent)
    assert refused.code == 1
    assert "nothing was changed: add --yes" in refused.err
    assert refused.out == printed.out.replace("this would change", "this will change")
    assert snapshot(home) == before


@pytest.mark.parametrize("agent", FILES)
def test_the_server_is_in_the_agents_settings(agent: str, home: Path) -> None:
    assert run("install", agent, "--yes", "--url", "nats://mail.example:4222").code == 0
    servers = "mcp_servers" if agent == "codex" else "mcpServers"
    assert server(home / FILES[agent], servers) == {
        "command": program.command("mq9-mcp", desktop=agent in ("cursor", "windsurf")),
        "args": ["--url", "nats://mail.example:4222"],
    }
    assert "already" in run("install", agent).out  # what was asked for before stays so
    assert run("install", agent, "--yes", "--url", "nats://other.example:4222").code == 0
    assert server(home / FILES[agent], servers)["args"] == ["--url", "nats://other.example:4222"]


def test_a_plugin_keeps_its_broker(home: Path) -> None:
    manifest = home / ".claude/skills/mq9/.claude-plugin/plugin.json"
    assert run("install", "claude-code", "--yes", "--url", "nats://mail.example:4222").code == 0
    assert server(manifest)["args"] == ["--url", "nats://mail.example:4222"]
    assert "already" in run("install", "claude-code").out
    assert run("install", "claude-code", "--yes", "--url", "nats://other.example:4222").code == 0
    assert server(manifest)["args"] == ["--url", "nats://other.example:4222"]
    assert run("uninstall", "claude-code", "--yes").code == 0
    assert snapshot(home) == {}


def test_codex_is_woken_when_its_user_wants_it(home: Path) -> None:
    assert run("install", "cursor", "--wake", "--yes").code == 2
    assert run("install", "codex", "--wake", "--yes").code == 0
    assert server(home / FILES["codex"], "mcp_servers")["env"] == {"MQ9_WAKE_CODEX": "1"}
    assert "already" in run("install", "codex").out
    assert run("uninstall", "codex", "--yes").code == 0
    assert snapshot(home) == {}


@pytest.mark.parametrize("agent", IN_PROJECTS)
def test_a_project_has_settings_of_its_own(agent: str, home: Path) -> None:
    file, servers = IN_PROJECTS[agent]
    (home / "project").mkdir()
    assert run("install", agent, "--project", "project", "--yes").code == 0
    assert set(snapshot(home)) >= {"project", f"project/{file}"}
    assert Path(server(home / "project" / file, servers)["command"]).name == "mq9-mcp"
    assert run("uninstall", agent, "--yes").code == 0  # the user's: there is none
    assert (home / "project" / file).exists()
    assert run("uninstall", agent, "--project", "project", "--yes").code == 0
    assert snapshot(home) == {"project": None}


def test_an_agent_without_projects_says_so(home: Path) -> None:
    done = run("install", "windsurf", "--project")
    assert (done.code, "Windsurf has no settings of a project" in done.err) == (2, True)


def test_several_agents_at_once(home: Path) -> None:
    assert run("install", "cursor", "gemini", "--yes").code == 0
    assert {FILES["cursor"], FILES["gemini"]} <= set(snapshot(home))


# --- what was there before


def a_user_with(file: str, text: str) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


SERVERS = st.dictionaries(NAMES.filter("mq9".__ne__), VALUES, max_size=3)
GROUP = st.fixed_dictionaries({"hooks": st.just([{"type": "command", "command": "true"}])})
GROUPS = st.dictionaries(st.sampled_from(["Stop", "SessionStart", "PreToolUse"]), st.lists(GROUP, max_size=2))


@patiently
@given(documents(mcpServers=SERVERS), st.booleans())
def test_every_byte_of_a_json_file_comes_back(text: str, twice: bool) -> None:
    with user():
        path = a_user_with(FILES["cursor"], text)
        assert run("install", "cursor", "--yes").code == 0
        assert Path(server(path)["command"]) == OWN
        if twice:
            assert run("install", "cursor", "--yes", "--url", "nats://mail.example:4222").code == 0
        assert run("uninstall", "cursor", "--yes").code == 0
        assert path.read_bytes() == text.encode()


@patiently
@given(documents(mcpServers=SERVERS))
def test_what_another_program_writes_meanwhile_stays(text: str) -> None:
    with user():
        path = a_user_with(FILES["cursor"], text)
        before = jsontext.parse(text).value
        assert run("install", "cursor", "--yes").code == 0
        content = jsontext.parse(path.read_text()).value
        content["meanwhile"] = 1
        path.write_text(json.dumps(content, indent=3))  # and the comments are gone
        assert "already" in run("install", "cursor").out
        assert run("uninstall", "cursor", "--yes").code == 0
        assert jsontext.parse(path.read_text()).value == {**before, "meanwhile": 1}


@patiently
@given(documents(hooks=GROUPS))
def test_every_byte_of_a_file_of_hooks_comes_back(text: str) -> None:
    with user():
        path = a_user_with(".codex/hooks.json", text)
        before = jsontext.parse(text).value.get("hooks", {})
        assert run("install", "codex", "--yes").code == 0
        hooks = jsontext.parse(path.read_text()).value["hooks"]
        for event in plans.plugin.codex("mq9"):  # behind those that were there: what is trusted by its place stays so
            assert hooks[event][:-1] == before.get(event, [])
            assert hooks[event][-1]["hooks"][0]["command"].endswith(f"mq9 hook codex {event}")
        assert run("uninstall", "codex", "--yes").code == 0
        assert path.read_bytes() == text.encode()


PARTS = [
    'model = "gpt-5"  # the best\n',
    "# a comment\n",
    "\n",
    'notify = ["a",\n  "[mcp_servers.mq9]",\n]\n',
    "when = 2026-11-20T17:00:00Z\nnever = nan\n",
    'prompt = """\n[mcp_servers.mq9]\ncommand = "x"\n"""\n',
]
TABLES = [
    '[mcp_servers.other]\ncommand = "x" # keep\nargs = ["[", "]"]\n',
    '\n[mcp_servers.other.env]\nTOKEN = "secret"\n',
    '[ "projects"."/home/me" ]\ntrust_level = "trusted"\n',
    '[[hooks.Stop]]\n[[hooks.Stop.hooks]]\ntype = "command"\ncommand = "true"\n',
    "[mcp_servers]\n",
    "# between tables\n\n",
]


@st.composite
def tomls(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(PARTS), unique=True)) + draw(st.lists(st.sampled_from(TABLES), unique=True))
    text = "".join(parts)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


@patiently
@given(tomls().filter(is_toml))
def test_every_byte_of_a_toml_file_comes_back(text: str) -> None:
    with user():
        path = a_user_with(FILES["codex"], text)
        assert run("install", "codex", "--yes").code == 0
        assert path.read_bytes().startswith(text.encode())
        assert server(path, "mcp_servers")["args"] == []
        assert run("install", "codex", "--yes", "--url", "nats://mail.example:4222").code == 0
        assert server(path, "mcp_servers")["args"] == ["--url", "nats://mail.example:4222"]
        assert run("uninstall", "codex", "--yes").code == 0
        assert path.read_bytes() == text.encode()


@patiently
@given(tomls().filter(is_toml), st.sampled_from(["", '\n[mcp_servers.mq9.tools.send]\napproval_mode = "approve"\n']))
def test_what_codex_writes_meanwhile_stays(text: str, approval: str) -> None:
    with user():
        path = a_user_with(FILES["codex"], text)
        assert run("install", "codex", "--yes").code == 0
        later = f"{approval}\n# mine\n[later]\nx = 1\n"
        path.write_bytes(path.read_bytes() + later.encode())
        assert "already" in run("install", "codex").out
        assert run("install", "codex", "--yes", "--url", "nats://mail.example:4222").code == 0
        changed = server(path, "mcp_servers")
        assert changed["args"] == ["--url", "nats://mail.example:4222"]
        assert ("tools" in changed) == bool(approval)
        assert run("uninstall", "codex", "--yes").code == 0
        left = path.read_text()
        assert "# mine" in left
        assert left.count("# keep") == text.count("# keep")
        expected, found = tomllib.loads(text), tomllib.loads(left)
        found.get("mcp_servers", {1: 1}) or found.pop("mcp_servers")
        expected.get("mcp_servers", {1: 1}) or expected.pop("mcp_servers")
        assert repr(found) == repr({**expected, "later": {"x": 1}})


OTHER = '{"mcpServers": {"mq9": {"command": "/opt/theirs", "args": ["-v"], "env": {"TOKEN": "hush"}}}}'


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("cursor", OTHER),
        ("codex", '[mcp_servers.mq9]\ncommand = "/opt/theirs"\nargs = ["-v"]\nenv = {TOKEN = "hush"}\n'),
    ],
)
def test_a_server_that_somebody_else_wrote_stays(verb: str, agent: str, text: str, home: Path) -> None:
    path = a_user_with(FILES[agent], text)
    done = run(verb, agent, "--yes")
    assert done.code == 1
    assert f"{path.absolute()} has a server mq9 that was not written from here: `/opt/theirs -v`" in done.out
    assert "hush" not in done.out
    assert path.read_text() == text
    assert run(verb, agent, "--yes", "--force").code == 0
    assert "/opt/theirs" not in path.read_text()


def test_arguments_of_others_are_not_shown(home: Path) -> None:
    server = {"command": "npx", "args": ["-y", "other", "--token", "HUSH", "--url=nats://u:HUSH@h", "-pHUSH"]}
    a_user_with(FILES["cursor"], json.dumps({"mcpServers": {"mq9": server}}))
    for verb in ("install", "uninstall"):
        done = run(verb, "cursor", "--yes")
        assert (done.code, "`npx -y … --token … … …`" in done.out) == (1, True)
        assert "HUSH" not in done.out


@pytest.mark.parametrize("indent", [None, 2])
def test_secrets_of_others_are_not_shown(indent: int | None, home: Path) -> None:
    entry = {
        "command": "x",
        "env": {"GITHUB_PAT": "HUSH", "apiKey": "HUSH"},
        "headers": {"Authorization": "Bearer HUSH"},
    }
    a_user_with(FILES["cursor"], json.dumps({"mcpServers": {"other": entry}}, indent=indent))
    a_user_with(FILES["codex"], '[mcp_servers.other.env]\nGITHUB_PAT = "HUSH"\napi_key = "a\\"HUSH"')
    for verb in ("install", "uninstall"):
        shown = run(verb, "cursor", "codex", "--yes")
        assert shown.code == 0
        assert "mq9" in shown.out
        assert "HUSH" not in shown.out


def test_a_server_that_was_changed_since_stays(home: Path) -> None:
    run("install", "cursor", "--yes")
    path = home / FILES["cursor"]
    path.write_text(path.read_text().replace('"args": []', '"args": ["--url", "nats://else:4222"]'))
    done = run("uninstall", "cursor", "--yes")
    assert (done.code, "--url nats://else:4222" in done.out) == (1, True)
    assert run("uninstall", "cursor", "--yes", "--force").code == 0
    assert snapshot(home) == {}


def test_the_same_entry_by_hand_counts_as_installed(home: Path) -> None:
    entry = {"command": str(OWN), "args": [], "env": {"MQ9_URL": "nats://mail.example:4222"}}
    path = a_user_with(FILES["cursor"], json.dumps({"mcpServers": {"mq9": entry}}))
    before = snapshot(home)
    assert "already" in run("install", "cursor", "--yes").out
    assert snapshot(home) == before
    assert run("uninstall", "cursor", "--yes").code == 1  # somebody wrote more than we do
    assert path.exists()


def test_the_same_program_under_another_name_counts_as_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(OWN.parent))
    text = '[mcp_servers.mq9]\ncommand = "mq9-mcp"\n'  # as `codex mcp add mq9 -- mq9-mcp` writes it
    path = a_user_with(FILES["codex"], text)
    assert run("install", "codex", "--yes").code == 0
    assert path.read_text() == text
    assert (home / ".codex/hooks.json").exists()
    done = run("uninstall", "codex", "--yes")
    assert (done.code, "was not written from here: `mq9-mcp`. --force removes it" in done.out) == (1, True)
    assert path.read_text() == text
    assert not (home / ".codex/hooks.json").exists()  # which was


def test_hooks_that_somebody_else_wrote_stay(home: Path) -> None:
    mine = {"type": "command", "command": "MQ9_DATA_DIR=/x mq9 hook codex Stop"}
    path = a_user_with(".codex/hooks.json", json.dumps({"hooks": {"Stop": [{"hooks": [mine]}]}}))
    assert run("install", "codex", "--yes").code == 0
    hooks = json.loads(path.read_text())["hooks"]
    assert hooks["Stop"] == [{"hooks": [mine]}]
    assert len(hooks) > 1
    path.write_text(json.dumps({"hooks": hooks}))
    assert run("uninstall", "codex", "--yes").code == 0
    assert json.loads(path.read_text()) == {"hooks": {"Stop": [{"hooks": [mine]}]}}


def test_two_files_of_hooks_are_worth_a_word(home: Path) -> None:
    a_user_with(FILES["codex"], '[[hooks.Stop]]\n[[hooks.Stop.hooks]]\ntype = "command"\ncommand = "true"\n')
    assert "would rather have them in one file" in run("install", "codex", "--yes").out


def test_nothing_is_done_that_cannot_be_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
    monkeypatch.setattr("mq9_mcp.install.record.file", lambda: home / "file" / "installed.json")
    done = run("install", "cursor", "--yes")
    assert (done.code, "cannot write" in done.err or "cannot read" in done.err) == (2, True)
    assert not (home / ".cursor").exists()


def test_a_plugin_file_that_was_changed_stays(home: Path) -> None:
    run("install", "claude-code", "--yes")
    hooks = home / ".claude/skills/mq9/hooks/hooks.json"
    hooks.write_text(hooks.read_text().replace('"timeout": 5', '"timeout": 9'))
    before = snapshot(home)
    for verb in ("install", "uninstall"):
        done = run(verb, "claude-code", "--yes")
        assert (done.code, f"{hooks} was changed" in done.out) == (1, True)
        assert snapshot(home) == before
    assert run("install", "claude-code", "--yes", "--force").code == 0
    assert '"timeout": 9' not in hooks.read_text()
    assert run("uninstall", "claude-code", "--yes").code == 0
    assert snapshot(home) == {}


def test_a_skill_of_that_name_stays(home: Path) -> None:
    a_user_with(".claude/skills/mq9/SKILL.md", "mine")
    done = run("install", "claude-code", "--yes")
    assert (done.code, "holds something else" in done.out) == (1, True)


def test_without_hooks_there_are_only_the_tools(home: Path) -> None:
    assert run("install", "claude-code", "codex", "--yes", "--no-hooks").code == 0
    assert not any("hooks" in name for name in snapshot(home))
    assert run("install", "claude-code", "codex", "--yes").code == 0
    assert {".codex/hooks.json", ".claude/skills/mq9/hooks/hooks.json"} <= set(snapshot(home))
    assert run("install", "claude-code", "--yes", "--no-hooks").code == 0
    assert ".claude/skills/mq9/hooks" not in snapshot(home)
    assert run("uninstall", "claude-code", "codex", "--yes").code == 0
    assert snapshot(home) == {}


# --- files that are not what they should be

BROKEN = {
    "not JSON": ("{mcpServers: {}}", "cannot be understood: a value is missing (line 1, column 2)"),
    "another shape": ('{"mcpServers": []}', "'mcpServers' is no object"),
    "no object at all": ("[]", "the document is no object"),
    "not UTF-8": (b"\xff\xfe{\x00}\x00", "is not UTF-8 (at byte 0)"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_left_alone(what: str, home: Path) -> None:
    content, said = BROKEN[what]
    path = home / FILES["cursor"]
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = snapshot(home)
    done = run("install", "cursor", "--yes", "--force")
    assert done.code == 2
    assert str(path) in done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert snapshot(home) == before


@pytest.mark.parametrize("text", ["x = [", "mcp_servers = 5", 'mcp_servers = {other = {command = "x"}}'])
def test_a_toml_file_that_cannot_be_added_to_is_left_alone(text: str, home: Path) -> None:
    path = a_user_with(FILES["codex"], text)
    done = run("install", "codex", "--yes")
    assert (done.code, str(path) in done.err) == (2, True)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "\n", " \r\n\t", "\ufeff", "\ufeff\n"])
def test_an_empty_file_is_as_good_as_none_and_stays(text: str, home: Path) -> None:
    path = a_user_with(FILES["cursor"], text)
    assert run("install", "cursor", "--yes").code == 0
    assert Path(server(path)["command"]) == OWN
    assert run("uninstall", "cursor", "--yes").code == 0
    assert path.read_bytes() == text.encode()


def test_a_link_stays_a_link_and_the_mode_stays(home: Path) -> None:
    real = a_user_with("dotfiles/mcp.json", "{}")
    real.chmod(0o640)
    link = home / FILES["cursor"]
    link.parent.mkdir()
    link.symlink_to("../dotfiles/mcp.json")
    assert run("install", "cursor", "--yes").code == 0
    assert link.is_symlink()
    assert Path(server(real)["command"]) == OWN
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert run("uninstall", "cursor", "--yes").code == 0
    assert (real.read_text(), link.is_symlink()) == ("{}", True)


def test_new_files_are_for_their_user_alone(home: Path) -> None:
    run("install", "cursor", "codex", "--yes")
    for name in (FILES["cursor"], FILES["codex"]):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def names(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if ".local" not in path.parts)


def folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)


def pipe_in_its_place(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def file_for_its_folder(path: Path) -> None:
    path.parent.write_text("")


def link_to_itself(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(path)


def read_only(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{}")
    path.chmod(0o400)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (folder_in_its_place, "is a folder where a file was expected"),
        (pipe_in_its_place, "is no settings file"),
        (file_for_its_folder, "cannot read"),
        (link_to_itself, "cannot read"),
        (read_only, "is read-only"),
    ],
)
def test_what_is_no_file_to_write_is_left_alone(spoil: Any, said: str, home: Path) -> None:
    path = home / FILES["cursor"]
    spoil(path)
    before = names(home)
    done = run("install", "cursor", "--yes")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert names(home) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read and write everything")
def test_what_cannot_be_read_or_written_is_left_alone(home: Path) -> None:
    path = a_user_with(FILES["cursor"], "{}")
    path.chmod(0)
    assert "cannot read" in run("install", "cursor", "--yes").err
    path.chmod(0o600)
    path.parent.chmod(0o500)
    assert "cannot write" in run("install", "cursor", "--yes").err
    path.parent.chmod(0o700)


def test_a_file_that_changes_under_our_hands_is_left_alone(home: Path) -> None:
    path = a_user_with(FILES["cursor"], "{}")
    plan = plans.install(agents.known()["cursor"], Wish())
    path.write_text('{"new": 1}')
    with pytest.raises(Refused, match="was changed by another program"):
        plan.edits[0].do()
    assert path.read_text() == '{"new": 1}'


def test_a_lost_record_costs_only_the_exactness(home: Path) -> None:
    a_user_with(FILES["cursor"], '{"a": 1}')
    run("install", "cursor", "codex", "claude-code", "--yes")
    record = next(path for path in home.rglob("installed.json"))
    for content in ("", "[]", '{"version": 9}', '{"version": 1, "files": {"x": 5}}'):
        record.write_text(content)
        assert "already" in run("install", "cursor", "codex", "claude-code").out
    assert run("uninstall", "cursor", "codex", "claude-code", "--yes").code == 0
    assert "mq9" not in str(snapshot(home))
    assert json.loads((home / FILES["cursor"]).read_text()) == {"a": 1, "mcpServers": {}}


# --- the program that is written down


def test_a_program_of_a_virtual_environment_is_written_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(OWN.parent) if (OWN.parent.parent / "pyvenv.cfg").exists() else "/nowhere")
    assert program.command("mq9-mcp", desktop=False) == str(OWN)


def test_a_program_on_the_path_of_every_shell_is_written_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mq9-mcp").symlink_to(OWN)  # as uv and pipx do it
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert program.command("mq9-mcp", desktop=False) == "mq9-mcp"
    assert program.command("mq9-mcp", desktop=True) == str(tmp_path / "mq9-mcp")


def test_another_program_of_that_name_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mq9-mcp").write_text("#!/bin/sh\n")
    (tmp_path / "mq9-mcp").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.command("mq9-mcp", desktop=False) == str(OWN)


def test_an_environment_of_a_moment_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(home / ".cache/uv/archive-v0/abc"))
    done = run("install", "cursor", "--yes")
    assert (done.code, "uv tool install mq9-mcp" in done.err) == (2, True)
    assert run("uninstall", "cursor").code == 0


# --- the command line


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_help_has_examples_and_names_the_agents(verb: str, home: Path) -> None:
    (home / ".cursor").mkdir()
    done = run(verb, "--help")
    assert done.code == 0
    assert f"mq9-mcp {verb} cursor" in done.out.partition("examples:")[2]
    assert "cursor" in " ".join(done.out.split()).partition("On this machine: ")[2]
    assert all(len(line) <= 120 for line in done.out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["install"], "the following arguments are required: AGENT"),
        (["install", "emacs"], "invalid choice: 'emacs'"),
        (["install", "cursor", "--url", "nats://me:secret@host"], "holds credentials"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], said: str, home: Path) -> None:
    done = run(*arguments)
    assert (done.code, said in done.err) == (2, True)
    assert "secret" not in done.err
