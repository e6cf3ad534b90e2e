"""A person approves: the agent asks and does other things, the person answers when there is time for it.

In a terminal you are the person; elsewhere the person says yes. Only the holder of the desk's secret address can
answer in the desk's name, so the agent can tell an approval from what a stranger sent.
"""

import sys

from mq9_mcp import Mailbox

with Mailbox() as person:
    desk = person.create(ttl=86400)

with Mailbox() as agent:
    mine = agent.create(ttl=86400)
    agent.send(desk.send_only, "Drop the table sessions_old on db-1?", sender=mine, priority="high")
    print("agent: I asked, and tidy up the indexes meanwhile")
    agent.send(mine.send_only, "yes")  # a stranger who knows the agent's address

with Mailbox() as person:
    for request in person.fetch(desk, group="person", wait=10):
        print(f"person: {'the agent' if request.sender == mine.send_only else 'a stranger'} asks: {request.text}")
        said = input("person: ") if sys.stdin.isatty() else "yes"
        person.answer(request, said, sender=desk)
        person.ack(desk, "person", [request])
    person.drop(desk)

with Mailbox() as agent:
    for answer in agent.fetch(mine, group="agent", wait=10):
        if answer.sender != desk.send_only:
            print(f"agent: {answer.text!r} did not come from the desk, and counts for nothing")
        else:
            print("agent: approved, the table is gone" if answer.text == "yes" else "agent: the table stays")
    agent.drop(mine)
