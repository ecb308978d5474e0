"""The types of RFC 4251 §5 on the wire, read strictly: what is short, long or not text raises `PeerError`."""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Sequence

from avinet.errors import PeerError

_UINT32 = struct.Struct(">I")
_NAME_BYTES = 64
_NAMES = 128
_NAME_LIST = re.compile(rb"[ -+\--~]{1,64}(?:,[ -+\--~]{1,64})*")
ED25519 = b"ssh-ed25519"
ED25519_BYTES = 32
ED25519_SIGNATURE_BYTES = 64


def uint32(number: int) -> bytes:
    """`number` in four bytes."""
    return _UINT32.pack(number)


def string(data: bytes) -> bytes:
    """`data` with its length before it."""
    return _UINT32.pack(len(data)) + data


def name_list(names: Sequence[bytes]) -> bytes:
    """`names`, separated by commas, as a string."""
    return string(b",".join(names))


def mpint(number: int) -> bytes:
    """A number that is not negative, as a string with room for its sign."""
    return string(number.to_bytes((number.bit_length() + 8) // 8 if number else 0, "big"))


class Reader:
    """Takes the fields of one payload in order; every method raises `PeerError` when the field is not there whole."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise self._short()
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _short(self) -> PeerError:
        return PeerError(f"a {self._what} ends in the middle of a field")

    def byte(self) -> int:
        """The next byte, as a number."""
        return self.take(1)[0]

    def boolean(self) -> bool:
        """The next byte: everything but zero is true."""
        return self.take(1) != b"\0"

    def uint32(self) -> int:
        """The next four bytes, as a number."""
        at = self._at
        self._at = at + 4
        if self._at > len(self._data):
            raise self._short()
        number: int = _UINT32.unpack_from(self._data, at)[0]
        return number

    def string(self, limit_bytes: int | None = None) -> bytes:
        """The next string, of at most `limit_bytes`."""
        length = self.uint32()
        if limit_bytes is not None and length > limit_bytes:
            raise PeerError(f"a {self._what} has a string of {length} bytes where {limit_bytes} are allowed")
        return self.take(length)

    def text(self, limit_bytes: int = 1024) -> str:
        """The next string, which must be UTF-8."""
        try:
            return self.string(limit_bytes).decode("utf-8")
        except UnicodeDecodeError:
            raise PeerError(f"a {self._what} has text that is not UTF-8") from None

    def name_list(self) -> tuple[bytes, ...]:
        """The next name-list: at most 128 names of 1 to 64 printable ASCII characters."""
        data = self.string()
        if not data:
            return ()
        if data.count(b",") >= _NAMES:
            raise PeerError(f"a {self._what} has a list of more than {_NAMES} names")
        if _NAME_LIST.fullmatch(data) is None:
            raise PeerError(f"a {self._what} has a malformed list of names")
        return tuple(data.split(b","))

    def rest(self) -> bytes:
        """All that has not been taken."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise PeerError(f"a {self._what} has {len(self._data) - self._at} bytes too many")


def ed25519_blob(public: bytes) -> bytes:
    """The blob of the Ed25519 public key with the 32 raw bytes `public` (RFC 8709 §4)."""
    return string(ED25519) + string(public)


def read_ed25519_blob(blob: bytes) -> bytes:
    """The 32 raw bytes of the Ed25519 public key in `blob`; any other kind of key raises `PeerError`."""
    reader = Reader(blob, "public key")
    if reader.string(_NAME_BYTES) != ED25519:
        raise PeerError("a public key is not of the kind ssh-ed25519")
    public = reader.string(ED25519_BYTES)
    reader.end()
    if len(public) != ED25519_BYTES:
        raise PeerError("an Ed25519 public key is too short")
    return public


def read_ed25519_signature(blob: bytes) -> bytes:
    """The 64 raw bytes of the Ed25519 signature in `blob` (RFC 8709 §6); anything else raises `PeerError`."""
    reader = Reader(blob, "signature")
    if reader.string(_NAME_BYTES) != ED25519:
        raise PeerError("a signature is not of the kind ssh-ed25519")
    signature = reader.string(ED25519_SIGNATURE_BYTES)
    reader.end()
    if len(signature) != ED25519_SIGNATURE_BYTES:
        raise PeerError("an Ed25519 signature is too short")
    return signature


def key_line(blob: bytes, kind: bytes = ED25519) -> str:
    """The public key in `blob` as OpenSSH writes it, without a comment: `ssh-ed25519 AAAA…`."""
    return f"{kind.decode('ascii')} {b64encode(blob).decode('ascii')}"
