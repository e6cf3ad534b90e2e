"""Certificates for tests: an authority, a server's for this machine, a client's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme


class Certificates(NamedTuple):
    """PEM files; each `…_key` belongs to the certificate of that name."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make(folder: Path) -> Certificates:
    """Certificates for localhost, 127.0.0.1 and a client, signed by an authority made for them."""
    authority = trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in Certificates._fields))
    made.ca.write_bytes(authority.cert_pem.bytes())
    for cert, key, names in (
        (made.server, made.server_key, ("localhost", "127.0.0.1")),
        (made.client, made.client_key, ("agent@example.org",)),
    ):
        signed = authority.issue_cert(*names)
        cert.write_bytes(b"".join(part.bytes() for part in signed.cert_chain_pems))
        key.write_bytes(signed.private_key_pem.bytes())
    return made
