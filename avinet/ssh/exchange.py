"""Key exchange: both halves of each method, one class a method, a table of them, and the keys that come of it."""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from typing_extensions import override

from avinet.errors import PeerError
from avinet.ssh.ciphers import Material
from avinet.ssh.strings import mpint, string

X25519_BYTES = 32
MLKEM768_PUBLIC_BYTES = 1184
MLKEM768_CIPHERTEXT_BYTES = 1088
_NO_KEY = "its key for the exchange is none"


class Exchange(Protocol):
    """The client's half with keys of its own, and the server's as `answered`; shared secrets as they are hashed."""

    ours: bytes
    """What the client sends first."""

    def secret(self, theirs: bytes) -> bytes:
        """The shared secret K, from the server's answer. Raises `PeerError`."""

    @classmethod
    def answered(cls, theirs: bytes) -> tuple[bytes, bytes]:
        """The server's answer to what the client sent, and the shared secret. Raises `PeerError`."""


def _x25519(private: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise PeerError(_NO_KEY) from None


class Curve25519(Exchange):
    """RFC 8731."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.ours = self._private.public_key().public_bytes_raw()

    @override
    def secret(self, theirs: bytes) -> bytes:
        return mpint(int.from_bytes(_x25519(self._private, theirs), "big"))

    @override
    @classmethod
    def answered(cls, theirs: bytes) -> tuple[bytes, bytes]:
        half = cls()
        return half.ours, half.secret(theirs)


class MLKEM768Curve25519(Exchange):
    """draft-ietf-sshm-mlkem-hybrid-kex: holds if either of its two halves does."""

    def __init__(self) -> None:
        self._lattice = MLKEM768PrivateKey.generate()
        self._curve = X25519PrivateKey.generate()
        self.ours = self._lattice.public_key().public_bytes_raw() + self._curve.public_key().public_bytes_raw()

    @override
    def secret(self, theirs: bytes) -> bytes:
        if len(theirs) != MLKEM768_CIPHERTEXT_BYTES + X25519_BYTES:
            raise PeerError("its answer in the exchange has the wrong length")
        ciphertext, public = theirs[:MLKEM768_CIPHERTEXT_BYTES], theirs[MLKEM768_CIPHERTEXT_BYTES:]
        return self._joined(self._lattice.decapsulate(ciphertext), _x25519(self._curve, public))

    @override
    @classmethod
    def answered(cls, theirs: bytes) -> tuple[bytes, bytes]:
        if len(theirs) != MLKEM768_PUBLIC_BYTES + X25519_BYTES:
            raise PeerError("its key for the exchange has the wrong length")
        curve = X25519PrivateKey.generate()
        by_curve = _x25519(curve, theirs[MLKEM768_PUBLIC_BYTES:])
        try:
            lattice = MLKEM768PublicKey.from_public_bytes(theirs[:MLKEM768_PUBLIC_BYTES])
        except ValueError:
            raise PeerError(_NO_KEY) from None
        by_lattice, ciphertext = lattice.encapsulate()
        return ciphertext + curve.public_key().public_bytes_raw(), cls._joined(by_lattice, by_curve)

    @staticmethod
    def _joined(by_lattice: bytes, by_curve: bytes) -> bytes:
        return string(sha256(by_lattice + by_curve).digest())


EXCHANGES: dict[bytes, type[Curve25519 | MLKEM768Curve25519]] = {
    b"mlkem768x25519-sha256": MLKEM768Curve25519,
    b"curve25519-sha256": Curve25519,
    b"curve25519-sha256@libssh.org": Curve25519,
}


def derived(secret: bytes, exchange_hash: bytes, session_id: bytes) -> tuple[Material, Material]:
    """The material of the keys to the server, and of those to the client (RFC 4253 §7.2)."""
    seed = secret + exchange_hash

    def key(letter: bytes) -> bytes:
        first = sha256(seed + letter + session_id).digest()
        return first + sha256(seed + first).digest()

    return Material(key(b"A"), key(b"C"), key(b"E")), Material(key(b"B"), key(b"D"), key(b"F"))
