"""The client's half of a key exchange: one class a method, a table at the foot. Conch has the server's half of all."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from typing_extensions import override

from avinet.errors import PeerError
from avinet.ssh.strings import mpint, string

X25519_BYTES = 32
MLKEM768_CIPHERTEXT_BYTES = 1088


class Exchange(Protocol):
    """One exchange with keys of its own."""

    ours: bytes
    """What the client sends first."""

    def secret(self, theirs: bytes) -> bytes:
        """The shared secret K, encoded as it is hashed, from the server's answer. Raises `PeerError`."""


def _x25519(private: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise PeerError("its key for the exchange is none") from None


class Curve25519(Exchange):
    """RFC 8731."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.ours = self._private.public_key().public_bytes_raw()

    @override
    def secret(self, theirs: bytes) -> bytes:
        return mpint(int.from_bytes(_x25519(self._private, theirs), "big"))


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
        return string(sha256(self._lattice.decapsulate(ciphertext) + _x25519(self._curve, public)).digest())


EXCHANGES: dict[bytes, Callable[[], Exchange]] = {
    b"mlkem768x25519-sha256": MLKEM768Curve25519,
    b"curve25519-sha256": Curve25519,
    b"curve25519-sha256@libssh.org": Curve25519,
}
