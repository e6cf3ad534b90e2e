"""Both servers with the same settings, in processes of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from e2e.harness import Broker, eventually

KINDS = ("nats-server", "mq9")
PROGRAM = Path(sys.executable).with_name("nats-server")

Settings = Mapping[str, Any]
StartServer = Callable[..., Broker]

#: Settings in the words of each server's configuration; one that is not here has the same name in both. `nkey` is the
#: public key of the only user, `tls` the files of a certificate and its key.
_IN_NATS: dict[str, Callable[[Any], str]] = {
    "ping_interval": 'ping_interval: "{}s"'.format,
    "max_pings_out": "ping_max: {}".format,
    "lame_duck_grace": 'lame_duck_grace_period: "{}s"'.format,
    "lame_duck_duration": 'lame_duck_duration: "{}s"'.format,
    "token": 'authorization: {{ token: "{}", timeout: 1 }}'.format,
    "auth_timeout": "# a second, in the authorization block: {}".format,
    "nkey": "authorization: {{ users: [{{ nkey: {} }}] }}".format,
    "tls": 'tls: {{ cert_file: "{0[0]}", key_file: "{0[1]}" }}'.format,
    "tls_optional": lambda optional: f"allow_non_tls: {str(optional).lower()}",
}
_IN_MQ9: dict[str, Callable[[Any], str]] = {
    "nkey": 'users = [{{ nkey = "{}" }}]'.format,
    "tls": 'tls_cert = "{0[0]}"\ntls_key = "{0[1]}"'.format,
}


class NatsServer(Broker):
    """The reference: nats-server itself, started and stopped as our broker is."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder / "data")
        folder.mkdir(parents=True)
        self._folder = folder
        lines = [_IN_NATS[name](value) if name in _IN_NATS else f"{name}: {value}" for name, value in settings.items()]
        config = folder / "server.conf"
        config.write_text("\n".join(['listen: "127.0.0.1:-1"', f'ports_file_dir: "{folder}"', *lines, ""]))
        self.command = [str(PROGRAM), "-c", str(config)]

    @property
    def port(self) -> int:
        (ports,) = self._folder.glob("*.ports")
        return int(json.loads(ports.read_text())["nats"][0].rpartition(":")[2])

    def start(self) -> Self:
        self.spawn()
        assert eventually(lambda: self._listens() or self.process.poll() is not None, within=15)
        assert self._listens(), self.log.decode()[-2000:]
        return self

    def _listens(self) -> bool:
        return any(ports.read_text().endswith("}") for ports in self._folder.glob("*.ports"))


def our_broker(folder: Path, settings: Settings) -> Broker:
    """The broker with these settings in its configuration file."""
    folder.mkdir(parents=True)
    config = folder / "broker.toml"
    config.touch(0o600)
    lines = [
        _IN_MQ9[name](value) if name in _IN_MQ9 else f"{name} = {json.dumps(value)}" for name, value in settings.items()
    ]
    config.write_text("\n".join([*lines, ""]))
    return Broker(folder / "data", "--config", str(config), store="memory")


def server_of(kind: str, folder: Path, settings: Settings) -> Broker:
    """A server of that kind, not started yet."""
    return NatsServer(folder, settings) if kind == "nats-server" else our_broker(folder, settings)
