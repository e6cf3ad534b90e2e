"""Questions and answers that nobody waits for: the expert comes later, and answers in any order.

(Who wants to wait for one answer says `mq9.ask(address, question, timeout=60)`.)
"""

from mq9_mcp import Mailbox

QUESTIONS = {"q-1": "Which port does NATS use?", "q-2": "What is RocksDB?", "q-3": "Is it Friday?"}
KNOWN = {"Which port does NATS use?": "4222", "What is RocksDB?": "a store of keys and values on disk"}

with Mailbox() as expert:
    desk = expert.create(ttl=3600)

with Mailbox() as asker:
    mine = asker.create(ttl=3600)
    for number, question in QUESTIONS.items():
        asker.send(desk.send_only, question, sender=mine, correlation_id=number)
print("asker: three questions are stored, I do something else")

with Mailbox() as expert:
    for asked in reversed(expert.fetch(desk, group="expert", wait=10).messages):
        expert.answer(asked, KNOWN.get(asked.text, "I do not know"))  # with its correlation_id
        expert.ack(desk, "expert", [asked])
    expert.drop(desk)
print("expert: I answered the last one first")

with Mailbox() as asker:
    for answer in asker.fetch(mine, group="asker", wait=10):
        print(f"asker: {QUESTIONS[answer.correlation_id or '']} {answer.text}")
    asker.drop(mine)
