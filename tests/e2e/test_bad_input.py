"""What bad input gets: an answer that says what was wrong, and never anybody else's trouble."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from e2e.harness import AI, NOBODY, Broker, Wire, bodies, encode, eventually, fresh_name, pub
from mq9_broker import keys

OpenWire = Callable[..., Wire]


@pytest.fixture(autouse=True)
def bystander(server: Broker) -> Iterator[Wire]:
    """Somebody else's connection, which must work the same before and after every one of these tests."""
    with Wire(server.port) as client:
        box = client.ask("MAILBOX.CREATE")["mail_id"]
        client.settle(f"SUB by.stander 1\r\nSUB {AI}INBOX.{box} 2\r\n")
        yield client
        said = client.settle(pub("by.stander", b"core") + pub(f"{AI}MAILBOX.{box}", b"mail"))
        assert sorted((message.sid, message.payload) for message in said) == [("1", b"core"), ("2", b"mail")]


# ---- requests ----


@pytest.mark.parametrize("address", ["not.there", NOBODY, "s-" + "b" * 26])
@pytest.mark.parametrize("verb", ["MAILBOX.{}", "INBOX.{}.urgent", "MSG.SEND.{}", "MSG.FETCH.{}", "MAILBOX.QUERY.{}"])
def test_a_mailbox_that_does_not_exist(server: Broker, wire: OpenWire, verb: str, address: str) -> None:
    assert wire(server).ask(verb.format(address)) == {"error": f"mailbox {address} does not exist"}


def test_a_mailbox_that_has_expired(server: Broker, wire: OpenWire) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE", {"ttl": 1})["mail_id"]
    assert client.ask(f"MAILBOX.{address}", b"in time")["msg_id"] == 1
    gone = {"error": f"mailbox {address} does not exist"}
    assert eventually(lambda: client.ask(f"MAILBOX.QUERY.{address}") == gone, within=4)
    for verb in ("MAILBOX.{}", "INBOX.{}.urgent", "MSG.SEND.{}", "MSG.FETCH.{}", "MSG.QUERY.{}", "MAILBOX.RENEW.{}"):
        assert client.ask(verb.format(address), {"ttl": 60}) == gone, verb
    (error,) = client.settle(f"SUB {AI}INBOX.{address} 1\r\n")
    assert error.args == f"'Permissions Violation for Subscription to \"{AI}INBOX.{address}\"'"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "Upper"}, "Upper"),
        ({"name": "two words"}, "two words"),
        ({"name": "a..b"}, "a..b"),
        ({"name": "-a"}, "-a"),
        ({"name": "a.urgent"}, "a.urgent"),
        ({"name": "system.x"}, "system.x"),
        ({"name": "a" * 129}, "128"),
        ({"ttl": -5}, "-5"),
        ({"ttl": "an hour"}, "an hour"),
        ({"ttl": 10**40}, "ttl"),
    ],
    ids=str,
)
def test_names_and_ttls(server: Broker, wire: OpenWire, fields: dict[str, object], named: str) -> None:
    reply = wire(server).ask("MAILBOX.CREATE", fields)
    assert set(reply) == {"error"}
    assert named in reply["error"]


def test_a_ttl_beyond_the_maximum(start_broker: Callable[..., Broker], tmp_path: Path, wire: OpenWire) -> None:
    (tmp_path / "broker.toml").write_text("max_ttl = 3600\n")
    client = wire(start_broker("--config", str(tmp_path / "broker.toml"), store="memory"))
    for ttl in (3601, 86400):
        reply = client.ask("MAILBOX.CREATE", {"ttl": ttl})
        assert set(reply) == {"error"}
        assert "ttl" in reply["error"]
        assert "3600" in reply["error"]
    made = client.ask("MAILBOX.CREATE", {"ttl": 3600})
    assert made["ttl"] == 3600
    assert set(client.ask(f"MAILBOX.RENEW.{made['mail_id']}", {"ttl": 3601})) == {"error"}


