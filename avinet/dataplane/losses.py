"""Records of HAProxy that are missing: told as they are found, with bounds in time, and counted."""

from __future__ import annotations

from collections.abc import Callable

from avinet.dataplane.interface import Missed, Why


class Losses:
    """What HAProxy loses of its records is told to `missed`. `seconds` is the time since 1970.

    They wait in a ring of its workers, whose end is theirs.
    """

    def __init__(self, seconds: Callable[[], float], missed: Missed) -> None:
        self._seconds = seconds
        self._missed = missed
        self._counted = self._said = self._dropped = 0
        self._last = seconds()
        self._dead: float | None = None

    def taken(self, ended_s: float) -> None:
        """Records have come, the last one of what ended then."""
        self._last = ended_s

    def miss(self, why: Why, records: int | None, from_s: float | None = None) -> None:
        """So many are missing; of unknown number where None. They ended between `from_s` and now.

        At first: since the last record that has come, or the start.
        """
        now = self._seconds()
        self._counted += records or 0
        self._missed(why, records, _ms(min(self._last if from_s is None else from_s, now)), _ms(now))

    def dropped(self, total: int) -> None:
        """HAProxy says that it could not send so many since it was started."""
        more, self._dropped = max(0, total - self._dropped), total
        if more:
            self.miss("dropped", more)

    def died(self, since_s: float | None = None) -> None:
        """It is gone, and with it what was on its way: since the last record that came, or a time before that."""
        since_s = self._last if since_s is None else since_s
        self._dead = since_s if self._dead is None else min(self._dead, since_s)

    def listens(self) -> None:
        """It serves again, if it was gone."""
        dead, self._dead = self._dead, None
        if dead is not None:
            self.miss("crash", None, dead)

    def take(self) -> int:
        """How many are known to be missing since this was last asked."""
        more, self._said = self._counted - self._said, self._counted
        return more


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
