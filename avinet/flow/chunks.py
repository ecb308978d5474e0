"""Bytes in a queue: put in as they come, taken out in pieces of any size, copied as seldom as can be."""

from __future__ import annotations

from collections import deque

Piece = bytes | memoryview


class Chunks:
    """A queue of bytes whose length is their number, `size`; an empty one holds no memory of its own."""

    __slots__ = ("_queue", "size")

    def __init__(self) -> None:
        self._queue: deque[Piece] | None = None
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def append(self, data: bytes) -> None:
        """Add `data`; what is not `bytes` is copied."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if not data:
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self.size += len(data)

    def take(self, limit: int) -> list[Piece]:
        """Pieces of up to `limit` bytes in all from the front."""
        taken: list[Piece] = []
        queue = self._queue
        while queue and limit > 0:
            piece = queue[0]
            if len(piece) > limit:
                view = memoryview(piece)
                queue[0] = view[limit:]
                piece = view[:limit]
            else:
                queue.popleft()
            taken.append(piece)
            limit -= len(piece)
            self.size -= len(piece)
        if not queue:
            self._queue = None
        return taken

    def pop(self) -> bytes:
        """The piece at the front, as it was put in or what is left of it."""
        assert self._queue is not None
        piece = self._queue.popleft()
        self.size -= len(piece)
        if not self._queue:
            self._queue = None
        return bytes(piece)

    def clear(self) -> None:
        """Forget everything."""
        self._queue = None
        self.size = 0
