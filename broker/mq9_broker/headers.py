"""The NATS/1.0 header block: `NATS/1.0`, lines of `Name: value`, an empty line."""

from __future__ import annotations

from mq9_broker.errors import Mq9Error

FIRST_LINE = b"NATS/1.0\r\n"


def lines_of(block: bytes) -> bytes:
    """The header lines of a block, each with its line end. Mq9Error when it is not a block of plain headers."""
    if not block:
        return b""
    lines = block[len(FIRST_LINE) : -2]
    ends = block.count(b"\r\n")
    # a bare CR or LF, or an empty line inside, would be read differently by different clients
    if (
        not block.startswith(FIRST_LINE)
        or not block.endswith(b"\r\n\r\n")
        or block.count(b"\r") != ends
        or block.count(b"\n") != ends
        or b"\r\n\r\n" in block[:-2]
    ):
        raise Mq9Error("the header block must be NATS/1.0, lines of 'Name: value', and an empty line")
    return lines


def parse(lines: bytes) -> list[tuple[str, str]]:
    """The (name, value) pairs of header lines, in order. Mq9Error names a line that is not `Name: value`."""
    pairs = []
    for line in lines.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise Mq9Error(f"header line {line[:80].decode('utf-8', 'replace')!r} is not of the form 'Name: value'")
        pairs.append((name.strip().decode("utf-8", "replace"), value.strip().decode("utf-8", "replace")))
    return pairs


def as_mapping(pairs: list[tuple[str, str]]) -> dict[str, str | list[str]] | None:
    """Pairs as `{name: value}`, a repeated name with the list of its values; None when there are none."""
    found: dict[str, str | list[str]] = {}
    for name, value in pairs:
        before = found.get(name)
        if before is None:
            found[name] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            found[name] = [before, value]
    return found or None
