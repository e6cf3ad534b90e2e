"""Where fuzzing begins: the recorded sessions, the cases of the other tests, and the words of the protocol."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

from broker import test_fuzz, test_headers, test_runs, test_wire
from broker.inprocess import AI
from fidelity import replay
from fuzz.broker import ANSWER, CLIENTS, FIELD, KNOWN, MESSAGE, OTHER, STEP, WAIT
from mq9_broker.headers import FIRST_LINE
from mq9_broker.model import CODES
from test_transcripts import FILES, read

ENVELOPE = ("PUB ", "HPUB ", "SUB ", "UNSUB ", "PING\r\n", "PONG\r\n", "CONNECT {", "INFO {", "+OK\r\n", "-ERR ")
CONNECT = ("verbose", "pedantic", "echo", "headers", "no_responders", "protocol", "true", "false", "null", "NaN")
SUBJECTS = (
    AI,
    "*",
    ">",
    ".*",
    ".>",
    "..",
    "_INBOX.c1.x",
    "_INBOX.c2.x",
    "$SYS.",
    f"{AI}ACK.",
    *(f"{AI}{verb}" for verb in test_fuzz.VERBS),
)
OTHERS = ("\r\n", "\n", "\r", "\0", "NATS/1.0\r\n", "NATS/1.0 503\r\n", "\r\n\r\n", "99999999999999999999", "-1", "1e9")
MARKS = (
    "+ACK",
    "-NAK",
    '-NAK {"delay":1000000000}',
    "+WPI",
    "+TERM",
    "mq9-tags",
    "mq9-receipt",
    "delivered,acked,dead,expired",
)
NAMES = ("subscribe", "dead_letter", "max_deliver", "retain", "tags")

_CUT = bytes((STEP,))
_ID = re.compile(rb"([ms])-[a-z2-7]{26}")


def dictionary() -> list[bytes]:
    """Words that mean something."""
    words = [
        *ENVELOPE,
        *CONNECT,
        *SUBJECTS,
        *OTHERS,
        *MARKS,
        *NAMES,
        *KNOWN,
        *CODES,
        *test_fuzz.FIELDS,
        *test_fuzz.HEADERS,
    ]
    steps = [_CUT, bytes((FIELD,)), _CUT + WAIT + b"\5" + _CUT, _CUT + OTHER + _CUT, _CUT + MESSAGE, _CUT + ANSWER]
    return steps + [word.replace("{}", "x").encode() for word in dict.fromkeys(words) if word]


def parser() -> list[bytes]:
    """Streams of one client."""
    cases = [data for data, _ in (*test_wire.GOOD.values(), *test_wire.BAD.values())]
    cases += [b"".join(sent) for _, sent in compared()]
    small = [data for data in cases if len(data) < 200]
    return [*small, *(b"".join(lines) for path in FILES for _, lines in sessions(path))]


def broker() -> list[bytes]:
    """Sessions of several clients, in steps: as they were recorded, and single messages."""
    found = []
    for path in FILES:
        steps = []
        speaking = 1
        for who, lines in sessions(path):
            if who == "T":
                steps += [WAIT + bytes((min(round(float(line)), 255),)) for line in lines]
                continue
            steps += [OTHER] * ((int(who[1:]) - speaking) % CLIENTS)
            speaking = int(who[1:])
            steps.append(_ID.sub(_known, b"".join(lines)))
        found += [_CUT.join(steps[at : at + 12]) for at in range(0, len(steps), 8)]
    found += [_CUT.join((greeting, *sent)) for greeting, sent in compared() if sum(map(len, sent)) < 800]
    joined = [MESSAGE + data for data in requests()]
    found += joined + [_CUT.join(joined[at : at + 4]) for at in range(0, 16, 2)]
    for stream in test_runs.STREAMS.values():
        for _, commands in (*test_runs.PUBLISHERS.values(), *test_runs.LISTENERS):
            listener = commands.replace(";", "\r\n").encode()
            found.append(_CUT.join((listener, OTHER, listener, stream, OTHER, stream)))
    for subject in (f"{AI}MAILBOX.{KNOWN[0]}.>", f"{AI}INBOX.box", f"{AI}PUBLIC.LIST", f"{AI}BROADCAST.system.>"):
        subscribe = f"SUB {subject} 1\r\nSUB {subject} q 2\r\nUNSUB 2 2\r\n".encode()
        found += [_CUT.join((subscribe, *joined[at : at + 3], OTHER, subscribe, WAIT + b"\5")) for at in (0, 2, 4, 7)]
    tasks = (*joined[4:6], f"SUB {AI}INBOX.n workers 1\r\n".encode())
    for word in ("+ACK", "-NAK", '-NAK {"delay":1000000000}', "+WPI", "+TERM", "soon"):
        found.append(_CUT.join((*tasks, ANSWER + word.encode(), WAIT + b"\2", ANSWER, joined[6], b"PONG\r\n")))
    return found


def requests() -> list[bytes]:
    """Single requests: subject and reply, header lines, payload."""
    mark = bytes((FIELD,))
    return [mark.join((f"{subject} _INBOX.c1.x".encode(), lines, payload)) for subject, lines, payload in messages()]


def messages() -> list[tuple[str, bytes, bytes]]:
    """(subject, header lines, payload) of requests that the broker understands, and some that it does not."""
    ours = KNOWN[0]
    sent: list[tuple[str, dict[str, object], object]] = [
        (f"MAILBOX.{ours}.urgent", {"mq9-ttl": 5, "mq9-delay": 1, "mq9-hops": 2, "mq9-from": ours, "A": "b"}, b"hello"),
        (f"INBOX.{KNOWN[1]}", {"Nats-Msg-Id": "one", "mq9-priority": "critical"}, b"\xff\0"),
        ("MAILBOX.CREATE", {}, {"name": "n.x", "public": True, "ttl": 60, "desc": "d", "type": "latest"}),
        ("MAILBOX.CREATE", {}, {"storage": "memory", "ack_wait": 5, "max_msgs": 2, "subscribe": ["a.*", "b.>"]}),
        (
            "MAILBOX.CREATE",
            {},
            {"name": "n", "ack": "explicit", "retain": "ack", "max_deliver": 1, "dead_letter": "box", "ack_wait": 1},
        ),
        ("MAILBOX.n", {"mq9-from": ours, "mq9-receipt": "delivered,acked,dead,expired", "mq9-ttl": 3}, b"one"),
        ("MSG.FETCH.n", {}, {"group_name": "g", "config": {"max_wait_ms": 0}}),
        (f"MAILBOX.{ours}", {"mq9-key": "k", "mq9-tags": "x, y"}, b"one"),
        (f"MAILBOX.QUERY.{ours}", {}, {"key": "k", "tags": ["x"]}),
        ("BROADCAST.a.b", {"mq9-from": ours}, b"news"),
        (f"MAILBOX.QUERY.{ours}", {}, {"limit": 2, "after": "2.1", "since": 1, "group_name": "g"}),
        (f"MSG.FETCH.{ours}", {}, {"group_name": "g", "member": "m", "ack": [1], "config": {"max_wait_ms": 100}}),
        (f"MSG.FETCH.{ours}", {}, {"deliver": "from_id", "from_id": 2, "config": {"num_msgs": 1, "max_wait_ms": 0}}),
        (f"MSG.ACK.{ours}", {}, {"group_name": "g", "msg_ids": [1, 2]}),
        (f"MSG.ACK.{ours}", {}, {"group_name": "g", "msg_id": 1}),
        (f"MAILBOX.RENEW.{ours}", {}, {"ttl": 100}),
        (f"MAILBOX.DELETE.{ours}.1", {}, b""),
        ("PUBLIC.LIST", {}, {"prefix": "n", "limit": 1, "after": "a"}),
        ("BROADCAST.system.capability", {}, {"from": KNOWN[1], "skills": []}),
    ]
    found = [
        (
            subject,
            "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode(),
            payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
        )
        for subject, headers, payload in sent
    ]
    blocks = [test_headers.block(*lines) for lines, _ in test_headers.GOOD]
    found += [(f"MAILBOX.{ours}", block[len(FIRST_LINE) : -2], b"") for block in blocks]
    fuzzer = test_fuzz.Fuzzer(7)
    return found + [(fuzzer.subject(), b"", fuzzer.payload()) for _ in range(40)]


def sessions(path: Path) -> list[tuple[str, list[bytes]]]:
    """(who, lines) of what the clients of a recorded session send, and of the time that passes (`T`)."""
    entries = [(who, text) for _, who, text in read(path) if who[0] != "S"]
    return [
        (who, [text.encode() + (b"" if who == "T" else b"\r\n") for _, text in run])
        for who, run in groupby(entries, lambda entry: entry[0])
    ]


def compared() -> list[tuple[bytes, list[bytes]]]:
    """(CONNECT, what is sent step by step) of the cases that are compared with nats-server."""
    return [
        (case.greeting, [step.sent for step in case.steps])
        for path in sorted(replay.FOLDER.glob("*.txt"))
        for case in replay.read(path)[1]
    ]


def _known(found: re.Match[bytes]) -> bytes:
    """An address of the recorded session becomes one that these clients have."""
    return KNOWN[0 if found[1] == b"m" else 1].encode()
