"""The domain behind the tools: what survives cancellations, crashes, restarts and expiries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agents import Clock, free_port

from e2e.harness import Broker, Peer, fresh_name
from mq9_mcp.errors import BrokerUnavailable, MailboxError
from mq9_mcp.home import RENEW_AFTER, TTL
from mq9_mcp.identity import Own, SessionMap
from mq9_mcp.reading import Inbox
from mq9_mcp.service import SESSIONS, Agent, Service

pytestmark = pytest.mark.anyio

NewService = Callable[..., Service]
StartBroker = Callable[..., Broker]


@pytest.fixture
async def service(server: Broker, tmp_path: Path, clock: Clock) -> AsyncIterator[NewService]:
    """Makes services, each a process of its own as far as the broker and the others can tell."""
    made: list[Service] = []

    def make(broker: Broker = server, *, url: str | None = None, folder: str = "agents-data") -> Service:
        made.append(Service(url or broker.url, environ={}, data_dir=tmp_path / folder, now=clock))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def texts(inbox: Inbox) -> list[str]:
    return [mail.letter.body for mail in inbox.mails]


async def read(agent: Agent, mailbox: str | None = None, *, wait: float = 0, group: str | None = None) -> list[str]:
    """What the agent is shown, and hears of."""
    inbox = await agent.check_inbox(mailbox, wait=wait, group=group)
    agent.reader.handed(inbox)
    return texts(inbox)


async def address(agent: Agent) -> str:
    return (await agent.check_inbox()).address


def sessions_in(folder: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((folder / "agents" / "sessions.json").read_bytes())["sessions"]
    return found


# what an agent was not shown


async def test_a_cancelled_wait_loses_nothing(service: NewService) -> None:
    alice, bob = service().remembered("alice"), service().remembered("bob")
    to_bob = await address(bob)
    waiting = asyncio.create_task(bob.check_inbox(wait=45))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.wait((waiting,))
    await alice.send(to_bob, "x")
    assert await read(bob) == ["x"]


async def test_a_cancellation_at_the_same_moment_as_a_message(service: NewService) -> None:
    alice, bob = service().remembered("alice"), service().remembered("bob")
    to_bob = await address(bob)
    seen: list[str] = []
    sent = [str(number) for number in range(40)]
    for text in sent:
        waiting = asyncio.create_task(bob.check_inbox(wait=5))
        await asyncio.sleep(0.005)
        sending = asyncio.create_task(alice.send(to_bob, text))
        await asyncio.sleep(int(text) / 40 * 0.002)
        waiting.cancel()
        await asyncio.wait((waiting, sending))
        if not waiting.cancelled():
            bob.reader.handed(waiting.result())
            seen += texts(waiting.result())
    while more := await read(bob):
        seen += more
    assert [*dict.fromkeys(seen)] == sent


async def test_what_did_not_reach_the_agent_comes_again(service: NewService) -> None:
    bob = service().remembered("bob")
    await bob.send(await address(bob), "x")
    assert texts(await bob.check_inbox()) == ["x"]
    inbox = await bob.check_inbox()
    assert texts(inbox) == ["x"]
    bob.reader.handed(inbox)
    bob.reader.take_back(inbox)
    assert await read(bob) == ["x"]
    assert await read(bob) == []


async def test_a_lease_that_another_has_by_now_is_no_error(service: NewService, start_broker: StartBroker) -> None:
    broker = start_broker("--port", str(free_port()))
    alice, bob = service(broker).remembered("alice"), service(broker).remembered("bob")
    name = fresh_name()
    await alice.create_mailbox(name=name, public=True)
    for text in ("one", "two", "three"):
        await alice.send(name, text)
    first = await alice.check_inbox(name, group="workers", limit=2)
    alice.reader.handed(first)
    assert texts(first) == ["one", "two"]
    broker.restart()  # what was leased goes back
    second = await bob.check_inbox(name, group="workers", limit=1)
    bob.reader.handed(second)
    assert texts(second) == ["one"]
    assert await read(alice, name, group="workers") == ["three"], "two is acknowledged, one is bob's"
    assert await read(bob, name, group="workers") == []


async def test_a_mailbox_that_was_made_again_is_another_one(service: NewService, peer: Peer) -> None:
    alice = service().remembered("alice")
    name = fresh_name()
    for text in ("old", "new"):
        made = await peer.create(name=name, ttl=60)
        await peer.send(name, text)
        assert await read(alice, name) == [text], "ids begin at 1 again, and what was read before is something else"
        assert (await peer.ask(f"MAILBOX.DROP.{made['owner']}"))["error"] == ""
        await asyncio.sleep(1.1)


async def test_urgent_mail_comes_before_what_is_not_acknowledged_yet(service: NewService) -> None:
    alice, name = service().remembered("alice"), fresh_name()
    await alice.create_mailbox(name=name)
    for text in ("one", "two", "three"):
        await alice.send(name, text)
    assert await read(alice, name) == ["one", "two", "three"]
    await alice.send(name, "at once", priority="critical")
    await alice.send(name, "four")
    assert await read(alice, name) == ["at once", "four"]
    assert await read(alice, name) == []


async def test_what_an_agent_works_on_is_kept_for_it(service: NewService) -> None:
    one = service()
    alice, bob = one.remembered("alice"), service().remembered("bob")
    name = fresh_name()
    await alice.create_mailbox(name=name, public=True)
    await alice.send(name, "task")
    await alice.send(name, "next")
    inbox = await alice.check_inbox(name, group="workers", limit=1)
    alice.reader.handed(inbox)
    await alice.reader.keep()
    assert await read(bob, name, group="workers") == ["next"], "keeping takes nothing else"


async def test_keeping_does_not_take_what_others_got(service: NewService, start_broker: StartBroker) -> None:
    broker = start_broker("--port", str(free_port()))
    alice, bob = service(broker).remembered("alice"), service(broker).remembered("bob")
    name = fresh_name()
    await alice.create_mailbox(name=name, public=True)
    await alice.send(name, "task")
    assert await read(alice, name, group="workers") == ["task"]
    broker.restart()
    assert await read(bob, name, group="workers") == ["task"]
    await alice.reader.keep()
    await bob.send(name, "another")
    await alice.reader.keep()
    assert await read(bob, name, group="workers") == ["another"]


# the own mailbox


async def test_what_an_agent_was_shown_does_not_become_unread_again(
    service: NewService, peer: Peer, tmp_path: Path
) -> None:
    """Not even when it works on it for longer than the broker leases it."""
    made = await peer.create(ack_wait=1)
    own = Own(made["mail_id"], made["send_only"], made["expires_at"])
    SessionMap(tmp_path / "agents-data").remember("alice", own, now=0)
    alice = service().remembered("alice")
    await peer.send(made["send_only"], "x")
    assert await read(alice) == ["x"]
    for _ in range(4):
        await asyncio.sleep(0.4)
        await alice.reader.keep()
    assert await alice.unread() == 0
    await asyncio.sleep(1.1)
    assert await alice.unread() == 1, "the broker does not wait for ever"


async def test_two_processes_of_one_session_share_its_mailbox(service: NewService) -> None:
    addresses = await asyncio.gather(*(address(service().remembered("alice")) for _ in range(5)))
    assert len(set(addresses)) == 1


async def test_sessions_without_a_name_have_a_mailbox_each(service: NewService, tmp_path: Path) -> None:
    addresses = {await address(service().passing("here")) for _ in range(3)}
    assert len(addresses) == 3
    assert not (tmp_path / "agents-data").exists()


async def test_one_that_has_expired_is_replaced(service: NewService, peer: Peer, tmp_path: Path) -> None:
    alice = service().remembered("alice")
    before = await address(alice)
    ((_, kept),) = sessions_in(tmp_path / "agents-data").items()
    assert (await peer.ask(f"MAILBOX.DROP.{kept['mail_id']}"))["error"] == ""
    inbox = await alice.check_inbox(wait=0.2)
    assert inbox.moved
    assert inbox.address != before
    assert not (await alice.check_inbox()).moved
    again = service().remembered("alice")
    assert await address(again) == inbox.address
    await again.send(inbox.address, "x")
    assert await read(alice) == ["x"]


async def test_one_that_expired_between_two_processes_is_replaced(
    service: NewService, peer: Peer, tmp_path: Path
) -> None:
    before = await address(service().remembered("alice"))
    ((_, kept),) = sessions_in(tmp_path / "agents-data").items()
    assert (await peer.ask(f"MAILBOX.DROP.{kept['mail_id']}"))["error"] == ""
    alice = service().remembered("alice")
    assert await alice.unread() == 0
    sent = await alice.send(fresh := (await peer.create())["send_only"], "x")
    assert sent is not None, fresh
    inbox = await alice.check_inbox()
    assert inbox.moved
    assert inbox.address != before


async def test_a_sender_whose_mailbox_expired_gets_a_new_one(service: NewService, peer: Peer, tmp_path: Path) -> None:
    alice, made = service().remembered("alice"), await peer.create()
    await address(alice)
    ((_, kept),) = sessions_in(tmp_path / "agents-data").items()
    assert (await peer.ask(f"MAILBOX.DROP.{kept['mail_id']}"))["error"] == ""
    await alice.send(made["send_only"], "x")
    (message,) = (await peer.query(made["mail_id"]))["messages"]
    assert message["headers"]["mq9-from"] == await address(alice)


async def test_it_is_renewed_while_it_is_used(service: NewService, peer: Peer, tmp_path: Path, clock: Clock) -> None:
    alice = service().remembered("alice")
    before = await address(alice)
    ((_, kept),) = sessions_in(tmp_path / "agents-data").items()
    clock.ahead = RENEW_AFTER + 1
    assert (await peer.ask(f"MAILBOX.RENEW.{kept['mail_id']}", {"ttl": 1}))["error"] == ""
    await alice.unread()
    await asyncio.sleep(1.1)
    assert await address(alice) == before
    ((_, renewed),) = sessions_in(tmp_path / "agents-data").items()
    assert RENEW_AFTER <= int(renewed["expires_at"]) - int(kept["expires_at"]) <= RENEW_AFTER + 10
    assert int(renewed["expires_at"]) <= clock() + TTL


async def test_an_operator_may_allow_less_than_seven_days(
    service: NewService, start_broker: StartBroker, tmp_path: Path
) -> None:
    config = tmp_path / "broker.toml"
    config.write_text("max_ttl = 3600\n")
    broker = start_broker("--config", str(config))
    alice = service(broker).remembered("alice")
    mine = await address(alice)
    assert await address(service(broker).remembered("alice")) == mine


# the broker comes and goes


async def test_without_a_broker_it_says_what_to_do(service: NewService, start_broker: StartBroker) -> None:
    port = free_port()
    alice = service(url=f"nats://127.0.0.1:{port}").remembered("alice")
    for attempt in (alice.check_inbox, alice.list_public, lambda: alice.send("box", "x")):
        with pytest.raises(BrokerUnavailable, match="start one with `mq9 broker`"):
            await attempt()
    assert await alice.unread() == 0
    start_broker("--port", str(port))
    assert await read(alice) == []


async def test_the_broker_restarts_under_it(service: NewService, start_broker: StartBroker) -> None:
    broker = start_broker("--port", str(free_port()))
    alice, bob = service(broker).remembered("alice"), service(broker).remembered("bob")
    to_bob = await address(bob)
    await alice.send(to_bob, "before")
    assert await read(bob) == ["before"]
    broker.restart(hard=True)
    await alice.send(to_bob, "after")
    assert await read(bob) == ["after"], "what was shown before is acknowledged all the same"
    waiting = asyncio.create_task(read(bob, wait=30))
    await asyncio.sleep(0.1)
    broker.restart()
    await alice.send(to_bob, "during")
    async with asyncio.timeout(15):
        assert await waiting == ["during"]


async def test_a_send_whose_answer_was_lost_is_stored_once(service: NewService, server: Broker, peer: Peer) -> None:
    made = await peer.create()
    async with lossy(server.port) as proxy:
        alice = service(url=f"nats://127.0.0.1:{proxy.port}").remembered("alice")
        await address(alice)
        proxy.lose_answer = True
        sent = await alice.send(made["send_only"], "x")
        assert sent is not None
        assert (proxy.lost, sent.duplicate) == (1, True)
    assert len((await peer.query(made["mail_id"]))["messages"]) == 1


class Proxy:
    """Between client and broker; told to lose an answer, it cuts the connection that it was meant for."""

    port = 0
    lose_answer = False
    lost = 0


@asynccontextmanager
async def lossy(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy()
    ends: list[asyncio.StreamWriter] = []

    async def serve(near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        far_reader, far = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((near, far))

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    if writer is near and b"msg_id" in data and proxy.lose_answer:
                        proxy.lose_answer = False
                        proxy.lost += 1
                        break
                    writer.write(data)
            except ConnectionError:
                pass
            finally:
                near.close()
                far.close()

        await asyncio.gather(forward(near_reader, far), forward(far_reader, near))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        proxy.port = listener.sockets[0].getsockname()[1]
        yield proxy
        for end in ends:
            end.close()


# callers without a session


async def test_a_caller_without_a_session_is_whoever_holds_the_address(service: NewService, peer: Peer) -> None:
    one = service()
    made = await one.nobody(None).create_mailbox()
    sent = await one.nobody(made.mail_id).send(made.send_only, "to myself", reply_to=made.mail_id)
    assert sent is not None
    agent = one.nobody(made.mail_id)
    inbox = await agent.check_inbox(made.mail_id)
    agent.reader.handed(inbox)
    (mail,) = inbox.mails
    assert (mail.sender, mail.letter.reply_to, inbox.address) == (made.send_only, made.send_only, made.send_only)
    assert await one.nobody(made.mail_id).unread() == 0
    assert await read(one.nobody(made.mail_id), made.mail_id) == []


async def test_strangers_push_no_session_out(service: NewService) -> None:
    one = service()
    alice = one.passing("alice")
    for number in range(SESSIONS + 1):
        one.nobody(f"m-{number:026}")
    assert one.passing("alice") is alice


async def test_what_a_caller_without_a_session_cannot_do(service: NewService, peer: Peer) -> None:
    one, name = service(), fresh_name()
    made = await peer.create(name=name, public=True)
    await peer.send(name, "x")
    nobody = one.nobody(None)
    with pytest.raises(MailboxError, match="make one with create_mailbox"):
        await nobody.check_inbox()
    with pytest.raises(MailboxError, match="include_read=true"):
        await nobody.check_inbox(name)
    with pytest.raises(MailboxError, match="`group` has to tell apart who reads"):
        await one.nobody(made["owner"]).check_inbox(made["owner"], group="workers")
    assert texts(await nobody.check_inbox(name, include_read=True)) == ["x"]
    await nobody.send(name, "unsigned")
    assert await nobody.unread() == 0
    signed = (await peer.query(name))["messages"][1]
    assert "mq9-from" not in (signed["headers"] or {})
