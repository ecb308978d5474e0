"""Floor 0: when to try again. Exponential back-off with full jitter, and never before the peer said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """The waits between tries: uniform in [0, ceiling), the ceiling growing by `factor` from `first_s` to `cap_s`.

    Full jitter spreads a herd of peers that lost their node in the same moment over the whole interval.
    """

    first_s: float = 0.5
    cap_s: float = 30.0
    factor: float = 2.0

    def delay_s(self, attempt: int, random: Callable[[], float], retry_after_s: float = 0.0) -> float:
        """Seconds to wait after failure number `attempt` (from 0).

        `random` yields uniform values in [0, 1). `retry_after_s` is what the peer asked for: the wait is never
        shorter, and the jitter is added to it.
        """
        ceiling = self.first_s
        for _ in range(attempt):
            ceiling *= self.factor
            if ceiling >= self.cap_s:
                ceiling = self.cap_s
                break
        return retry_after_s + random() * min(ceiling, self.cap_s)
