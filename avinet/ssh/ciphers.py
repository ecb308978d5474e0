"""How one direction of a connection seals and opens packets (RFC 4253 §6): a class for each way, a table at the foot.

A packet is sealed as one piece. It is opened in two steps, because its length may be encrypted: `length` reads it from
the first `head_bytes`, then `open` takes the whole of it.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from typing_extensions import override

from avinet.errors import PeerError

Buffer = bytes | bytearray | memoryview
_HEAD = struct.Struct(">IB")
_UINT32 = struct.Struct(">I")


class Padding:
    """Random bytes, drawn from the system in blocks: one system call for hundreds of packets."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom, block_bytes: int = 4096) -> None:
        self._random = random
        self._block_bytes = block_bytes
        self._block = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """`count` bytes, fewer than 256."""
        end = self._at + count
        if end > len(self._block):
            self._block = self._random(self._block_bytes)
            self._at, end = 0, count
        taken = self._block[self._at : end]
        self._at = end
        return taken


_padding = Padding()


def frame(payload: bytes, block_bytes: int) -> bytes:
    """`payload` with its length, its padding's length and at least four bytes of padding, in whole blocks."""
    padding = block_bytes - (5 + len(payload)) % block_bytes
    if padding < 4:
        padding += block_bytes
    return _HEAD.pack(1 + len(payload) + padding, padding) + payload + _padding.take(padding)


class Sealing(Protocol):
    """The outgoing half of a construction."""

    def seal(self, sequence: int, payload: bytes) -> bytes:
        """The packet for `payload`, as it goes over the wire."""


class Opening(Protocol):
    """The incoming half of a construction."""

    head_bytes: int
    block_bytes: int
    blocks_at: int
    """Where the blocks begin: 0 when the length is in the first one, 4 when it stands before them."""
    tail_bytes: int

    def length(self, head: Buffer) -> int:
        """The packet's own length field, from its first `head_bytes`; called once a packet."""

    def open(self, sequence: int, packet: Buffer) -> bytes:
        """The padding's length, the payload and the padding. Raises `PeerError` when the packet was tampered with."""


class PlainSealing(Sealing):
    """No keys yet."""

    @override
    def seal(self, sequence: int, payload: bytes) -> bytes:
        return frame(payload, 8)


class PlainOpening(Opening):
    """No keys yet."""

    head_bytes = 4
    block_bytes = 8
    blocks_at = 0
    tail_bytes = 0

    @override
    def length(self, head: Buffer) -> int:
        length: int = _UINT32.unpack_from(head)[0]
        return length

    @override
    def open(self, sequence: int, packet: Buffer) -> bytes:
        return bytes(packet[4:])


class CtrHmacSealing(Sealing):
    """AES in counter mode, and a code over the plain text (RFC 4344 §4, RFC 6668)."""

    def __init__(self, key: bytes, iv: bytes, mac_key: bytes, digest: str) -> None:
        self._encrypt = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update
        self._mac_key = mac_key
        self._digest = digest

    @override
    def seal(self, sequence: int, payload: bytes) -> bytes:
        packet = frame(payload, 16)
        code = hmac.digest(self._mac_key, _UINT32.pack(sequence) + packet, self._digest)
        return self._encrypt(packet) + code


class CtrHmacOpening(Opening):
    """The other side of `CtrHmacSealing`; the length is in the first block."""

    head_bytes = 16
    block_bytes = 16
    blocks_at = 0

    def __init__(self, key: bytes, iv: bytes, mac_key: bytes, digest: str, tail_bytes: int) -> None:
        self._decrypt = Cipher(algorithms.AES(key), modes.CTR(iv)).decryptor().update
        self._mac_key = mac_key
        self._digest = digest
        self._first = b""
        self.tail_bytes = tail_bytes

    @override
    def length(self, head: Buffer) -> int:
        self._first = self._decrypt(bytes(head))
        length: int = _UINT32.unpack_from(self._first)[0]
        return length

    @override
    def open(self, sequence: int, packet: Buffer) -> bytes:
        end = len(packet) - self.tail_bytes
        plain = self._first + self._decrypt(packet[16:end])
        code = hmac.digest(self._mac_key, _UINT32.pack(sequence) + plain, self._digest)
        if not hmac.compare_digest(code, packet[end:]):
            raise PeerError("a packet was changed on its way: its code is wrong")
        return plain[4:]


@dataclass(frozen=True)
class CipherSizes:
    """What a cipher takes of the derived key material."""

    key_bytes: int
    iv_bytes: int


@dataclass(frozen=True)
class MacSizes:
    """A code of `code_bytes`, whose key is as long, by the hash function `digest`."""

    code_bytes: int
    digest: str


class Keys:
    """The keys of both directions after one exchange, as Conch's key set-up fills them in."""

    sealing: Sealing
    opening: Opening

    def __init__(self, out_cipher: bytes, in_cipher: bytes, out_mac: bytes, in_mac: bytes) -> None:
        self._out = CIPHERS[out_cipher], MACS[out_mac]
        self._in = CIPHERS[in_cipher], MACS[in_mac]

    def setKeys(  # noqa: N802 (what Conch calls)
        self,
        outIV: bytes,  # noqa: N803
        outKey: bytes,  # noqa: N803
        inIV: bytes,  # noqa: N803
        inKey: bytes,  # noqa: N803
        outInteg: bytes,  # noqa: N803
        inInteg: bytes,  # noqa: N803
    ) -> None:
        """Take the derived key material, of which each construction uses as much as it needs."""
        cipher, mac = self._out
        self.sealing = CtrHmacSealing(
            outKey[: cipher.key_bytes], outIV[: cipher.iv_bytes], outInteg[: mac.code_bytes], mac.digest
        )
        cipher, mac = self._in
        self.opening = CtrHmacOpening(
            inKey[: cipher.key_bytes], inIV[: cipher.iv_bytes], inInteg[: mac.code_bytes], mac.digest, mac.code_bytes
        )


CIPHERS = {
    b"aes256-ctr": CipherSizes(key_bytes=32, iv_bytes=16),
    b"aes128-ctr": CipherSizes(key_bytes=16, iv_bytes=16),
}
MACS = {
    b"hmac-sha2-512": MacSizes(code_bytes=64, digest="sha512"),
    b"hmac-sha2-256": MacSizes(code_bytes=32, digest="sha256"),
}
