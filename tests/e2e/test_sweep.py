"""A hundred thousand mailboxes, half of which expire: the sweep finds every one of them and stalls nobody."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable

from e2e.harness import AI, Broker, Wire, bodies, pub

MAILBOXES, IN_FLIGHT = 100_000, 1000


class Stopwatch(threading.Thread):
    """Pings the broker without a pause and remembers the longest round trip, in seconds."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.client = Wire(broker.port)
        self.done = threading.Event()

    def run(self) -> None:
        with self.client:
            while not self.done.is_set():
                started = time.perf_counter()
                self.client.settle()
                self.longest = max(self.longest, time.perf_counter() - started)
                time.sleep(0.001)


def test_the_sweep_leaves_none(broker: Broker, wire: Callable[..., Wire]) -> None:
    client, follower = wire(broker, timeout=30), wire(broker, timeout=30)
    follower.settle(f"SUB {AI}PUBLIC.LIST d\r\n")
    client.send("SUB r 1\r\n")
    lasting, started = [], time.monotonic()
    for first in range(0, MAILBOXES, IN_FLIGHT):
        burst = []
        for number in range(first, first + IN_FLIGHT):
            short = {"name": f"short.{number}", "public": True, "ttl": 5}
            burst.append(pub(AI + "MAILBOX.CREATE", json.dumps(short if number % 2 else {}).encode(), reply="r"))
        client.send(b"".join(burst))
        answers = [json.loads(message.payload) for message in client.messages(IN_FLIGHT)]
        assert all(answer["error"] == "" and answer["is_new"] for answer in answers)
        lasting += [answer["mail_id"] for answer in answers if answer["ttl"] == 86400]
    created = time.monotonic() - started
    assert len(lasting) == MAILBOXES // 2
    stopwatch = Stopwatch(broker)
    stopwatch.start()
    events: dict[str, set[str]] = {"created": set(), "expired": set()}
    deadline = time.monotonic() + 30
    while len(events["expired"]) < MAILBOXES // 2 and time.monotonic() < deadline:
        (message,) = follower.messages(1)
        event = json.loads(message.payload)
        assert event["mail_id"] not in events[event["event"]], event
        events[event["event"]].add(event["mail_id"])
    swept = time.monotonic() - started
    stopwatch.done.set()
    stopwatch.join()
    print(
        f"\n{MAILBOXES:,} mailboxes created in {created:.1f} s, half of them (ttl 5 s) swept {swept:.1f} s after the"
        f" start; longest round trip of a ping {stopwatch.longest * 1000:.1f} ms"
    )
    assert events["expired"] == events["created"] == {f"short.{number}" for number in range(1, MAILBOXES, 2)}
    assert client.ask("PUBLIC.LIST", {"prefix": "short."})["mailboxes"] == []
    assert client.ask("MAILBOX.QUERY.short.1") == {"error": "mailbox short.1 does not exist"}
    for address in lasting[:: MAILBOXES // 200]:
        assert client.ask(f"MAILBOX.{address}", b"still here") == {"error": "", "msg_id": 1}


def test_what_has_expired_is_invisible_before_it_is_swept(broker: Broker, wire: Callable[..., Wire]) -> None:
    """The broker is held still while everything expires, and then finds requests before it can sweep."""
    client, follower = wire(broker), wire(broker)
    client.send("SUB r 1\r\n")
    client.send(2000 * pub(AI + "MAILBOX.CREATE", b'{"ttl":1}', reply="r"))
    gone = [json.loads(message.payload)["mail_id"] for message in client.messages(2000)]
    lasting = client.ask("MAILBOX.CREATE")["mail_id"]
    gone.append(client.ask("MAILBOX.CREATE", {"ttl": 1})["mail_id"])
    follower.settle(f"SUB {AI}INBOX.{gone[-1]} 1\r\n")
    client.settle(1500 * pub(f"{AI}MAILBOX.{lasting}", b"x", headers=b"mq9-ttl: 1\r\n"))
    client.settle(pub(f"{AI}MAILBOX.{lasting}", b"stays"))
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        time.sleep(1.1)
        requests = [f"MAILBOX.QUERY.{lasting}", f"MSG.FETCH.{lasting}", *(f"MAILBOX.{address}" for address in gone)]
        client.send(b"".join(pub(AI + verb, b"", reply="r") for verb in requests))
        client.send(f"SUB {AI}INBOX.{lasting} all\r\nSUB {AI}INBOX.{lasting} g group\r\n")
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    got = client.messages(2005)
    query, fetch, *sends = [json.loads(message.payload) for message in got if message.sid == "1"]
    delivered = [(message.sid, message.payload) for message in got if message.sid != "1"]
    assert sorted(delivered) == [("all", b"stays"), ("group", b"stays")]
    assert bodies(query) == ["stays"]
    assert (bodies(fetch), fetch["more"]) == (["stays"], False)
    assert sends == [{"error": f"mailbox {address} does not exist"} for address in gone]
    assert [message.status for message in follower.messages(1)] == ["410 Mailbox Expired"]
