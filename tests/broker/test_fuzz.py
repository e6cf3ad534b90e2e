"""Whatever clients send: no defect, no connection lost that kept to the protocol, and nothing of it only in memory."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from broker.inprocess import AI, NOBODY, Broker, FaultyStore, pub
from mq9_broker import mailboxes
from mq9_broker.addresses import send_only

WORDS = ("critical", "urgent", "high", "normal", "low", "notify", "soon", "*", ">", "1", "")
VERBS = (
    *("MAILBOX.CREATE", "PUBLIC.LIST", "BROADCAST.system.capability", "BROADCAST.a.b"),
    *("MAILBOX.{}", "INBOX.{}", "MSG.SEND.{}", "MAILBOX.QUERY.{}", "MSG.QUERY.{}", "MSG.FETCH.{}", "MSG.ACK.{}"),
    *(
        "MAILBOX.RENEW.{}",
        "MAILBOX.DROP.{}",
        "MAILBOX.DELETE.{}.{}",
        "MSG.DELETE.{}.{}",
        "MAILBOX.{}.{}",
        "INBOX.{}.{}",
    ),
    *("MAILBOX", "INBOX", "MSG", "BROADCAST", "PUBLIC", "HELLO.{}", "MAILBOX..{}", "MSG.FETCH"),
)
FIELDS = (
    *(
        "ttl",
        "name",
        "public",
        "desc",
        "type",
        "storage",
        "ack_wait",
        "retain",
        "ack",
        "max_msgs",
        "subscribe",
        "after",
    ),
    *("limit", "since", "group_name", "member", "deliver", "from_id", "config", "msg_ids", "msg_id", "prefix", "from"),
    *("num_msgs", "max_wait_ms", "key"),
)
HEADERS = ("mq9-priority", "mq9-ttl", "mq9-delay", "mq9-hops", "mq9-from", "Nats-Msg-Id", "mq9-time", "mq9-key", "Mine")


class Fuzzer:
    """Draws commands, most of which nearly make sense."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.addresses = ["a", "b.c", "Bad Name".replace(" ", ""), NOBODY, "s-" + "a" * 26, "system.x", "x" * 129, "é"]

    def address(self) -> str:
        return self.random.choice(self.addresses[-30:] + self.addresses[:8])

    def value(self, depth: int = 0) -> Any:
        pick = self.random.random()
        if pick < 0.3:
            return self.random.choice([0, 1, 2, 5, 60, -1, 1 << 62, 1 << 70, 1.5, True, False, None])
        if pick < 0.6:
            texts = [
                self.address(),
                "g",
                "m",
                "latest",
                "standard",
                "memory",
                "earliest",
                "from_id",
                "2.1",
                "9.9",
                "\ud800",
            ]
            return self.random.choice([*texts, "a b", "", "x" * 2000, "explicit", "ack"])
        if pick < 0.75:
            return [self.random.choice([1, 2, 3, "x", None, -1, True]) for _ in range(self.random.randint(0, 3))]
        return self.fields(depth + 1) if depth < 2 else {}

    def fields(self, depth: int = 0) -> dict[str, Any]:
        return {self.random.choice(FIELDS): self.value(depth) for _ in range(self.random.randint(0, 5))}

    def payload(self) -> bytes:
        pick = self.random.random()
        if pick < 0.1:
            return self.random.randbytes(self.random.randint(0, 20))
        if pick < 0.2:
            return self.random.choice(
                [b"", b"[]", b"null", b"{", b'"x"', b"[" * 5000, b'{"ttl":1e999}', b"\xef\xbb\xbf{}"]
            )
        return json.dumps(self.fields()).encode("utf-8", "surrogatepass")

    def subject(self) -> str:
        verb = self.random.choice(VERBS)
        return verb.format(self.address(), self.random.choice(WORDS)).replace(" ", "")

    def headers(self) -> dict[str, object] | bytes | None:
        pick = self.random.random()
        if pick < 0.6:
            return None
        if pick < 0.65:
            return self.random.choice([b"", b"x\r\n", b"A: \xff\r\n", b": b\r\n", b"A: b\nB: c\r\n", b"\r\n"])
        texts = ["1", "30", "0", "-1", "x", "high", "", self.address(), "1.5", "99999999999999"]
        return {self.random.choice(HEADERS): self.random.choice(texts) for _ in range(self.random.randint(1, 3))}

    def frame(self, sid: int) -> bytes:
        pick = self.random.random()
        if pick < 0.12:
            queue = self.random.choice(["", "", "q", "é" * 200])
            return f"SUB {AI}{self.subject() or 'x'} {queue} {sid}\r\n".replace("  ", " ").encode()
        if pick < 0.2:
            return f"UNSUB {self.random.randint(0, sid)} {self.random.choice(['', '0', '1', '3'])}\r\n".encode()
        if pick < 0.25:
            return self.random.choice([b"PING\r\n", b"PONG\r\n", b"+OK\r\n"])
        reply = self.random.choice(
            ["", "_INBOX.c1.x", "_INBOX.c1.x", "_INBOX.c2.y", f"{AI}INBOX.{self.address()}", "z"]
        )
        return pub(self.subject() or "x", self.payload(), reply.replace(" ", ""), self.headers())


