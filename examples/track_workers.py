"""An orchestrator tracks workers by their mailboxes: each keeps its own alive, and who falls silent expires.

Workers tell nobody that they live, and the orchestrator asks nobody: it watches the directory.
"""

import asyncio
import time

from mq9_mcp import AsyncMailbox

TTL = 2  # seconds without a sign of life after which a worker counts as gone
PREFIX = "example.worker."


async def worker(name: str, seconds: float) -> None:
    """Lives so long, then stops without a word, as if it had been killed."""
    ends = time.monotonic() + seconds
    async with AsyncMailbox() as mq9:
        while time.monotonic() < ends:
            await mq9.create(name=PREFIX + name, public=True, ttl=TTL)  # makes it, then keeps it alive
            await asyncio.sleep(TTL / 4)


async def main() -> None:
    at_work: set[str] = set()
    async with AsyncMailbox() as mq9, mq9.watch() as changes, asyncio.TaskGroup() as workers:
        workers.create_task(worker("ada", seconds=0.2))
        workers.create_task(worker("bob", seconds=1.5))
        async for change in changes:
            name = change.mailbox.mail_id.removeprefix(PREFIX)
            if change.event == "created" and change.mailbox.mail_id.startswith(PREFIX):
                at_work.add(name)
                print(f"orchestrator: {name} is here, {len(at_work)} at work")
            elif change.event == "expired" and name in at_work:
                at_work.remove(name)
                print(f"orchestrator: {name} has gone silent, {len(at_work)} at work: its task goes to another")
                if not at_work:
                    return


asyncio.run(main())
