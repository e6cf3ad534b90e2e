"""Who may connect: every kind of credential, right and wrong, and what is said about settings that are wrong."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mq9_broker.auth import User, Users, new_nonce, parse_token, parse_users, warn_if_exposed
from mq9_broker.errors import StartError

pytestmark = pytest.mark.anyio

# the pair of the NATS documentation
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
OTHER_NKEY = "UAKXEOFKKHC7C2WCSZCWFNRY65I4HBCTB5MASZJHO423YTBHWYKFVDOQ"
NONCE = "YI6JVgA7rryaLn4"


def hashed(password: str, cost: int = 4, kind: str = "2b") -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode().replace("2b", kind, 1)


def signature(nonce: str = NONCE, seed: str = SEED) -> bytes:
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    return Ed25519PrivateKey.from_private_bytes(raw[2:34]).sign(nonce.encode())


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


SIG = url_safe(signature())


async def test_nothing_is_asked_for_where_nothing_is_set() -> None:
    nobody = Users()
    assert not nobody.required
    assert not nobody.challenges
    assert await nobody.admits({}, "")
    assert await nobody.admits({"user": "anybody", "pass": 5}, "")


@pytest.mark.parametrize(
    "token", ["s3cret", hashed("s3cret"), hashed("s3cret", kind="2a"), hashed("s3cret", kind="2y")]
)
@pytest.mark.parametrize(
    ("options", "admitted"),
    [
        ({"auth_token": "s3cret"}, True),
        ({"auth_token": "s3cret", "user": "somebody", "pass": "x", "nkey": NKEY, "jwt": "x"}, True),
        ({"auth_token": "s3cret "}, False),
        ({"auth_token": "S3CRET"}, False),
        ({"auth_token": ""}, False),
        ({"auth_token": None}, False),
        ({"user": "s3cret"}, False),
        ({"pass": "s3cret"}, False),
        ({"user": "", "pass": "s3cret"}, False),
        ({}, False),
    ],
)
async def test_a_token(token: str, options: dict[str, Any], admitted: bool) -> None:
    users = Users(token)
    assert users.required
    assert not users.challenges
    assert (await users.admits(options, "") is not None) is admitted


async def test_a_hash_is_not_its_own_password() -> None:
    secret = hashed("one")
    users = Users(secret, (User("a", secret),))
    assert not await users.admits({"auth_token": secret}, "")
    assert not await users.admits({"user": "a", "pass": secret}, "")


@pytest.mark.parametrize(
    ("options", "admitted"),
    [
        ({"user": "plain", "pass": "one"}, True),
        ({"user": "hashed", "pass": "two"}, True),
        ({"user": "umlaut", "pass": "größer"}, True),
        ({"user": "plain", "pass": "one", "auth_token": "x", "sig": "x", "jwt": "x"}, True),
        ({"user": "plain", "pass": "two"}, False),
        ({"user": "plain", "pass": ""}, False),
        ({"user": "plain"}, False),
        ({"user": "hashed", "pass": "one"}, False),
        ({"user": "Plain", "pass": "one"}, False),
        ({"user": "nobody", "pass": "one"}, False),
        ({"user": "nobody", "pass": ""}, False),
        ({"user": "", "pass": "one"}, False),
        ({"pass": "one"}, False),
        ({"auth_token": "one"}, False),
    ],
)
async def test_users_with_passwords(options: dict[str, Any], admitted: bool) -> None:
    users = Users("", (User("plain", "one"), User("hashed", hashed("two")), User("umlaut", "größer")))
    assert users.required
    assert not users.challenges
    assert (await users.admits(options, "") is not None) is admitted


async def test_bcrypt_reads_72_bytes() -> None:
    """Passwords that are longer were hashed by their beginning, wherever that was done."""
    users = Users("", (User("a", hashed("x" * 72)),))
    assert await users.admits({"user": "a", "pass": "x" * 72}, "")
    assert await users.admits({"user": "a", "pass": "x" * 72 + "y"}, "")
    assert not await users.admits({"user": "a", "pass": "x" * 71}, "")


@pytest.mark.parametrize("spelled", [url_safe, standard, lambda data: standard(data).rstrip("=")])
async def test_a_signature_in_the_spellings_of_clients(spelled: Callable[[bytes], str]) -> None:
    users = Users("", (User(nkey=OTHER_NKEY), User(nkey=NKEY)))
    assert users.required
    assert users.challenges
    # both alphabets differ only where these bits are, so a nonce is sought whose signature has them
    nonce = next(n for n in map(str, range(1000)) if {"-", "_"} <= set(url_safe(signature(n))))
    assert await users.admits({"nkey": NKEY, "sig": spelled(signature(nonce))}, nonce)
    assert not await users.admits({"nkey": NKEY, "sig": spelled(signature(nonce))}, nonce + "x")


@pytest.mark.parametrize(
    "options",
    [
        {"nkey": NKEY},
        {"nkey": NKEY, "sig": ""},
        {"nkey": NKEY, "sig": url_safe(signature("other"))},
        {"nkey": NKEY, "sig": SIG[:-4]},
        {"nkey": NKEY, "sig": SIG + "AAAA"},
        {"nkey": NKEY, "sig": "no base64 at all"},
        {"nkey": NKEY, "sig": "ä"},
        {"nkey": NKEY, "sig": "\ud800"},
        {"nkey": OTHER_NKEY, "sig": SIG},
        {"nkey": NKEY.lower(), "sig": SIG},
        {"nkey": "", "sig": SIG},
        {"sig": SIG},
        {"nkey": NKEY, "user": "a", "pass": "one"},
    ],
)
async def test_a_signature_that_proves_nothing(options: dict[str, Any]) -> None:
    users = Users("", (User("a", "one"), User(nkey=NKEY)))
    assert await users.admits({"nkey": NKEY, "sig": SIG}, NONCE)
    assert not await users.admits(options, NONCE)


async def test_an_empty_nonce_challenges_nobody() -> None:
    users = Users("", (User(nkey=NKEY),))
    assert not await users.admits({"nkey": NKEY, "sig": url_safe(signature(""))}, "")


async def test_every_kind_at_once() -> None:
    """What a client says it is decides what it must show."""
    users = Users("t", (User("a", "one"), User(nkey=NKEY)))
    assert await users.admits({"auth_token": "t"}, NONCE)
    assert await users.admits({"user": "a", "pass": "one"}, NONCE)
    assert await users.admits({"nkey": NKEY, "sig": SIG, "user": "a", "pass": "wrong"}, NONCE)
    assert not await users.admits({"user": "a", "pass": "wrong", "auth_token": "t"}, NONCE)
    assert not await users.admits({"nkey": NKEY, "sig": "wrong", "auth_token": "t"}, NONCE)


@pytest.mark.parametrize("name", ["nkey", "sig", "user", "pass", "auth_token", "jwt"])
@pytest.mark.parametrize("value", [0, 5, 1.5, True, False, [], ["t"], {}, {"t": "t"}])
async def test_what_is_no_text_is_refused(name: str, value: object) -> None:
    users = Users("t", (User("a", "one"), User(nkey=NKEY)))
    right = {"auth_token": "t", "user": None, "nkey": None}
    assert await users.admits(right, NONCE)
    assert not await users.admits(right | {name: value}, NONCE)


@pytest.mark.parametrize("text", ["\ud800", "\0", "a\0b", "\U0010ffff" * 100, "x" * 4000])
@pytest.mark.parametrize("secret", ["one", hashed("one")])
async def test_text_of_any_kind_is_only_wrong(text: str, secret: str) -> None:
    users = Users(secret, (User("a", secret), User(nkey=NKEY)))
    assert not await users.admits({"user": "a", "pass": text}, NONCE)
    assert not await users.admits({"user": text, "pass": "one"}, NONCE)
    assert not await users.admits({"auth_token": text}, NONCE)
    assert not await users.admits({"nkey": text, "sig": text}, NONCE)


async def test_who_is_unknown_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def check(password: bytes, secret: bytes) -> bool:
        checked.append(secret[:7])
        return True

    monkeypatch.setattr(bcrypt, "checkpw", check)
    slow, fast = hashed("one", 5), hashed("two", 4)
    users = Users("", (User("slow", slow), User("fast", fast), User("plain", "three")))
    for name in ("plain", "nobody"):
        assert not await users.admits({"user": name, "pass": "wrong"}, "")
    assert checked == [b"$2b$05$"] * 2
    assert await users.admits({"user": "plain", "pass": "three"}, "")
    assert not await users.admits({"user": "slow"}, "")
    assert not await users.admits({}, "")
    assert len(checked) == 2, "who shows nothing costs nothing"


async def test_who_may_stay_when_the_users_change() -> None:
    """Those whose own credentials are what they were."""
    before = Users("t", (User("a", "one"), User("b", hashed("two")), User(nkey=NKEY)))
    shown = (
        {"user": "a", "pass": "one"},
        {"user": "b", "pass": "two"},
        {"nkey": NKEY, "sig": SIG},
        {"auth_token": "t"},
    )
    came = [await before.admits(options, NONCE) for options in shown]
    assert None not in came

    def staying(after: Users) -> list[bool]:
        return [user in after for user in came]

    assert staying(before) == [True] * 4
    assert staying(Users()) == [True] * 4
    assert staying(Users("u", (User("a", "one"),))) == [True, False, False, False]
    assert staying(Users("t", (User("a", "two"), User(nkey=NKEY)))) == [False, False, True, True]
    assert staying(Users("", (User("c", "one"),))) == [False] * 4
    assert None not in before
    assert None in Users()


async def test_others_go_on_while_passwords_are_checked() -> None:
    users = Users("", (User("a", hashed("one", 12)),))
    loop = asyncio.get_running_loop()
    checking = asyncio.create_task(users.admits({"user": "a", "pass": "wrong"}, ""))
    turns = 0
    begun = loop.time()
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100, f"{turns} turns of the loop in {loop.time() - begun:.3f} s"
    assert not await checking


def test_each_nonce_is_another() -> None:
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert all(re.fullmatch(r"[\w-]{15}", nonce) for nonce in nonces)


def test_the_users_of_a_file() -> None:
    secret = hashed("one")
    entries = [{"user": "a", "password": secret}, {"user": "b", "password": "$ecret"}, {"nkey": NKEY}]
    assert parse_users(entries, "f") == (User("a", secret), User("b", "$ecret"), User(nkey=NKEY))
    assert parse_users([], "f") == ()
    assert parse_token("s3cret", "f") == "s3cret"
    assert parse_token(secret, "f") == secret


def test_credentials_are_not_in_what_is_printed() -> None:
    assert "s3cret" not in repr(User("a", "s3cret"))
    assert "s3cret" not in repr(Users("s3cret", (User("a", "s3cret"),)))


TABLES = "users must be tables: [[users]], then user and password, or nkey, on lines below it (mq9.toml)"
HASH = hashed("hunter2")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hunter2", TABLES),
        ({"user": "a", "password": "hunter2"}, TABLES),
        (["hunter2"], TABLES),
        ([{}], 'user 1 has no name: give user = "…" with a password, or an nkey (mq9.toml)'),
        ([{"password": "hunter2"}], 'user 1 has no name: give user = "…" with a password, or an nkey (mq9.toml)'),
        ([{"user": 5}], 'user 1 has no name: give user = "…" with a password, or an nkey (mq9.toml)'),
        ([{"user": "a"}], "user 1 ('a') has no password: give one, plain or as a bcrypt hash (mq9.toml)"),
        (
            [{"user": "z", "password": "1"}, {"user": "a", "pasword": "hunter2"}],
            "user 2 has an unknown field 'pasword'; known are user, password, nkey (mq9.toml)",
        ),
        ([{"user": "a", "password": ""}], "the password of 'a' must be a text that is not empty (mq9.toml)"),
        ([{"user": "a", "password": 5}], "the password of 'a' must be a text that is not empty (mq9.toml)"),
        (
            [{"user": "a", "password": HASH[:-1]}],
            "the password of 'a' begins like a bcrypt hash and is none: copy all 60 characters of it (mq9.toml)",
        ),
        (
            [{"user": "a", "password": HASH + "a"}],
            "the password of 'a' begins like a bcrypt hash and is none: copy all 60 characters of it (mq9.toml)",
        ),
        (
            [{"user": "a", "password": HASH.replace("$04$", "$99$")}],
            "the password of 'a' begins like a bcrypt hash and is none: copy all 60 characters of it (mq9.toml)",
        ),
        (
            # the last letter of the salt, of which bcrypt takes four
            [{"user": "a", "password": HASH[:28] + "A" + HASH[29:]}],
            "the password of 'a' begins like a bcrypt hash and is none: copy all 60 characters of it (mq9.toml)",
        ),
        (
            [{"user": "a", "password": "hunter2"}, {"user": "a", "password": "other"}],
            "there are two users 'a': remove one (mq9.toml)",
        ),
        ([{"nkey": NKEY}, {"nkey": NKEY}], f"there are two users '{NKEY}': remove one (mq9.toml)"),
        (
            [{"nkey": NKEY, "password": "hunter2"}],
            "user 1 has an nkey and more: an nkey needs neither user nor password (mq9.toml)",
        ),
        (
            [{"nkey": SEED}],
            "user 1 has a seed as its nkey: make a new pair and write its public key here, U… (mq9.toml)",
        ),
        *(
            ([{"nkey": nkey}], "user 1 has an nkey that is no public key of a user: that is U… with 56 characters")
            for nkey in (5, "", "U", NKEY[:-1], NKEY + "A", NKEY.lower(), NKEY[:-1] + "A", "U" + "1" * 55, "ü" * 56)
        ),
    ],
)
def test_wrong_users_are_refused_without_their_secrets(value: object, text: str) -> None:
    with pytest.raises(StartError) as refused:
        parse_users(value, "mq9.toml")
    assert refused.value.code == 2
    assert str(refused.value).startswith(text)
    assert "hunter2" not in str(refused.value)
    assert SEED not in str(refused.value)
    assert HASH[7:20] not in str(refused.value)


def test_the_key_of_an_account_is_no_users() -> None:
    raw = bytes([0]) + base64.b32decode(NKEY)[1:-2]
    account = base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode()
    assert account.startswith("A")
    with pytest.raises(StartError, match="no public key of a user"):
        parse_users([{"nkey": account}], "f")


@pytest.mark.parametrize("value", ["", 5, None, ["t"], HASH[:-3], HASH[:28] + "A" + HASH[29:]])
def test_a_wrong_token_is_refused_unseen(value: object) -> None:
    with pytest.raises(StartError, match=r"^token (must be|begins like) .* \(MQ9_TOKEN\)$") as refused:
        parse_token(value, "MQ9_TOKEN")
    assert refused.value.code == 2
    assert HASH[7:20] not in str(refused.value)


def test_a_file_that_everybody_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "my mq9.toml"
    file.write_text("")
    for mode in (0o600, 0o640, 0o660):
        file.chmod(mode)
        warn_if_exposed(file)
    assert caplog.records == []
    file.chmod(0o644)
    warn_if_exposed(file)
    assert caplog.record_tuples == [
        (
            "mq9_broker.auth",
            logging.WARNING,
            f"{file} holds credentials and everybody can read it: chmod 600 '{file}'",
        )
    ]


def test_a_broker_without_credentials_loads_no_cryptography() -> None:
    code = (
        "import asyncio, sys; from mq9_broker.auth import Users, User\n"
        "asyncio.run(Users().admits({'user': 'a', 'pass': 'b'}, ''))\n"
        "asyncio.run(Users('t', (User('a', 'b'),)).admits({'user': 'a', 'pass': 'b'}, ''))\n"
        "print(sorted({'bcrypt', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
