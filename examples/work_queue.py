"""Many workers, one queue, each task once, also when a worker is killed in the middle of one."""

import asyncio
from collections.abc import Awaitable, Callable

from mq9_mcp import AsyncMailbox, Message

QUEUE, TASKS = "example.queue", 9
done: list[int] = []


def working_as(name: str, begun: asyncio.Event) -> Callable[[Message], Awaitable[None]]:
    async def work(message: Message) -> None:
        begun.set()
        await asyncio.sleep(0.1)
        done.append(message.json()["task"])
        print(f"{name}: did task {done[-1]}{', which somebody had begun' if message.deliveries > 1 else ''}")

    return work


async def main() -> None:
    async with AsyncMailbox() as mq9:
        queue = await mq9.create(name=QUEUE, public=True, ttl=600, desc="tasks, each for one of the workers")
        for number in range(1, TASKS + 1):
            await mq9.send(QUEUE, {"task": number})
        print(f"{TASKS} tasks wait in {QUEUE}")

        begun = asyncio.Event()
        ada = mq9.receive(QUEUE, working_as("ada", begun), resume="workers")
        await begun.wait()
        await ada.cancel()
        print("ada: killed in the middle of task 1")

        # They can run anywhere: what makes them a crew is the name that they resume.
        crew = [mq9.receive(QUEUE, working_as(name, begun), resume="workers") for name in ("bob", "cem", "dora")]
        while len(done) < TASKS:
            await asyncio.sleep(0.05)
        for receiver in crew:
            await receiver.stop()
        print(f"{len(done)} tasks were done, {len(set(done))} different ones")
        await mq9.drop(queue)  # only who made a public mailbox can end it


asyncio.run(main())
