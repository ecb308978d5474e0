"""The two windows of a channel (RFC 4254 §5.2): what the peer lets us send, and what we let the peer send."""

from __future__ import annotations

from avinet.errors import PeerError

MOST_BYTES = (1 << 32) - 1
"""The largest window there can be."""
GRANT_BYTES = 256 * 1024
"""What is worth a message, if it is a quarter of the window: a sender tries its socket again whenever one comes,"""
GRANT_S = 0.004
"""unless so much arrives within less than this time: then it is what does in this time, or half the window."""
PIECE_BYTES = 32 * 1024
"""What always goes into one packet."""
PIECE_S = 0.008
"""How long a larger packet may take."""
CHAT_BYTES = 4 * 1024
"""Less than this is a little thing, which somebody may wait for,"""
TAIL_PACKETS = 2
"""unless it is among the first so many behind something large: then it may be the end of that."""
_MEASURED_S = 0.01


class _Window:
    """What both have: `left` is how many bytes may still come."""

    __slots__ = ("_littles", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self._littles = TAIL_PACKETS

    def chats(self, count: int) -> bool:
        """Whether a packet with `count` bytes is a little thing by itself.

        It is none when the window had room for no more, or when it may be the end of something large.
        """
        return count < CHAT_BYTES <= self.left and self._littles >= TAIL_PACKETS

    def _spend(self, count: int) -> None:
        self.left -= count
        self._littles = self._littles + 1 if count < CHAT_BYTES else 0


class SendWindow(_Window):
    """What may be sent: `left` bytes in all, in packets of at most `packet_bytes`.

    The peer gives window back for packets that have come whole, so they are only as large as what it gives back in a
    short time.
    """

    __slots__ = ("_added", "_most_bytes", "_since", "packet_bytes")

    def __init__(self, left: int, packet_bytes: int) -> None:
        super().__init__(left)
        self.packet_bytes = min(packet_bytes, PIECE_BYTES)
        self._most_bytes = packet_bytes
        self._added = 0
        self._since = float("-inf")

    @property
    def room(self) -> int:
        """How many bytes the next packet may have."""
        return min(self.left, self.packet_bytes)

    def add(self, count: int, now: float) -> None:
        """The peer lets us send `count` more. Raises `PeerError` when that is more than there can be."""
        if self.left + count > MOST_BYTES:
            raise PeerError(f"it opened a window beyond {MOST_BYTES} bytes")
        self.left += count
        self._added += count
        elapsed = now - self._since
        if elapsed >= _MEASURED_S:
            self.packet_bytes = min(max(int(self._added / elapsed * PIECE_S), PIECE_BYTES), self._most_bytes)
            self._since, self._added = now, 0

    def sent(self, count: int) -> None:
        """A packet with `count` bytes went out, or several together."""
        assert count <= self.left
        self._spend(count)


class ReceiveWindow(_Window):
    """What the peer may send: `left` bytes, in packets of at most `packet_bytes`.

    Of `size` bytes in all, those that are not `left` have arrived; they are given back only once the consumer has taken
    them, and not before there is enough to be worth a message. The size may change at any time.
    """

    __slots__ = ("_worth", "packet_bytes", "size", "unread")

    def __init__(self, size: int, packet_bytes: int) -> None:
        super().__init__(size)
        self.packet_bytes = packet_bytes
        self.unread = 0
        self.resize(size, 0.0)

    def resize(self, size: int, rate: float) -> None:
        """Have `size` bytes in all from now on, where `rate` bytes/s arrive."""
        self.size = size
        self._worth = (size + 3) // 4
        if self._worth > GRANT_BYTES:
            self._worth = max(GRANT_BYTES, min(size // 2, int(rate * GRANT_S)))

    def received(self, count: int) -> None:
        """A packet with `count` bytes has arrived. Raises `PeerError` when it is larger than allowed."""
        if count > self.left or count > self.packet_bytes:
            raise PeerError("it sent more than its window lets it")
        self._spend(count)
        self.unread += count

    def consumed(self, count: int) -> None:
        """The consumer has taken `count` of the bytes that arrived."""
        self.unread -= count

    def grant(self) -> int:
        """How many bytes to give back to the peer now: all that there is room for, or 0 while that is little."""
        room = self.size - self.left - self.unread
        if room < max(self._worth, 1):
            return 0
        self.left += room
        return room
