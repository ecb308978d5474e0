"""The binary packet protocol of RFC 4253 §6, without I/O: bytes in, payloads out, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avinet.errors import PeerError
from avinet.ssh import scratch
from avinet.ssh.ciphers import Buffer, Opening, PlainOpening, PlainSealing, Sealing

OVERHEAD_BYTES = 128
"""More than any construction adds to a payload."""
MOST_PAYLOAD_BYTES = scratch.SCRATCH_BYTES - OVERHEAD_BYTES

_SEQUENCES = 1 << 32
_LEAST_BYTES = 16
"""RFC 4253 §6; with a length that stands before the blocks OpenSSH sends a single one."""
_LARGE_BYTES = 16 * 1024
_LINE_BYTES = 255
_GREETING_BYTES = 4096
_NOTHING = memoryview(b"")


def nothing() -> None:
    """Do nothing."""


class Inbound:
    """Received bytes, taken out first as lines, then as packets.

    What is fed is looked at where it lies, and so is only good until `settle` keeps what has not been taken. The rest
    of a large packet can be read to where its beginning is kept: into `buffer`, and told by `filled`.
    """

    def __init__(self, packet_bytes: int) -> None:
        self.packet_bytes = packet_bytes
        self.sequence = 0
        self.taken_bytes = 0
        self.taken_packets = 0
        self._kept = bytearray()
        self._fresh = _NOTHING
        self._memory: memoryview | None = None
        self._filled = 0
        self._opening: Opening = PlainOpening()
        self._wanted = 0
        self._greeting_left = _GREETING_BYTES
        self._plain: memoryview | None = None
        self._plain_at = self._plain_end = 0
        self.make_room: Callable[[], None] = nothing
        """Called when payloads that were kept will not stay good any longer."""

    def __len__(self) -> int:
        return len(self._kept) + len(self._fresh) + self._filled

    @property
    def missing(self) -> int:
        """How many bytes have to come before there is anything to do; 1 when that is not known."""
        return self._wanted - self._filled if self._filled else 1

    def buffer(self) -> memoryview | None:
        """Where to read what comes next, or None when it does not matter."""
        return self._memory[self._filled :] if self._memory is not None else None

    def filled(self, count: int) -> None:
        """Look at `count` bytes more, which were read into `buffer`."""
        assert self._memory is not None
        self._fresh, self._filled = self._memory[: self._filled + count], 0

    def feed(self, data: Buffer) -> None:
        """Look at what has arrived."""
        if self._memory is not None:
            self.filled(0)
        if self._fresh:
            self._keep(len(self._fresh))
        self._fresh = memoryview(data)

    def settle(self, *, read_on: bool = False) -> None:
        """Keep what has not been taken, and give all memory back that was used for the rest.

        With `read_on`, the rest of a large packet will be read into `buffer`.
        """
        if self._fresh:
            if read_on and self._wanted >= _LARGE_BYTES and not self._kept:
                self._begin_large()
            else:
                self._keep(len(self._fresh))
        if self._memory is not None and not self._filled:
            scratch.give_back(self._memory)
            self._memory = None
        if self._plain is not None:
            scratch.give_back(self._plain)
            self._plain = None
            self._plain_at = 0

    def _begin_large(self) -> None:
        """Put the beginning of a large packet to where the rest of it can be read to."""
        if self._memory is None:
            self._memory = scratch.borrow()
        self._filled = len(self._fresh)
        self._memory[: self._filled] = self._fresh
        self._fresh = _NOTHING

    def clear(self) -> None:
        """Forget what has not been taken."""
        self._memory = None
        self._filled = 0
        self._kept = bytearray()
        self._fresh = _NOTHING
        self._wanted = 0

    def _keep(self, count: int) -> None:
        if count:
            self._kept += self._fresh[:count]
            self._fresh = self._fresh[count:] if count < len(self._fresh) else _NOTHING

    def next_line(self) -> bytes | None:
        """The next line of the greeting without its end, or None until it is whole."""
        self._keep(len(self._fresh))
        at = self._kept.find(b"\n", 0, _LINE_BYTES)
        if at < 0:
            if len(self._kept) >= _LINE_BYTES:
                raise PeerError("what came first is no SSH version")
            return None
        self._greeting_left -= at
        if self._greeting_left < 0:
            raise PeerError("its greeting has no end")
        line = bytes(self._kept[:at])
        del self._kept[: at + 1]
        return line.removesuffix(b"\r")

    def next_packet(self) -> memoryview | None:
        """The next payload, its message number first, or None until the packet is whole; good until the next call.

        Raises `PeerError` for a packet that is too long or too short, badly padded, empty or changed.
        """
        opening = self._opening
        wanted = self._wanted
        if not wanted:
            wanted = self._wanted = self._next_bytes(opening)
            if not wanted:
                return None
        packet = self._front(wanted)
        if packet is None:
            return None
        plain = self._plain
        if plain is None:
            plain = self._plain = scratch.borrow()
        at = self._plain_at
        if at + wanted > len(plain):
            self.make_room()
            at = self._plain_at = 0
        if at:
            plain = plain[at:]
        opening.open(self.sequence, packet, plain)
        self._plain_end = at + wanted
        self._drop(wanted)
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

    def keep(self) -> None:
        """The last payload stays good until `make_room` is called, or all is settled."""
        self._plain_at = self._plain_end

    def _next_bytes(self, opening: Opening) -> int:
        """How long the next packet is in all, or 0 while its head is not whole."""
        head = self._front(opening.head_bytes)
        return 0 if head is None else self._checked(opening.length(self.sequence, head), opening)

    def _front(self, count: int) -> memoryview | None:
        """The first `count` bytes of all that has not been taken, or None while there are fewer."""
        kept = len(self._kept)
        if not kept:
            return self._fresh[:count] if len(self._fresh) >= count else None
        if kept < count:
            self._keep(min(count - kept, len(self._fresh)))
            if len(self._kept) < count:
                return None
        return memoryview(self._kept)[:count]

    def _drop(self, count: int) -> None:
        """The first `count` bytes have been taken."""
        if not self._kept:
            self._fresh = self._fresh[count:]
        elif len(self._kept) == count:
            self._kept = bytearray()
        else:
            self._kept = self._kept[count:]

    def _checked(self, length: int, opening: Opening) -> int:
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
    """Payloads, sealed one after the other into a batch that is written as one."""

    def __init__(self) -> None:
        self.sequence = 0
        self.sealed_bytes = 0
        self.sealed_packets = 0
        self._sealing: Sealing = PlainSealing()
        self._batch: memoryview | None = None
        self._end = 0

    def __len__(self) -> int:
        return self._end

    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes still goes into the batch."""
        return self._end + size + OVERHEAD_BYTES <= scratch.SCRATCH_BYTES

    def add(self, pieces: Sequence[Buffer], size: int) -> None:
        """Seal the payload that is made of `pieces`, `size` bytes in all; it has to fit."""
        batch = self._batch
        if batch is None:
            batch = self._batch = scratch.borrow()
        count = self._sealing.seal(self.sequence, pieces, size, batch[self._end :] if self._end else batch)
        self._end += count
        self.sequence = (self.sequence + 1) % _SEQUENCES
        self.sealed_bytes += count
        self.sealed_packets += 1

    def view(self) -> memoryview:
        """The batch, good until `clear`."""
        return _NOTHING if self._batch is None else self._batch[: self._end]

    def clear(self) -> None:
        """The batch has been written."""
        if self._batch is not None:
            scratch.give_back(self._batch)
            self._batch = None
            self._end = 0

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
