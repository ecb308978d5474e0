"""Floor 0: how long the event loop was kept from its next turn, noticed by a clock that ticks in it."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

TICK_S = 0.02
WINDOW_S = 60.0


class Stalls:
    """Watches the loop of `clock`; each tick costs it some microseconds."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = clock.seconds() + WINDOW_S
        self._now_s = 0.0
        self._before_s = 0.0
        self._due = clock.seconds()
        self._late_s = 0.0
        self._timer: IDelayedCall | None = None

    @property
    def longest_s(self) -> float:
        """The longest stall of the last one or two minutes, in seconds; up to a tick of it is not seen."""
        return max(self._now_s, self._before_s)

    @property
    def late_s(self) -> float:
        """How late the loop is now: whoever asks for something has to wait for about as long."""
        return max(self._late_s, self._clock.seconds() - self._due)

    def start(self) -> None:
        """Watch from now on."""
        self._due = self._clock.seconds() + TICK_S
        self._timer = self._clock.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self._clock.seconds()
        if now >= self._until:
            self._before_s, self._now_s, self._until = self._now_s, 0.0, now + WINDOW_S
        self._late_s = now - self._due
        self._now_s = max(self._now_s, self._late_s)
        self.start()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
