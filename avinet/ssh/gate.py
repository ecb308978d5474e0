"""How many peers may be on their way in: in all, and from one source; a pure count with the clock passed in.

A key exchange costs this end a signature, and a peer that does not finish it next to nothing (DHEat, CVE-2002-20001).
So a source whose peers leave before that is let in only now and then. Those who finish cost their source nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from avinet.errors import TooMany
from avinet.flow.allowance import Allowance
from avinet.ssh.phases import Stage

_KNOWN_SOURCES = 10_000
_DAY_S = 86400.0
_TAKEN_WHEN_LATE = 0.1


@dataclass(frozen=True)
class Limits:
    """Connections that are not logged in yet.

    A source is an IPv4 address or an IPv6 network of 64 bits; one from which someone logged in within a day is proven,
    and may bring as many as a whole site behind one address has. From `early` on, as a part of all, unproven sources
    are turned away at random, the more so the fuller it is.

    `unfinished` peers of a source may leave at once before they have finished a key exchange, `unfinished_per_s` in the
    long run; what was too much, `unfinished_debt` at most, has to be sat out.

    A server that is later than `late_s` with everything takes on one in ten, and serves those who are in.

    Those who are turned away are asked to come back one after the other, `per_second` of them from `retry_after_s` on,
    and none later than `most_retry_after_s`.
    """

    in_all: int = 1000
    per_source: int = 200
    per_proven_source: int = 800
    early: float = 0.5
    unfinished: float = 10.0
    unfinished_per_s: float = 4.0
    unfinished_debt: float = 40.0
    late_s: float = 0.2
    per_second: float = 300.0
    retry_after_s: float = 1.0
    most_retry_after_s: float = 30.0


class Gate:
    """Counts the peers that are on their way in. `random` yields uniform values in [0, 1), `now` seconds.

    `late_s` tells how late the server is with everything.
    """

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        random: Callable[[], float],
        late_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._late_s = late_s
        self._limits = limits
        self._now = now
        self._random = random
        self._inside = 0
        self._by_source: dict[str, int] = {}
        self._proven: OrderedDict[str, float] = OrderedDict()
        self._unfinished = Allowance(
            now, burst=limits.unfinished, per_s=limits.unfinished_per_s, debt=limits.unfinished_debt
        )
        self._turn = float("-inf")

    def __len__(self) -> int:
        return self._inside

    def enter(self, source: str) -> None:
        """Count one more peer of `source`. Raises `TooMany` when it has to come back later."""
        limits = self._limits
        proven = self._is_proven(source)
        from_source = self._by_source.get(source, 0)
        if self._inside >= limits.in_all:
            raise TooMany("too many peers are logging in", retry_after_s=self._later())
        if source and from_source >= (limits.per_proven_source if proven else limits.per_source):
            raise TooMany("too many peers of this address are logging in", retry_after_s=self._later())
        wait_s = self._unfinished.wait_s(source) if source else 0.0
        if wait_s:
            raise TooMany("too many peers of this address finish no key exchange", retry_after_s=wait_s)
        free_from = limits.early * limits.in_all
        if self._late_s() > limits.late_s and self._random() >= _TAKEN_WHEN_LATE:
            raise TooMany("the node has much to do", retry_after_s=self._later())
        if not proven and self._inside >= free_from:
            fullness = (self._inside - free_from) / (limits.in_all - free_from)
            if self._random() < fullness:
                raise TooMany("many peers are logging in", retry_after_s=self._later())
        self._inside += 1
        self._by_source[source] = from_source + 1

    def _later(self) -> float:
        """When the next one that is turned away should come back: after the one before it."""
        limits, now = self._limits, self._now()
        self._turn = max(self._turn + 1 / limits.per_second, now + limits.retry_after_s)
        if self._turn > now + limits.most_retry_after_s:
            self._turn = now + limits.retry_after_s
        return self._turn - now

    def leave(self, source: str, stage: Stage) -> None:
        """A peer that had entered is gone at `stage`, or it has logged in, which proves its source."""
        self._inside -= 1
        left = self._by_source[source] - 1
        if left:
            self._by_source[source] = left
        else:
            del self._by_source[source]
        if not source:
            return
        if stage is Stage.OPENING:
            self._unfinished.spend(source)
        elif stage is Stage.CONNECTED:
            self._proven[source] = self._now()
            self._proven.move_to_end(source)
            if len(self._proven) > _KNOWN_SOURCES:
                self._proven.popitem(last=False)

    def _is_proven(self, source: str) -> bool:
        when = self._proven.get(source)
        return when is not None and self._now() - when < _DAY_S
