"""How much may be on its way through a link: what fills it, measured by what arrives, and little more.

The product of the least round trip and the best rate of delivery is what the link itself holds; everything beyond it
waits in some queue on the way, before the next command. So the windows together are `GAIN` times that product: as much
again is what a sender needs to go on while news of the window travels. That is the idea of BBR, seen from the receiving
end.

While data flows, the least round trip would be measured through a queue of our own making. So now and then the windows
are closed a little for a moment, and the queue drains.
"""

from __future__ import annotations

from collections import deque

GAIN = 2.0
SLACK_S = 0.002
"""What the ends themselves need to hand over, however short the link is."""
HURRIED_SLACK_S = 0.0006
"""The same, while somebody else waits for it."""
LEAST_BYTES = 64 * 1024
_EPOCHS = 10
_LEAST_EPOCH_S = 0.005
_IDLE_S = 1.0
_RECENT_S = 0.2
_FORGET_S = 30.0
_DRAIN_EVERY_S = 10.0
_DRAIN = 0.5


class Pipe:
    """The receiving end's estimate of one link: windows of `window` bytes at first, of `most` in all at last."""

    __slots__ = (
        "_asked_at",
        "_began",
        "_bytes",
        "_drain_at",
        "_flowed",
        "_flows",
        "_least_at",
        "_rates",
        "least",
        "least_s",
        "most",
        "window",
    )

    def __init__(self, window: int, most: int) -> None:
        self.window = window
        self.least = min(LEAST_BYTES, window)
        self.most = most
        self.least_s = 0.0
        """The least round trip of late; 0 before the first."""
        self._least_at = 0.0
        self._rates: deque[float] = deque(maxlen=_EPOCHS)
        self._began = float("-inf")
        self._bytes = 0
        self._flowed = 0
        self._flows: dict[int, float] = {}
        self._asked_at = float("-inf")
        self._drain_at = float("inf")

    @property
    def rate(self) -> float:
        """The best rate of delivery of late, in bytes/s."""
        return max(self._rates, default=0.0)

    def round_trip(self, now: float, seconds: float) -> None:
        """A question through the link was answered within `seconds`."""
        if not self.least_s or seconds <= self.least_s or now - self._least_at > _FORGET_S:
            self.least_s, self._least_at = seconds, now

    def ask(self, now: float) -> bool:
        """Whether it is time to measure the round trip again, as enough is on its way; the one who asks does."""
        due = self._flowed >= LEAST_BYTES and now - self._asked_at >= max(0.05, 2 * self.least_s)
        if due:
            self._asked_at = now
        return due

    def delivered(self, now: float, count: int, flow: int, *, hurried: bool = False) -> int:
        """`count` bytes of one flow have reached their consumer; the window that this flow should have now.

        It is smaller when others are in a hurry.
        """
        elapsed = now - self._began
        if elapsed > _IDLE_S + 4 * self.least_s:
            self._begin(now)
            self._flowed = 0
            if self._drain_at == float("inf"):
                self._drain_at = now + _DRAIN_EVERY_S
            elapsed = 0.0
        else:
            self._bytes += count
        self._flowed += count
        self._flows[flow] = now
        if elapsed >= max(self.least_s, _LEAST_EPOCH_S):
            self._rates.append(self._bytes / elapsed)
            self._resize(now, HURRIED_SLACK_S if hurried else SLACK_S)
            self._begin(now)
        return max(self.least, self.window // len(self._flows))

    def _begin(self, now: float) -> None:
        self._began, self._bytes = now, 0
        recent = now - max(_RECENT_S, 8 * self.least_s)
        self._flows = {flow: at for flow, at in self._flows.items() if at >= recent}

    def _resize(self, now: float, slack_s: float) -> None:
        if not self.least_s:
            return
        gain = GAIN
        if now >= self._drain_at:
            gain = _DRAIN
            if now >= self._drain_at + max(3 * self.least_s, 0.02):
                self._drain_at = now + _DRAIN_EVERY_S
        self.window = int(min(max(self.rate * (gain * self.least_s + slack_s), self.least), self.most))
