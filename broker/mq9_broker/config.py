"""One frozen configuration: defaults, then the file, then the environment, then the flags; the later wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mq9_broker.auth import User, parse_token, parse_users
from mq9_broker.errors import BAD_SETTINGS, StartError
from mq9_broker.model import Limits


def default_data_dir() -> Path:
    """The user's own folder for data."""
    from platformdirs import user_data_path

    return user_data_path("mq9", appauthor=False)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. Ports: 0 is any free one, None is off. `idle_exit` is set for a broker that a
    program started by itself: after so many seconds without a client it stops; 0 never."""

    host: str = "127.0.0.1"
    port: int = 4222
    socket: Path | None = None
    data_dir: Path = field(default_factory=default_data_dir)
    store: str = "rocksdb"
    durability: str = "process"
    log_level: str = "info"
    idle_exit: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_verify: bool = False
    tls_handshake: str = "after"
    tls_optional: bool = False
    ws_host: str = "127.0.0.1"
    ws_port: int | None = None
    ws_origins: tuple[str, ...] = ()
    monitor_host: str = "127.0.0.1"
    monitor_port: int | None = None
    token: str = field(default="", repr=False)
    users: tuple[User, ...] = field(default=(), repr=False)
    #: the configuration file, when there are credentials in it
    secret_file: Path | None = None
    lame_duck_grace: int = 10
    lame_duck_duration: int = 120
    limits: Limits = field(default_factory=Limits)


def load(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration. StartError (code 2) names the setting that is wrong, its value and where it stands."""
    config = Config()
    if file is not None:
        values = _read(file)
        config = _apply(config, values, str(file))
        if "token" in values or "users" in values:
            config = replace(config, secret_file=file)
    for name, setting in (("MQ9_DATA_DIR", "data_dir"), ("MQ9_TOKEN", "token")):
        if environment.get(name):
            config = _apply(config, {setting: environment[name]}, name)
    config = _apply(config, {name: value for name, value in flags.items() if value is not None}, "the command line")
    _check(config)
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as cause:
        raise StartError(f"the configuration file {file} can't be read: {cause.strerror}", BAD_SETTINGS) from cause
    except (ValueError, RecursionError) as cause:
        raise StartError(f"the configuration file {file} is not valid TOML: {cause}", BAD_SETTINGS) from cause


def _apply(config: Config, values: Mapping[str, Any], where: str) -> Config:
    changes: dict[str, Any] = {}
    limits: dict[str, int] = {}
    for name, value in values.items():
        name = name.replace("-", "_")
        if name in _SETTINGS:
            changes[name] = _SETTINGS[name](name, value, where)
        elif name in _LIMITS:
            limits[name] = _LIMITS[name](name, value, where)
        else:
            known = ", ".join(sorted(_SETTINGS.keys() | _LIMITS.keys()))
            raise StartError(f"unknown setting {name!r} in {where}; known are {known}", BAD_SETTINGS)
    return replace(config, **changes, limits=replace(config.limits, **limits))


def _check(config: Config) -> None:
    """What settings ask of each other."""
    if (config.tls_cert is None) != (config.tls_key is None):
        raise StartError("TLS needs both tls_cert and tls_key: name the other file too", BAD_SETTINGS)
    handshake = config.tls_handshake != "after"
    if config.tls_cert is None and (config.tls_ca or config.tls_verify or config.tls_optional or handshake):
        raise StartError(
            "tls_ca, tls_verify, tls_handshake and tls_optional say how TLS is done: name tls_cert and tls_key",
            BAD_SETTINGS,
        )
    if config.tls_verify and config.tls_ca is None:
        raise StartError("tls_verify asks clients for a certificate: name in tls_ca who signs those", BAD_SETTINGS)
    if config.tls_optional and config.tls_handshake != "after":
        raise StartError(
            f"tls_optional needs INFO before TLS: tls_handshake is {config.tls_handshake!r}, leave it out", BAD_SETTINGS
        )
    default = Config()
    for port, others in (("ws_port", ("ws_host", "ws_origins")), ("monitor_port", ("monitor_host",))):
        for name in others:
            if getattr(config, port) is None and getattr(config, name) != getattr(default, name):
                raise StartError(f"{name} says how {port} is served, and there is none: set {port} too", BAD_SETTINGS)


