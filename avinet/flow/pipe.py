"""How much may be on its way through a link: what fills it, measured by what arrives, and little more.

The product of the least round trip and the best rate of delivery is what the link itself holds; everything beyond it
waits in some queue on the way, before the next command. So the windows together are `GAIN` times that product: as much
again is what a sender needs to go on while news of the window travels, and a little more lets it grow. That is the idea
of BBR, seen from the receiving end. As long as round trips show no queue, windows are `BOLD_GAIN` times the product,
and double with each round trip.

While data flows, the least round trip would be measured through a queue of our own making. So where it was not seen for
a while, both ends close their windows for a few round trips: what is on its way arrives, and the next round trips are
the link's own. One end's queue stands before the other end's questions; hence both.
"""

from __future__ import annotations

import enum
from collections import deque

GAIN = 2.25
BOLD_GAIN = 4.0
SLACK_S = 0.001
"""What the ends themselves need to hand over, however short the link is."""
LEAST_BYTES = 64 * 1024
"""All windows together have at least this,"""
LEAST_FLOW_BYTES = 4 * 1024
"""and each of them this."""
_EPOCHS = 10
_LEAST_EPOCH_S = 0.005
_IDLE_S = 1.0
_RECENT_S = 0.2
_ASK_EVERY_S = 0.05
_ROUND_TRIPS = 3
"""Their median tells whether there is a queue: a single one may have waited for the ends' processors."""
_DRAIN_ROUND_TRIPS = 4
_CLOSE = 1.25
"""What is no longer than the least round trip by more than this and `SLACK_S` is one without a queue."""
_DOUBTFUL, _DOUBTFUL_S = 4.0, 0.02
"""What is longer than this is more than the queues of both directions make; the link may have changed."""
_DRAIN_EVERY_S = 10.0
_DRAIN_SOON_S = 1.0
_DRAIN = 0.5
_UNSEEN = float("inf")


class Question(enum.Enum):
    """What to ask the peer."""

    ROUND_TRIP = enum.auto()
    """For any answer."""
    DRAIN = enum.auto()
    """The same, and to close its windows too."""


