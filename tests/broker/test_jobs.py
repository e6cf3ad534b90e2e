"""Between the turns: how long the loop looks for the next event before it sleeps."""

from __future__ import annotations

import pytest

from broker.inprocess import Broker, Client, pub
from mq9_broker.clock import ManualClock
from mq9_broker.jobs import Vigil


class Stopwatch(ManualClock):
    """A clock of microseconds; it counts how often it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.microseconds = 0
        self.looks = 0

    def elapsed(self) -> float:
        self.looks += 1
        return self.microseconds / 1e6


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def client(broker: Broker, stopwatch: Stopwatch) -> Client:
    client = broker.client()
    client.mailbox(name="box")
    stopwatch.microseconds = 1_000_000
    Vigil(broker.committer, stopwatch, broker.loop)  # type: ignore[arg-type]
    return client


def send(broker: Broker, client: Client) -> None:
    """A turn for one message."""
    client.feed(pub("MAILBOX.box", b"x"))
    broker.loop.turn()


def sleeps(broker: Broker) -> bool:
    """Whether the loop has nothing to do, now or when it has looked a hundred times."""
    for _ in range(100):
        broker.loop.turn()
    return broker.loop.resting


def test_the_loop_looks_on_for_a_moment_after_a_turn(broker: Broker, client: Client, stopwatch: Stopwatch) -> None:
    send(broker, client)
    stopwatch.microseconds += 99
    assert not sleeps(broker)
    stopwatch.microseconds += 1
    assert sleeps(broker)


def test_it_looks_on_as_long_as_messages_come(broker: Broker, client: Client, stopwatch: Stopwatch) -> None:
    for _ in range(100):
        send(broker, client)
        stopwatch.microseconds += 99
        assert not sleeps(broker)


def test_a_look_in_vain_is_the_last_one_for_a_while(broker: Broker, client: Client, stopwatch: Stopwatch) -> None:
    send(broker, client)
    stopwatch.microseconds += 100
    for _ in range(100):
        assert sleeps(broker)
        stopwatch.microseconds += 99
        send(broker, client)
    stopwatch.microseconds += 100
    send(broker, client)
    assert not sleeps(broker)


def test_there_is_one_look_at_a_time_however_many_turns_there_were(
    broker: Broker, client: Client, stopwatch: Stopwatch
) -> None:
    for _ in range(10):
        send(broker, client)
    before = stopwatch.looks
    broker.loop.turn()
    assert stopwatch.looks == before + 1
