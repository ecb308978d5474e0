"""Who is at the other end, and what was said of a peer that was not let in: frozen values."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from avinet.trust.keys import blob_fingerprint, fingerprint


@dataclass(frozen=True, slots=True)
class Identity:
    """The peer of an authenticated connection.

    On a server: the user, the public key that signed, and what the admission returned. On a client: its own user, and
    the node's host key. `address` is where the peer is seen.
    """

    user: str
    public_key: str
    address: str
    admitted: Any = None

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint, as OpenSSH shows it."""
        return fingerprint(self.public_key)


@dataclass(frozen=True)
class Refusal:
    """A peer that was not let in.

    `user`, `method` (RFC 4252) and `public_key`, a line of any kind of key, are empty when it did not come so far as to
    name them.
    """

    address: str
    why: str
    user: str = ""
    method: str = ""
    public_key: str = ""

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint, as OpenSSH shows it; `none` without a key."""
        return blob_fingerprint(b64decode(self.public_key.split()[1])) if self.public_key else "none"
