"""What all windows of a tunnel may come to together: what was given cannot be taken back, and may fill at any time."""

from __future__ import annotations


class Budget:
    """Shares `most` bytes out among channels, beyond the `least` that each of them has in any case.

    A channel gets at most half of what is left. So one that has the link to itself has enough of it, those that stopped
    reading after it pin less and less, and something is always left for the next.
    """

    __slots__ = ("_least", "_left", "_taken")

    def __init__(self, most: int, least: int) -> None:
        self._least = least
        self._left = most
        self._taken: dict[int, int] = {}

    def size(self, channel: int, held: int, wanted: int) -> int:
        """The window of `channel` from now on, out of the `wanted`; its peer may have us hold `held` bytes already."""
        self.free(channel)
        size = min(wanted, max(self._left // 2, self._least))
        taken = max(held, size) - self._least
        if taken > 0:
            self._taken[channel] = taken
            self._left -= taken
        return size

    def free(self, channel: int) -> None:
        """`channel` holds nothing any more."""
        self._left += self._taken.pop(channel, 0)
