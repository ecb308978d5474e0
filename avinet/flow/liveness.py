"""When a peer that has fallen silent is asked for a sign of life, and when it is given up."""

from __future__ import annotations

import enum

_DEAD = 0.95
_LATE = 0.1


class Verdict(enum.Enum):
    """What to do about the peer."""

    WAIT = enum.auto()
    PROBE = enum.auto()
    DEAD = enum.auto()


class Liveness:
    """The silence of one peer, noticed within `dead_after_s` seconds.

    The peer is asked when `quiet` of that time has passed. Where two ends watch each other, one is to be quicker: its
    question is a sign of life too, and the other need not ask.

    `due` is to be called when the seconds that it returned last have passed. Whoever calls it much too late was
    stopped or overloaded itself, and does not blame the peer: it asks once more.
    """

    __slots__ = ("_dead_after_s", "_due", "_heard", "_probed", "_quiet_s")

    def __init__(self, dead_after_s: float, now: float, quiet: float = 0.4) -> None:
        self._dead_after_s = dead_after_s
        self._quiet_s = quiet * dead_after_s
        self._heard = now
        self._due = now
        self._probed = False

    def heard(self, now: float) -> None:
        """A packet of the peer has arrived."""
        self._heard = now
        self._probed = False

    def due(self, now: float) -> tuple[Verdict, float]:
        """What to do now, and the seconds after which to ask again; after DEAD there is no asking."""
        if now - self._due > _LATE * self._dead_after_s:
            self._heard = max(self._heard, now - self._quiet_s)
            self._probed = False
        quiet_until, dead_from = self._heard + self._quiet_s, self._heard + _DEAD * self._dead_after_s
        if now >= dead_from:
            return Verdict.DEAD, 0.0
        if now < quiet_until:
            verdict, self._due = Verdict.WAIT, quiet_until
        else:
            verdict = Verdict.WAIT if self._probed else Verdict.PROBE
            self._probed, self._due = True, dead_from
        return verdict, self._due - now
