"""The fuzz targets without a fuzzer: on their seeds, on what was found before, and on what Hypothesis makes of both."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.test_wire import Recorder
from fuzz import broker, parser, requests, seeds
from mq9_broker import headers, server, wire
from mq9_broker.dialects.native import Native
from mq9_broker.errors import ProtocolError
from mq9_broker.session import Session

CRASHES = sorted(path for path in (Path(__file__).parent / "crashes").glob("*/*"))


@pytest.mark.parametrize("target", ["parser", "broker", "requests"])
def test_where_fuzzing_begins(target: str) -> None:
    check = import_module(f"fuzz.{target}").check
    for data in getattr(seeds, target)():
        check(data)


@pytest.mark.parametrize("path", CRASHES, ids=[f"{path.parent.name} {path.name}" for path in CRASHES])
def test_what_was_found_before(path: Path) -> None:
    import_module(f"fuzz.{path.parent.name}").check(path.read_bytes())


# ---- what Hypothesis makes of the seeds ----

_noise = st.lists(st.sampled_from(seeds.dictionary()) | st.binary(max_size=6), max_size=12).map(b"".join)


def changed(found: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of these, with something else in place of a part of it."""

    def change(data: bytes, at: int, size: int, noise: bytes) -> bytes:
        return data[:at] + noise + data[at + size :]

    return st.builds(change, st.sampled_from(found), st.integers(0, 400), st.integers(0, 20), _noise)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@examples(1500)
@given(st.lists(changed(seeds.parser()) | _noise, max_size=3).map(b"".join))
def test_any_stream(data: bytes) -> None:
    parser.check(data)


@examples(300)
@given(st.lists(changed(seeds.broker()) | _noise, max_size=3).map(bytes((broker.STEP,)).join))
def test_any_session(data: bytes) -> None:
    broker.check(data)


@examples(600)
@given(changed(seeds.requests()))
def test_any_request(data: bytes) -> None:
    requests.check(data)


# ---- the targets themselves: each notices what it is there for ----


def test_a_parser_that_depends_on_its_chunks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = wire.Parser.feed

    def forgetful(self: wire.Parser, data: bytes) -> None:
        feed(self, data)
        self._rest = self._rest[:8]

    monkeypatch.setattr(wire.Parser, "feed", forgetful)
    with pytest.raises(AssertionError, match=r"whole .*, cut"):
        parser.check(b"SUB subject sid\r\n")


@pytest.mark.parametrize("error", [ValueError, RecursionError])
def test_an_error_of_another_kind_is_noticed(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Recorder, "on_ping", wrong)
    with pytest.raises(error):
        parser.check(b"PING\r\n")


def test_a_parser_that_waits_without_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "LINE", 1000)
    with pytest.raises(AssertionError, match="waits for more"):
        parser.check(b"SUB a")


def test_a_defect_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq9_broker.session.Session.on_unsubscribe", lambda self, sid, max_messages: 1 // 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        broker.check(b"UNSUB 1\r\n")


def test_a_secret_in_a_log_line_is_noticed() -> None:
    with pytest.raises(AssertionError, match="m-"), broker.no_defect():
        server._log.debug("who asks for %s?", broker.KNOWN[0])


def test_a_neighbour_who_learns_an_address_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"=BROADCAST.x.y $mq9.AI.INBOX." + broker.KNOWN[0].encode()
    broker.check(data)
    monkeypatch.setattr("mq9_broker.dialects.native.Native._answer_address", lambda self, reply: reply)
    with pytest.raises(AssertionError, match=broker.KNOWN[0]):
        broker.check(data)


def test_a_neighbour_who_hears_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Native.publish

    def loud(self: Native, session: Any, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> bytes | None:
        self._hub.router.route(session, subject, reply, header, payload)
        return publish(self, session, subject, reply, header, payload)

    monkeypatch.setattr(Native, "publish", loud)
    with pytest.raises(AssertionError, match="MAILBOX"):
        broker.check(b"=MAILBOX.box _INBOX.c2.x")


def test_an_answer_that_goes_to_whom_it_names_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def anywhere(self: Session, subject: bytes, payload: bytes) -> None:
        self.hub.router.route(self, subject, b"", b"", payload)

    monkeypatch.setattr(Session, "reply", anywhere)
    with pytest.raises(AssertionError, match="error"):
        broker.check(b"=PUBLIC.LIST _INBOX.c2.x")


def test_a_header_block_read_in_two_ways_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "lines_of", lambda block: block[len(headers.FIRST_LINE) : -2])
    with pytest.raises(AssertionError):
        requests.check_headers(b"NATS/1.0\r\nA: b\nC: d\r\n\r\n")


def test_a_parser_that_ends_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = wire.Parser._keep

    def impatient(self: wire.Parser, data: bytes, rest: bytes) -> tuple[int, None]:
        if len(rest) > 6:
            raise ProtocolError(None)
        return keep(self, data, rest)

    monkeypatch.setattr(wire.Parser, "_keep", impatient)
    with pytest.raises(AssertionError, match=r"whole .*, cut"):
        parser.check(b"SUB subject sid\r\n")
