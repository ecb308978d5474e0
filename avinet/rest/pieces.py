"""The body of an answer as it comes, in pieces that are taken together: for what is too large to be in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from typing_extensions import override

from avinet.errors import TimedOut, Unavailable
from avinet.feed import Bell

HIGH_BYTES = 2 * 1024 * 1024
"""How much may wait to be taken, about, before the peer is read no more."""
MOST_PIECES = 4096
"""As many of them, however small: each takes memory of its own."""
LEAST_BYTES, SOON_S = 512 * 1024, 0.1
"""How much is taken at once, but for the end; and after what time it is less."""


class Pieces(Protocol):
    """The body of an answer of `where` with this status, headers (in lower case) and length; None: nobody knows.

    `take` hands out all that has arrived. A peer that sends nothing for `stalled_s`, while it is read, is given up.
    """

    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        where: str,
        status: int,
        headers: dict[str, str],
        length: int | None,
        stalled_s: float,
    ) -> None:
        self.status, self.headers, self.length = status, headers, length
        self._clock = clock
        self._where = where
        self._stalled_s = stalled_s
        self._arrived: list[bytes] = []
        self._waiting = 0
        self._paused = False
        self._whole = False
        self._ended: Exception | None = None
        self._more = Bell()
        self._heard_at = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._soon: IDelayedCall | None = None

    @override
    def connectionMade(self) -> None:
        self._heard_at = self._clock.seconds()
        self._timer = self._clock.callLater(self._stalled_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if self._paused:
            self._heard_at = now
        left = self._heard_at + self._stalled_s - now
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
            return
        self._ended = TimedOut(f"{self._where} has sent nothing for {self._stalled_s:g} s")
        self.abort()
        self._more.ring()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._ended is not None:
            return
        self._heard_at = self._clock.seconds()
        self._arrived.append(data)
        self._waiting += len(data)
        if (self._waiting > HIGH_BYTES or len(self._arrived) >= MOST_PIECES) and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        if self._waiting >= LEAST_BYTES:
            self._more.ring()
        elif self._soon is None:
            self._soon = self._clock.callLater(SOON_S, self._ring_soon)

    def _ring_soon(self) -> None:
        self._soon = None
        self._more.ring()

    @property
    def _worth_taking(self) -> bool:
        over = self._whole or self._ended is not None
        return over or self._waiting >= LEAST_BYTES or (bool(self._arrived) and self._soon is None)

    async def take(self) -> list[bytes]:
        """All that has arrived, once that is much or some time has passed; nothing only behind the end.

        Raises `Unavailable` or `TimedOut` where it broke off.
        """
        while not self._worth_taking:
            await self._more.wait()
        if not self._arrived:
            if self._ended is not None:
                raise self._ended
            return []
        taken, self._arrived, self._waiting = self._arrived, [], 0
        if self._paused:
            self._paused = False
            self._heard_at = self._clock.seconds()
            self.transport.resumeProducing()
        return taken

    def abort(self) -> None:
        """Close the connection, unless the answer is whole."""
        self._stop_looking()
        if self.transport is not None and not self._whole:
            self.transport.stopProducing()

    def _stop_looking(self) -> None:
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()
        self._timer = self._soon = None

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_looking()
        self._whole = reason.check(ResponseDone) is not None and self._ended is None
        if not self._whole and self._ended is None:
            self._ended = Unavailable(f"{self._where} broke off its answer")
        self.transport = None
        self._paused = False
        self._more.ring()
