"""How one direction of a connection seals and opens packets (RFC 4253 §6): a class for each construction, one table.

A packet is sealed and opened where it lies. It is opened in two steps, because its length may be encrypted: `length`
reads it from the first `head_bytes`, then `open` takes the whole of it.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305
from typing_extensions import override

from avinet.errors import PeerError

Buffer = bytes | bytearray | memoryview
HEAD_BYTES = 5
"""What stands before a payload: the length of the packet, and that of its padding."""
_HEAD = struct.Struct(">IB")
_UINT32 = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")
_COUNTERS = 1 << 64
_CHANGED = "a packet was changed on its way: its code is wrong"


def _works_in_place() -> bool:
    """Whether the library may read from and write to one memory, as OpenSSL may: it does not promise so itself."""
    plain, nonce = bytes(range(80)), bytes(16)
    memory = memoryview(bytearray(plain + nonce))
    gcm = AESGCM(nonce)
    gcm.encrypt_into(nonce[:12], memory[:80], None, memory)
    right = memory == gcm.encrypt(nonce[:12], plain, None)
    gcm.decrypt_into(nonce[:12], memory, None, memory[:80])
    for algorithm, mode in ((algorithms.AES(nonce), modes.CTR(nonce)), (algorithms.ChaCha20(bytes(32), nonce), None)):
        cipher: Cipher[Any] = Cipher(algorithm, mode)
        cipher.encryptor().update_into(memory[:80], memory)
        right = right and memory[:80] == cipher.encryptor().update(plain)
        cipher.decryptor().update_into(memory[:80], memory)
    return right and memory[:80] == plain


IN_PLACE = _works_in_place()


def source(data: memoryview) -> Buffer:
    """What to encrypt or decrypt to where `data` is: `data` itself, or a copy."""
    return data if IN_PLACE else bytes(data)


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


def frame(size: int, block_bytes: int, blocks_at: int, packet: memoryview) -> int:
    """Make a packet of the payload of `size` bytes that lies behind the place for its head, without a code.

    What comes from `blocks_at` on is whole blocks, with at least four bytes of padding. Returns the number of bytes.
    """
    padding = block_bytes - (HEAD_BYTES - blocks_at + size) % block_bytes
    if padding < 4:
        padding += block_bytes
    _HEAD.pack_into(packet, 0, 1 + size + padding, padding)
    at = HEAD_BYTES + size
    packet[at : at + padding] = _padding.take(padding)
    return at + padding


class Sealing(Protocol):
    """The outgoing half of a construction."""

    def seal(self, sequence: int, packet: memoryview, size: int) -> int:
        """Seal the payload of `size` bytes at `HEAD_BYTES` of `packet`, which has room for more; returns the length."""


class Opening(Protocol):
    """The incoming half of a construction."""

    head_bytes: int
    block_bytes: int
    blocks_at: int
    """Where the blocks begin: 0 when the length is in the first one, 4 when it stands before them."""
    tail_bytes: int

    def length(self, sequence: int, head: memoryview) -> int:
        """The packet's own length field, from its first `head_bytes`; called once a packet."""

    def open(self, sequence: int, packet: memoryview) -> memoryview:
        """The padding's length, the payload and the padding, where they lie in `packet`.

        Raises `PeerError` when the packet was tampered with.
        """


class _ClearLength(Opening):
    """What the constructions with an unencrypted length share."""

    head_bytes = 4
    blocks_at = 4

    @override
    def length(self, sequence: int, head: memoryview) -> int:
        length: int = _UINT32.unpack_from(head)[0]
        return length


class PlainSealing(Sealing):
    """No keys yet."""

    @override
    def seal(self, sequence: int, packet: memoryview, size: int) -> int:
        return frame(size, 8, 0, packet)


class PlainOpening(_ClearLength):
    """No keys yet."""

    block_bytes = 8
    blocks_at = 0
    tail_bytes = 0

    @override
    def open(self, sequence: int, packet: memoryview) -> memoryview:
        return packet[4:]


