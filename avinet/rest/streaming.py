"""Answers without a known end: one JSON object a line, as they come, as fast as they are read.

An empty line says that there is nothing new, and that whoever answers is alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.client import ResponseDone
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import PeerError, TimedOut, Unavailable
from avinet.feed import Bell
from avinet.wire.jobs import LINE_BYTES
from avinet.wire.message import encode

NDJSON = "application/x-ndjson"
ALIVE_S = 10.0
"""How often a sign of life is sent at least."""
SILENT_S = 30.0
"""How long a peer that sends nothing is believed."""
_HIGH_BYTES, _LOW_BYTES = 64 * 1024, 16 * 1024
_HIGH_LINES, _LOW_LINES = 256, 64


@dataclass(frozen=True)
class Streamed:
    """Answers with `messages` as they come, which are closed when the peer goes away; a problem in them cuts it off."""

    messages: AsyncGenerator[Any, None]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bulk:
    """Answers with `pieces`, which have `length` bytes in all, as they are read; a problem in them cuts it off."""

    pieces: AsyncGenerator[bytes, None]
    length: int
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@implementer(IPushProducer)
class Pump:
    """Writes messages as the body of `request`; a peer that takes nothing for `stalled_s` is given up."""

    def __init__(self, clock: IReactorTime, request: http.Request, stalled_s: float) -> None:
        self._clock = clock
        self._request = request
        self._stalled_s = stalled_s
        self._taken = Bell()
        self._paused_at: float | None = None
        self._wrote_at = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._stalled = False
        self._lines = True

    async def run(self, messages: AsyncGenerator[Any, None]) -> None:
        """Write them all, and the end. Raises what they raise, and `TimedOut`; the rest is not made then."""
        await self._run(messages, lines=True)

    async def run_bulk(self, pieces: AsyncGenerator[bytes, None]) -> None:
        """Write bytes as they are, likewise."""
        await self._run(pieces, lines=False)

    async def _run(self, messages: AsyncGenerator[Any, None], *, lines: bool) -> None:
        self._lines = lines
        self._request.registerProducer(self, True)
        self._timer = self._clock.callLater(ALIVE_S, self._tick)
        try:
            self._request.write(b"")  # the head goes out now
            async for message in messages:
                self._write(encode(message) + b"\n" if lines else message)
                while self._paused_at is not None:
                    await self._taken.wait()
                    self._check()
        finally:
            self._timer.cancel()
            if self._request.channel is not None:  # which a request has no more when the peer has gone
                self._request.unregisterProducer()
            await messages.aclose()

    def _check(self) -> None:
        if self._stalled:
            raise TimedOut(f"whoever reads took nothing for {self._stalled_s:g} s")

    def _write(self, data: bytes) -> None:
        self._wrote_at = self._clock.seconds()
        self._request.write(data)

    def _tick(self) -> None:
        self._timer = self._clock.callLater(ALIVE_S, self._tick)
        now = self._clock.seconds()
        if self._paused_at is None:
            if self._lines and now - self._wrote_at >= ALIVE_S:
                self._write(b"\n")
        elif now - self._paused_at >= self._stalled_s:
            self._stalled = True
            self._taken.ring()

    def pauseProducing(self) -> None:
        """The peer takes no more for now."""
        if self._paused_at is None:
            self._paused_at = self._clock.seconds()

    def resumeProducing(self) -> None:
        """It does."""
        self._paused_at = None
        self._taken.ring()

    def stopProducing(self) -> None:
        """The request is told of the loss, and whoever runs this with it."""


class Lines(Protocol):
    """The body of a streamed answer of `where`, line by line, read no faster than they are taken.

    Empty lines are signs of life, and nothing else.
    """

    transport: Any

    def __init__(self, clock: IReactorTime, where: str) -> None:
        self._clock = clock
        self._where = where
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        self._bytes = 0
        self._paused = False
        self._ended: Exception | None = None
        self._whole = False
        self._arrived = Bell()
        self._heard_at = clock.seconds()
        self._timer: IDelayedCall | None = None

    @override
    def connectionMade(self) -> None:
        self._heard_at = self._clock.seconds()
        self._timer = self._clock.callLater(SILENT_S, self._look)

    def _look(self) -> None:
        """Give up a peer that has been silent for `SILENT_S`, but for the time in which it was not read."""
        self._timer = None
        now = self._clock.seconds()
        if self._paused:
            self._heard_at = now
        left = self._heard_at + SILENT_S - now
        if left > 0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._fail(TimedOut(f"{self._where} gave no sign of life within {SILENT_S:g} s"))

    def _fail(self, error: Exception) -> None:
        self._rest.clear()
        self._ended = error
        self.abort()
        self._arrived.ring()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._ended is not None:
            return
        self._heard_at = self._clock.seconds()
        first, *more = data.split(b"\n")  # what is new alone: a long line may come in many small pieces
        self._rest += first
        if more:
            lines = [line for line in (bytes(self._rest), *more[:-1]) if line]
            self._rest = bytearray(more[-1])
            self._queue(lines)
        if len(self._rest) > LINE_BYTES:
            self._fail(PeerError(f"{self._where} sent a line of more than {LINE_BYTES} bytes"))

    def _queue(self, lines: list[bytes]) -> None:
        if not lines:
            return
        self._lines += lines
        self._bytes += sum(map(len, lines))
        if not self._paused and (self._bytes > _HIGH_BYTES or len(self._lines) > _HIGH_LINES):
            self._paused = True
            self.transport.pauseProducing()
        self._arrived.ring()

    async def next(self) -> bytes | None:
        """The next line; None behind the last one. Raises `Unavailable`, `TimedOut` or `PeerError`."""
        while not self._lines:
            if self._whole:
                return None
            if self._ended is not None:
                raise self._ended
            await self._arrived.wait()
        line = self._lines.popleft()
        self._bytes -= len(line)
        if self._paused and self._bytes <= _LOW_BYTES and len(self._lines) <= _LOW_LINES:
            self._paused = False
            self._heard_at = self._clock.seconds()
            self.transport.resumeProducing()
        return line

    def abort(self) -> None:
        """Close the connection, unless the answer is whole."""
        self._stop_looking()
        if self.transport is not None and not self._whole:
            self.transport.stopProducing()

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_looking()
        self._whole = reason.check(ResponseDone) is not None and not self._rest and self._ended is None
        if not self._whole and self._ended is None:
            self._ended = Unavailable(f"{self._where} broke off its answer")
        self.transport = None
        self._paused = False
        self._arrived.ring()
