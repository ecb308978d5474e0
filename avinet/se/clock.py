"""The time of a service engine: its own clock, corrected by what a verified node said when the two disagree."""

from __future__ import annotations

from collections.abc import Callable

TOLERATED_S = 30.0


class EngineClock:
    """`wall` is the machine's clock, in seconds since 1970; `floor` the earliest time that can be now."""

    def __init__(self, wall: Callable[[], float], floor: float) -> None:
        self.wall = wall
        self._floor = floor
        self._offset = 0.0

    def now(self) -> float:
        """The time, as far as it is known here."""
        return max(self.wall() + self._offset, self._floor)

    def learn(self, server_time: float) -> bool:
        """Take the time of a node that was verified; True when this machine's clock is wrong by more than 30 s."""
        offset = server_time - self.wall()
        wrong = abs(offset) > TOLERATED_S
        self._offset = offset if wrong else 0.0
        return wrong
