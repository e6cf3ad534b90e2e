"""Who may connect: what the operator wrote down, and whether a CONNECT shows it. As nats-server decides it.

A client shows a token, a user with a password, or the signature of its nkey under the nonce of its INFO. Passwords and
tokens may be written down as bcrypt hashes. The libraries for hashes and signatures are imported when they are needed:
a broker that asks for nothing loads neither.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import secrets
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mq9_broker.errors import BAD_SETTINGS, StartError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_log = logging.getLogger(__name__)

_SHOWN = ("nkey", "sig", "user", "pass", "auth_token", "jwt")
_BCRYPT_PREFIX = re.compile(r"\$2[abxy]\$\d\d\$")
# (of the last letter of the salt two bits count, and the library takes no others)
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_BCRYPT_READS = 72  # bytes of a password: the rest has never counted
_USER_KEY = 20 << 3  # the first byte of a user's public key: it makes the letter U
_FIELDS = ("user", "password", "nkey")


@dataclass(frozen=True, slots=True)
class User:
    """One who may connect: a `name` and a `password` (plain or a bcrypt hash), or an `nkey` (a public key, `U…`)."""

    name: str = ""
    password: str = field(default="", repr=False)
    nkey: str = ""


class Users:
    """Everybody who may connect. `token` (plain or a bcrypt hash; "" none) admits whoever shows it.

    `required`: clients must show something. `challenges`: INFO must carry a nonce of the connection's own.
    """

    def __init__(self, token: str = "", users: tuple[User, ...] = ()) -> None:
        self._token = User(password=token) if token else None
        self._by_name = {user.name: user for user in users if not user.nkey}
        self._by_key = {user.nkey: user for user in users if user.nkey}
        self.required = bool(token or users)
        self.challenges = bool(self._by_key)
        hashes = [secret for secret in (token, *(user.password for user in users)) if _BCRYPT.fullmatch(secret)]
        # checked where there is nothing to check, so that the time an answer takes does not tell who is known
        self._decoy = max(hashes, key=_cost, default="")

    def __contains__(self, user: User | None) -> bool:
        """Whether one who was admitted may stay: with the same password, hash or key as then."""
        if not self.required:
            return True
        return user is not None and user in (self._token, self._by_name.get(user.name), self._by_key.get(user.nkey))

    async def admits(self, options: Mapping[str, Any], nonce: str) -> User | None:
        """The user that a client with these CONNECT `options` is; None when it may not come in. `nonce` is that of
        its INFO. Never raises."""
        if not self.required:
            return User()
        shown = _shown(options)
        if shown is None:
            return None
        user, proof = self._claim(shown)
        if not proof:
            return None
        if user is not None and user.nkey:
            return user if _signed(user.nkey, proof, nonce) else None
        return user if await self._matches(user.password if user is not None else "", proof) else None

    def _claim(self, shown: dict[str, str]) -> tuple[User | None, str]:
        """Who the client says it is, if that one is known, and what it shows for it."""
        if shown["nkey"] and self._by_key:
            return self._by_key.get(shown["nkey"]), shown["sig"]
        if shown["user"] and self._by_name:
            return self._by_name.get(shown["user"]), shown["pass"]
        return self._token, shown["auth_token"]

    async def _matches(self, secret: str, proof: str) -> bool:
        """Whether `proof`, which is not empty, is the password `secret`; "" is nobody's, and takes as long."""
        if _BCRYPT.fullmatch(secret):
            return await asyncio.to_thread(_hashes_to, secret, proof)
        if hmac.compare_digest(_digest(secret), _digest(proof)):
            return True
        if self._decoy:
            await asyncio.to_thread(_hashes_to, self._decoy, proof)
        return False


def new_nonce() -> str:
    """What a client is asked to sign: as long as nats-server's."""
    return secrets.token_urlsafe(11)


def parse_token(value: object, where: str) -> str:
    """The setting `token`. StartError (code 2) when it is none; it is never shown."""
    return _password("token", value, where)


