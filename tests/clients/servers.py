"""Both servers in the variants that the checks need: plain, with TLS, with users, with a token."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

import nkeys

from e2e.harness import Broker, eventually
from e2e.ways import Certificates, address, port_of

NATS_SERVER = Path(sys.executable).with_name("nats-server")


class Server(Protocol):
    """A process that was started. A restart keeps its ports."""

    port: int
    ws_port: int

    def restart(self) -> object: ...
    def end(self) -> None: ...


class NatsServer:
    """nats-server on free ports. `settings` and `websocket` are lines of its configuration file."""

    def __init__(self, folder: Path, settings: str = "", websocket: str = "no_tls: true") -> None:
        self.folder = folder
        self.settings = settings
        self.websocket = websocket
        self.port = self.ws_port = -1

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'websocket {{ listen: "127.0.0.1:{self.ws_port}", {self.websocket} }}\n'
            f'ports_file_dir: "{self.folder}"\n{self.settings}\n'
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([NATS_SERVER, "-c", config], stdout=log, stderr=log)
        ports = self.folder / f"nats-server_{self.process.pid}.ports"
        if not eventually(lambda: ports.exists() and ports.read_text().endswith("}"), within=15):
            self.end()
            raise AssertionError(f"nats-server did not start: {(self.folder / 'log').read_text()[-2000:]}")
        found = json.loads(ports.read_text())
        self.port, self.ws_port = (int(found[kind][0].rpartition(":")[2]) for kind in ("nats", "websocket"))
        return self

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self) -> Self:
        self.end()
        return self.start()


class Mq9(Broker):
    """Our broker with a WebSocket listener. A restart keeps its ports."""

    def __init__(self, folder: Path, *flags: str) -> None:
        super().__init__(folder, "--ws-port", "0", *flags)
        self.ws_port = 0

    def start(self) -> Self:
        super().start()
        scheme = "wss" if "--tls-cert" in self.command else "ws"
        self.ws_port = port_of(address(self, scheme))
        for flag, port in (("--port", self.port), ("--ws-port", self.ws_port)):
            self.command[self.command.index(flag) + 1] = str(port)
        return self

    def end(self) -> None:
        try:
            assert self.stop() == 0, self.log.decode()[-2000:]
            assert b"Traceback" not in self.log, self.log.decode()
        finally:
            self.kill()


class Generous:
    """A way to a server on which INFO promises a `max_payload` that the server does not take."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.to = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.to))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                # who does not listen any more may still have something to say: the other direction goes on
                with suppress(OSError):
                    to.sendall(re.sub(rb'("max_payload": ?)1048576', rb"\g<1>9999999", data))
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Servers:
    """One kind of server in every variant; what a program has to know of them is `environment()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.certificates = Certificates(folder)
        self.password, self.token = secrets.token_hex(8), secrets.token_hex(8)
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        self.nkey = nkeys.from_seed(bytearray(seed)).public_key.decode()
        self.seed_file = folder / "agent.nk"
        self.seed_file.write_bytes(seed)
        self.generous = Generous()
        self.started: dict[str, Server] = {}

    def server(self, variant: str) -> Server:
        if variant not in self.started:
            self.started[variant] = getattr(self, f"start_{variant}")()
        return self.started[variant]

    def environment(self, variant: str, websocket: bool) -> dict[str, str]:
        """For a program that needs this variant, spoken to over WebSocket or not."""
        server = self.server(variant)
        port = server.ws_port if websocket else server.port
        plain, secure = ("ws", "wss") if websocket else ("nats", "tls")
        scheme = secure if variant in ("tls", "mutual") else plain
        self.generous.to = port
        return {
            f"{variant.upper()}_URL": f"{scheme}://127.0.0.1:{port}",
            "GENEROUS_URL": f"{scheme}://127.0.0.1:{self.generous.port}",
            "TLS_CA": str(self.certificates.ca),
            "TLS_CERT": str(self.certificates.client),
            "PASSWORD": self.password,
            "NKEY_FILE": str(self.seed_file),
            "NKEY": self.nkey,
            "TOKEN": self.token,
        }

    def restart(self) -> None:
        self.server("plain").restart()

    def close(self) -> None:
        self.generous.close()
        for server in self.started.values():
            server.end()


class NatsServers(Servers):
    def start_plain(self) -> Server:
        return NatsServer(self.folder / "plain").start()

    def start_tls(self) -> Server:
        return self._secured("tls", "")

    def start_mutual(self) -> Server:
        return self._secured("mutual", f', ca_file: "{self.certificates.ca}", verify: true')

    def _secured(self, variant: str, more: str) -> Server:
        files = f'tls {{ cert_file: "{self.certificates.cert}", key_file: "{self.certificates.key}"{more} }}'
        return NatsServer(self.folder / variant, files, files).start()

    def start_users(self) -> Server:
        users = f'{{ user: agent, password: "{self.password}" }}, {{ nkey: {self.nkey} }}'
        return NatsServer(self.folder / "users", f"authorization {{ users: [ {users} ] }}").start()

    def start_token(self) -> Server:
        return NatsServer(self.folder / "token", f'authorization {{ token: "{self.token}" }}').start()


class Mq9Servers(Servers):
    def start_plain(self) -> Server:
        return Mq9(self.folder / "plain").start()

    def start_tls(self) -> Server:
        return self._secured("tls")

    def start_mutual(self) -> Server:
        return self._secured("mutual", "--tls-ca", str(self.certificates.ca), "--tls-verify")

    def _secured(self, variant: str, *more: str) -> Server:
        files = ("--tls-cert", str(self.certificates.cert), "--tls-key", str(self.certificates.key))
        return Mq9(self.folder / variant, *files, *more).start()

    def start_users(self) -> Server:
        return self._configured(
            "users", f'[[users]]\nuser = "agent"\npassword = "{self.password}"\n[[users]]\nnkey = "{self.nkey}"\n'
        )

    def start_token(self) -> Server:
        return self._configured("token", f'token = "{self.token}"\n')

    def _configured(self, variant: str, settings: str) -> Server:
        file = self.folder / f"{variant}.toml"
        file.touch(0o600)
        file.write_text(settings)
        return Mq9(self.folder / variant, "--config", str(file)).start()
