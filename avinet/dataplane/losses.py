"""Records of HAProxy that are missing: told as they are found, with bounds in time, and counted."""

from __future__ import annotations

from collections.abc import Callable

from avinet.dataplane.interface import Missed, Why


class Losses:
    """What HAProxy loses of its records is told to `missed`. `seconds` is the time since 1970.

    They wait in a ring of its workers, whose end is theirs. A worker that makes room for another one serves what is
    open to its end, and brings no record of that.
    """

    def __init__(self, seconds: Callable[[], float], missed: Missed) -> None:
        self._seconds = seconds
        self._missed = missed
        self._counted = self._said = self._dropped = 0
        self._last = seconds()
        self._dead: float | None = None
        self._leaving: float | None = None
        self._reloads: int | None = None
        self._looked = self._last
        self._busy = self._old = False

    def taken(self) -> None:
        """Records have come."""
        self._last = self._seconds()

    def miss(self, why: Why, records: int | None, from_s: float | None = None) -> None:
        """So many are missing; of unknown number where None. They are of between `from_s` (at first: now) and now."""
        now = self._seconds()
        self._counted += records or 0
        self._missed(why, records, _ms(now if from_s is None else min(from_s, now)), _ms(now))

    def dropped(self, total: int) -> None:
        """HAProxy says that it could not send so many since it was started."""
        more, self._dropped = max(0, total - self._dropped), total
        if more:
            self.miss("dropped", more)

    def died(self, since_s: float | None = None) -> None:
        """It is gone, and with it what was on its way: since the last record that came, or a time before that."""
        if self._dead is None:
            self._dead = self._last if since_s is None else since_s
        self._leaving = self._reloads = None

    def listens(self) -> None:
        """It serves again, if it was gone."""
        dead, self._dead = self._dead, None
        if dead is not None:
            self.miss("crash", None, dead)

    def seen(self, reloads: int, *, old: bool, busy: bool) -> None:
        """A look at it: how often it has changed its workers, whether `old` ones are there still, and whether those of
        now are `busy`. What the old ones served to its end is missing when the last of them is gone.
        """
        reloaded = self._reloads is not None and reloads > self._reloads
        if self._leaving is None and ((reloaded and self._busy) or (old and self._old)):
            self._leaving = self._looked
        if self._leaving is not None and not old:
            self.miss("dropped", None, self._leaving)
            self._leaving = None
        self._busy = busy or self._last > self._looked
        self._reloads, self._old, self._looked = reloads, old, self._seconds()

    def take(self) -> int:
        """How many are known to be missing since this was last asked."""
        more, self._said = self._counted - self._said, self._counted
        return more


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