class Pipe:
    """The receiving end's estimate of one link: windows of `window` bytes at first, of `most` in all at last.

    `least_s` is a round trip that was seen already, or 0.
    """

    __slots__ = (
        "_asked_at",
        "_asking",
        "_before",
        "_began",
        "_bytes",
        "_clean_s",
        "_drain_at",
        "_flowed",
        "_flows",
        "_known",
        "_rates",
        "_round_trips",
        "_to_drain",
        "_to_tell",
        "least",
        "least_s",
        "most",
        "window",
    )

    def __init__(self, window: int, most: int, least_s: float = 0.0) -> None:
        self.window = window
        self.least = min(LEAST_BYTES, window)
        self.most = most
        self.least_s = least_s
        """The least round trip of late; 0 before the first."""
        self._known = least_s > 0
        self._round_trips = deque([0.0] * _ROUND_TRIPS, _ROUND_TRIPS)
        self._rates: deque[float] = deque(maxlen=_EPOCHS)
        self._began = float("-inf")
        self._bytes = 0
        self._before = 0, 0.0
        self._flowed = 0
        self._flows: dict[int, float] = {}
        self._asking = False
        self._asked_at = float("-inf")
        self._drain_at = float("inf")
        self._to_drain = 0
        self._to_tell = False
        self._clean_s = float("inf")

    @property
    def rate(self) -> float:
        """The best rate of delivery of late, in bytes/s."""
        return max(self._rates, default=0.0)

    @property
    def draining(self) -> bool:
        """Whether windows are closed, so that queues drain."""
        return self._to_drain > 0

    # round trips

    def ask(self, now: float) -> Question | None:
        """What to ask the peer now, if anything; whoever asks tells of the answer, and asks again while draining."""
        if self._asking:
            return None
        if not self.draining:
            if self._flowed < LEAST_BYTES or now - self._asked_at < max(_ASK_EVERY_S, self.least_s):
                return None
            if now >= self._drain_at:
                self.drain(now)
                self._to_tell = True
        self._asking, self._asked_at = True, now
        question = Question.DRAIN if self._to_tell else Question.ROUND_TRIP
        self._to_tell = False
        return question

    def answered(self, now: float, seconds: float) -> None:
        """The answer took so long."""
        self._asking = False
        self._round_trips.append(seconds)
        if not self.least_s or seconds < self.least_s:
            self.least_s = seconds
        if self.draining:
            self._resize(_DRAIN, 0.0)
            self._drained(now, seconds)
        elif self._known and self._is_close(seconds):
            self._drain_at = now + _DRAIN_EVERY_S
        elif seconds > _DOUBTFUL * self.least_s + _DOUBTFUL_S:
            self._drain_at = min(self._drain_at, now + _DRAIN_SOON_S)

    def unanswered(self) -> None:
        """There will be no answer."""
        self._asking = False

    def _is_close(self, seconds: float) -> bool:
        return seconds <= _CLOSE * self.least_s + SLACK_S

    def drain(self, now: float) -> None:
        """Close the windows, when anything has flowed of late, until queues have drained and the round trip is known.

        The first question is answered after what was on its way; the peer knows of it then, and what it had on its way
        stands before the second one.
        """
        if not self.draining and self.least_s and now - self._began <= _IDLE_S + 4 * self.least_s:
            self._to_drain = _DRAIN_ROUND_TRIPS + self._asking
            self._clean_s = float("inf")
            self._resize(_DRAIN, 0.0)

    def _drained(self, now: float, seconds: float) -> None:
        if self._to_drain < _DRAIN_ROUND_TRIPS:
            self._clean_s = min(self._clean_s, seconds)
        self._to_drain -= 1
        if not self._to_drain:
            self.least_s, self._known = self._clean_s, True
            self._drain_at = now + _DRAIN_EVERY_S
            self._round_trips.extend([_UNSEEN] * _ROUND_TRIPS)
            self._resize(GAIN, SLACK_S)

    # deliveries

    def delivered(self, now: float, count: int, flow: int, *, hurried: int | None = None) -> int:
        """`count` bytes more have arrived, and some of `flow` were consumed; the window that this flow should have now.

        Over a link that is shorter than `SLACK_S` all windows have `hurried` bytes at most, when others are in a hurry:
        such a link holds next to nothing, and what is on its way is work for the ends' processors, which stands before
        the answer.
        """
        elapsed = now - self._began
        if elapsed > _IDLE_S + 4 * self.least_s:
            self._begin(now)
            self._before = 0, 0.0
            self._flowed = 0
            if not now < self._drain_at < float("inf"):
                self._drain_at = now + _DRAIN_SOON_S
            elapsed = 0.0
        else:
            self._bytes += count
        self._flowed += count
        self._flows[flow] = now
        if self.least_s and elapsed >= max(self.least_s, _LEAST_EPOCH_S):
            before_bytes, before_s = self._before
            self._rates.append((before_bytes + self._bytes) / (before_s + elapsed))
            self._before = self._bytes, elapsed
            if not self.draining:
                median_s = sorted(self._round_trips)[_ROUND_TRIPS // 2]
                gain = BOLD_GAIN if self._is_close(median_s) else GAIN
                self._resize(gain, SLACK_S)
                if hurried is not None and self.least_s < SLACK_S:
                    self.window = min(self.window, max(hurried, self.least))
            self._begin(now)
        return max(min(LEAST_FLOW_BYTES, self.least), self.window // len(self._flows))

    def _begin(self, now: float) -> None:
        self._began, self._bytes = now, 0
        recent = now - max(_RECENT_S, 8 * self.least_s)
        self._flows = {flow: at for flow, at in self._flows.items() if at >= recent}

    def _resize(self, gain: float, slack_s: float) -> None:
        if self._rates:
            self.window = int(min(max(gain * self.rate * (self.least_s + slack_s), self.least), self.most))
