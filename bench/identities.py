"""Who the service engines of a crowd are: ids, keys and addresses that follow from their numbers."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def engine_id(number: int) -> str:
    """The id of the service engine of this number."""
    return f"se-{number:05}"


def private_key(number: int) -> Ed25519PrivateKey:
    """Its key, which is no secret."""
    return Ed25519PrivateKey.from_private_bytes(sha256(engine_id(number).encode()).digest())


def source(number: int) -> str:
    """The address of 127.0.0.0/8 that it dials from: each its own, as at as many sites."""
    return f"127.{16 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
