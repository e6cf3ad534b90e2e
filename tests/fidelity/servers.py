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

#: What nats-server calls differently, in its own words; every other setting has one name in both.
_IN_NATS: dict[str, Callable[[Any], str]] = {
    "ping_interval": 'ping_interval: "{}s"'.format,
    "max_pings_out": "ping_max: {}".format,
    "token": 'authorization: {{ token: "{}", timeout: 1 }}'.format,
    "lame_duck_grace": 'lame_duck_grace_period: "{}s"'.format,
    "lame_duck_duration": 'lame_duck_duration: "{}s"'.format,
    "auth_timeout": "# a second, in the authorization block: {}".format,
}


class NatsServer(Broker):
    """The reference: nats-server itself, started and stopped as our broker is."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder / "data")
        folder.mkdir(parents=True)
        self._folder = folder
        lines = [_IN_NATS.get(name, f"{name}: {{}}".format)(value) for name, value in settings.items()]
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
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return Broker(folder / "data", "--config", str(config), store="memory")


def server_of(kind: str, folder: Path, settings: Settings) -> Broker:
    """A server of that kind, not started yet."""
    return NatsServer(folder, settings) if kind == "nats-server" else our_broker(folder, settings)
