"""The command line as a shell and a person at a terminal use it."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.harness import NOBODY, PRIVATE_ID, Broker, Wire, eventually, fresh_name, pub
from mq9_mcp import cli

Run = Callable[..., subprocess.CompletedProcess[str]]
MQ9 = [sys.executable, "-c", "import sys; from mq9_mcp.cli import main; sys.exit(main())"]
COMMANDS = ["create", "send", "inbox", "watch", "list", "query", "drop", "status"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
    return {**kept, **more}


@pytest.fixture
def mq9(server: Broker) -> Run:
    """Runs `mq9` against the shared broker; `own` is $MQ9_MAILBOX."""

    def run(*arguments: str, stdin: str = "", own: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        mine = {"MQ9_MAILBOX": own} if own else {}
        done = subprocess.run(
            [*MQ9, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            env=environment(MQ9_URL=server.url, **mine),
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


@contextmanager
def started(command: list[str], server: Broker) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until it is stopped, at the latest with the test."""
    process = subprocess.Popen(
        command, env=environment(MQ9_URL=server.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def records(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def on_a_terminal(arguments: list[str], env: dict[str, str]) -> tuple[str, int]:
    """What `mq9` shows to a person, and its exit code."""
    here, there = pty.openpty()
    with subprocess.Popen([*MQ9, *arguments], stdin=there, stdout=there, stderr=there, env=env) as process:
        os.close(there)
        shown = b""
        try:
            while select.select([here], [], [], 20)[0] and (data := os.read(here, 65536)):
                shown += data
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
        finally:
            os.close(here)
        return shown.decode().replace("\r\n", "\n"), process.wait(10)


def test_the_version_loads_nothing_heavy() -> None:
    code = (
        "import sys; from mq9_mcp.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: print(end.code, [m for m in ('nats', 'rich', 'mcp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, _, rest = done.stdout.partition("\n")
    assert version.startswith("mq9 0.")
    assert rest.startswith("0 []")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: mq9 {command}" in shown
    assert f"mq9 {command}" in shown.partition("examples:")[2] or command == "status"
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert all(command in shown for command in [*COMMANDS, "broker"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "mq9: argument COMMAND: invalid choice: 'nonsense'"),
        (["create", "--ttl", "soon"], "mq9 create: argument --ttl: 'soon' is no duration"),
        (["create", "--ttl", "-5"], "mq9 create: argument --ttl: '-5' is no duration"),
        (["create", "--ttl", "1.5"], "'1.5' is not a whole number of seconds"),
        (["create", "--typ", "latest"], "mq9: unrecognized arguments: --typ"),
        (["send"], "mq9 send: the following arguments are required: to"),
        (["send", "x", "y", "--priority", "whenever"], "argument --priority: invalid choice: 'whenever'"),
        (["send", "x", "y", "--header", "nothing"], "'nothing' is no header"),
        (["inbox", "x", "--limit", "-1"], "'-1' is no count"),
        (["inbox", "x", "--limit", "many"], "'many' is no count"),
        (["list", "a", "\x1b[31m"], "unrecognized arguments: \\x1b[31m"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "--help`" in err
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "--public"], "mq9 create: --public needs a name"),
        (["send", "x"], "mq9 send: 'x'"),
        (["send", "x", "y", "--file", "z"], "mq9 send: there is a body and a --file"),
        (["send", "x", "--file", "/no/such/file"], "mq9 send: cannot read /no/such/file: No such file"),
        (["send", "-", "-"], "mq9 send: '-' stands for both"),
        (["send", "-"], "mq9 send: '-' reads the address from stdin"),
        (["send", "x", "y", "--sign"], "mq9 send: --sign needs your own mailbox"),
        (["send", "broadcast.a.b", "y", "--ttl", "5"], "it takes no --ttl"),
        (["send", "broadcast.a.b", "y", "--reply-to", "c"], "it takes no --reply-to"),
        (["inbox"], "mq9 inbox: which mailbox?"),
        (["watch"], "mq9 watch: which mailbox?"),
        (["drop", "-"], "mq9 drop: '-' reads the address from stdin"),
        (["query", "No Name"], "mq9 query: 'No Name' is no mailbox address"),
        (["inbox", "\x1b[31m"], "\\x1b[31m"),
        (["inbox", NOBODY], "mq9 inbox: mailbox m-aaaa… does not exist"),
        (["--url", "nats://127.0.0.1:1", "list"], "mq9 list: no broker answers at nats://127.0.0.1:1"),
        (["list", "--url", "nats://127.0.0.1:1"], "mq9 list: no broker answers at nats://127.0.0.1:1"),
    ],
)
def test_errors_are_one_line_and_code_two(mq9: Run, arguments: list[str], said: str) -> None:
    stdin = "\n" if arguments[:2] != ["send", "x"] or len(arguments) > 2 else "body"
    if arguments == ["send", "x"]:
        said = "mq9 send: mailbox x does not exist"
    done = mq9(*arguments, stdin=stdin, code=2)
    assert said in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert NOBODY not in done.stderr


def test_from_a_mailbox_to_its_mail(mq9: Run) -> None:
    own = mq9("create").stdout
    assert PRIVATE_ID.fullmatch(own.strip().encode())
    assert own.count("\n") == 1
    send_only = records(mq9("create", "--json"))[0]
    assert set(send_only) == {"mail_id", "send_only", "is_new", "ttl", "expires_at", "owner"}
    own, to = str(send_only["mail_id"]), str(send_only["send_only"])
    assert mq9("send", to, "as an argument").stdout == "Stored as message 1.\n"
    assert records(mq9("send", to, "--json", "--priority", "urgent", stdin="piped\n")) == [
        {"msg_id": 2, "stored": True, "duplicate": False}
    ]
    shown = mq9("inbox", own=own).stdout.splitlines()
    assert shown == ["#2 urgent  just now", "  piped", "  ", "#1 normal  just now", "  as an argument"]
    assert mq9("inbox", own=own, code=1).stdout == ""
    assert len(records(mq9("query", "--json", own=own))) == 2
    assert mq9("drop", own=own).stdout == "Dropped, with everything in it.\n"
    assert "does not exist" in mq9("inbox", own=own, code=2).stderr


def test_bodies_come_byte_for_byte(mq9: Run, server: Broker, tmp_path: Path) -> None:
    own = mq9("create").stdout.strip()
    (tmp_path / "body").write_bytes(b"\x00\xff\r\n")
    mq9("send", own, "--file", str(tmp_path / "body"))
    mq9("send", own, "-", stdin="")
    mq9("send", own, "--", "-looks like an option")
    raw = subprocess.run(
        [*MQ9, "send", own, b"\xff"], env=environment(MQ9_URL=server.url), check=True, capture_output=True
    )
    assert raw.stdout == b"Stored as message 4.\n"
    first, second, third, fourth = records(mq9("inbox", own, "--json"))
    assert (first["payload"], first["encoding"]) == ("AP8NCg==", "base64")
    assert second["payload"] == ""
    assert third["payload"] == "-looks like an option"
    assert fourth["payload"] == "/w=="


def test_addresses_from_stdin(mq9: Run) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", "-", "hello", stdin=own + "\n")
    assert mq9("inbox", "-", stdin=own).stdout.endswith("  hello\n")
    mq9("drop", "-", stdin=own)
    assert "does not exist" in mq9("query", own, code=2).stderr


def test_what_a_message_says_about_its_sender(mq9: Run) -> None:
    me, you = records(mq9("create", "--json"))[0], records(mq9("create", "--json"))[0]
    arguments = ["--sign", "--reply-to", str(me["send_only"]), "--header", "Trace: 1", "--ttl", "1h"]
    mq9("send", str(you["send_only"]), "x", *arguments, own=str(me["mail_id"]))
    (got,) = records(mq9("inbox", str(you["mail_id"]), "--json"))
    assert (got["from"], got["reply_to"]) == (me["send_only"], me["send_only"])
    assert isinstance(got["headers"], dict)
    assert got["headers"]["Trace"] == "1"


def test_public_mailboxes(mq9: Run) -> None:
    name = fresh_name("cli")
    made = records(mq9("create", name, "--public", "--desc", "a \x1b[31mred one", "--ttl", "1h", "--json"))[0]
    assert (made["mail_id"], made["is_new"], made["ttl"]) == (name, True, 3600)
    joined = mq9("create", name, "--public")
    assert (joined.stdout, joined.stderr) == (f"{name}\n", "")
    assert "owner address" in mq9("create", fresh_name("cli-own"), "--public").stderr
    shown = mq9("list", name).stdout
    assert shown == f"{name}  expires in 1 hour  a \\x1b[31mred one\n"
    assert records(mq9("list", name, "--json"))[0]["desc"] == "a \x1b[31mred one"
    assert "only the owner may" in mq9("drop", name, code=2).stderr
    mq9("drop", "-", stdin=str(made["owner"]))
    assert mq9("list", name).stdout == ""


def test_the_same_id_twice(mq9: Run) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", own, "x", "--dedup-id", "one")
    assert mq9("send", own, "x", "--dedup-id", "one").stdout == "Stored before, as message 1: not stored again.\n"
    assert mq9("send", own, "x", "--delay", "1h").stdout == "Stored, to be delivered later.\n"


def test_peeking_takes_nothing(mq9: Run) -> None:
    own = mq9("create").stdout.strip()
    assert mq9("inbox", own, "--peek", code=1).stdout == ""
    for number in range(3):
        mq9("send", own, str(number))
    for _ in range(2):
        assert [got["payload"] for got in records(mq9("inbox", own, "--peek", "--json"))] == ["0", "1", "2"]
    assert [got["payload"] for got in records(mq9("inbox", own, "--limit", "2", "--json"))] == ["0", "1"]
    assert [got["payload"] for got in records(mq9("inbox", own, "--peek", "--json"))] == ["2"]
    assert [got["payload"] for got in records(mq9("inbox", own, "--group", "other", "--json"))] == ["0", "1", "2"]
    assert [got["payload"] for got in records(mq9("inbox", own, "--json"))] == ["2"]


def test_more_than_one_batch(mq9: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    own = mq9("create").stdout.strip()
    script = "\n".join(
        [
            "import asyncio, sys",
            "from mq9_mcp.client import AsyncMailbox",
            "async def main():",
            "    async with await AsyncMailbox.connect() as mq9:",
            "        await asyncio.gather(*(mq9.send(sys.argv[1], str(n)) for n in range(250)))",
            "asyncio.run(main())",
        ]
    )
    url = mq9("status", "--json")
    env = environment(MQ9_URL=str(records(url)[0]["url"]))
    subprocess.run([sys.executable, "-c", script, own], env=env, check=True)
    assert len(records(mq9("query", own, "--json"))) == 100
    assert len(records(mq9("query", own, "--json", "--limit", "0"))) == 250
    assert len(records(mq9("inbox", own, "--json", "--peek"))) == 250
    assert len(records(mq9("inbox", own, "--json", "--limit", "130"))) == 130
    assert len(records(mq9("inbox", own, "--json"))) == 120


def test_waiting_for_mail(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    begun = time.monotonic()
    mq9("inbox", own, "--wait", "0.3", code=1)
    assert time.monotonic() - begun > 0.3
    command = [*MQ9, "inbox", own, "--wait", "20", "--json"]
    with started(command, server) as waiting:
        mq9("send", own, "here")
        out, _ = waiting.communicate(timeout=15)
    assert (json.loads(out)["payload"], waiting.returncode) == ("here", 0)


def test_watching_until_ctrl_c(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", own, "waiting")
    command = [*MQ9, "watch", own, "--json"]
    with started(command, server) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["payload"] == "waiting"
        mq9("send", own, "live")
        assert json.loads(watching.stdout.readline())["payload"] == "live"
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=10) == ("", "")
    assert watching.returncode == 0
    assert len(records(mq9("inbox", own, "--json"))) == 2


def test_watching_ends_with_the_mailbox(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", own, "last")
    with started([*MQ9, "watch", own], server) as watching:
        assert watching.stdout is not None
        assert [watching.stdout.readline() for _ in range(2)] == ["#1 normal  just now\n", "  last\n"]
        mq9("drop", own)
        out, err = watching.communicate(timeout=10)
    assert (out, watching.returncode) == ("", 0)
    assert err == "mq9 watch: the mailbox has ended: it expired, or was dropped\n"


def test_ctrl_c_while_waiting(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    command = [*MQ9, "inbox", own, "--wait", "60"]
    with started(command, server) as waiting:
        time.sleep(0.7)
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=10) == ("", "")
    assert waiting.returncode == 130


def test_a_reader_that_has_had_enough(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    for _ in range(3):
        mq9("send", own, "x" * 100_000)
    command = [*MQ9, "inbox", own]
    with started(command, server) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.close()
        assert reading.stderr.read() == ""
        assert reading.wait(10) == 141
    assert len(records(mq9("inbox", own, "--json"))) == 3


def test_a_broadcast(mq9: Run) -> None:
    assert mq9("send", "broadcast.build.done", "ok").stdout.startswith(
        "Broadcast to everyone who listens to build.done"
    )
    assert records(mq9("send", "broadcast.build.done", "ok", "--json")) == [{"stored": False}]
    assert "no broadcast event" in mq9("send", "broadcast.build", "x", code=2).stderr


def test_the_status(mq9: Run, server: Broker, tmp_path: Path) -> None:
    (status,) = records(mq9("status", "--json"))
    assert (status["url"], status["reachable"], status["problem"]) == (server.url, True, None)
    assert f"broker    {server.url}  mq9 {status['version']}\n" in mq9("status").stdout
    env = environment(MQ9_DATA_DIR=str(tmp_path / "none"))
    done = subprocess.run([*MQ9, "status"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "none is running" in done.stdout
    assert str(tmp_path / "none") in done.stdout
    assert not (tmp_path / "none").exists()
    done = subprocess.run([*MQ9, "--url", "nats://127.0.0.1:1", "status", "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["reachable"] is False
    assert done.returncode == 1


def test_a_person_is_told_what_to_do_with_a_mailbox(server: Broker) -> None:
    env = environment(MQ9_URL=server.url, TERM="xterm", COLUMNS="200", NO_COLOR="1")
    shown, code = on_a_terminal(["create"], env)
    assert code == 0
    assert "A new private mailbox, expires in 1 day." in shown
    for words in ("secret", "hand out   ", "export MQ9_MAILBOX=", "mq9 send s-", "mq9 inbox --wait 60"):
        assert words in shown
    shown, code = on_a_terminal(["create", fresh_name("shown"), "--public"], env)
    assert "A new public mailbox" in shown
    assert "owner" in shown


def test_a_terminal_shows_colours_of_ours_only(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", own, "[bold]not markup[/bold] :smile: \x1b[31m \u202e http://x", "--priority", "urgent")
    env = environment(MQ9_URL=server.url, TERM="xterm-256color", COLUMNS="200")
    shown, code = on_a_terminal(["inbox", own], env)
    assert code == 0
    assert "[bold]not markup[/bold] :smile: \\x1b[31m \\u202e http://x\n" in shown
    assert "\x1b[1;31murgent\x1b[0m" in shown
    shown, code = on_a_terminal(["inbox", own], env)
    assert (shown, code) == ("No mail.\n", 1)
    shown, _ = on_a_terminal(["query", own, "--json"], env)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_terminal_without_a_body(server: Broker) -> None:
    shown, code = on_a_terminal(["send", "x"], environment(MQ9_URL=server.url))
    assert (shown, code) == ("mq9 send: no body: give it as an argument, with --file, or through a pipe\n", 2)


def test_a_terminal_that_knows_few_characters(mq9: Run, server: Broker) -> None:
    own = mq9("create").stdout.strip()
    mq9("send", own, "日本")
    env = environment(MQ9_URL=server.url, PYTHONIOENCODING="ascii")
    done = subprocess.run([*MQ9, "query", own], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, "  \\u65e5\\u672c")


def test_mq9_broker_is_the_broker(tmp_path: Path) -> None:
    script = shutil.which("mq9", path=str(Path(sys.executable).parent))
    assert script is not None
    assert (
        "mq9 broker" in subprocess.run([script, "broker", "--help"], capture_output=True, text=True, check=True).stdout
    )
    refused = subprocess.run([script, "broker", "--no-such-flag"], capture_output=True, text=True)
    assert refused.returncode == 2
    command = [script, "broker", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as running:
        assert running.stdout is not None
        assert select.select([running.stdout], [], [], 15)[0]
        assert b"listening on nats://127.0.0.1:" in running.stdout.readline()
        env = environment(MQ9_DATA_DIR=str(tmp_path / "data"))
        assert subprocess.run([*MQ9, "create"], env=env, capture_output=True).returncode == 0
        running.terminate()
        assert running.wait(10) == 0


def test_the_first_command_starts_a_broker(tmp_path: Path) -> None:
    data = tmp_path / "data"
    env = environment(MQ9_DATA_DIR=str(data), MQ9_IDLE_EXIT="2")
    own = subprocess.run([*MQ9, "create"], env=env, capture_output=True, text=True, check=True).stdout.strip()
    assert PRIVATE_ID.fullmatch(own.encode())
    subprocess.run([*MQ9, "send", own, "x"], env=env, capture_output=True, check=True)
    assert own not in (data / "broker.log").read_text()
    assert eventually(lambda: not (data / "port").exists(), within=15)
    done = subprocess.run([*MQ9, "inbox", own], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("  x\n")
    assert eventually(lambda: not (data / "port").exists(), within=15)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("mq9 list >&-", 0, ""),
        ("mq9 send {name} <&-", 0, ""),
        ("mq9 query {name} >/dev/full", 2, "mq9 query: No space left on device: make room, or write elsewhere\n"),
    ],
)
def test_closed_and_full_outputs(mq9: Run, server: Broker, line: str, code: int, said: str) -> None:
    name = fresh_name()
    mq9("create", name)
    mq9("send", name, "x")
    env = environment(MQ9_URL=server.url, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", line.format(name=name)], capture_output=True, text=True, timeout=30, env=env)
    assert (done.returncode, done.stderr) == (code, said)


def test_options_may_stand_before_the_body(mq9: Run) -> None:
    name = fresh_name()
    mq9("create", name)
    mq9("send", name, "--priority", "urgent", "two words")
    mq9("send", "--priority", "low", name, "--", "-v is no option")
    assert [record["payload"] for record in records(mq9("query", name, "--json"))] == ["two words", "-v is no option"]


def test_a_look_at_very_much_mail_says_that_there_is_more(mq9: Run, server: Broker) -> None:
    name = fresh_name()
    mq9("create", name)
    with Wire(server.port) as wire:
        wire.settle(b"".join(pub(f"$mq9.AI.INBOX.{name}", b"x") for _ in range(1100)))
    done = mq9("inbox", name, "--peek", "--json")
    assert len(records(done)) == 1000
    assert done.stderr == "mq9 inbox: more wait; --peek shows 1000 at most\n"
