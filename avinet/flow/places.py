"""Who comes back when: places in a line, the lowest free one first, so that the line is as short as it can be."""

from __future__ import annotations

from heapq import heappop, heappush


class Places:
    """Places from 0 on."""

    __slots__ = ("_free", "_next")

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 0

    def take(self) -> int:
        """A place that nobody has."""
        if self._free:
            return heappop(self._free)
        self._next += 1
        return self._next - 1

    def leave(self, place: int) -> None:
        """Nobody has `place` any more."""
        heappush(self._free, place)
