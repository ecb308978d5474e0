"""How many significant records of each virtual service may come, and how many were held back: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from avinet.wire.config import Config
from avinet.wire.significant import HELD_LIMIT, HeldBack, HeldReason

OTHER = ""
"""The name under which is counted what there is no room for by name."""


class Bucket:
    """`per_s` in the long run, those of a second at once."""

    __slots__ = ("_left", "_most", "_per_s", "_since")

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._since = per_s, now
        self._most = self._left = max(1.0, per_s)

    def take(self, now: float) -> bool:
        """Whether one more may."""
        self._left = min(self._most, self._left + max(0.0, now - self._since) * self._per_s)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """The last one did not come, for another reason."""
        self._left += 1


class Throttle:
    """Buckets of the virtual services of a configuration, and one for all of them together: `in_all` a second."""

    def __init__(self, now: Callable[[], float], in_all: float) -> None:
        self._now = now
        self._all = Bucket(in_all, now())
        self._buckets: dict[str, Bucket] = {}
        self._limits: dict[str, float] = {}
        self._held: Counter[tuple[str, HeldReason]] = Counter()

    def configure(self, config: Config) -> None:
        """Go by this from now on; a limit that stays the same begins not anew."""
        limits = {each.name: each.significant.per_second for each in config.virtual_services}
        now = self._now()
        self._buckets = {
            name: self._buckets[name] if self._limits.get(name) == per_s else Bucket(per_s, now)
            for name, per_s in limits.items()
            if per_s
        }
        self._limits = limits

    def take(self, service: str) -> bool:
        """Whether one more of `service` may come; else it is counted."""
        now, bucket = self._now(), self._buckets.get(service)
        if bucket is not None and bucket.take(now):
            if self._all.take(now):
                return True
            bucket.give_back()
        self.hold(service, "throttle")
        return False

    def hold(self, service: str, reason: HeldReason, records: int = 1) -> None:
        """Count that so many do not come."""
        key = (service, reason)
        if key not in self._held and len(self._held) >= HELD_LIMIT - 2:
            key = (OTHER, reason)
        self._held[key] += records

    def held(self) -> list[HeldBack]:
        """What was held back since this was last asked."""
        held, self._held = self._held, Counter()
        return [HeldBack(service=name, reason=reason, records=count) for (name, reason), count in sorted(held.items())]

    @property
    def has_held(self) -> bool:
        """Whether there is something to tell of."""
        return bool(self._held)
