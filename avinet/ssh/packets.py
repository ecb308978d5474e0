"""The binary packet protocol of RFC 4253 §6, without I/O: bytes in, payloads out, and the other way round.

Packets are sealed and opened where they lie: what arrives is read into memory of `Inbound` and decrypted there, what is
sent is put together in the batch of `Outbound`, or even read into it from where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

from avinet import scratch
from avinet.errors import PeerError
from avinet.ssh.ciphers import HEAD_BYTES, Buffer, Opening, PlainOpening, PlainSealing, Sealing

OVERHEAD_BYTES = 128
"""More than any construction adds to a payload."""
MOST_PAYLOAD_BYTES = scratch.SCRATCH_BYTES - OVERHEAD_BYTES
"""What a batch holds at most: the payload, and the packets before it."""

_SEQUENCES = 1 << 32
_LEAST_BYTES = 16
"""RFC 4253 §6; with a length that stands before the blocks OpenSSH sends a single one."""
_LARGE_BYTES = 64 * 1024
_LINE_BYTES = 255
_GREETING_BYTES = 4096
_NOTHING = memoryview(b"")


class Inbound:
    """Received bytes, taken out first as lines, then as packets.

    They are read into `space`, and told by `filled`. What was taken out is good until `settle`.
    """

    def __init__(self, packet_bytes: int) -> None:
        self.packet_bytes = packet_bytes
        self.sequence = 0
        self.taken_bytes = 0
        self.taken_packets = 0
        self._memory: memoryview | None = None
        self._start = self._end = 0
        self._kept = b""
        self._opening: Opening = PlainOpening()
        self._wanted = 0
        self._greeting_left = _GREETING_BYTES

    def __len__(self) -> int:
        return self._end - self._start + len(self._kept)

    @property
    def missing(self) -> int:
        """How many bytes have to come before there is anything to do; 1 when that is few, or not known."""
        return self._wanted - len(self) if self._wanted >= _LARGE_BYTES else 1

    def space(self) -> memoryview:
        """Where to read what comes next: room for the rest of the packet that has begun, and more."""
        memory = self._memory
        if memory is None:
            memory = self._memory = scratch.borrow()
            self._start, self._end = 0, len(self._kept)
            memory[: self._end] = self._kept
            self._kept = b""
        elif len(memory) - self._start < max(self._wanted, _LARGE_BYTES):
            left = self._end - self._start
            memory[:left] = memory[self._start : self._end]
            self._start, self._end = 0, left
        return memory[self._end :]

    def filled(self, count: int) -> None:
        """`count` bytes were read into `space`."""
        self._end += count

    def settle(self) -> None:
        """Give the memory back, unless much of a packet is in it; what is left is kept."""
        memory, left = self._memory, self._end - self._start
        if memory is not None and left < _LARGE_BYTES:
            self._kept = bytes(memory[self._start : self._end])
            self._memory, self._start, self._end = None, 0, 0
            scratch.give_back(memory)

    def clear(self) -> None:
        """Forget what has not been taken; its memory stays until `settle`, for whoever is at work on what was."""
        self._start = self._end
        self._kept = b""
        self._wanted = 0

    def next_line(self) -> bytes | None:
        """The next line of the greeting without its end, or None until it is whole."""
        memory = self._all()
        line, end, _ = bytes(memory[self._start : min(self._end, self._start + _LINE_BYTES)]).partition(b"\n")
        if not end:
            if len(line) >= _LINE_BYTES:
                raise PeerError("what came first is no SSH version")
            return None
        self._greeting_left -= len(line)
        if self._greeting_left < 0:
            raise PeerError("its greeting has no end")
        self._start += len(line) + 1
        return line.removesuffix(b"\r")

    def _all(self) -> memoryview:
        """The memory in which all lies that has not been taken."""
        if self._memory is None:
            self.space()
        assert self._memory is not None
        return self._memory

    def next_packet(self) -> memoryview | None:
        """The next payload, its message number first, or None until the packet is whole.

        Raises `PeerError` for a packet that is too long or too short, badly padded, empty or changed.
        """
        memory, opening = self._memory or self._all(), self._opening
        start = self._start
        left = self._end - start
        wanted = self._wanted
        if not wanted:
            if left < opening.head_bytes:
                return None
            length = opening.length(self.sequence, memory[start : start + opening.head_bytes])
            wanted = self._wanted = self._checked(length, opening)
        if left < wanted:
            return None
        plain = opening.open(self.sequence, memory[start : start + wanted])
        self._start = start + wanted
        self._wanted = 0
        self.taken_bytes += wanted
        self.taken_packets += 1
        self.sequence = (self.sequence + 1) % _SEQUENCES
        padding = plain[0]
        end = wanted - 4 - opening.tail_bytes - padding
        if padding < 4 or end < 1:
            raise PeerError("a packet has padding of an impossible length")
        if end == 1:
            raise PeerError("a packet is empty")
        return plain[1:end]

    def _checked(self, length: int, opening: Opening) -> int:
        """How long the packet is in all."""
        if length > self.packet_bytes:
            raise PeerError(f"a packet of {length} bytes is longer than {self.packet_bytes}")
        blocks = 4 + length - opening.blocks_at
        least = opening.block_bytes if opening.blocks_at else _LEAST_BYTES
        if blocks < least or blocks % opening.block_bytes:
            raise PeerError(f"a packet has the impossible length {length}")
        return 4 + length + opening.tail_bytes

    def switch(self, opening: Opening, *, restart: bool) -> None:
        """Open with new keys from the next packet on; `restart` counts from zero again."""
        self._opening = opening
        self.taken_bytes = self.taken_packets = 0
        if restart:
            self.sequence = 0


class Outbound:
    """Payloads, sealed one after the other into a batch of `size` bytes that is written as one."""

    def __init__(self) -> None:
        self.sequence = 0
        self.sealed_bytes = 0
        self.sealed_packets = 0
        self._sealing: Sealing = PlainSealing()
        self._batch: memoryview | None = None
        self.size = 0
        self._reserved_at = -1

    def begin(self, line: bytes) -> None:
        """Let `line` go out before all packets."""
        self._batch = scratch.borrow()
        self._batch[: len(line)] = line
        self.size = len(line)

    def space(self, before: int, size: int) -> memoryview:
        """Where the end of the next payload is to be put: `size` bytes after `before` others; all of it has to fit.

        What is there is not copied when it is the last piece of that payload, and the whole of what was put there.
        """
        batch = self._batch
        if batch is None:
            batch = self._batch = scratch.borrow()
        self._reserved_at = self.size
        at = self.size + HEAD_BYTES + before
        return batch[at : at + size]

    def add(self, pieces: Sequence[Buffer], size: int) -> None:
        """Seal the payload that is made of `pieces`, `size` bytes in all; it has to fit."""
        batch = self._batch
        if batch is None:
            batch = self._batch = scratch.borrow()
        into = batch[self.size :] if self.size else batch
        last = pieces[-1]
        in_place = isinstance(last, memoryview) and last.obj is batch.obj
        assert not in_place or self._reserved_at == self.size
        at = HEAD_BYTES
        for piece in pieces[:-1] if in_place else pieces:
            end = at + len(piece)
            into[at:end] = piece
            at = end
        count = self._sealing.seal(self.sequence, into, size)
        self.size += count
        self.sequence = (self.sequence + 1) % _SEQUENCES
        self.sealed_bytes += count
        self.sealed_packets += 1

    def view(self) -> memoryview:
        """The batch, good until `clear`."""
        return _NOTHING if self._batch is None else self._batch[: self.size]

    def clear(self) -> None:
        """The batch has been written."""
        if self._batch is not None:
            scratch.give_back(self._batch)
            self._batch = None
            self.size = 0
            self._reserved_at = -1

    def seal(self, payload: bytes) -> bytes:
        """The packet for `payload` alone."""
        self.add((payload,), len(payload))
        packet = bytes(self.view())
        self.clear()
        return packet

    def switch(self, sealing: Sealing, *, restart: bool) -> None:
        """Seal with new keys from the next packet on; `restart` counts from zero again."""
        self._sealing = sealing
        self.sealed_bytes = self.sealed_packets = 0
        if restart:
            self.sequence = 0
