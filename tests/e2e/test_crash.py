"""What survives a killed broker, and how a broker starts and ends."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from e2e.harness import AI, WORDS, Broker, StartBroker, Wire, bodies, eventually, ids, pub

SENDS, IN_FLIGHT = 5000, 64


def send_until_it_dies(broker: Broker, address: str, kill_after: int, label: str) -> dict[int, str]:
    """Sends with 64 in flight and kills the broker once `kill_after` are acknowledged: payloads by acknowledged id."""
    acknowledged: dict[int, str] = {}
    killer = threading.Thread(target=broker.kill)
    with Wire(broker.port) as client:
        client.send("SUB r.* 1\r\n")
        sent = 0
        try:
            while len(acknowledged) < SENDS:
                burst = range(sent, min(SENDS, len(acknowledged) + IN_FLIGHT))
                client.send(
                    b"".join(
                        pub(f"{AI}MAILBOX.{address}.{WORDS[n % 6]}", f"{label} {n}".encode(), reply=f"r.{n}")
                        for n in burst
                    )
                )
                sent = max(sent, burst.stop)
                frame = client.frame()
                if frame is None:
                    break
                if frame.op not in ("MSG", "HMSG"):
                    continue
                answer = re.fullmatch(rb'\{"error":"","msg_id":(\d+)\}', frame.payload)
                assert answer is not None, frame
                number = int(frame.args.removeprefix("r."))
                acknowledged[int(answer[1])] = f"{label} {number}"
                if len(acknowledged) == kill_after:
                    killer.start()
        except (ConnectionError, EOFError):
            pass
    killer.join()
    assert len(acknowledged) >= kill_after
    return acknowledged


def everything(client: Wire, address: str) -> list[dict[str, object]]:
    """All messages of a mailbox, page by page."""
    found: list[dict[str, object]] = []
    after = None
    while True:
        page = client.ask(f"MAILBOX.QUERY.{address}", {"limit": 1000, "after": after})
        assert page["error"] == ""
        found += page["messages"]
        after = page.get("next")
        if after is None:
            assert page["unread"] == len(found)
            return found


def in_order(messages: list[dict[str, object]]) -> bool:
    rank = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
    keys = [(rank[str(message["priority"])], message["msg_id"]) for message in messages]
    return keys == sorted(set(keys))


@pytest.mark.parametrize(("durability", "rounds"), [("process", 10), ("fsync", 3)])
def test_killed_in_the_middle_of_acknowledged_sends(start_broker: StartBroker, durability: str, rounds: int) -> None:
    """Every acknowledged message is there, in order, once, whatever the moment the broker was killed in."""
    broker, moments = start_broker("--durability", durability), random.Random(9)
    boxes: list[tuple[str, dict[int, str]]] = []
    for number in range(rounds):
        with Wire(broker.port) as client:
            address = client.ask("MAILBOX.CREATE")["mail_id"]
        boxes.append((address, send_until_it_dies(broker, address, moments.randrange(1500, 3500), f"round {number}")))
        broker.restart(hard=True)
        with Wire(broker.port) as client:
            messages = everything(client, address)
            assert in_order(messages)
            stored = {message["msg_id"]: message["payload"] for message in messages}
            assert len(set(stored.values())) == len(messages)
            assert {msg_id: stored.get(msg_id) for msg_id in boxes[-1][1]} == boxes[-1][1]
            assert list(boxes[-1][1]) == sorted(boxes[-1][1])
            following = client.ask(f"MAILBOX.{address}", b"after the crash")["msg_id"]
            assert following > max(stored)
    with Wire(broker.port) as client:  # and later crashes took nothing from earlier mailboxes
        for address, acknowledged in boxes:
            stored = {message["msg_id"]: message["payload"] for message in everything(client, address)}
            assert acknowledged.items() <= stored.items()


@pytest.mark.parametrize("durability", ["process", "fsync"])
def test_killed_while_large_messages_come_and_go(start_broker: StartBroker, durability: str) -> None:
    broker, moments, name = start_broker("--durability", durability), random.Random(3), f"{AI}MAILBOX.large"
    with Wire(broker.port) as client:
        owner = client.ask("MAILBOX.CREATE", {"name": "large", "ttl": 0})["owner"]
    answered: dict[int, str] = {}
    deleted: set[int] = set()
    for _ in range(4):
        with Wire(broker.port) as client:
            client.send("SUB r 1\r\n")
            killer = threading.Timer(moments.uniform(0.2, 0.6), broker.kill)
            killer.start()
            with suppress(ConnectionError, EOFError, AssertionError):
                while True:
                    texts = [f"{moments.random()} " * moments.randrange(2_000, 20_000) for _ in range(4)]
                    client.send(b"".join(pub(name, text.encode(), reply="r") for text in texts))
                    for text in texts:
                        answered[json.loads(client.messages(1)[0].payload)["msg_id"]] = text
                    gone = moments.choice([*answered.keys() - deleted])
                    deleted.add(gone)  # (or not, if nobody answers)
                    client.ask(f"MAILBOX.DELETE.{owner}.{gone}")
            killer.join()
        broker.start()
        with Wire(broker.port) as client:
            stored = {message["msg_id"]: message["payload"] for message in everything(client, "large")}
            missing = answered.keys() - stored.keys()
            assert missing <= deleted
            assert len(deleted - missing) <= 4  # (one of each round was not answered)
            assert {number: stored[number] for number in answered.keys() & stored.keys()} == {
                number: answered[number] for number in answered.keys() & stored.keys()
            }
    assert answered
    assert broker.stop() == 0
    assert b"Traceback" not in broker.log


def test_large_messages_give_their_room_back(broker: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(broker)
    client.send("SUB r 1\r\n")
    boxes = [client.ask("MAILBOX.CREATE", {"ttl": 0})["mail_id"] for _ in range(2)]
    for number in range(150):
        client.send(pub(f"{AI}MAILBOX.{boxes[number % 10 == 0]}", b"%d " % number * 250_000, reply="r"))
        client.messages(1)

    def room() -> int:
        return sum(file.stat().st_size for file in (broker.data_dir / "store").glob("*.values"))

    assert room() > 90_000_000
    assert client.ask(f"MAILBOX.DROP.{boxes[0]}")["error"] == ""
    assert eventually(lambda: room() < 35_000_000, within=20)
    page = client.ask(f"MAILBOX.QUERY.{boxes[1]}", {"limit": 1})
    assert (page["unread"], page["messages"][0]["payload"]) == (15, "0 " * 250_000)
    broker.restart(hard=True)
    found = everything(wire(broker), boxes[1])
    assert [message["payload"] for message in found] == [f"{number} " * 250_000 for number in range(0, 150, 10)]


def test_killed_during_everything_else(broker: Broker, wire: Callable[..., Wire]) -> None:
    """Creations, renewals, deletions, drops and acknowledgements that were answered are kept as well."""
    client = wire(broker)
    kept = client.ask("MAILBOX.CREATE", {"name": "kept", "public": True, "desc": "d"})
    dropped = client.ask("MAILBOX.CREATE", {"name": "dropped", "public": True})
    renewed = client.ask("MAILBOX.CREATE", {"ttl": 1})["mail_id"]
    client.ask("MAILBOX.CREATE", {"name": "expiring", "public": True, "ttl": 2})
    for number in range(1, 7):
        client.ask("MAILBOX.kept", str(number))
    got = client.ask("MSG.FETCH.kept", {"group_name": "g", "config": {"num_msgs": 3}})
    client.ask("MSG.ACK.kept", {"group_name": "g", "msg_ids": ids(got)})
    client.ask(f"MAILBOX.DELETE.{kept['owner']}.5")
    client.ask(f"MAILBOX.DROP.{dropped['owner']}")
    client.ask(f"MAILBOX.RENEW.{renewed}", {"ttl": 100})
    broker.kill()
    time.sleep(2)  # past the ttl that the renewal replaced, and past one that ends while nobody is there
    broker.start()
    client = wire(broker)
    assert bodies(client.ask("MAILBOX.QUERY.kept")) == ["1", "2", "3", "4", "6"]
    assert bodies(client.ask("MSG.FETCH.kept", {"group_name": "g"})) == ["4", "6"]
    assert client.ask("MAILBOX.QUERY.expiring") == {"error": "mailbox expiring does not exist"}
    assert client.ask("MAILBOX.CREATE", {"name": "expiring"})["is_new"] is True
    assert client.ask("MAILBOX.QUERY.dropped") == {"error": "mailbox dropped does not exist"}
    assert client.ask(f"MAILBOX.QUERY.{renewed}")["error"] == ""
    assert [box["mail_id"] for box in client.ask("PUBLIC.LIST")["mailboxes"]] == ["kept"]
    assert client.ask("MAILBOX.CREATE", {"name": "kept"})["is_new"] is False
    assert client.ask(f"MAILBOX.{kept['send_only']}", "7")["msg_id"] == 7


def test_a_clean_stop(broker: Broker, wire: Callable[..., Wire]) -> None:
    clients = [wire(broker) for _ in range(20)]
    for client in clients[1:]:
        address = client.ask("MAILBOX.CREATE", {"name": f"box.{client.info['client_id']}"})["mail_id"]
        client.settle(f"SUB {AI}INBOX.{address} 1\r\nSUB {AI}INBOX.{address} g 2\r\nSUB a.> q 3\r\n")
        client.publish(f"{AI}MSG.FETCH.{address}", b'{"config":{"max_wait_ms":300000}}', reply="r")
    stuck = wire(broker, receive_buffer=4096)
    stuck.settle("SUB flood 1\r\n")
    clients[0].settle(20 * pub("flood", bytes(1_000_000)))
    assert (broker.data_dir / "port").read_text() == f"{broker.port}\n"
    started = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - started < 2
    assert not (broker.data_dir / "port").exists()
    assert b"Traceback" not in broker.log
    for client in clients:
        client.rest()


def test_sends_around_a_clean_stop_are_all_there(broker: Broker, wire: Callable[..., Wire]) -> None:
    client = wire(broker)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    client.settle(b"".join(pub(f"{AI}MAILBOX.{address}", b"%d" % n) for n in range(3000)))
    broker.restart()
    assert [message["payload"] for message in everything(wire(broker), address)] == [str(n) for n in range(3000)]


def test_the_port_file_of_a_killed_broker_is_in_nobodys_way(broker: Broker, wire: Callable[..., Wire]) -> None:
    broker.kill()
    assert (broker.data_dir / "port").exists()
    broker.start()
    assert (broker.data_dir / "port").read_text() == f"{broker.port}\n"
    assert wire(broker).ask("MAILBOX.CREATE")["error"] == ""


def test_a_broker_without_connections_goes_by_itself(start_broker: StartBroker) -> None:
    broker = start_broker("--idle-exit", "1")
    with Wire(broker.port) as client:
        address = client.ask("MAILBOX.CREATE")["mail_id"]
        client.ask(f"MAILBOX.{address}", b"kept")
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            client.settle()  # longer than the idle time, but somebody is there
            time.sleep(0.05)
        assert broker.process.poll() is None
    started = time.monotonic()
    assert broker.process.wait(5) == 0
    assert time.monotonic() - started > 0.8
    assert broker.stop() == 0
    assert not (broker.data_dir / "port").exists()
    broker.start()
    with Wire(broker.port) as client:
        assert bodies(client.ask(f"MAILBOX.QUERY.{address}")) == ["kept"]


def test_a_taken_port_is_refused_by_its_number(start_broker: StartBroker) -> None:
    broker = start_broker(store="memory")
    other = Broker(broker.data_dir.with_name("other"), store="memory")
    other.command[other.command.index("--port") + 1] = str(broker.port)
    process = other.spawn()
    said, _ = process.communicate(timeout=15)
    assert (process.returncode != 0, said) == (True, b"")
    assert str(broker.port) in other.log.decode()
    assert "Traceback" not in other.log.decode()


def test_the_version_flag_and_another_address(start_broker: StartBroker) -> None:
    from mq9_broker import __version__

    shown = subprocess.run(
        [sys.executable, "-m", "mq9_broker", "--version"], capture_output=True, text=True, timeout=15
    )
    assert (shown.returncode, __version__ in shown.stdout) == (0, True)
    broker = start_broker("--host", "0.0.0.0", store="memory")
    assert eventually(lambda: b"0.0.0.0" in broker.log, within=2)
    assert re.search(rb"(?i)warning.*authenticat", broker.log)
    with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as client:
        assert client.recv(5) == b"INFO "
