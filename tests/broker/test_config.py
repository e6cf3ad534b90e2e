"""Settings: where they come from, who wins, and what is said about wrong ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mq9_broker import cli
from mq9_broker.config import Config, default_data_dir, load
from mq9_broker.errors import StartError
from mq9_broker.model import Limits


def wrong(file: Path | None = None, **flags: Any) -> str:
    with pytest.raises(StartError) as refused:
        load(file, {}, flags)
    assert refused.value.code == 2
    return str(refused.value)


def toml(folder: Path, text: str) -> Path:
    path = folder / "mq9.toml"
    path.write_text(text)
    return path


def test_the_defaults() -> None:
    config = load(None, {}, {})
    assert config == Config()
    assert (config.host, config.port, config.store, config.durability) == ("127.0.0.1", 4222, "rocksdb", "process")
    assert (config.log_level, config.idle_exit, config.data_dir) == ("info", None, default_data_dir())
    limits = config.limits
    assert (limits.max_payload, limits.max_control_line, limits.max_headers) == (1_048_576, 4096, 65_536)
    assert (limits.max_pending, limits.max_subscriptions, limits.max_groups) == (67_108_864, 65_536, 1000)


def test_the_default_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    if os.name == "posix":
        assert default_data_dir().name == "mq9"


def test_the_later_wins(tmp_path: Path) -> None:
    file = toml(tmp_path, 'port = 1\nhost = "::1"\ndata_dir = "/file"\nlog-level = "debug"\nmax_ttl = 60\n')
    assert load(file, {}, {}) == Config(
        host="::1", port=1, data_dir=Path("/file"), log_level="debug", limits=Limits(max_ttl=60)
    )
    assert load(file, {"MQ9_DATA_DIR": "/environment"}, {}).data_dir == Path("/environment")
    flags = {"port": 2, "data_dir": "/flag", "host": None, "log_level": "error"}
    assert load(file, {"MQ9_DATA_DIR": "/environment"}, flags) == Config(
        host="::1", port=2, data_dir=Path("/flag"), log_level="error", limits=Limits(max_ttl=60)
    )


def test_an_empty_environment_variable_is_none() -> None:
    assert load(None, {"MQ9_DATA_DIR": ""}, {}) == Config()


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(None, {"MQ9_DATA_DIR": "~/mail"}, {}).data_dir == tmp_path / "mail"


def test_every_limit_can_be_set(tmp_path: Path) -> None:
    names = list(Limits.__dataclass_fields__)
    file = toml(tmp_path, "".join(f"{name} = {number}\n" for number, name in enumerate(names, 1)))
    assert load(file, {}, {}).limits == Limits(**{name: number for number, name in enumerate(names, 1)})


def test_an_unknown_setting_is_named_with_those_there_are(tmp_path: Path) -> None:
    file = toml(tmp_path, "prot = 1\n")
    text = wrong(file)
    assert text.startswith(
        f"unknown setting 'prot' in {file}; known are auth_timeout, data_dir, durability, host, idle_exit, "
    )
    assert "max_payload" in text
    assert "limits" not in text.split("known are")[1]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"port": -1}, "port must be a whole number from 0 to 65535, not -1 (the command line)"),
        ({"port": 65_536}, "port must be a whole number from 0 to 65535, not 65536 (the command line)"),
        ({"port": "1"}, "port must be a whole number from 0 to 65535, not '1' (the command line)"),
        ({"port": True}, "port must be a whole number from 0 to 65535, not True (the command line)"),
        ({"port": 1.5}, "port must be a whole number from 0 to 65535, not 1.5 (the command line)"),
        ({"idle_exit": -5}, "idle_exit must be a whole number from 0 to 2147483648, not -5 (the command line)"),
        ({"store": "disk"}, "store must be rocksdb or memory, not 'disk' (the command line)"),
        ({"durability": "raid"}, "durability must be process or fsync, not 'raid' (the command line)"),
        ({"log_level": "loud"}, "log_level must be debug or info or warning or error, not 'loud' (the command line)"),
        ({"host": 1}, "host must be str, not 1 (the command line)"),
        ({"data_dir": 1}, "data_dir must be str, not 1 (the command line)"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(flags: dict[str, Any], text: str) -> None:
    assert wrong(**flags) == text


def test_a_wrong_value_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, "max_payload = -1\n")
    assert wrong(file) == f"max_payload must be a whole number from 1 to 1099511627776, not -1 ({file})"


@pytest.mark.parametrize("name", ["ping_interval", "max_payload", "max_control_line", "max_pending", "max_pings_out"])
def test_a_limit_that_would_stop_the_broker_is_refused(tmp_path: Path, name: str) -> None:
    """A ping interval of 0 would ping without end; a payload of 0 bytes leaves no request."""
    file = toml(tmp_path, f"{name} = 0\n")
    assert wrong(file).startswith(f"{name} must be a whole number from 1 to ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    assert wrong(file) == f"the configuration file {file} can't be read: No such file or directory"


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    file = toml(tmp_path, "port 1\n")
    assert wrong(file).startswith(f"the configuration file {file} is not valid TOML: ")
    file.write_bytes(b"\xff\xfe")
    assert wrong(file).startswith(f"the configuration file {file} is not valid TOML: ")
    for text in ("port = " + "[" * 20_000, "port = " + "9" * 10_000):
        file.write_text(text)
        assert wrong(file).startswith(f"the configuration file {file} is not valid TOML: ")


def test_a_path_that_is_none(tmp_path: Path) -> None:
    file = toml(tmp_path, 'socket = "~nobody-of-that-name/s"\n')
    assert wrong(file) == (
        f"socket '~nobody-of-that-name/s' begins with a home folder that is not there: write it out ({file})"
    )
    file = toml(tmp_path, 'tls_key = "a\\u0000b"\n')
    assert wrong(file) == f"tls_key 'a\\x00b' has a NUL, which no path has ({file})"


def test_the_flags_of_the_command_line_are_the_settings() -> None:
    argv = ["--host", "h", "--port", "0", "--data-dir", "/d", "--store", "memory", "--durability", "fsync"]
    argv += ["--log-level", "error", "--idle-exit", "9"]
    flags = vars(cli.parser().parse_args(argv))
    assert flags.pop("config") is None
    assert load(None, {}, flags) == Config(
        host="h", port=0, data_dir=Path("/d"), store="memory", durability="fsync", log_level="error", idle_exit=9
    )


def test_wrong_settings_end_with_their_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err == (
        f"mq9 broker: the configuration file {tmp_path / 'none.toml'} can't be read: No such file or directory\n"
    )


@pytest.mark.parametrize("name", ["data_dir", "host"])
def test_empty_is_not_a_place(name: str) -> None:
    with pytest.raises(StartError, match=f"{name} is empty") as refused:
        load(None, {}, {name: ""})
    assert refused.value.code == 2


def test_a_broker_that_was_started_by_itself_may_stay(tmp_path: Path) -> None:
    assert load(None, {}, {"idle_exit": 0}).idle_exit == 0


@pytest.mark.parametrize(
    ("port", "name", "value"),
    [
        ("ws_port", "ws_host", "0.0.0.0"),
        ("ws_port", "ws_origins", "https://app.example"),
        ("monitor_port", "monitor_host", "::"),
    ],
)
def test_a_setting_of_a_port_that_there_is_not(port: str, name: str, value: str) -> None:
    assert wrong(**{name: value}) == f"{name} says how {port} is served, and there is none: set {port} too"
    assert load(None, {}, {name: value, port: 0}) != Config()