def test_an_unknown_priority(server: Broker, wire: OpenWire) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    reply = client.ask(f"MAILBOX.{address}", b"x", headers=b"mq9-priority: asap\r\n")
    assert set(reply) == {"error"}
    assert "asap" in reply["error"]
    assert client.ask(f"MAILBOX.QUERY.{address}")["unread"] == 0


@pytest.mark.parametrize(
    "body", [b"[1]", b"7", b'"{}"', b"null", b"{", b"\x80", b"{}x", b"[" * 100_000, b'{"a":' * 50_000]
)
@pytest.mark.parametrize(
    "verb", ["MAILBOX.CREATE", "MAILBOX.QUERY.{}", "MAILBOX.RENEW.{}", "MSG.FETCH.{}", "MSG.ACK.{}"]
)
def test_json_that_is_not_an_object(server: Broker, wire: OpenWire, verb: str, body: bytes) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    reply = client.ask(verb.format(address), body)
    assert set(reply) == {"error"}
    assert reply["error"] != ""
    assert client.ask(f"MAILBOX.QUERY.{address}")["error"] == ""


@pytest.mark.parametrize("field", ["deliver", "ack", "from_id", "config"])
def test_values_nested_almost_too_deeply(server: Broker, wire: OpenWire, field: str) -> None:
    """What can just be read can't be written into an error: that is said, and the connection stays."""
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    for depth in range(900, 1000):
        reply = client.ask(f"MSG.FETCH.{address}", b'{"%b":%b%b}' % (field.encode(), b"[" * depth, b"]" * depth))
        assert set(reply) == {"error"}
        assert len(reply["error"]) < 200


# ---- frames ----


def test_a_payload_above_the_maximum(server: Broker, wire: OpenWire) -> None:
    client, reader = wire(server), wire(server)
    address = reader.ask("MAILBOX.CREATE")["mail_id"]
    for frame in (
        pub(f"{AI}MAILBOX.{address}", bytes(1048577)),
        pub(f"{AI}MAILBOX.{address}", bytes(1048570), "", b"A: b\r\n"),
    ):
        client = wire(server)
        try:
            said = client.settle(frame)
        except ConnectionError:
            continue  # it was closed while we still wrote
        assert [error.args for error in said] == ["'Maximum Payload Violation'"]
    assert reader.ask(f"MAILBOX.QUERY.{address}")["unread"] == 0


def test_headers_above_their_maximum(server: Broker, wire: OpenWire) -> None:
    client = wire(server)
    address = client.ask("MAILBOX.CREATE")["mail_id"]
    for size, stored in ((65_000, True), (66_000, False)):
        answer = wire(server)
        answer.send("SUB r r\r\n" + pub(f"{AI}MAILBOX.{address}", b"x", "r", b"A: %b\r\n" % (b"a" * size)).decode())
        said = answer.settle()
        assert [message.payload.startswith(b'{"error":"","msg_id"') for message in said][:1] == [stored]
    assert client.ask(f"MAILBOX.QUERY.{address}")["unread"] == 1


def frames(address: str) -> dict[str, bytes]:
    return {
        "PUB": pub(f"{AI}MAILBOX.{address}", b"hello"),
        "HPUB": pub(f"{AI}MAILBOX.{address}", b"hello", "r", b"A: b\r\n"),
        "SUB": f"SUB {AI}INBOX.{address} 1\r\n".encode(),
        "request": pub(f"{AI}MSG.FETCH.{address}", b'{"group_name":"g"}', "r"),
    }


