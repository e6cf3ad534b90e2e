"""An alert reaches every handler, those that are offline too: their mailboxes subscribe for them."""

from mq9_mcp import Mailbox

with Mailbox() as setup:
    # Each mailbox stores the broadcasts that match its patterns, whether anybody reads it now or not.
    pager = setup.create(ttl=3600, subscribe=["alert.*"])
    cleaner = setup.create(ttl=3600, subscribe=["alert.disk"])
    night_shift = setup.create(ttl=3600, subscribe=["alert.>"])

with Mailbox() as running, running.messages(pager) as live, Mailbox() as monitor:
    monitor.broadcast("alert.disk", {"host": "db-1", "full": 0.97})
    monitor.broadcast("alert.cpu", {"host": "web-3", "load": 41})
    print("monitor: two alerts are out; who handles them is not my business")
    for _ in range(2):
        alert = next(live)
        print(f"pager, running: {alert.event} at {alert.json()['host']}")

with Mailbox() as late:
    for name, mailbox in {"cleaner": cleaner, "night-shift": night_shift}.items():
        for alert in late.fetch(mailbox, group=name, wait=10):
            print(f"{name}, was offline: {alert.event} at {alert.json()['host']}")
    for mailbox in (pager, cleaner, night_shift):
        late.drop(mailbox)
