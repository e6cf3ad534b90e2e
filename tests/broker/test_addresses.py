"""Addresses: secrets, what is derived from them, and each rule that a name can break."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9_broker import addresses
from mq9_broker.errors import Mq9Error

SECRET = "m-" + "abcdefghijklmnopqrstuvwxyz"
FORM = re.compile(r"[ms]-[a-z2-7]{26}")


@given(st.binary(min_size=addresses.RANDOM, max_size=addresses.RANDOM))
def test_a_secret_and_its_send_only_form(random: bytes) -> None:
    secret = addresses.secret_from(random)
    derived = addresses.send_only(secret)
    assert FORM.fullmatch(secret)
    assert FORM.fullmatch(derived)
    assert addresses.is_secret(secret)
    assert not addresses.is_send_only(secret)
    assert addresses.is_send_only(derived)
    assert not addresses.is_secret(derived)
    assert derived[2:] != secret[2:]
    assert addresses.send_only(secret) == derived


def test_the_derivation_never_changes() -> None:
    """What agents hold and what the store holds depend on it."""
    assert addresses.send_only(SECRET) == "s-ouzlw6tt36ovoxu2ov2rog44wd"


def test_130_of_the_random_bits_count() -> None:
    zero = addresses.secret_from(bytes(addresses.RANDOM))
    assert zero == "m-" + "a" * 26
    bits = 8 * addresses.RANDOM
    seen = {addresses.secret_from((1 << bit).to_bytes(addresses.RANDOM, "big")) for bit in range(bits)}
    assert len(seen - {zero}) == 130


def test_every_letter_is_as_likely() -> None:
    every = bytes(range(256))
    letters = "".join(addresses.secret_from(every[at:] + every[:at])[2:] for at in range(256))
    assert {letters.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz234567"} == {len(letters) // 32}


@pytest.mark.parametrize(
    "address",
    [
        "",
        "m-",
        "m-" + "a" * 25,
        "m-" + "a" * 27,
        "m-" + "A" * 26,
        "m-" + "1" * 26,
        "M-" + "a" * 26,
        "x-" + "a" * 26,
        "m_" + "a" * 26,
        "m-" + "a" * 26 + "\n",
        "m-" + "a" * 25 + "é",
    ],
)
def test_what_is_neither(address: str) -> None:
    assert not addresses.is_secret(address)
    assert not addresses.is_send_only(address)


@pytest.mark.parametrize(
    "name",
    [
        *("a", "0", "123", "ab", "a.b", "a-b", "a_b", "a.-_b", "a--b", "a" * 128),
        *("task.queue", "urgent.task", "high-er", "a.urgently"),
        *("systems", "systems.a", "broadcasts", "a.system", "a.broadcast"),
        *("m-short", "s-" + "a" * 25, "m-" + "a" * 27),
    ],
)
def test_a_name(name: str) -> None:
    assert addresses.name_problem(name) is None
    assert addresses.check_name(name) == name


CHARACTERS = "allowed are a-z 0-9 with . - _ inside, and a letter or digit at both ends"
BAD = {
    "": "it has 0 characters, allowed are 1 to 128",
    "a" * 129: "it has 129 characters, allowed are 1 to 128",
    "A": CHARACTERS,
    "aB": CHARACTERS,
    "a b": CHARACTERS,
    "a/b": CHARACTERS,
    "a*": CHARACTERS,
    "a.>": CHARACTERS,
    "é": CHARACTERS,
    "١": CHARACTERS,
    "a\n": CHARACTERS,
    "-a": CHARACTERS,
    "a-": CHARACTERS,
    "_a": CHARACTERS,
    "a_": CHARACTERS,
    ".a": CHARACTERS,
    "a.": CHARACTERS,
    ".": CHARACTERS,
    "a..b": "it has two dots in a row",
    "a...b": "it has two dots in a row",
    "m-" + "a" * 26: "that form is reserved for private addresses",
    "s-" + "z" * 26: "that form is reserved for private addresses",
    "a.m-" + "a" * 26 + ".b": "that form is reserved for private addresses",
    "m-" + "a" * 26 + ".a.b": "that form is reserved for private addresses",
    "m-" + "0" * 26: "that form is reserved for private addresses",
    "s-" + "a" * 12 + "." + "b" * 13: "that form is reserved for private addresses",
    "system": "system is reserved",
    "system.a": "system is reserved",
    "broadcast": "broadcast is reserved",
    "broadcast.a.b": "broadcast is reserved",
} | {
    name: f"its last part is the priority word {word}"
    for word in ("critical", "urgent", "high", "normal", "low", "notify")
    for name in (word, f"a.{word}", f"a.b.{word}")
}


@pytest.mark.parametrize(("name", "rule"), BAD.items())
def test_each_rule_a_name_can_break(name: str, rule: str) -> None:
    assert addresses.name_problem(name) == rule
    with pytest.raises(Mq9Error) as refused:
        addresses.check_name(name)
    assert refused.value.text == f"name {name!r} is not allowed: {rule}"


def test_a_long_name_is_shown_in_part() -> None:
    with pytest.raises(Mq9Error) as refused:
        addresses.check_name("x" * 4000)
    assert refused.value.text == f"name {'x' * 140!r} is not allowed: it has 4000 characters, allowed are 1 to 128"
