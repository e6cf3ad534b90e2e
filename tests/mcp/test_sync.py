"""The client without an event loop: the same methods, from scripts, threads and notebooks."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pydoc
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from e2e.harness import NOBODY, Broker, eventually, fresh_name
from mq9_mcp import AsyncMailbox, Mailbox
from mq9_mcp.errors import BrokerUnavailable, MailboxError, MailboxNotFound, Misused
from mq9_mcp.mail import Message

#: What programs without an event loop cannot have.
ASYNC_ONLY = {"connect", "nats"}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_have_the_same_methods_with_the_same_words() -> None:
    assert public(Mailbox) == public(AsyncMailbox) - ASYNC_ONLY
    for name in public(Mailbox) - {"url"}:
        there, here = getattr(AsyncMailbox, name), getattr(Mailbox, name)
        assert inspect.signature(here).parameters == inspect.signature(there).parameters, name
        assert here.__doc__, name
        if name != "receive":
            assert here.__doc__ == there.__doc__.replace("`async ", "`"), name
    assert inspect.signature(Mailbox).parameters == inspect.signature(AsyncMailbox).parameters


def test_help_shows_what_a_user_needs() -> None:
    said = " ".join(pydoc.plain(pydoc.render_doc(Mailbox)).replace("|", " ").split())
    assert re.search(r"send\( ?self, to: 'str Created', payload: 'Payload', \*, priority: 'Priority None' = None", said)
    assert "Stores a message in the mailbox `to` and returns when it is stored" in said
    assert inspect.signature(Mailbox.send).return_annotation == "Sent"


def test_a_mailbox_in_five_lines(mq9_mailbox: Mailbox) -> None:
    mine = mq9_mailbox.create(ttl=60)
    mq9_mailbox.send(mine.send_only, {"n": 1}, priority="urgent")
    (message,) = mq9_mailbox.fetch(mine.mail_id, group="me", wait=5)
    assert (message.json(), message.priority) == ({"n": 1}, "urgent")
    mq9_mailbox.ack(mine.mail_id, "me", [message.msg_id])
    assert len(mq9_mailbox.fetch(mine.mail_id, group="me")) == 0


def test_messages_as_they_come(mq9_mailbox: Mailbox) -> None:
    mine = mq9_mailbox.create()
    for number in range(5):
        mq9_mailbox.send(mine.send_only, str(number))
    with mq9_mailbox.messages(mine.mail_id) as messages:
        assert [next(messages).text for _ in range(5)] == list("01234")
        mq9_mailbox.send(mine.send_only, "live")
        assert next(messages).text == "live"
    for message in mq9_mailbox.messages(mine.mail_id, group="g"):
        if message.text == "live":
            mq9_mailbox.drop(mine.mail_id)
    with pytest.raises(MailboxNotFound):
        next(mq9_mailbox.messages(mine.mail_id))


def test_what_is_broadcast_and_who_can_do_what(mq9_mailbox: Mailbox) -> None:
    event, name = fresh_name("sync"), fresh_name("sync")
    with mq9_mailbox.listen(f"{event}.*") as heard:
        mq9_mailbox.broadcast(f"{event}.done", "7")
        assert next(heard).event == f"{event}.done"
    mq9_mailbox.create(name=name, public=True)
    mq9_mailbox.declare(name, [event])
    assert [found.address for found in mq9_mailbox.find(event)] == [name]
    with mq9_mailbox.watch() as changes:
        assert any(change.mailbox.mail_id == name for change in (next(changes) for _ in range(1000)))


def test_a_callback_may_block_and_use_the_mailbox(mq9_mailbox: Mailbox) -> None:
    tasks, results = mq9_mailbox.create(), mq9_mailbox.create()
    for number in range(3):
        mq9_mailbox.send(tasks.send_only, {"square": number}, reply_to=results.send_only)

    def work(message: Message) -> None:
        time.sleep(0.01)
        mq9_mailbox.answer(message, str(message.json()["square"] ** 2))

    with mq9_mailbox.receive(tasks.mail_id, work, resume="workers") as receiver:
        found = eventually(lambda: mq9_mailbox.query(results.mail_id).unread == 3, within=10)
        assert found
        assert receiver.running
        assert not receiver.wait(0.01)
    assert not receiver.running
    assert [message.text for message in mq9_mailbox.fetch(results.mail_id)] == ["0", "1", "4"]
    assert len(mq9_mailbox.fetch(tasks.mail_id, group="workers")) == 0


def test_a_callback_may_stop_its_receiver(mq9_mailbox: Mailbox) -> None:
    mine = mq9_mailbox.create()
    mq9_mailbox.send(mine.send_only, "x")

    def once(_: Message) -> None:
        receiver.stop()

    ready = threading.Event()
    receiver = mq9_mailbox.receive(mine.mail_id, lambda message: ready.wait(10) and once(message), resume="g")
    ready.set()
    assert receiver.wait(10)
    assert len(mq9_mailbox.fetch(mine.mail_id, group="g")) == 0


def test_a_callback_that_wants_to_leave_has_failed(mq9_mailbox: Mailbox, caplog: pytest.LogCaptureFixture) -> None:
    mine = mq9_mailbox.create()
    mq9_mailbox.send(mine.send_only, "x")
    with mq9_mailbox.receive(mine.mail_id, lambda _: sys.exit("enough")) as receiver:
        assert eventually(lambda: "SystemExit in a callback" in caplog.text, within=10)
        assert receiver.running
    assert mq9_mailbox.query(mine.mail_id).unread == 1


def test_a_coroutine_function_runs_on_its_own_loop(mq9_mailbox: Mailbox) -> None:
    mine = mq9_mailbox.create()
    mq9_mailbox.send(mine.send_only, "x")
    problems: list[Exception] = []

    async def work(_: Message) -> None:
        await asyncio.sleep(0)
        try:
            mq9_mailbox.create()
        except MailboxError as error:
            problems.append(error)

    for callback in (work, lambda message: work(message)):
        problems.clear()
        with mq9_mailbox.receive(mine.mail_id, callback):
            assert eventually(lambda: problems, within=10)
        assert isinstance(problems[0], Misused)
        assert "ordinary function" in str(problems[0])


def test_receiving_from_nobody(mq9_mailbox: Mailbox) -> None:
    with pytest.raises(MailboxNotFound):
        mq9_mailbox.receive(NOBODY, print, resume="g")


def test_threads_share_one(mq9_mailbox: Mailbox) -> None:
    mine = mq9_mailbox.create()
    threads = [
        threading.Thread(target=lambda: [mq9_mailbox.send(mine.send_only, "x") for _ in range(20)]) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert mq9_mailbox.query(mine.mail_id, limit=0).unread == 200


@pytest.mark.anyio
async def test_a_notebook_has_a_loop_that_runs(server: Broker) -> None:
    """As a cell of a notebook is called: in a thread whose event loop runs."""
    asyncio.get_running_loop()
    mq9 = Mailbox(server.url)
    mine = mq9.create()
    mq9.send(mine.send_only, "x")
    assert [message.text for message in mq9.fetch(mine.mail_id)] == ["x"]
    got: list[str] = []
    with mq9.receive(mine.mail_id, lambda message: got.append(message.text)):
        assert eventually(lambda: got, within=10) == ["x"]
    mq9.close()


def test_a_closed_one_says_so(server: Broker) -> None:
    with Mailbox(server.url) as mq9:
        mine = mq9.create()
    mq9.close()
    with pytest.raises(BrokerUnavailable, match="this client is closed"):
        mq9.send(mine.send_only, "x")
    unused = Mailbox(server.url)
    unused.close()
    with pytest.raises(BrokerUnavailable, match="this client is closed"):
        unused.create()


def test_closing_ends_what_waits(server: Broker) -> None:
    mq9 = Mailbox(server.url)
    mine = mq9.create()
    problems: list[Exception] = []

    def wait() -> None:
        try:
            mq9.fetch(mine.mail_id, wait=60)
        except MailboxError as error:
            problems.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    mq9.close()
    waiting.join(10)
    assert isinstance(problems[0], BrokerUnavailable)


def test_who_is_forgotten_is_closed(server: Broker) -> None:
    mq9 = Mailbox(server.url)
    mq9.create()
    thread = mq9._portal._thread
    assert thread is not None
    assert thread.is_alive()
    del mq9
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_nobody_answers() -> None:
    with pytest.raises(BrokerUnavailable, match="no broker answers"), Mailbox("nats://127.0.0.1:1"):
        pass


def script(code: str, server: Broker, *, within: float = 20) -> subprocess.CompletedProcess[str]:
    begun = "from mq9_mcp import Mailbox, AsyncMailbox\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", begun + code],
        env=os.environ | {"MQ9_URL": server.url},
        capture_output=True,
        text=True,
        timeout=within,
    )


@pytest.mark.parametrize(
    "code",
    [
        "mq9 = Mailbox(); print(mq9.create().is_new)",
        "print(Mailbox().create().is_new)",
        "mq9 = Mailbox(); m = mq9.messages(mq9.create().mail_id); m.__enter__(); print(True)",
        # a callback that is in the middle of something does not hold up the end
        "import threading; mq9 = Mailbox(); b = mq9.create(); e = threading.Event()\n"
        "def work(message): e.set(); threading.Event().wait()\n"
        "mq9.send(b.send_only, 'x'); mq9.receive(b.mail_id, work, resume='g'); print(e.wait(10))",
    ],
)
def test_a_program_ends_without_closing(server: Broker, code: str) -> None:
    done = script(code, server)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_is_noticed(server: Broker) -> None:
    code = """
