"""The broker: which one agents use, whether it answers, and whether a message gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from mq9_mcp import autostart
from mq9_mcp.doctor.finding import Finding
from mq9_mcp.endpoint import Endpoint, shown
from mq9_mcp.errors import BrokerUnavailable, MailboxError
from mq9_mcp.screen import words

WITHIN = 5.0  # seconds the whole way of a message may take


async def check_broker(named: str | None, folder: Path) -> AsyncIterator[Finding]:
    """The broker at the URL `named`, else the one whose data folder this is. It is not started."""
    url = named or autostart.located(folder)
    if url is None:
        yield Finding("broker", "ok", "none runs now: the first agent or `mq9` command starts one")
        return
    try:
        found = await asyncio.to_thread(Endpoint.at(url).version)
    except BrokerUnavailable as error:
        yield Finding("broker", "problem", str(error))
        return
    since = "" if named else _since(folder)
    place = "" if named else f", with {folder}"
    yield Finding("broker", "ok", f"mq9 {found} at {shown(url)}{place}{since}")
    if _order(found) < _order(version("mq9-mcp")):
        yield Finding(
            "broker",
            "note",
            f"it is older than this program ({version('mq9-mcp')})",
            "stop it: the next agent starts a new one, and mail stays" if not named else "have its operator update it",
        )
    yield await _round_trip(url)


async def _round_trip(url: str) -> Finding:
    from mq9_mcp.client import AsyncMailbox

    begun = time.monotonic()
    try:
        async with asyncio.timeout(WITHIN):
            client = await AsyncMailbox.connect(url, name="mq9-mcp doctor")
            try:
                made = await client.create(ttl=60)
                try:
                    await client.send(made.send_only, "are you there?")
                    got = await client.fetch(made.mail_id, group="doctor", wait=WITHIN)
                finally:
                    await client.drop(made.mail_id)
            finally:
                with suppress(MailboxError):
                    await client.close()
    except TimeoutError:
        return Finding(
            "broker", "problem", f"a message did not come back within {WITHIN:.0f} s", "look into the broker's log"
        )
    except MailboxError as error:
        return Finding("broker", "problem", str(error))
    if [message.payload for message in got.messages] != [b"are you there?"]:
        return Finding("broker", "problem", "a message was stored and did not come back", "look into the broker's log")
    return Finding("broker", "ok", f"a message was stored and read in {1000 * (time.monotonic() - begun):.0f} ms")


def _since(folder: Path) -> str:
    """Since when it listens: it writes its port when it begins to."""
    try:
        return f", running for {words(max(0, int(time.time() - (folder / 'port').stat().st_mtime)))}"
    except OSError:
        return ""


def _order(text: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in text.split(".")[:3]]
