"""Makes a small data folder with the broker of an older version, for the tests of today's:

    git worktree add --detach /tmp/mq9-old REVISION
    PYTHONPATH=tests python tests/data/make.py /tmp/mq9-old/broker tests/data/format-N

Beside the store it writes `known.json`: the time, and the addresses by which the tests read what is in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from e2e.harness import AI, WORDS, Broker, Wire, pub

LONG = 3_000_000_000  # seconds: what is made here is read for years
LARGE = "large " * 4_000


def fill(broker: Broker) -> dict[str, object]:
    """A record of every kind that the first format had, and one that is large."""
    with Wire(broker.port) as client:
        private = client.ask("MAILBOX.CREATE", {"ttl": 0})
        public = client.ask("MAILBOX.CREATE", {"ttl": 0, "name": "old.public", "public": True, "desc": "from before"})
        named = client.ask("MAILBOX.CREATE", {"ttl": LONG, "name": "old.named", "ack_wait": 5})
        latest = client.ask("MAILBOX.CREATE", {"ttl": 0, "name": "old.latest", "type": "latest"})
        short = client.ask("MAILBOX.CREATE", {"ttl": 3600, "name": "old.short", "public": True})
        sender = client.ask("MAILBOX.CREATE", {"ttl": 0})
        for number, word in enumerate(WORDS * 2):
            client.ask(f"MAILBOX.{private['mail_id']}.{word}", f"{word} {number}")
        headed = b"mq9-ttl: %d\r\nmq9-hops: 3\r\nmine: kept\r\nmq9-from: %b\r\n" % (LONG, sender["mail_id"].encode())
        client.send("SUB r 1\r\n")
        answers = f"{AI}INBOX.{private['send_only']}.normal"
        client.settle(pub(f"{AI}MAILBOX.old.public", b"headed", headers=headed, reply=answers))
        client.settle(pub(f"{AI}MAILBOX.old.public", b"an hour", headers=b"mq9-ttl: 3600\r\n"))
        client.settle(pub(f"{AI}MAILBOX.old.public", b"once", headers=b"Nats-Msg-Id: one\r\n"))
        client.settle(pub(f"{AI}MAILBOX.old.public", b"later", headers=b"mq9-delay: 7200\r\n"))
        client.settle(pub(f"{AI}MAILBOX.old.public", b"much later", headers=b"mq9-delay: %d\r\n" % LONG))
        for number in range(3):
            client.ask("MAILBOX.old.latest", f"state {number}")
        client.ask("MAILBOX.CREATE", {"ttl": 0, "name": "old.large"})
        client.ask("MAILBOX.old.large", LARGE)
        for number in range(6):
            client.ask("MAILBOX.old.named", f"task {number}")
        client.ask("MSG.FETCH.old.named", {"group_name": "crew", "config": {"num_msgs": 4, "max_wait_ms": 0}})
        client.ask("MSG.ACK.old.named", {"group_name": "crew", "msg_ids": [1, 3, 6]})
        deleted = client.ask(f"MAILBOX.DELETE.{named['owner']}.2")
        assert deleted["error"] == ""
        client.settle(pub(f"{AI}BROADCAST.system.capability", b'{"from":"old.public","can":"read"}'))
        client.settle(pub(f"{AI}BROADCAST.system.capability", b'{"from":"nobody","can":"write"}'))
        ended = client.ask("MAILBOX.CREATE", {"name": "old.ended"})
        client.settle(pub(f"{AI}MAILBOX.old.ended", b"gone"))
        client.ask(f"MAILBOX.DROP.{ended['owner']}")
    made = {"private": private, "public": public, "named": named, "latest": latest, "short": short, "sender": sender}
    return {"now": int(time.time() * 1000), "mailboxes": made}


def main(source: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "data")
        broker.environ["PYTHONPATH"] = source
        broker.command[1:1] = ["-P"]
        says = subprocess.run(
            [broker.command[0], "-P", "-c", "import mq9_broker; print(mq9_broker.__file__)"],
            env=os.environ | broker.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert says.stdout.startswith(source), says.stdout
        known = fill(broker.start())
        assert broker.stop() == 0
        store = target / "store"
        store.mkdir(parents=True)
        for file in sorted((broker.data_dir / "store").iterdir()):
            if not file.name.startswith(("LOG", "LOCK")):
                (store / file.name).write_bytes(file.read_bytes())
        (target / "known.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
