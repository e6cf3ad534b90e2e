"""How one agent's reading holds what it was shown."""

from __future__ import annotations

from typing import Any

import pytest

from mq9_mcp import AsyncMailbox
from mq9_mcp.loops import LoopGuard
from mq9_mcp.mail import Fetched
from mq9_mcp.reading import Reader

pytestmark = pytest.mark.anyio


async def test_what_is_read_while_leases_are_prolonged_is_kept_too(
    mq9: AsyncMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def client() -> AsyncMailbox:
        return mq9

    box = await mq9.create(ttl=60)
    reader = Reader(client, LoopGuard(lambda: 1.0), lambda: 1.0, "me")

    async def read(limit: int) -> list[str]:
        inbox = await reader.take(box.mail_id, "g", limit=limit, wait=0, name="", shared=True, on_wait=None)
        reader.handed(inbox)
        return [mail.letter.body for mail in inbox.mails]

    for text in ("one", "two", "three"):
        await mq9.send(box, text)
    assert await read(1) == ["one"]
    fetch = mq9.fetch
    kept: list[Fetched] = []

    async def crossed(*where: Any, **how: Any) -> Fetched:
        found = await fetch(*where, **how)
        monkeypatch.undo()
        assert await read(2) == ["two", "three"]
        return found

    monkeypatch.setattr(mq9, "fetch", crossed)
    await reader.keep()

    async def counted(*where: Any, **how: Any) -> Fetched:
        kept.append(await fetch(*where, **how))
        return kept[-1]

    monkeypatch.setattr(mq9, "fetch", counted)
    await reader.keep()
    assert len(kept) == 1, "their leases are prolonged"