def disturb(random: Random, store: FaultyStore) -> None:
    """The store fails, recovers, keeps waiting, or is done."""
    pick = random.random()
    if pick < 0.1:
        store.failing = "No space left on device"
    elif pick < 0.4:
        store.failing = ""
    elif pick < 0.6:
        store.by_hand = not store.by_hand
    elif store.flights:
        store.land(failed="Input/output error" if random.random() < 0.2 else "")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("faults", [False, True], ids=["", "faults"])
def test_no_command_is_a_defect(
    faults: bool, seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mailboxes, "_IN_USE", 6)
    fuzzer = Fuzzer(seed)
    store = FaultyStore()
    broker = Broker(store)
    clients = [broker.client() for _ in range(3)]
    clients[0].create(name="a", public=True, ttl=1000)
    for step in range(400):
        client = fuzzer.random.choice(clients)
        client.feed(fuzzer.frame(step))
        if fuzzer.random.random() < 0.4:
            broker.settle()
            for frame in client.frames:
                if frame.verb == "MSG" and b'"mail_id":"' in frame.payload and b'"is_new"' in frame.payload:
                    fuzzer.addresses += [frame.json["mail_id"], frame.json.get("owner", "a"), frame.json["send_only"]]
            client.frames.clear()
        if fuzzer.random.random() < 0.05:
            broker.advance(fuzzer.random.choice([0.01, 1, 5, 70]))
        if faults and fuzzer.random.random() < 0.2:
            disturb(fuzzer.random, store)
        assert not client.gone, (step, bytes(client.raw[-300:]))
    store.failing, store.by_hand = "", False
    while store.flights:
        store.land()
        broker.settle()
    broker.advance(3)
    assert "defect" not in caplog.text, caplog.text[-3000:]
    for client in clients:
        client.hang_up()
    # what a new process finds is what this one knows, but for what is kept in memory
    quick = {key[1:].decode() for key in broker.stored() if key[:1] in b"AM" and broker.disk.get(key) is None}
    addresses = {address for address in fuzzer.addresses if not {address, send_only(address)} & quick}
    known, found = ({address: knows(each, address) for address in addresses} for each in (broker, broker.restart()))
    assert known == found
    assert any(answer["error"] == "" for answers in known.values() for answer in answers)


def knows(broker: Broker, address: str) -> list[dict[str, Any]]:
    """All that can be read of a mailbox."""
    reader = broker.client()
    return [
        reader.request("PUBLIC.LIST", {"prefix": address[:100], "limit": 1}),
        *(reader.request(f"MAILBOX.QUERY.{address}", {"limit": 1000, "group_name": name}) for name in ("", "g", "m")),
    ]