class _GcmNonces:
    """The nonces of one direction (RFC 5647 §7.1): four bytes that stay, and a counter of packets."""

    __slots__ = ("_counter", "_nonce")

    def __init__(self, iv: bytes) -> None:
        self._nonce = bytearray(iv)
        self._counter: int = _UINT64.unpack_from(iv, 4)[0]

    def next(self) -> bytearray:
        """The nonce of the next packet, to be used at once."""
        _UINT64.pack_into(self._nonce, 4, self._counter)
        self._counter = (self._counter + 1) % _COUNTERS
        return self._nonce


class GcmSealing(Sealing):
    """AES-GCM as OpenSSH has it: the length is not encrypted, and authenticated with the rest (RFC 5647 §7.3)."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._encrypt = AESGCM(key).encrypt_into
        self._nonces = _GcmNonces(iv)

    @override
    def seal(self, sequence: int, packet: memoryview, size: int) -> int:
        end = frame(size, 16, 4, packet)
        self._encrypt(self._nonces.next(), source(packet[4:end]), packet[:4], packet[4 : end + 16])
        return end + 16


class GcmOpening(_ClearLength):
    """The other side of `GcmSealing`."""

    block_bytes = 16
    tail_bytes = 16

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._decrypt = AESGCM(key).decrypt_into
        self._nonces = _GcmNonces(iv)

    @override
    def open(self, sequence: int, packet: memoryview) -> memoryview:
        plain = packet[4:-16]
        try:
            self._decrypt(self._nonces.next(), source(packet[4:]), packet[:4], plain)
        except InvalidTag:
            raise PeerError(_CHANGED) from None
        return plain


class _ChaChaKeys:
    """The key material of chacha20-poly1305@openssh.com: a key for payloads and codes, and one for lengths."""

    def __init__(self, key: bytes) -> None:
        self._payloads, self._lengths = (
            Cipher(algorithms.ChaCha20(half, bytes(16)), None).encryptor() for half in (key[:32], key[32:])
        )

    def length(self, sequence: int, four: Buffer) -> bytes:
        """Four bytes of a length, encrypted or decrypted."""
        self._lengths.reset_nonce(self._nonce(sequence, 0))
        return self._lengths.update(four)

    def code_key(self, sequence: int) -> bytes:
        """The key of the code of one packet."""
        self._payloads.reset_nonce(self._nonce(sequence, 0))
        return self._payloads.update(bytes(32))

    def crypt(self, sequence: int, data: memoryview) -> None:
        """Encrypt or decrypt the payload of a packet."""
        self._payloads.reset_nonce(self._nonce(sequence, 1))
        self._payloads.update_into(source(data), data)

    @staticmethod
    def _nonce(sequence: int, block: int) -> bytes:
        return block.to_bytes(8, "little") + sequence.to_bytes(8, "big")


class ChaChaSealing(Sealing):
    """chacha20-poly1305@openssh.com, as OpenSSH's PROTOCOL.chacha20poly1305 has it: also for hardware without AES."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._keys = _ChaChaKeys(key)

    @override
    def seal(self, sequence: int, packet: memoryview, size: int) -> int:
        end = frame(size, 8, 4, packet)
        packet[:4] = self._keys.length(sequence, packet[:4])
        self._keys.crypt(sequence, packet[4:end])
        packet[end : end + 16] = Poly1305.generate_tag(self._keys.code_key(sequence), packet[:end])
        return end + 16


class ChaChaOpening(Opening):
    """The other side of `ChaChaSealing`."""

    head_bytes = 4
    blocks_at = 4
    block_bytes = 8
    tail_bytes = 16

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._keys = _ChaChaKeys(key)

    @override
    def length(self, sequence: int, head: memoryview) -> int:
        length: int = _UINT32.unpack(self._keys.length(sequence, head))[0]
        return length

    @override
    def open(self, sequence: int, packet: memoryview) -> memoryview:
        end = len(packet) - 16
        try:
            Poly1305.verify_tag(self._keys.code_key(sequence), packet[:end], bytes(packet[end:]))
        except InvalidSignature:
            raise PeerError(_CHANGED) from None
        self._keys.crypt(sequence, packet[4:end])
        return packet[4:end]


@dataclass(frozen=True)
class Mac:
    """A code of `code_bytes`, whose key is as long, by the hash function `digest`."""

    code_bytes: int
    digest: str

    def code(self, key: bytes, sequence: int, packet: memoryview) -> bytes:
        """The code of what goes over the wire, in its place in the sequence."""
        return hmac.digest(key, _UINT32.pack(sequence) + packet, self.digest)