import os, sys
mq9 = Mailbox()
mine = mq9.create()
child = os.fork()
if not child:
    try:
        mq9.send(mine.send_only, "x")
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    print(Mailbox().send(mine.send_only, "from the child").msg_id, flush=True)
    sys.exit()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print(mq9.fetch(mine.mail_id).messages[0].text)
"""
    done = script(code, server)
    refused, msg_id, status, text = done.stdout.splitlines()
    assert refused.startswith("Misused this Mailbox was made in process")
    assert (msg_id, status, text, done.stderr) == ("1", "0", "from the child", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_an_interrupt_ends_the_wait_alone(server: Broker) -> None:
    code = """
import os, signal, threading
from mq9_mcp import MailboxNotFound
mq9 = Mailbox()
mine = mq9.create()
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    mq9.ask(mine.send_only, "anybody?")
except KeyboardInterrupt:
    (question,) = mq9.fetch(mine.mail_id)
    try:
        mq9.answer(question, "too late")
    except MailboxNotFound:
        print("nobody waits for the answer")
"""
    done = script(code, server)
    assert (done.stdout, done.stderr, done.returncode) == ("nobody waits for the answer\n", "", 0)


def test_it_finds_or_starts_a_broker(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mq9_mcp import Mailbox\nprint(Mailbox().create().is_new)"],
        env={name: value for name, value in os.environ.items() if not name.startswith("MQ9_")}
        | {"MQ9_DATA_DIR": str(tmp_path / "mq9"), "MQ9_IDLE_EXIT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
