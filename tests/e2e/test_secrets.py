"""Nothing reveals a private address or a message to somebody who does not hold the address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.harness import (
    AI,
    NOBODY,
    PRIVATE_ID,
    Broker,
    Connect,
    Peer,
    StartBroker,
    Wire,
    bodies,
    eventually,
    fresh_name,
    pub,
    take,
    waiting,
)

pytestmark = pytest.mark.anyio

CONTENT = "the-content-of-a-message"
COVERING = [
    ">",
    "*.>",
    "$mq9.>",
    "$mq9.*.>",
    "$mq9.AI.>",
    "$mq9.AI.*.>",
    "*.*.*.*",
    "*.*.*.*.*",
    "*.AI.MAILBOX.>",
    "_INBOX.>",
]
REFUSED = [
    "MAILBOX.*",
    "MAILBOX.>",
    "MAILBOX.*.urgent",
    "MAILBOX.*.>",
    "INBOX.*",
    "INBOX.>",
    "INBOX.*.normal",
    "MSG.>",
    "MSG.*.*",
    "MSG.SEND.*",
    "MSG.FETCH.>",
    "MAILBOX.QUERY.*",
    "MAILBOX.DELETE.>",
    # not wildcards, but no form of a subscription either
    "MAILBOX.CREATE",
    "MSG.SEND.name",
    "MSG.FETCH.name",
    "MSG.ACK.name",
    "MAILBOX.QUERY.name",
    "NOPE",
    "NOPE.name",
]


async def a_mailbox_in_full_use(peer: Peer, box: dict[str, object]) -> None:
    """Every operation there is on a mailbox, each with the content that nobody else may see."""
    address, name = box["mail_id"], fresh_name("unlisted")
    for form in ("MAILBOX.{}", "MAILBOX.{}.urgent", "INBOX.{}", "INBOX.{}.low", "MSG.SEND.{}"):
        subject = form.format(address)
        assert (await peer.ask(subject, CONTENT))["error"] == ""
        await peer.nc.publish(AI + subject, CONTENT.encode(), headers={"mq9-from": str(address), "Topic": CONTENT})
    answers = f"{AI}INBOX.{box['send_only']}.normal"
    await peer.nc.publish(f"{AI}MAILBOX.{box['send_only']}", CONTENT.encode(), reply=answers)
    assert (await peer.create(name=name, desc=CONTENT))["is_new"] is True
    assert (await peer.query(str(address)))["unread"] == 11
    assert (await peer.fetch(str(address), "g", ack=[1]))["messages"] != []
    assert (await peer.ask(f"MSG.ACK.{address}", {"group_name": "g", "msg_ids": [2]}))["error"] == ""
    assert (await peer.ask(f"MAILBOX.DELETE.{address}.3"))["error"] == ""
    assert (await peer.ask(f"MAILBOX.RENEW.{address}", {"ttl": 600}))["error"] == ""
    for queue in ("", "workers"):
        subscription = await peer.listen(f"{AI}INBOX.{address}", queue=queue)
        await take(subscription, 10)
    assert (await peer.ask(f"MAILBOX.DROP.{address}"))["error"] == ""
    assert set(await peer.ask(f"MAILBOX.{address}", CONTENT)) == {"error"}


async def test_a_spy_with_every_wildcard_sees_no_mail(connect: Connect, server: Broker) -> None:
    victim, spy = await connect(server), await connect(server)
    box = await victim.create()  # its first request makes the inbox that the spy then watches
    inbox = victim.nc._resp_sub_prefix.decode()  # the one way to name it
    watched = [*COVERING, inbox + "*", inbox + ">"]
    subscriptions = [await spy.listen(subject) for subject in watched]
    assert spy.errors == []
    await a_mailbox_in_full_use(victim, box)
    await victim.nc.publish("open.to.all", b"seen")
    await victim.nc.publish(AI + "BROADCAST.open.done", b"seen too")
    await victim.flush()
    for subject, subscription in zip(watched, subscriptions, strict=True):
        seen = [(message.subject, message.data) for message in await waiting(spy, subscription)]
        allowed = [("open.to.all", b"seen")] * (subject in (">", "*.>"))
        covers = subject in (">", "*.>", "$mq9.>", "$mq9.*.>", "$mq9.AI.>", "$mq9.AI.*.>", "*.*.*.*.*")
        allowed += [(AI + "BROADCAST.open.done", b"seen too")] * covers
        assert seen == allowed, subject


@pytest.mark.parametrize("queue", ["", "workers"])
@pytest.mark.parametrize("form", REFUSED)
async def test_these_subscriptions_are_refused(
    server: Broker, wire: Callable[..., Wire], form: str, queue: str
) -> None:
    client = wire(server)
    (error,) = client.settle(f"SUB {AI}{form} {queue} 1\r\n")
    using = f' using queue "{queue}"' if queue else ""
    assert error.args == f"'Permissions Violation for Subscription to \"{AI}{form}\"{using}'"
    assert [message.payload for message in client.settle("SUB a 2\r\nPUB a 1\r\nx\r\n")] == [b"x"]


async def test_a_wildcard_beside_an_address_sees_nothing(server: Broker, wire: Callable[..., Wire]) -> None:
    """Knowing a send-only address must not help to see what is sent to it."""
    owner, spy = wire(server), wire(server)
    made = owner.ask("MAILBOX.CREATE")
    for address in (made["send_only"], made["mail_id"]):
        for number, subject in enumerate((f"*.AI.MAILBOX.{address}", f"$mq9.*.MAILBOX.{address}", f"{AI}*.{address}")):
            spy.settle(f"SUB {subject} {number}\r\n")
        owner.settle(pub(f"{AI}MAILBOX.{address}", CONTENT.encode()))
    assert spy.settle() == []


async def test_a_forged_reply_subject_moves_nothing(
    connect: Connect, server: Broker, wire: Callable[..., Wire]
) -> None:
    victim, thief = await connect(server), wire(server)
    box = await victim.create()
    everything = await victim.listen("theirs.>")
    inbox = victim.nc._resp_sub_prefix.decode()
    for reply in ("theirs.inbox", inbox + "guess"):
        thief.settle(pub(AI + "MAILBOX.CREATE", b"", reply=reply) + pub(AI + "PUBLIC.LIST", b"", reply=reply))
        thief.settle(pub(AI + "MAILBOX." + NOBODY, b"x", reply=reply))
        thief.settle(pub(AI + "MAILBOX." + box["send_only"], b"x", reply=reply))
    assert await waiting(victim, everything) == []
    # nor can a reply be turned into a send, a broadcast or another request
    broadcasts = await victim.listen(AI + "BROADCAST.a.>")
    targets = [f"INBOX.{box['send_only']}", f"MAILBOX.{box['send_only']}.urgent", "BROADCAST.a.b", "MAILBOX.CREATE"]
    for target in targets:
        for verb in ("MAILBOX.CREATE", f"MAILBOX.QUERY.{box['mail_id']}", f"MSG.FETCH.{box['mail_id']}", "PUBLIC.LIST"):
            (error,) = thief.settle(pub(AI + verb, b"", reply=AI + target))
            assert error.args == f"'Permissions Violation for Publish to \"{AI}{verb}\"'"
    assert await waiting(victim, broadcasts) == []
    assert bodies(await victim.query(box["mail_id"])) == ["x", "x"]


async def test_replies_reach_every_subscription_of_the_asker_and_no_other(
    server: Broker, wire: Callable[..., Wire]
) -> None:
    asker, same_inbox = wire(server), wire(server)
    same_inbox.settle("SUB my.inbox 1\r\n")
    got = asker.settle(b"SUB my.inbox 1\r\nSUB my.> 2\r\n" + pub(AI + "MAILBOX.CREATE", b"", reply="my.inbox"))
    assert sorted(message.sid for message in got) == ["1", "2"]
    assert got[0].payload == got[1].payload
    assert json.loads(got[0].payload)["error"] == ""
    assert same_inbox.settle() == []


async def test_a_reply_subject_is_taken_literally(server: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(server)
    got = client.settle(b"SUB odd.* 1\r\nSUB odd.x 2\r\n" + pub(AI + "PUBLIC.LIST", b"", reply="odd.*"))
    assert [message.sid for message in got] == ["1"]


async def test_logs_and_files_hold_no_private_address(connect: Connect, start_broker: StartBroker) -> None:
    broker = start_broker("--log-level", "debug")
    peer = await connect(broker)
    public = await peer.create(name="listed", public=True)
    kept = await peer.create()
    await peer.send(kept["mail_id"], "x", mq9_from=public["owner"], Nats_Msg_Id="once")
    await peer.send("listed", "x", mq9_from=kept["mail_id"], mq9_delay="1")
    await peer.send(kept["mail_id"], "x", mq9_delay="300", mq9_from=kept["mail_id"])
    for secret in (kept["mail_id"], public["owner"]):
        await peer.nc.publish(AI + "MAILBOX.listed", b"x", reply=f"{AI}INBOX.{secret}.normal")
    await peer.fetch(kept["mail_id"], "g")
    await a_mailbox_in_full_use(peer, await peer.create())
    expiring = await peer.create(ttl=1, storage="memory")
    await peer.listen(expiring["inbox"])
    for secret in (NOBODY, kept["mail_id"], public["owner"]):  # mistakes around a secret
        for verb in ("MAILBOX.{}.asap", "MSG.FETCH.{}.x", "MAILBOX.DELETE.{}.x", "MAILBOX.{}.urgent.x", "NOPE.{}"):
            await peer.ask(verb.format(secret), b"[]")
            await peer.nc.publish(AI + verb.format(secret), b"[]")
        await peer.ask(f"MAILBOX.{public['send_only']}", "x", headers={"mq9-from": secret, "mq9-ttl": secret})
        await peer.ask("MAILBOX.CREATE", {"name": secret, "type": secret, "ttl": secret})
        await peer.ask(f"MAILBOX.QUERY.{secret}", {"group_name": secret + " ", "after": secret})
        await peer.listen(f"{AI}MAILBOX.{secret}.x.y")
        await peer.listen(f"{AI}MSG.SEND.{secret}", queue="q")
    await peer.flush()
    deadline = time.monotonic() + 1.5
    eventually(lambda: time.monotonic() > deadline, within=2)  # the delayed one is delivered, the short one expires
    await peer.flush()
    await peer.nc.close()
    broker.restart(hard=True)
    assert broker.stop() == 0
    assert broker.log != b""
    assert PRIVATE_ID.findall(broker.log) == []
    files = [path for path in broker.data_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 0
    for path in files:
        assert PRIVATE_ID.findall(path.read_bytes()) == [], path


def test_what_the_broker_writes_is_the_users_own(start_broker: StartBroker, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    broker = start_broker(folder="open")
    with Wire(broker.port) as client:
        address = client.ask("MAILBOX.CREATE")["mail_id"]
        assert client.ask(f"MAILBOX.{address}", "mail")["msg_id"] == 1
    written = list(folder.rglob("*"))
    assert {path.name for path in written} > {"lock", "port", "store"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []
