"""Challenges that no node has to remember: a nonce says when it was made, and proves that a node has made it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
from collections.abc import Callable

from avinet.errors import Unauthenticated

LIFE_S = 120
_HEAD = struct.Struct(">BQ16s")
_VERSION = 1


def new_nonce(key: bytes, now: float, random: Callable[[int], bytes] = os.urandom) -> str:
    """A nonce: version, time in ms, 16 random bytes, and an HMAC-SHA256 over them with the domain's `key`."""
    head = _HEAD.pack(_VERSION, int(now * 1000), random(16))
    return base64.urlsafe_b64encode(head + _mac(key, head)).decode("ascii").rstrip("=")


def check_nonce(key: bytes, nonce: str, now: float) -> None:
    """Raises `Unauthenticated` for a nonce that no node of the domain has made in the last 120 s."""
    try:
        raw = base64.urlsafe_b64decode(nonce + "=" * (-len(nonce) % 4))
    except ValueError as error:
        raise Unauthenticated("the nonce is malformed") from error
    head, mac = raw[: _HEAD.size], raw[_HEAD.size :]
    if len(head) != _HEAD.size or not hmac.compare_digest(mac, _mac(key, head)):
        raise Unauthenticated("the nonce was not made here")
    version, made_ms, _ = _HEAD.unpack(head)
    if version != _VERSION or not -5 <= now - made_ms / 1000 <= LIFE_S:
        raise Unauthenticated("the nonce has expired")


def _mac(key: bytes, head: bytes) -> bytes:
    return hmac.digest(key, head, hashlib.sha256)
