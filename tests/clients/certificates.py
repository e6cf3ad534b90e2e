"""A certificate for this machine, and the authority that vouches for it."""

from __future__ import annotations

from pathlib import Path

import trustme


class Certificates:
    """PEM files: `ca` is what to trust, `cert` and `key` are what a server shows, `client_…` what a client does."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.cert, self.key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        self.client_cert, self.client_key = folder / "client_cert.pem", folder / "client_key.pem"
        for made, cert, key in (
            (authority.issue_cert("127.0.0.1", "localhost"), self.cert, self.key),
            (authority.issue_cert("agent@example.org"), self.client_cert, self.client_key),
        ):
            made.private_key_pem.write_to_path(str(key))
            cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