Setting = Callable[[str, Any, str], Any]


def _typed(name: str, value: Any, kinds: tuple[type, ...], where: str) -> Any:
    if not isinstance(value, kinds):
        raise StartError(f"{name} must be {kinds[0].__name__}, not {value!r} ({where})", BAD_SETTINGS)
    return value


def _text(name: str, value: Any, where: str) -> str:
    text: str = _typed(name, value, (str,), where)
    if not text:
        raise StartError(f"{name} is empty ({where}): name one, or leave it out", BAD_SETTINGS)
    return text


def _switch(name: str, value: Any, where: str) -> bool:
    switched: bool = _typed(name, value, (bool,), where)
    return switched


def _path(name: str, value: Any, where: str) -> Path:
    text = str(_typed(name, value, (str, os.PathLike), where))
    if not text:
        raise StartError(f"{name} is empty ({where}): name a path, or leave it out", BAD_SETTINGS)
    if "\0" in text:
        raise StartError(f"{name} {text!r} has a NUL, which no path has ({where})", BAD_SETTINGS)
    try:
        return Path(text).expanduser()
    except RuntimeError as cause:
        raise StartError(
            f"{name} {text!r} begins with a home folder that is not there: write it out ({where})", BAD_SETTINGS
        ) from cause


def _texts(name: str, value: Any, where: str) -> tuple[str, ...]:
    texts = value.split(",") if isinstance(value, str) else _typed(name, value, (list,), where)
    return tuple(_text(name, text, where) for text in texts)


def _one_of(*allowed: str) -> Setting:
    def choose(name: str, value: Any, where: str) -> str:
        text: str = _typed(name, value, (str,), where)
        if text not in allowed:
            raise StartError(f"{name} must be {' or '.join(allowed)}, not {text!r} ({where})", BAD_SETTINGS)
        return text

    return choose


def _number(highest: int, lowest: int = 0) -> Setting:
    def count(name: str, value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise StartError(
                f"{name} must be a whole number from {lowest} to {highest}, not {value!r} ({where})", BAD_SETTINGS
            )
        return value

    return count


_port = _number(65_535)
_seconds = _number(1 << 31)

_SETTINGS: dict[str, Setting] = {
    "host": _text,
    "port": _port,
    "socket": _path,
    "data_dir": _path,
    "store": _one_of("rocksdb", "memory"),
    "durability": _one_of("process", "fsync"),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "idle_exit": _seconds,
    "tls_cert": _path,
    "tls_key": _path,
    "tls_ca": _path,
    "tls_verify": _switch,
    "tls_handshake": _one_of("after", "first", "auto"),
    "tls_optional": _switch,
    "ws_host": _text,
    "ws_port": _port,
    "ws_origins": _texts,
    "monitor_host": _text,
    "monitor_port": _port,
    "token": lambda name, value, where: parse_token(value, where),
    "users": lambda name, value, where: parse_users(value, where),
    "lame_duck_grace": _seconds,
    "lame_duck_duration": _seconds,
}
_LIMITS: dict[str, Setting] = {each.name: _number(1 << 40) for each in fields(Limits)} | {
    # without these there is no broker: pings without end, no request that fits, nobody who gets in
    "ping_interval": _number(1 << 31, 1),
    "max_payload": _number(1 << 40, 1),
    "max_pending": _number(1 << 40, 1),
    "max_connections": _number(1 << 40, 1),
    "auth_timeout": _number(1 << 31, 1),
    "max_control_line": _number((1 << 31) - 1, 1),
    # (nobody is stale who was not asked)
    "max_pings_out": _number(1 << 40, 1),
}
