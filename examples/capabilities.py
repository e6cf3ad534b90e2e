"""Who can do what: the directory names mailboxes, the capability board says what their readers can do.

A newcomer finds a translator that declared itself before the newcomer existed, and gives it work.
"""

import asyncio

from mq9_mcp import AsyncMailbox, Message

GREETINGS = {"fr": "bonjour", "it": "buongiorno"}


async def main() -> None:
    async with AsyncMailbox() as services, AsyncMailbox() as newcomer:
        made = []
        for language in GREETINGS:
            name = f"example.translator-{language}"
            desc = f"translates into {language}"
            made.append(await services.create(name=name, public=True, ttl=600, desc=desc))
            await services.declare(name, ["translate"], details={"language": language})

        async def translate(message: Message) -> None:
            await services.answer(message, GREETINGS["fr"])

        services.receive("example.translator-fr", translate, resume="translators")

        for listed in await newcomer.list("example.translator-"):
            print(f"directory: {listed.mail_id}, {listed.desc}")
        translators = await newcomer.find("translate")
        print(f"board: {len(translators)} can translate")
        (french,) = (found for found in translators if found.details["language"] == "fr")
        answer = await newcomer.ask(french.address, "good morning", timeout=10)
        print(f"newcomer: {french.address} says {answer.text}")

        for mailbox in made:
            await services.drop(mailbox)  # what was declared goes with it
        print(f"board: {len(await newcomer.find('translate'))} can translate")


asyncio.run(main())
