"""The binary packet protocol of RFC 4253 §6, without I/O: bytes in, payloads out, and the other way round."""

from __future__ import annotations

from avinet.errors import PeerError
from avinet.ssh.ciphers import Opening, PlainOpening, PlainSealing, Sealing

_SEQUENCES = 1 << 32
_LEAST_BYTES = 16
_LINE_BYTES = 255
_GREETING_BYTES = 4096


class Inbound:
    """Received bytes, taken out first as lines, then as packets."""

    def __init__(self, packet_bytes: int) -> None:
        self.packet_bytes = packet_bytes
        self.sequence = 0
        self.taken_bytes = 0
        self._buffer = bytearray()
        self._opening: Opening = PlainOpening()
        self._wanted = 0
        self._greeting_left = _GREETING_BYTES

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        self._buffer += data

    def clear(self) -> None:
        """Forget what has not been taken."""
        self._buffer = bytearray()
        self._wanted = 0

    def next_line(self) -> bytes | None:
        """The next line of the greeting without its end, or None until it is whole."""
        at = self._buffer.find(b"\n", 0, _LINE_BYTES)
        if at < 0:
            if len(self._buffer) >= _LINE_BYTES:
                raise PeerError("what came first is no SSH version")
            return None
        self._greeting_left -= at
        if self._greeting_left < 0:
            raise PeerError("its greeting has no end")
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line.removesuffix(b"\r")

    def next_packet(self) -> bytes | None:
        """The next payload, its message number first, or None until the packet is whole.

        Raises `PeerError` for a packet that is too long or too short, badly padded, empty or changed.
        """
        opening = self._opening
        if not self._wanted:
            if len(self._buffer) < opening.head_bytes:
                return None
            self._wanted = self._checked(opening.length(self._buffer[: opening.head_bytes]), opening)
        if len(self._buffer) < self._wanted:
            return None
        with memoryview(self._buffer) as view:
            plain = opening.open(self.sequence, view[: self._wanted])
        del self._buffer[: self._wanted]
        self.taken_bytes += self._wanted
        self._wanted = 0
        self.sequence = (self.sequence + 1) % _SEQUENCES
        padding = plain[0]
        if padding < 4 or padding + 1 > len(plain):
            raise PeerError("a packet has padding of an impossible length")
        if padding + 1 == len(plain):
            raise PeerError("a packet is empty")
        return plain[1 : len(plain) - padding]

    def _checked(self, length: int, opening: Opening) -> int:
        if length > self.packet_bytes:
            raise PeerError(f"a packet of {length} bytes is longer than {self.packet_bytes}")
        blocks = 4 + length - opening.blocks_at
        if 4 + length < _LEAST_BYTES or blocks % opening.block_bytes:
            raise PeerError(f"a packet has the impossible length {length}")
        return 4 + length + opening.tail_bytes

    def switch(self, opening: Opening, *, restart: bool) -> None:
        """Open with new keys from the next packet on; `restart` counts from zero again."""
        self._opening = opening
        self.taken_bytes = 0
        if restart:
            self.sequence = 0


class Outbound:
    """Payloads, sealed one after the other."""

    def __init__(self) -> None:
        self.sequence = 0
        self.sealed_bytes = 0
        self._sealing: Sealing = PlainSealing()

    def seal(self, payload: bytes) -> bytes:
        """The packet for `payload`."""
        packet = self._sealing.seal(self.sequence, payload)
        self.sequence = (self.sequence + 1) % _SEQUENCES
        self.sealed_bytes += len(packet)
        return packet

    def switch(self, sealing: Sealing, *, restart: bool) -> None:
        """Seal with new keys from the next packet on; `restart` counts from zero again."""
        self._sealing = sealing
        self.sealed_bytes = 0
        if restart:
            self.sequence = 0
