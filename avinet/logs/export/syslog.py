"""Syslog over TLS (RFC 5425): one connection to a collector, kept, written no faster than it is read.

Syslog has no acknowledgement. When a connection is lost soon after something was written to it, the last batch is sent
once more with the next one, and that some of what was before it may not have arrived is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import within
from avinet.errors import TimedOut, Unavailable
from avinet.feed import Bell
from avinet.logs.export.batch import Batch
from avinet.logs.export.exporter import Sent
from avinet.logs.export.rfc5424 import Sender
from avinet.trust.tls import refusal

PROVEN_S = 1.0
"""How long a connection has to last before what was written to it counts: in TLS 1.3 a client that is not admitted
learns it afterwards.
"""
UNSURE_S = 10.0
"""For how long after the last write a lost connection may have taken something with it."""
CLOSE_S = 1.0


@implementer(IHandshakeListener, IPushProducer)
class _Stream(Protocol):
    """A connection to a collector, which says nothing. `lost` is called at its end."""

    transport: Any

    def __init__(self, clock: IReactorTime, lost: Callable[[], None]) -> None:
        self.ready: Deferred[None] = Deferred(lambda _: self.abort())
        self.why = ""
        """Why it was lost; empty while it is there."""
        self._clock = clock
        self._lost = lost
        self._proven = self._paused = False
        self._moved = Bell()

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`: the collector is the one that it should be."""
        if not self.ready.called:
            self.ready.callback(None)

    @override
    def dataReceived(self, data: bytes) -> None:
        """Nothing is expected, and nothing kept."""

    def pauseProducing(self) -> None:
        """It takes no more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False
        self._moved.ring()

    def stopProducing(self) -> None:
        """The loss is told of."""

    async def write(self, data: bytes) -> None:
        """Done when there is room for more, and the collector has not turned us away. Raises `Unavailable`."""
        self.transport.write(data)
        while self._paused and not self.why:
            await self._moved.wait()
        if not self._proven:
            await self.gone(PROVEN_S)
            self._proven = not self.why
        if self.why:
            raise Unavailable(self.why)

    async def gone(self, patience_s: float) -> None:
        """Done when it is lost, or after `patience_s`."""

        async def lost() -> None:
            while not self.why:
                await self._moved.wait()

        with contextlib.suppress(TimedOut):
            await within(self._clock, patience_s, lost(), "the connection")

    def abort(self) -> None:
        """Close it at once."""
        if not self.why:
            self.transport.abortConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        said = refusal(reason, "a CA that it should be under")
        self.why = said or f"the connection was lost: {reason.getErrorMessage()}"
        if not self.ready.called:
            self.ready.errback(Unavailable(self.why))
        self._moved.ring()
        self._lost()


class Syslog:
    """See `Destination`. `endpoint` is the collector's, with TLS around it."""

    def __init__(self, clock: IReactorTime, endpoint: IStreamClientEndpoint, where: str, sender: Sender) -> None:
        self.where = where
        self.changed: Callable[[], None] = lambda: None
        self._clock = clock
        self._endpoint = endpoint
        self._sender = sender
        self._stream: _Stream | None = None
        self._last: Batch | None = None
        """What was written last to the connection that is open, or was."""
        self._wrote_at = 0.0
        self._again = False

    @property
    def again(self) -> bool:
        """See `Destination`."""
        return self._again

    async def send(self, batch: Batch) -> Sent:
        """See `Destination`."""
        if self._stream is not None and self._stream.why:
            self._stream = None
        unsure = self._again
        stream = self._stream or await self._connected()
        frames = self._sender.frames(self._last) if unsure and self._last is not None else []
        try:
            await stream.write(b"".join([*frames, *self._sender.frames(batch)]))
        except BaseException:  # it takes too long, or is lost: this one comes again, behind the one before
            stream.abort()
            self._again = self._last is not None
            raise
        self._last, self._wrote_at, self._again = batch, self._clock.seconds(), False
        return Sent(unsure=unsure)

    def _lost(self) -> None:
        """A connection is lost: what was written to it a moment ago may not have arrived."""
        if self._last is not None and self._clock.seconds() - self._wrote_at < UNSURE_S:
            self._again = True
            self.changed()

    async def _connected(self) -> _Stream:
        factory = Factory.forProtocol(partial(_Stream, self._clock, self._lost))
        factory.noisy = False
        try:
            stream: Any = await self._endpoint.connect(factory)
            await stream.ready
        except Unavailable as error:
            raise Unavailable(f"{self.where}: {error.what}") from error
        except (ConnectError, OSError) as error:
            raise Unavailable(f"{self.where} cannot be reached: {error}") from error
        self._stream = stream
        return self._stream

    async def close(self) -> None:
        """See `Destination`: what was written goes out first."""
        stream, self._stream, self._last = self._stream, None, None
        if stream is not None and not stream.why:
            stream.transport.unregisterProducer()
            stream.transport.loseConnection()
            await stream.gone(CLOSE_S)
            stream.abort()
