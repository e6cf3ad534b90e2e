"""The log: one line a record, and never a private address."""

from __future__ import annotations

import logging
import sys

from mq9_broker.addresses import send_only
from mq9_broker.logs import LogLine

SECRET = "m-" + "a7" * 13


def test_a_record_is_one_line_of_keys_and_values() -> None:
    record = logging.LogRecord("mq9_broker.server", logging.WARNING, "", 0, "client %d said\n%s", (7, '"x"'), None)
    time, rest = LogLine().format(record).split(" ", 1)
    assert time.startswith("time=2")
    assert rest == 'level=warning at=server msg="client 7 said\\n\\"x\\""'


def test_an_address_in_the_text_of_a_defect_is_not_logged() -> None:
    try:
        raise KeyError(f"$mq9.AI.INBOX.{SECRET}.urgent".encode())
    except KeyError:
        record = logging.LogRecord("mq9_broker.server", logging.ERROR, "", 0, "a defect", (), sys.exc_info())
    line = LogLine().format(record)
    assert SECRET not in line
    assert f"KeyError: b'$mq9.AI.INBOX.{send_only(SECRET)}.urgent'" in line
