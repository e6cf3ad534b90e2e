"""A sub-agent reports to a parent that sleeps: the reports wait, and the parent wakes to the urgent one first."""

from mq9_mcp import Mailbox

with Mailbox() as parent:
    mine = parent.create(ttl=3600)  # `mine.mail_id` is a secret and reads it, `mine.send_only` is to hand out
print("parent: I have a mailbox, and go to sleep")  # no process and no connection needs to be left

with Mailbox() as sub_agent:
    sub_agent.send(mine.send_only, {"step": "lint", "ok": True})
    sub_agent.send(mine.send_only, {"step": "tests", "ok": False, "failed": 2}, priority="urgent")
print("sub-agent: two reports are stored, and I am done")

with Mailbox() as parent:
    reports = parent.fetch(mine, group="parent", wait=10)
    for report in reports:
        print(f"parent: [{report.priority}] {report.text}")
    parent.ack(mine, "parent", reports)
    parent.drop(mine)