@pytest.mark.parametrize("op", ["PUB", "HPUB", "SUB", "request"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_frame_cut_anywhere(server: Broker, wire: OpenWire, op: str, end: str) -> None:
    reader = wire(server)
    address = reader.ask("MAILBOX.CREATE")["mail_id"]
    frame = frames(address)[op]
    for cut in range(1, len(frame)):
        client = wire(server)
        client.send(frame[:cut])
        client.close() if end == "close" else client.reset()
    assert reader.ask(f"MAILBOX.QUERY.{address}")["unread"] == 0


@pytest.mark.parametrize("op", ["PUB", "HPUB", "SUB", "request"])
def test_a_frame_in_two_pieces_or_many_is_one_frame(server: Broker, wire: OpenWire, op: str) -> None:
    reader = wire(server)
    address = reader.ask("MAILBOX.CREATE")["mail_id"]
    frame, stored = frames(address)[op], 0
    client = wire(server)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.settle()
    for cut in range(1, len(frame)):
        client.send(frame[:cut])
        client.send(frame[cut:])
        stored += op in ("PUB", "HPUB")
    for byte in frame + b"PING\r\n":
        client.send(bytes([byte]))
    stored += op in ("PUB", "HPUB")
    said = client.settle()
    assert not any(frame.op == "-ERR" for frame in said)
    assert reader.ask(f"MAILBOX.QUERY.{address}")["unread"] == stored


@pytest.mark.parametrize("subject", [">", "$mq9.AI.>", "_INBOX.>"])
def test_wildcards_that_are_allowed_reveal_nothing(server: Broker, wire: OpenWire, subject: str) -> None:
    spy, user = wire(server), wire(server)
    assert spy.settle(f"SUB {subject} 1\r\n") == []
    address = user.ask("MAILBOX.CREATE", {"name": fresh_name(), "public": True})["mail_id"]
    for verb in ("MAILBOX.{}", "MAILBOX.QUERY.{}", "MSG.FETCH.{}"):
        assert user.ask(verb.format(address))["error"] == ""
    assert spy.settle() == []


def test_a_wildcard_over_mailboxes_is_refused(server: Broker, wire: OpenWire) -> None:
    (error,) = wire(server).settle(f"SUB {AI}MAILBOX.* 1\r\n")
    assert error.args == f"'Permissions Violation for Subscription to \"{AI}MAILBOX.*\"'"


# ---- clients ----


def test_a_client_that_dies_mid_frame(server: Broker, wire: OpenWire) -> None:
    reader, dying = wire(server), wire(server)
    address = reader.ask("MAILBOX.CREATE")["mail_id"]
    whole = pub(f"{AI}MAILBOX.{address}", b"whole")
    dying.settle(f"SUB {AI}INBOX.{address} g 1\r\nSUB {AI}INBOX.{address} 2\r\n")
    dying.send(3 * whole + whole[:-3])
    assert eventually(lambda: reader.ask(f"MAILBOX.QUERY.{address}")["unread"] == 3, within=5)
    dying.reset()
    assert bodies(reader.ask(f"MAILBOX.QUERY.{address}")) == ["whole", "whole", "whole"]
    reader.send(f"SUB {AI}INBOX.{address} g 1\r\n")
    assert len(reader.messages(3)) == 3


def test_a_client_that_never_reads(start_broker: Callable[..., Broker], wire: OpenWire) -> None:
    """It is closed at 64 MiB of what it did not read; its mail is still there, and everybody else is served."""
    broker = start_broker(store="memory")
    deaf, busy, sender = wire(broker, receive_buffer=4096), wire(broker), wire(broker)
    address = sender.ask("MAILBOX.CREATE")["mail_id"]
    sender.settle(pub(f"{AI}MAILBOX.{address}", b"kept"))
    deaf.settle(f"SUB flood 1\r\nSUB {AI}INBOX.{address} 2\r\n")
    busy.settle("SUB flood 1\r\n")
    before = broker.memory()
    for number in range(120):
        sender.settle(pub("flood", b"%06d" % number + bytes(1_000_000)))
        assert busy.messages(1)[0].payload[:6] == b"%06d" % number
        assert broker.memory() - before < 120 * 2**20
    assert eventually(lambda: broker.memory() - before < 40 * 2**20, within=5, every=0.1)
    drained = 0
    while data := deaf.receive():
        drained += len(data)
    assert drained < 80_000_000  # the end of the connection, long before the 120 MB that were published
    assert bodies(sender.ask(f"MAILBOX.QUERY.{address}")) == ["kept"]


def test_a_client_that_asks_and_never_reads(start_broker: Callable[..., Broker], wire: OpenWire) -> None:
    broker = start_broker(store="memory")
    greedy, other = wire(broker, receive_buffer=4096), wire(broker)
    address = other.ask("MAILBOX.CREATE")["mail_id"]
    other.settle(2 * pub(f"{AI}MAILBOX.{address}", b"x" * 500_000))
    before = broker.memory()
    greedy.send("SUB r 1\r\n")
    greedy.socket.settimeout(5)
    try:
        for _ in range(300):
            greedy.publish(f"{AI}MAILBOX.QUERY.{address}", b"", reply="r")
    except OSError:
        pass  # closed, or no longer read
    assert other.ask(f"MAILBOX.QUERY.{address}")["unread"] == 2
    assert broker.memory() - before < 150 * 2**20


def test_65536_subscriptions_and_no_more(start_broker: Callable[..., Broker], wire: OpenWire) -> None:
    client = wire(start_broker(store="memory"))
    for first in range(0, 65_536, 8192):
        client.settle("".join(f"SUB s.{n} {n}\r\n" for n in range(first, first + 8192)))
    said = client.settle("SUB one.more 65536\r\n")
    assert [error.args for error in said] == ["'maximum subscriptions exceeded'"]


# ---- the data folder ----


def fails_to_start(broker: Broker) -> tuple[int, str]:
    """The exit code of a broker that must refuse to start, and what it said on stderr."""
    process = broker.spawn()
    said, _ = process.communicate(timeout=15)
    assert said == b""
    return process.returncode, broker.log.decode()


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        broker = Broker(folder)
        broker.log_file = tmp_path / "stderr.log"
        code, said = fails_to_start(broker)
        assert code not in (0, 3)
        assert str(folder) in said
        assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_is_not_writable(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o500)
    code, said = fails_to_start(Broker(folder))
    assert code not in (0, 3)
    assert str(folder) in said
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_data_folder_nobody_can_write_to(tmp_path: Path) -> None:
    broker = Broker(Path("/proc/self/mq9"))
    broker.log_file = tmp_path / "stderr.log"
    code, said = fails_to_start(broker)
    assert code not in (0, 3)
    assert "/proc/self/mq9" in said
    assert "Traceback" not in said


def test_a_data_folder_in_use(broker: Broker, tmp_path: Path, wire: OpenWire) -> None:
    second = Broker(broker.data_dir)
    second.log_file = tmp_path / "second.log"
    code, said = fails_to_start(second)
    assert code == 3
    assert str(broker.data_dir) in said
    assert "Traceback" not in said
    assert (broker.data_dir / "port").read_text() == f"{broker.port}\n"
    assert wire(broker).ask("MAILBOX.CREATE")["error"] == ""


def write_raw(store: Path, key: bytes, value: bytes) -> bytes:
    """Changes one record of a store that no broker has open; the value it had."""
    with Rdict(str(store), Options(raw_mode=True)) as records:
        before = records[key]
        records[key] = value
    return bytes(before)


def test_a_data_folder_of_a_newer_format(broker: Broker) -> None:
    broker.stop()
    store = broker.data_dir / "store"
    newer = str(keys.FORMAT + 1).encode()
    assert write_raw(store, keys.FORMAT_KEY, newer) == str(keys.FORMAT).encode()
    code, said = fails_to_start(broker)
    assert code not in (0, 3)
    assert str(broker.data_dir) in said
    assert f"format {keys.FORMAT + 1}" in said
    assert "Traceback" not in said
    assert write_raw(store, keys.FORMAT_KEY, str(keys.FORMAT).encode()) == newer
    broker.start()


def test_other_flags_are_refused_by_name(tmp_path: Path) -> None:
    for flag, value in (("--store", "tape"), ("--durability", "hope"), ("--port", "x"), ("--port", "70000")):
        broker = Broker(tmp_path / "data")
        broker.command += [flag, value]
        code, said = fails_to_start(broker)
        assert code not in (0, 3), flag
        assert value in said
        assert "Traceback" not in said


def test_answers_stay_small_whatever_was_sent(server: Broker, wire: OpenWire) -> None:
    client = wire(server)
    reply = client.ask("MAILBOX.CREATE", {"name": "x" * 500_000})
    assert set(reply) == {"error"}
    assert len(encode(reply)) < 2000
