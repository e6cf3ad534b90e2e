"""Messages in JSON: read in rows or one by one, by orjson or by json, everybody gets the same."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.inprocess import Broker, Client, FaultyStore, entries, fetching, pub
from mq9_broker.dialects.fields import Fields
from mq9_broker.errors import Mq9Error
from mq9_broker.model import Limits
from mq9_broker.sweep import Sweep

#: (payload, priority, headers, seconds that pass before it is sent)
Sent = tuple[bytes, str, dict[str, str], float]

_texts = st.text(st.characters(codec="utf-8"), max_size=12)
_payload = st.one_of(
    _texts.map(str.encode),
    st.text('"\\/\b\f\n\r\t\x00\x1f\x7f é\u2028\U0001f600', max_size=12).map(str.encode),
    st.binary(max_size=12),
)
_headers = st.sampled_from([{}, {}, {}, {"A": "b", "é": "ü"}, {"mq9-ttl": "5"}, {"mq9-hops": "3"}])
_sent = st.tuples(
    _payload,
    st.sampled_from(["critical", "urgent", "high", "normal", "normal", "normal", "low", "notify"]),
    _headers,
    st.sampled_from([0, 0, 0, 0.4, 7]),
)


def fill(broker: Broker, client: Client, messages: list[Sent]) -> list[dict[str, object]]:
    """Send them; as a reader sees them, in the order of sending."""
    shown: list[dict[str, object]] = []
    for number, (payload, priority, headers, seconds) in enumerate(messages, 1):
        broker.advance(seconds)
        client.request(f"MAILBOX.box.{priority}", payload, headers or None)
        try:
            body = {"payload": payload.decode()}
        except UnicodeDecodeError:
            body = {"payload": b64encode(payload).decode(), "encoding": "base64"}
        kept = {name: value for name, value in headers.items() if name != "mq9-ttl"}
        time = broker.clock.now() // 1000
        shown.append({"msg_id": number, **body, "priority": priority, "headers": kept or None, "create_time": time})
    return shown


def in_order(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tiers = {"critical": 0, "urgent": 1, "high": 1, "normal": 2, "low": 3, "notify": 3}
    return sorted(shown, key=lambda message: (tiers[message["priority"]], message["msg_id"]))


def raw(client: Client, subject: str, payload: object) -> bytes:
    """The answer to a request, as it is on the wire."""
    answer = client.ask(subject, payload)
    client.broker.settle()
    (frame,) = [frame for frame in client.frames if frame.subject == answer.reply]
    return frame.payload


@settings(max_examples=200)
@given(st.lists(_sent, max_size=30), st.booleans())
def test_what_is_on_the_wire_is_what_json_writes(messages: list[Sent], counted: bool) -> None:
    """Compact, UTF-8, the fields in their order: whatever the messages are, and whoever wrote it."""
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0)
    shown = in_order(fill(broker, client, messages))
    alive = {message["msg_id"] for message in client.request("MAILBOX.QUERY.box")["messages"]}
    shown = [message for message in shown if message["msg_id"] in alive]
    if counted:
        for message in shown:
            message["headers"] = (message["headers"] or {}) | {"mq9-deliveries": "1"}
    expected = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
    answer = raw(client, "MSG.FETCH.box", fetching("g" if counted else ""))
    assert answer.startswith(b'{"error":"","messages":' + expected + b',"more":false')
    if not counted:
        answer = raw(client, "MAILBOX.QUERY.box", None)
        assert answer == b'{"error":"","messages":%b,"unread":%d}' % (expected, len(shown))


@settings(max_examples=100)
@given(
    st.lists(_sent, min_size=20, max_size=40),
    st.sets(st.integers(1, 40), min_size=5, max_size=30),
    st.sets(st.integers(1, 40), max_size=4),
    st.integers(2, 9),
    st.booleans(),
)
def test_in_rows_or_one_by_one_a_group_gets_the_same(
    messages: list[Sent], early: set[int], deleted: set[int], limit: int, swept: bool
) -> None:
    """Among what expired, was deleted or was acknowledged before it was given out. Each answer says what is left."""
    came = []
    for at_once in (100, limit, 1):
        broker = Broker()
        client = broker.client()
        owner = client.create(name="box", ttl=0)["owner"]
        with pytest.MonkeyPatch.context() as patch:
            if not swept:
                patch.setattr(Sweep, "due", lambda *_: False)
            fill(broker, client, messages)
            client.fetch("box", "g", limit=1)
            known = range(1, len(messages) + 1)
            acknowledged = [msg_id for msg_id in early if msg_id in known]
            client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": acknowledged})
            for msg_id in deleted:
                client.request(f"MSG.DELETE.{owner}.{msg_id}")
            got: list[dict[str, Any]] = []
            more = True
            while more:
                answer = client.fetch("box", "g", limit=at_once)
                more = answer["more"]
                got += answer["messages"]
                assert len(answer["messages"]) <= at_once
                assert more == any(answer["waiting"].values()), answer
        came.append(got)
    assert came[0] == came[1] == came[2]


@pytest.mark.parametrize("character", ["x", "\x01", "é"])
def test_what_finds_no_place_in_an_answer_is_not_leased(character: str) -> None:
    """As it is written in JSON, which may take six times its bytes: the next reader gets it, for the first time."""
    broker = Broker(limits=Limits(max_payload=4000))
    one, other = broker.client(), broker.client()
    one.create(name="box", ttl=0)
    for number in range(60):
        one.put("box", f"{number} " + character * 150)
    expected = iter(range(1, 61))
    left = 60
    while left:
        answer = raw(one, "MSG.FETCH.box", fetching("g"))
        assert len(answer) <= 4000
        parsed = json.loads(answer)
        for message in parsed["messages"]:
            assert message["msg_id"] == next(expected)
            assert message["headers"] == {"mq9-deliveries": "1"}
        left -= len(parsed["messages"])
        assert parsed["more"] == (left > 0)
        assert parsed["waiting"]["normal"] == left
        one, other = other, one
    assert next(expected, None) is None


def test_what_was_not_leased_can_be_acknowledged_and_survives_a_restart() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box", ttl=0)
    client.send(pub("MAILBOX.box", b"x") * 5)
    assert [message["msg_id"] for message in client.fetch("box", "g", limit=2)["messages"]] == [1, 2]
    # (the third was looked at, to know that there is more)
    assert client.request("MSG.ACK.box", {"group_name": "g", "msg_ids": [3]})["error"] == ""
    assert client.fetch("box", "g", limit=1)["messages"][0]["msg_id"] == 4
    again = broker.restart().client().fetch("box", "g")
    assert [message["msg_id"] for message in again["messages"]] == [1, 2, 4, 5]


def test_what_nobody_got_is_not_counted_though_its_reader_left_meanwhile() -> None:
    """The answer became an error, and its reader hung up before that."""
    store = FaultyStore()
    broker = Broker(store)
    client, leaving = broker.client(), broker.client()
    client.create(name="box", ttl=0)
    client.put("box", "a")
    store.failing = "disk full"
    leaving.ask("MSG.FETCH.box", fetching("g"))
    leaving.connection.connection_lost(None)
    broker.settle()
    store.failing = ""
    broker.advance(2)
    (message,) = client.fetch("box", "g")["messages"]
    assert message["headers"] == {"mq9-deliveries": "1"}


def test_a_look_for_few_among_large_ones_goes_on_with_the_next_request() -> None:
    broker = Broker()
    client = broker.client()
    client.create(name="box")
    for _ in range(20):
        client.put("box", "x" * 1_000_000)
    client.put("box", "wanted", tags="a")
    first = client.request("MAILBOX.QUERY.box", {"tags": ["a"]})
    assert first["messages"] == []
    second = client.request("MAILBOX.QUERY.box", {"tags": ["a"], "after": first["next"]})
    assert (entries(second), "next" in second) == ([(21, "wanted")], False)


# ---- requests ----

_number = st.one_of(
    st.integers(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([(1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), -(1 << 63) - 1, 10**400]),
    st.floats(),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), _number, st.text(st.characters(), max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.integers(1, 1 << 66), max_size=3),
        st.dictionaries(st.sampled_from("ab\ud800é"), inner),
    ),
    max_leaves=8,
)
_SEVERAL = [
    b'{"a":1,"a":2}',
    b'\xef\xbb\xbf{"a":1}',
    '{"a":"é"}'.encode("utf-16"),
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":-0,"b":-0.0}',
    b'{"a":1e400}',
    b'{"a":01}',
    b'{"a":"\x01"}',
    b'{"a":"\x7f"}',
    b'{"a":' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' + b"1" * 5000 + b"}",
    b'{"a":1}x',
    b" \n\t{} ",
    b"[1",
    b"nul",
    b"",
]


@settings(max_examples=400)
@given(st.one_of(_json.map(lambda value: json.dumps({"a": value})), _json.map(json.dumps)).map(str.encode))
def test_a_request_is_what_json_reads_in_it(payload: bytes) -> None:
    read_in_both_ways(payload)


@pytest.mark.parametrize("payload", _SEVERAL, ids=range(len(_SEVERAL)))
def test_a_request_that_is_hardly_json_is_what_json_reads_in_it(payload: bytes) -> None:
    read_in_both_ways(payload)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1, 10**40, 10**400])
def test_a_huge_integer_is_refused_as_any_other(number: int) -> None:
    client = Broker().client()
    client.create(name="box")
    client.put("box", "one")
    client.fetch("box", "g")

    def refused(verb: str, **fields: object) -> str:
        text = client.request(f"MSG.{verb}.box", fields)["error"]
        assert isinstance(text, str)
        return text

    shown = str(number) if number < 10**50 else str(number)[:57] + "..."
    ids = {"group_name": "g", "msg_ids": [1, number]}
    if number > 0:
        assert refused("ACK", **ids) == f"message {number} does not exist: the newest is 1"
    else:
        assert refused("ACK", **ids) == f"msg_ids must be a list of msg_ids, not [1, {shown}]"
    assert refused("ACK", group_name="g", msg_id=number) == f"msg_id must be from 1 to {1 << 62}, not {shown}"
    assert refused("QUERY", limit=number) == f"limit must be from 0 to 1000, not {shown}"
    assert refused("FETCH", config={"num_msgs": number}) == f"num_msgs must be from 0 to {1 << 62}, not {shown}"
    assert refused("FETCH", config=number) == f"config must be a JSON object, not {shown}"
    shown = json.dumps([number])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    assert refused("QUERY", tags=[number]) == f"tags must be a list of strings, not {shown}"


def test_a_long_request_that_is_refused_is_not_read_again_nor_shown_whole() -> None:
    client = Broker().client()
    client.create(name="box")
    for value, shown in (
        (1 << 64, "1.8446744073709552e+19"),
        ([[1] * 100_000], "[[" + "1, " * 18 + "1..."),
        ({"deep": json.loads("[" * 900 + "]" * 900)}, '{"deep": ' + "[" * 48 + "..."),
    ):
        answer = client.request("MAILBOX.QUERY.box", {"limit": value, "unknown": "x" * 20_000})
        assert answer == {"error": f"limit must be an integer, not {shown}"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1.5", "1e3"])
def test_what_is_no_integer_is_called_so(number: str) -> None:
    with pytest.raises(Mq9Error, match="a must be an integer, not"):
        Fields.parse(b'{"a":%b}' % number.encode()).integer("a", 5, 0, 9)


def read_in_both_ways(payload: bytes) -> None:
    try:
        expected = json.loads(payload or b"{}")
    except (ValueError, RecursionError):
        with pytest.raises(Mq9Error, match="the request is not valid JSON"):
            Fields.parse(payload)
        return
    if not isinstance(expected, dict):
        with pytest.raises(Mq9Error, match="the request must be a JSON object"):
            Fields.parse(payload)
        return
    found, wanted = Fields.parse(payload), Fields(expected)
    assert repr(found._values) in (repr(expected), repr(rounded(expected)))
    for fields, json_fields in ((found, wanted), *nested(found, wanted)):
        for read, arguments in READS.items():
            assert outcome(fields, read, *arguments) == outcome(json_fields, read, *arguments)


READS: dict[str, tuple[object, ...]] = {
    "boolean": (),
    "text": (),
    "nested": (),
    "ids": (),
    "choice": (("b",),),
    "texts": (2,),
    "integer": (5, 0, 1 << 62),
}


def nested(found: Fields, wanted: Fields) -> list[tuple[Fields, Fields]]:
    """The object in both, when there is one."""
    try:
        return [(found.nested("a"), wanted.nested("a"))]
    except Mq9Error:
        return []


def rounded(value: Any) -> Any:
    """Integers of more than 64 bits as the floats that they are read as."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    huge = type(value) is int and not -(1 << 63) <= value < 1 << 64
    return float(value) if huge and abs(value) < 10**308 else value


def outcome(fields: Fields, read: str, *arguments: object) -> str:
    """What the field `a` is read as, or what is said of it."""
    try:
        found = getattr(fields, read)("a", *arguments)
    except Mq9Error as refused:
        return refused.text
    return repr(found if read != "nested" else rounded(found._values))
