"""The client libraries: what each suite needs here, how its program is built, and what a run of it said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clients.checks import CORE, MAILBOXES, MISSING, WAYS_IN
from clients.servers import Servers

PROGRAMS = Path(__file__).parent / "programs"
#: The package with which clients for JavaScript acknowledge.
_ACKS = "@nats-io/jetstream"
SET_UP = "run: bash tests/clients/set_up.sh"
#: Debian's folder of Go packages; the client library for Go is one of them.
GO_PACKAGES = Path("/usr/share/gocode")
#: A run of a program takes a few seconds; one that hangs is stopped.
_SECONDS = 180
#: Not every runtime makes room for 1,000 connections by itself.
_ROOM = ["sh", "-c", 'ulimit -Sn 4096; exec "$0" "$@"']


@dataclass(frozen=True)
class Suite:
    """`missing` says what is not installed here, or nothing; `build` gives the command, built in a folder."""

    name: str
    missing: Callable[[], str]
    build: Callable[[Path], list[str]]
    websocket: bool = False

    def checks(self, kind: str) -> list[str]:
        """What the library has to show with this kind of server, in order."""
        words = [*CORE, *(MAILBOXES if kind == "mq9" else ()), *WAYS_IN]
        return [word for word in words if (self.name, word) not in MISSING]


def _nothing() -> str:
    return ""


def node_missing(*packages: str) -> str:
    if shutil.which("node") is None:
        return "node is not installed: install Node.js 20 or newer"
    absent = [name for name in packages if not (PROGRAMS / "node" / "node_modules" / name).is_dir()]
    return f"the npm packages {', '.join(absent)} are not installed: {SET_UP}" if absent else ""


def _javascript(library: str) -> Callable[[Path], list[str]]:
    return lambda folder: ["node", str(PROGRAMS / "node" / "suite.mjs"), library]


def _no_libnats() -> str:
    if shutil.which("gcc") is None:
        return f"gcc is not installed: {SET_UP}"
    if not any(Path(folder, "nats", "nats.h").exists() for folder in ("/usr/include", "/usr/local/include")):
        return f"libnats-dev is not installed: {SET_UP}"
    return ""


def _c(folder: Path) -> list[str]:
    program, source = folder / "libnats", PROGRAMS / "libnats.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", program, source, "-lnats"], check=True)
    return [str(program)]


def _no_go() -> str:
    if shutil.which("go") is None:
        return f"golang-go is not installed: {SET_UP}"
    if not (GO_PACKAGES / "src/github.com/nats-io/nats.go").is_dir():
        return f"golang-github-nats-io-go-nats-dev is not installed: {SET_UP}"
    return ""


def _go(folder: Path) -> list[str]:
    program = folder / "nats_go"
    environment = os.environ | {"GOPATH": str(GO_PACKAGES), "GO111MODULE": "off", "GOFLAGS": ""}
    subprocess.run(["go", "build", "-o", program, PROGRAMS / "nats_go.go"], env=environment, check=True)
    return [str(program)]


SUITES = {
    suite.name: suite
    for suite in (
        Suite("nats-py", _nothing, lambda folder: [sys.executable, str(PROGRAMS / "nats_py.py")]),
        Suite("transport-node", lambda: node_missing("@nats-io/transport-node", _ACKS), _javascript("transport-node")),
        Suite("nats.js", lambda: node_missing("nats"), _javascript("nats")),
        Suite("websocket", lambda: node_missing("@nats-io/nats-core", _ACKS, "ws"), _javascript("nats-core"), True),
        Suite("libnats", _no_libnats, _c),
        Suite("nats.go", _no_go, _go),
    )
}


def run(command: list[str], checks: list[str], servers: Servers, environment: dict[str, str]) -> dict[str, str]:
    """Runs a program for checks that need the same server: for each what was wrong, or nothing."""
    said: dict[str, str] = {}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*_ROOM, *command, *checks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | environment,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(_SECONDS, process.kill)
        limit.daemon = True
        limit.start()
        for line in process.stdout:
            if line == "# restart\n":
                servers.restart()
                process.stdin.write("\n")
                process.stdin.flush()
            elif not line.startswith("#"):
                result, check, *why = line.rstrip("\n").split(" - ", 2)
                said[check] = "" if result == "ok" else why[0] if why else "failed"
        code = process.wait()
        limit.cancel()
        errors.seek(0)
        end = f"{command[0]} ended with {code} before this check: {errors.read().decode(errors='replace')[-2000:]}"
    return {check: said.get(check, end) for check in checks}
