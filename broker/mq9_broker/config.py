"""One frozen configuration: defaults, then the file, then the environment, then the flags; the later wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mq9_broker.errors import BAD_SETTINGS, StartError
from mq9_broker.model import Limits

_CHOICES = {
    "store": ("rocksdb", "memory"),
    "durability": ("process", "fsync"),
    "log_level": ("debug", "info", "warning", "error"),
}

# without these there is no broker: pings without end, no request that fits.
_POSITIVE = ("ping_interval", "max_payload", "max_control_line", "max_pending")

#: A number in a longer line could have more digits than Python turns into one.
_HIGHEST = {"max_control_line": 4300}


def default_data_dir() -> Path:
    """The user's own folder for data."""
    from platformdirs import user_data_path

    return user_data_path("mq9", appauthor=False)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. `idle_exit` is set for a broker that a program started by itself: after so
    many seconds without a client it stops; 0 never."""

    host: str = "127.0.0.1"
    port: int = 4222
    data_dir: Path = field(default_factory=default_data_dir)
    store: str = "rocksdb"
    durability: str = "process"
    log_level: str = "info"
    idle_exit: int | None = None
    limits: Limits = field(default_factory=Limits)


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration. StartError (code 2) names the setting that is wrong, its value and where it stands."""
    config = Config()
    if file is not None:
        config = _apply(config, _read(file), str(file))
    if environment.get("MQ9_DATA_DIR"):
        config = _apply(config, {"data_dir": environment["MQ9_DATA_DIR"]}, "MQ9_DATA_DIR")
    return _apply(config, {name: value for name, value in flags.items() if value is not None}, "the command line")


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as cause:
        raise StartError(f"the configuration file {file} can't be read: {cause.strerror}", BAD_SETTINGS) from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise StartError(f"the configuration file {file} is not valid TOML: {cause}", BAD_SETTINGS) from cause


def _apply(config: Config, values: Mapping[str, Any], where: str) -> Config:
    limits = {each.name for each in fields(Limits)}
    known = {each.name for each in fields(Config)} - {"limits"} | limits
    changes: dict[str, Any] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        if name not in known:
            raise StartError(f"unknown setting {name!r} in {where}; known are {', '.join(sorted(known))}", BAD_SETTINGS)
        if name in limits:
            changed = replace(
                changes.get("limits", config.limits), **{name: _number(name, value, _HIGHEST.get(name, 1 << 40), where)}
            )
            changes["limits"] = changed
        elif name == "data_dir":
            if not str(_typed(name, value, (str, os.PathLike), where)):
                raise StartError(f"{name} is empty ({where}): name a folder, or leave it out", BAD_SETTINGS)
            changes[name] = Path(value).expanduser()
        elif name in ("port", "idle_exit"):
            highest = 65_535 if name == "port" else 1 << 31
            changes[name] = _number(name, value, highest, where)
        else:
            text = _typed(name, value, (str,), where)
            allowed = _CHOICES.get(name)
            if allowed and text not in allowed:
                raise StartError(f"{name} must be {' or '.join(allowed)}, not {text!r} ({where})", BAD_SETTINGS)
            if not text:
                raise StartError(f"{name} is empty ({where}): name one, or leave it out", BAD_SETTINGS)
            changes[name] = text
    return replace(config, **changes)


def _typed(name: str, value: Any, kinds: tuple[type, ...], where: str) -> Any:
    if not isinstance(value, kinds):
        raise StartError(f"{name} must be {kinds[0].__name__}, not {value!r} ({where})", BAD_SETTINGS)
    return value


def _number(name: str, value: Any, highest: int, where: str) -> int:
    lowest = 1 if name in _POSITIVE else 0
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise StartError(
            f"{name} must be a whole number from {lowest} to {highest}, not {value!r} ({where})", BAD_SETTINGS
        )
    return value
