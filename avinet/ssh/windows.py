"""How large the windows of a connection's channels are: they follow its link, about which the peer is asked."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from avinet.flow.budget import Budget
from avinet.flow.pipe import Pipe, Question
from avinet.flow.window import ReceiveWindow
from avinet.ssh.messages import DRAIN, KEEPALIVE
from avinet.ssh.opening import ChannelLimits, RequestRefused

HURRIED_BYTES = 64 * 1024
"""What all windows together have on a short link while somebody waits for an answer,"""
HURRIED_LOGS_BYTES = 256 * 1024
"""and when it is logs that come: a message and a turn of both ends for each 64 KiB would cost more than it gains."""
Request = Callable[[bytes], Deferred[bytes]]
"""Sends a global request of a name to the peer."""


class Windows:
    """The estimate of one link, which begins when data is consumed first."""

    __slots__ = ("_budget", "_clock", "_limits", "_pipe", "_quickest_s")

    def __init__(self, clock: IReactorTime, limits: ChannelLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._pipe: Pipe | None = None
        self._budget: Budget | None = None
        self._quickest_s = 0.0

    def opened(self, took_s: float) -> None:
        """The peer has confirmed a channel after so long: the link has no longer a round trip."""
        self._quickest_s = min(self._quickest_s or took_s, took_s)

    def resize(self, channel: int, window: ReceiveWindow, count: int, request: Request, hurried: int | None) -> None:
        """Give our `channel` the window that it should have, now that data which arrived on it has been consumed.

        `count` bytes have arrived on all channels since the last time. The `window` that it had is open again: its peer
        may have us hold that much; see `Pipe.delivered`.
        """
        pipe, budget = self._pipe, self._budget
        if pipe is None or budget is None:
            limits = self._limits
            pipe = self._pipe = Pipe(limits.window_bytes, limits.most_window_bytes, self._quickest_s)
            budget = self._budget = Budget(limits.most_window_bytes, pipe.least)
        now = self._clock.seconds()
        wanted = pipe.delivered(now, count, channel, hurried=hurried)
        self._ask(pipe, now, request)
        window.resize(budget.size(channel, window.size, wanted), pipe.rate)

    def free(self, channel: int) -> None:
        """Our `channel` is no more."""
        if self._budget is not None:
            self._budget.free(channel)

    def drain(self, request: Request) -> None:
        """The peer measures the round trip: what comes from it to us must not stand before its questions."""
        if self._pipe is not None:
            now = self._clock.seconds()
            self._pipe.drain(now)
            if self._pipe.draining:
                self._ask(self._pipe, now, request)

    def _ask(self, pipe: Pipe, now: float, request: Request) -> None:
        """Ask the peer what the estimate needs, if anything."""
        question = pipe.ask(now)
        if question is None:
            return

        def answered(result: bytes | Failure) -> None:
            if isinstance(result, Failure) and not result.check(RequestRefused):
                pipe.unanswered()
                return
            at = self._clock.seconds()
            pipe.answered(at, at - now)
            if pipe.draining:
                self._ask(pipe, at, request)

        request(DRAIN if question is Question.DRAIN else KEEPALIVE).addBoth(answered)
