"""Many waiting messages and a subscriber that reads slowly: bounded memory, complete delivery, priority order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from e2e.harness import AI, Broker, Wire, pub

WAITING = 200_000
TIERS = ("critical", "urgent", "normal", "low")
MAY_GROW = 64 * 2**20


def test_memory_does_not_grow_with_what_waits(broker: Broker, wire: Callable[..., Wire]) -> None:
    sender = wire(broker, timeout=60)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    empty = broker.memory()
    peak, started = 0, time.monotonic()
    for first in range(0, WAITING, 2000):
        numbers = range(first, first + 2000)
        sender.settle(
            b"".join(pub(f"{AI}MAILBOX.{address}.{TIERS[-1 - n % 4]}", b"%06d" % n + b"." * 250) for n in numbers)
        )
        peak = max(peak, broker.memory())
    sent = time.monotonic() - started
    loaded = peak - empty
    expected = [number for tier in range(4) for number in range(3 - tier, WAITING, 4)]

    started = time.monotonic()
    reader = wire(broker, connect={"verbose": False, "headers": True}, receive_buffer=65536, timeout=60)
    reader.send(f"SUB {AI}INBOX.{address} 1\r\n")
    stalled = time.monotonic() + 1
    while time.monotonic() < stalled:  # nothing is read at all
        peak = max(peak, broker.memory())
        sender.ask(f"MAILBOX.QUERY.{address}", {"limit": 1})
        time.sleep(0.02)
    got: list[int] = []
    for count in range(WAITING // 2000):
        got += [int(message.payload[:6]) for message in reader.messages(2000)]
        peak = max(peak, broker.memory())
        if count % 4 == 0:
            time.sleep(0.1)
    took, mib = time.monotonic() - started, 2**20
    print(
        f"\n{WAITING:,} sends in {sent:.1f} s, read in {took:.1f} s; memory: {empty / mib:.0f} MB empty,"
        f" +{loaded / mib:.0f} MB loading, +{(peak - empty) / mib:.0f} MB at most"
    )
    assert got == expected
    assert peak - empty < MAY_GROW
    assert [frame for frame in reader.settle() if frame.op != "PING"] == []


def test_an_urgent_message_overtakes_what_waits(broker: Broker, wire: Callable[..., Wire]) -> None:
    sender, reader = wire(broker), wire(broker, receive_buffer=65536)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    sender.settle(b"".join(pub(f"{AI}MAILBOX.{address}", b"%06d" % n + bytes(250)) for n in range(40_000)))
    reader.send(f"SUB {AI}INBOX.{address} 1\r\n")
    reader.messages(100)
    assert sender.ask(f"MAILBOX.{address}.critical", b"urgent")["msg_id"] == 40_001
    got = [message.payload[:6] for message in reader.messages(39_901)]
    assert got.index(b"urgent") < 30_000
    assert sorted(text for text in got if text != b"urgent") == [b"%06d" % n for n in range(100, 40_000)]


@pytest.mark.parametrize("queue", ["", "g"], ids=["plain", "group"])
def test_large_messages_that_wait_are_read_as_the_socket_takes_them(
    broker: Broker, wire: Callable[..., Wire], queue: str
) -> None:
    """More than may be pending for one connection, and all of it deliverable at once."""
    sender, reader = wire(broker), wire(broker)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    for number in range(80):
        sender.settle(pub(f"{AI}MAILBOX.{address}", b"%06d" % number + bytes(2**20 - 6)))
    reader.send(f"SUB {AI}INBOX.{address} {queue} 1\r\n")
    assert [int(message.payload[:6]) for message in reader.messages(80)] == list(range(80))


def test_many_subscriptions_of_one_connection_share_its_socket(broker: Broker, wire: Callable[..., Wire]) -> None:
    sender, reader = wire(broker), wire(broker, timeout=30)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    sender.settle(b"".join(pub(f"{AI}MAILBOX.{address}", b"%d" % n + bytes(50_000)) for n in range(4)))
    empty = broker.memory()
    reader.send("".join(f"SUB {AI}INBOX.{address} s{n}\r\n" for n in range(1500)))
    counts = Counter(message.sid for message in reader.messages(4 * 1500))
    assert set(counts.values()) == {4}
    assert len(counts) == 1500
    assert broker.memory("VmHWM") - empty < MAY_GROW
