"""The files in deploy/: what they name exists, what they run runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from e2e.harness import Broker, StartBroker
from e2e.watched import watched
from mq9_broker import cli, datadir, errors, migration
from mq9_broker.config import Config, load

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "mq9.service"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
PROGRAM = Path(sys.executable).parent / "mq9"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")


def setting(name: str) -> list[str]:
    """The values of a setting of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)


def instruction(name: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.M)


def listed(name: str) -> list[str]:
    """The words of an instruction in exec form."""
    (value,) = instruction(name)
    words = json.loads(value[value.index("[") :])
    assert isinstance(words, list)
    return words


# systemd


def test_the_unit_starts_the_broker_with_flags_that_exist() -> None:
    program, command, *flags = shlex.split(setting("ExecStart")[0])
    assert (program, command) == ("/opt/mq9/bin/mq9", "broker")
    chosen = vars(cli.parser().parse_args(flags))
    assert chosen["config"] == Path("/etc/mq9/mq9.toml")
    assert chosen["data_dir"] == "${STATE_DIRECTORY}"


def test_the_unit_does_not_restart_what_can_not_start() -> None:
    codes = {errors.BAD_SETTINGS, datadir.IN_USE, migration.NEWER, datadir.NOT_USABLE}
    assert {int(code) for code in setting("RestartPreventExitStatus")[0].split()} == codes


def test_the_unit_allows_as_many_open_files_as_there_may_be_connections() -> None:
    assert int(setting("LimitNOFILE")[0]) > Config(data_dir=ROOT).limits.max_connections


@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mq9.service"
    unit.write_text(UNIT.read_text().replace("/opt/mq9/bin/mq9", str(PROGRAM)))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@needs_systemd
def test_the_unit_is_as_locked_up_as_it_says() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", UNIT]
    rated = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert rated.returncode == 0, rated.stdout[-200:]


def test_the_settings_can_be_used_and_so_can_those_in_comments(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "mq9.toml").read_text()
    config = load(ROOT / "deploy" / "mq9.toml", {}, {})
    assert (config.host, config.port, config.monitor_port, config.users) == ("127.0.0.1", 4222, 8222, ())
    text = re.sub(r"^host = .*\n", "", text, flags=re.M).replace("$2b$11$…", "a password")
    (tmp_path / "mq9.toml").write_text(re.sub(r"^# (?=\[\[users|\w+ = )", "", text, flags=re.M))
    full = load(tmp_path / "mq9.toml", {}, {})
    assert full.host == "0.0.0.0"
    assert full.tls_key == Path("/etc/mq9/key.pem")
    assert [user.name for user in full.users] == ["worker"]


# Docker


def test_the_image_starts_a_broker(tmp_path: Path) -> None:
    program, command, *flags = listed("ENTRYPOINT")
    chosen = vars(cli.parser().parse_args(flags))
    assert (program, command, chosen["host"]) == ("mq9", "broker", "0.0.0.0")
    ports = {str(Config(data_dir=tmp_path).port), str(chosen["monitor_port"])}
    assert set(instruction("EXPOSE")[0].split()) == ports
    broker = Broker(tmp_path / "data")
    free = ["0" if flag in ports else flag for flag in flags]
    broker.command = [str(PROGRAM), command, *free, "--port", "0", "--data-dir", str(tmp_path / "data")]
    try:
        assert broker.start().banner.startswith("mq9 broker ")
        assert broker.stop() == 0
    finally:
        broker.kill()


def test_the_health_check_knows_a_healthy_broker(start_broker: StartBroker) -> None:
    broker = start_broker("--monitor-port", "0")
    port = str(watched(broker).monitor)
    _, *rest = (word.replace("8222", port) for word in listed("HEALTHCHECK"))
    check = [sys.executable, *rest]
    assert port in rest[1]
    assert subprocess.run(check, capture_output=True, timeout=30).returncode == 0
    assert broker.stop() == 0
    assert subprocess.run(check, capture_output=True, timeout=30).returncode != 0


def test_what_the_image_is_built_from_is_there_and_let_through() -> None:
    sources = [word for line in instruction("COPY") if "--from" not in line for word in line.split()[:-1]]
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert sorted(sources) == sorted(let_through)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_keeps_mail_in_its_volume_and_is_not_root() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", instruction("ENV")[0]))
    settings: Mapping[str, str] = {"MQ9_DATA_DIR": environment["MQ9_DATA_DIR"]}
    assert load(None, settings, {}).data_dir == Path(instruction("VOLUME")[0])
    assert int(instruction("USER")[-1].split(":")[0]) > 0


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed here")
def test_hadolint_has_nothing_to_say() -> None:
    command = ["hadolint", "--no-color", ROOT / "deploy" / "Dockerfile"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert (said.returncode, said.stdout) == (0, "")
