"""Every program in examples/ runs, as a reader would run it, says what it did, and leaves no public mailbox behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from clients.suites import PROGRAMS, node_missing
from e2e.harness import Broker, Wire

EXAMPLES = Path(__file__).parent.parent / "examples"
BIN = Path(sys.executable).parent

# What each prints; `…` stands for anything on a line.
SAID = {
    "sleeping_parent.py": """\
parent: I have a mailbox, and go to sleep
sub-agent: two reports are stored, and I am done
parent: [urgent] {"step":"tests","ok":false,"failed":2}
parent: [normal] {"step":"lint","ok":true}
""",
    "track_workers.py": """\
orchestrator: … is here, 1 at work
orchestrator: … is here, 2 at work
orchestrator: ada has gone silent, 1 at work: its task goes to another
orchestrator: bob has gone silent, 0 at work: its task goes to another
""",
    "work_queue.py": """\
9 tasks wait in example.queue
ada: killed in the middle of task 1
…: did task 1, which somebody had begun
…: did task 2
…: did task 3
…: did task 4
…: did task 5
…: did task 6
…: did task 7
…: did task 8
…: did task 9
9 tasks were done, 9 different ones
""",
    "alert.py": """\
monitor: two alerts are out; who handles them is not my business
pager, running: alert.disk at db-1
pager, running: alert.cpu at web-3
cleaner, was offline: alert.disk at db-1
night-shift, was offline: alert.disk at db-1
night-shift, was offline: alert.cpu at web-3
""",
    "edge.py": """\
device: offline from now on; the cloud knows my send-only address
cloud: five commands are stored
device: [critical] stop the pump
device: [normal] report every 15 s
device: [low] update to 2.4
""",
    "approval.py": """\
agent: I asked, and tidy up the indexes meanwhile
person: the agent asks: Drop the table sessions_old on db-1?
agent: 'yes' did not come from the desk, and counts for nothing
agent: approved, the table is gone
""",
    "question.py": """\
asker: three questions are stored, I do something else
expert: I answered the last one first
asker: Is it Friday? I do not know
asker: What is RocksDB? a store of keys and values on disk
asker: Which port does NATS use? 4222
""",
    "capabilities.py": """\
directory: example.translator-fr, translates into fr
directory: example.translator-it, translates into it
board: 2 can translate
newcomer: example.translator-fr says bonjour
board: 0 can translate
""",
    "agents/plain_loop.py": """\
agent: check_inbox
agent: send
agent: check_inbox
agent: send
agent: check_inbox
agent: nothing is left to review
program: parser.py: one typo in line 3
program: store.py: one typo in line 3
""",
    "agents/langgraph_agent.py": """\
agent: check_inbox
agent: send
agent: check_inbox
agent: nothing is left to review
program: parser.py: one typo in line 3
""",
    "shell/queue.sh": """\
three jobs wait
ada: rotate the keys
bob: compress the logs
bob: warm the cache
no job is left
""",
    "nats_js/mailbox.mjs": """\
two messages are stored, nobody listens yet
[critical] stop the deployment
[normal] the report is ready
the group took 2 and acknowledged them
""",
}


def test_every_program_is_run_here() -> None:
    found = {
        str(path.relative_to(EXAMPLES)) for ending in ("py", "sh", "mjs") for path in EXAMPLES.rglob(f"*.{ending}")
    }
    assert found == SAID.keys()


@pytest.fixture
def run(broker: Broker, tmp_path: Path) -> Callable[[str], str]:
    """What a program prints; nothing on stderr, and 0 is its exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "MQ9_URL": broker.url,
        "MQ9_DATA_DIR": str(broker.data_dir),
        "PYTHONWARNINGS": "error",
    }

    def said(name: str) -> str:
        program = EXAMPLES / name
        runner = {".py": sys.executable, ".sh": "bash", ".mjs": "node"}[program.suffix]
        if program.suffix == ".mjs":
            program = _beside_its_packages(program, tmp_path)
        done = subprocess.run(
            [runner, program],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return said


def _beside_its_packages(program: Path, folder: Path) -> Path:
    """A copy of a program for node in a folder where it finds the npm packages, as beside a package.json of its own."""
    copy = folder / program.name
    if not copy.exists():
        copy.write_bytes(program.read_bytes())
        (folder / "node_modules").symlink_to(PROGRAMS / "node" / "node_modules")
    return copy


def _in_order(said: str) -> str:
    """The lines of workers by their tasks: who works beside others is done when it is done."""
    lines = said.splitlines(keepends=True)
    done = iter(sorted((line for line in lines if " did task " in line), key=lambda line: line.partition(": ")[2]))
    return "".join(next(done) if " did task " in line else line for line in lines)


def _missing(name: str) -> str:
    if name.endswith(".mjs"):
        return node_missing("@nats-io/transport-node")
    if "langgraph" in name and not find_spec("langchain"):
        return "LangGraph is not installed: pip install langchain"
    return ""


@pytest.mark.parametrize("name", SAID)
def test_example(name: str, run: Callable[[str], str], broker: Broker) -> None:
    if why := _missing(name):
        pytest.skip(f"{name} did not run: {why}")
    said = _in_order(run(name))
    assert re.fullmatch(re.escape(SAID[name]).replace("…", ".*"), said), said
    with Wire(broker.port) as wire:
        assert wire.ask("PUBLIC.LIST")["mailboxes"] == []


def test_a_person_can_refuse(broker: Broker) -> None:
    """In a terminal `approval.py` asks the one who sits there."""
    import pty

    terminal, inside = pty.openpty()
    environment = os.environ | {"MQ9_URL": broker.url}
    command = [sys.executable, EXAMPLES / "approval.py"]
    with subprocess.Popen(command, stdin=inside, stdout=subprocess.PIPE, env=environment, text=True) as process:
        os.write(terminal, b"no\n")
        said, _ = process.communicate(timeout=30)
    for end in (terminal, inside):
        os.close(end)
    assert said.endswith("agent: the table stays\n"), json.dumps(said)
