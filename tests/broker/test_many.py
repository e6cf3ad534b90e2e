"""What many mailboxes cost those who have nothing to do with them."""

from __future__ import annotations

from typing import Any

import pytest

from broker.inprocess import Broker, pub
from mq9_broker import mailboxes


class Counted(dict[str, Any]):
    """Counts how many values are looked at, one by one."""

    looked_at = 0

    def values(self) -> Any:
        for value in super().values():
            Counted.looked_at += 1
            yield value


@pytest.mark.parametrize("listened", [0, 400, 2000])
def test_mailboxes_in_use_are_looked_through_rarely_and_those_nobody_listens_to_go(
    monkeypatch: pytest.MonkeyPatch, listened: int
) -> None:
    monkeypatch.setattr(mailboxes, "_IN_USE", 64)
    broker = Broker()
    client = broker.client()
    kept = broker.hub.mailboxes._in_use = Counted(broker.hub.mailboxes._in_use)
    Counted.looked_at = 0
    for number in range(listened):
        client.create(name=f"busy{number}")
        client.subscribe(f"INBOX.busy{number}")
    for number in range(3000):
        client.send(pub("MAILBOX.CREATE", {"name": f"idle{number}"}))
    assert Counted.looked_at < 4 * (listened + 3000)
    assert len(kept) <= 64 + 2 * listened
    assert all(f"busy{number}" in kept for number in range(listened))
    # and nobody misses anything
    client.put("idle0", "x")
    assert client.query("idle0") == [(1, "x")]