def parse_users(value: object, where: str) -> tuple[User, ...]:
    """The `[[users]]` tables of the file `where`. StartError (code 2) says which is wrong, and shows no secret."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise _wrong("users must be tables: [[users]], then user and password, or nkey, on lines below it", where)
    users = tuple(_user(f"user {number}", entry, where) for number, entry in enumerate(value, 1))
    seen: set[str] = set()
    for user in users:
        if (name := user.nkey or user.name) in seen:
            raise _wrong(f"there are two users {name!r}: remove one", where)
        seen.add(name)
    return users


def warn_if_exposed(file: Path) -> None:
    """Log a warning when others than the owner and the group of a file with credentials can read it."""
    if os.name == "posix" and file.stat().st_mode & stat.S_IROTH:
        _log.warning("%s holds credentials and everybody can read it: chmod 600 %s", file, shlex.quote(str(file)))


def _user(what: str, entry: dict[str, Any], where: str) -> User:
    for key in entry:
        if key not in _FIELDS:
            raise _wrong(f"{what} has an unknown field {key!r}; known are {', '.join(_FIELDS)}", where)
    if "nkey" in entry:
        if len(entry) > 1:
            raise _wrong(f"{what} has an nkey and more: an nkey needs neither user nor password", where)
        nkey = entry["nkey"]
        if isinstance(nkey, str) and nkey.startswith("S"):
            # it may be in a backup or a repository by now
            raise _wrong(f"{what} has a seed as its nkey: make a new pair and write its public key here, U…", where)
        if not isinstance(nkey, str) or _public_key(nkey) is None:
            raise _wrong(f"{what} has an nkey that is no public key of a user: that is U… with 56 characters", where)
        return User(nkey=nkey)
    name = entry.get("user")
    if not isinstance(name, str) or not name:
        raise _wrong(f'{what} has no name: give user = "…" with a password, or an nkey', where)
    if "password" not in entry:
        raise _wrong(f"{what} ({name!r}) has no password: give one, plain or as a bcrypt hash", where)
    return User(name, _password(f"the password of {name!r}", entry["password"], where))


def _password(what: str, value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(f"{what} must be a text that is not empty", where)
    if _BCRYPT_PREFIX.match(value) and not _BCRYPT.fullmatch(value):
        raise _wrong(f"{what} begins like a bcrypt hash and is none: copy all 60 characters of it", where)
    return value


def _wrong(text: str, where: str) -> StartError:
    return StartError(f"{text} ({where})", BAD_SETTINGS)


def _shown(options: Mapping[str, Any]) -> dict[str, str] | None:
    """The credentials among CONNECT's options, absent ones as ""; None when one is no text."""
    shown: dict[str, str] = {}
    for name in _SHOWN:
        value = options.get(name)
        if value is not None and not isinstance(value, str):
            return None
        shown[name] = value or ""
    return shown


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON can spell halves of characters


def _digest(text: str) -> bytes:
    """Of one length whatever the text's, so that a comparison tells nothing of it."""
    return hashlib.sha256(_bytes(text)).digest()


def _cost(hashed: str) -> str:
    return hashed[4:6]


def _hashes_to(hashed: str, text: str) -> bool:
    import bcrypt

    return bcrypt.checkpw(_bytes(text)[:_BCRYPT_READS], hashed.encode())


def _signed(nkey: str, signature: str, nonce: str) -> bool:
    """Whether `signature` (base64 in either alphabet, padded or not) is that of `nonce` by the owner of `nkey`."""
    from cryptography.exceptions import InvalidSignature

    key = _public_key(nkey)
    if key is None or not nonce:
        return False
    text = signature.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        key.verify(base64.b64decode(text + "=" * (-len(text) % 4), validate=True), nonce.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _public_key(nkey: str) -> Ed25519PublicKey | None:
    """The key that `nkey` spells: base32 of a kind, 32 bytes, and their CRC; None when it is not a user's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(nkey) != 56:
        return None
    try:
        raw = base64.b32decode(nkey)
    except ValueError:
        return None
    if raw[0] != _USER_KEY or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        return None
    return Ed25519PublicKey.from_public_bytes(raw[1:-2])