class CtrSealing(Sealing):
    """AES in counter mode (RFC 4344 §4), and a code over what was encrypted: encrypt-then-MAC as OpenSSH has it."""

    def __init__(self, key: bytes, iv: bytes, mac: Mac, mac_key: bytes) -> None:
        self._encrypt = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update_into
        self._mac = mac
        self._mac_key = mac_key

    @override
    def seal(self, sequence: int, packet: memoryview, size: int) -> int:
        end = frame(size, 16, 4, packet)
        self._encrypt(source(packet[4:end]), packet[4:])
        code = self._mac.code(self._mac_key, sequence, packet[:end])
        packet[end : end + len(code)] = code
        return end + len(code)


class CtrOpening(_ClearLength):
    """The other side of `CtrSealing`."""

    block_bytes = 16

    def __init__(self, key: bytes, iv: bytes, mac: Mac, mac_key: bytes) -> None:
        self._decrypt = Cipher(algorithms.AES(key), modes.CTR(iv)).decryptor().update_into
        self._mac = mac
        self._mac_key = mac_key
        self.tail_bytes = mac.code_bytes

    @override
    def open(self, sequence: int, packet: memoryview) -> memoryview:
        end = len(packet) - self.tail_bytes
        if not hmac.compare_digest(self._mac.code(self._mac_key, sequence, packet[:end]), packet[end:]):
            raise PeerError(_CHANGED)
        self._decrypt(source(packet[4:end]), packet[4:])
        return packet[4:end]


@dataclass(frozen=True)
class Aead:
    """A cipher that authenticates too, and how much it takes of the derived key material."""

    key_bytes: int
    iv_bytes: int
    sealing: Callable[[bytes, bytes], Sealing]
    opening: Callable[[bytes, bytes], Opening]


@dataclass(frozen=True)
class Ctr:
    """A cipher that needs one of the `MACS`."""

    key_bytes: int
    iv_bytes: int = 16


CIPHERS: dict[bytes, Aead | Ctr] = {
    b"aes128-gcm@openssh.com": Aead(16, 12, GcmSealing, GcmOpening),
    b"aes256-gcm@openssh.com": Aead(32, 12, GcmSealing, GcmOpening),
    b"chacha20-poly1305@openssh.com": Aead(64, 0, ChaChaSealing, ChaChaOpening),
    b"aes256-ctr": Ctr(32),
    b"aes128-ctr": Ctr(16),
}
MACS = {
    b"hmac-sha2-256-etm@openssh.com": Mac(code_bytes=32, digest="sha256"),
    b"hmac-sha2-512-etm@openssh.com": Mac(code_bytes=64, digest="sha512"),
}


def authenticates(cipher: bytes) -> bool:
    """Whether `cipher` needs no MAC."""
    return isinstance(CIPHERS.get(cipher), Aead)


class Material(NamedTuple):
    """What an exchange derives for one direction, 64 bytes of each; a construction uses as much as it needs."""

    iv: bytes
    key: bytes
    code_key: bytes


class Keys:
    """The keys of both directions after one exchange; the name of a MAC may be empty."""

    sealing: Sealing
    opening: Opening

    def __init__(self, out_cipher: bytes, in_cipher: bytes, out_mac: bytes, in_mac: bytes) -> None:
        self._out = CIPHERS[out_cipher], MACS.get(out_mac)
        self._in = CIPHERS[in_cipher], MACS.get(in_mac)

    def derive(self, out: Material, into: Material) -> None:
        """Make the constructions of both directions."""
        cipher, mac = self._out
        key, iv = out.key[: cipher.key_bytes], out.iv[: cipher.iv_bytes]
        if isinstance(cipher, Aead):
            self.sealing = cipher.sealing(key, iv)
        else:
            assert mac is not None
            self.sealing = CtrSealing(key, iv, mac, out.code_key[: mac.code_bytes])
        cipher, mac = self._in
        key, iv = into.key[: cipher.key_bytes], into.iv[: cipher.iv_bytes]
        if isinstance(cipher, Aead):
            self.opening = cipher.opening(key, iv)
        else:
            assert mac is not None
            self.opening = CtrOpening(key, iv, mac, into.code_key[: mac.code_bytes])
