"""How long each segment of a spool has been there, whatever is done to the clock of its machine."""

from __future__ import annotations

from collections.abc import Mapping

STEP_S = 60.0
"""Looks are a second apart. More than this between two is a clock that was set, or a machine asleep: it does not count.
"""


class Ages:
    """What was there already has been since `dated`, now that it is `now`, both by the clock of the machine."""

    def __init__(self, dated: Mapping[int, float], now: float) -> None:
        self._last = now
        self._passed = 0.0
        self._since = {first: -max(0.0, now - at) for first, at in dated.items()}

    def look(self, now: float) -> bool:
        """It is `now`. Whether the clock was set, so that files are to be dated anew: at `now` less their ages."""
        step, self._last = now - self._last, now
        if not 0 <= step <= STEP_S:
            return True
        self._passed += step
        return False

    def came(self, first: int) -> None:
        """The segment from the number `first` on is there from now on."""
        self._since[first] = self._passed

    def gone(self, first: int) -> None:
        """It is there no more."""
        self._since.pop(first, None)

    def of(self, first: int) -> float:
        """How old it is, in seconds."""
        return self._passed - self._since.get(first, self._passed)
