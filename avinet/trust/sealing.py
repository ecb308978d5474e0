"""Secrets at rest: sealed under one key of the node, each for what it is about, so that none can stand in for another.

AES-256-GCM (NIST SP 800-38D) with a random nonce; what a secret is about is authenticated with it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from avinet.errors import Damaged
from avinet.files import cannot, read_limited, write_atomic

SECRETS_KEY = "secrets.key"
KEY_BYTES = 32
_NONCE_BYTES = 12


class Seal:
    """Seals and opens with `key`, 32 bytes; `id` tells it from other keys, and nothing of it."""

    def __init__(self, key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self._cipher = AESGCM(key)
        self._random = random
        self.id = hashlib.sha256(b"avinet secrets key\n" + key).hexdigest()[:16]

    def seal(self, secret: bytes, about: str) -> str:
        """`secret`, sealed, as base64 of nonce, ciphertext and tag."""
        nonce = self._random(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, secret, about.encode())).decode("ascii")

    def open(self, sealed: str, about: str) -> bytes:
        """The secret that was sealed for the same thing. Raises `Damaged`."""
        try:
            data = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            raise Damaged(f"the secret of {about} was sealed with another key, or is damaged") from None


def make_key(path: Path, random: Callable[[int], bytes] = os.urandom) -> None:
    """Write a new key to `path`, durably and mode 0600."""
    write_atomic(path, random(KEY_BYTES))


def load_seal(path: Path) -> Seal:
    """The seal whose key is in the file at `path`. Raises `Damaged` for what is no key, and `LocalError`."""
    key = read_limited(path, KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise Damaged(
            f"{path} is damaged: it has {len(key)} bytes, not {KEY_BYTES}",
            hint="restore it from a backup; without one move it away: all certificates are to be put again then",
        )
    return Seal(key)


def load_or_make_seal(path: Path) -> Seal:
    """The seal whose key is in the file at `path`; a new one where it was lost, which opens nothing that was sealed.

    Raises what `load_seal` does.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        make_key(path)
    except OSError as error:
        raise cannot("read", path, error) from error
    return load_seal(path)
