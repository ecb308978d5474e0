"""Floor 0: two byte streams joined into one; back-pressure and half-close pass through, and nothing piles up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import PeerError
from avinet.sockets import READ_BYTES, Lender, has_all_of

UNREAD_BYTES = READ_BYTES
"""What may wait to be read from a peer on this machine."""


@implementer(IPushProducer)
class Reading:
    """The reading half of a transport, for the other side of a relay to pause.

    A transport that is lost stops its producer, which closes a transport as if that were all: here it does nothing, as
    only the relay knows how the other side has to end. `lends` says that to resume it begins to read, and no more.
    """

    def __init__(self, transport: Any) -> None:
        self.lends = has_all_of(transport, Lender)
        self.pauseProducing = transport.pauseProducing
        self.resumeProducing = transport.resumeProducing

    def stopProducing(self) -> None:
        """The relay is told of the loss next."""


@implementer(IProtocol, IHalfCloseableProtocol)
class Relay(Protocol):
    """One side of a joined pair: what arrives here leaves at `other`.

    Until it is joined its transport is paused, so that nothing arrives that cannot be passed on. `passed` is told how
    many bytes arrive here, `ended` when this side is lost.
    """

    transport: Any

    def __init__(
        self, passed: Callable[[int], None] = lambda count: None, ended: Callable[[], None] = lambda: None
    ) -> None:
        self.other: Relay | None = None
        self._lost = False
        self._finished = False
        self._passed = passed
        self._ended = ended

    @property
    def finished(self) -> bool:
        """Whether all that the peer has to send has come: it said so, and did not break off before."""
        return self._finished

    @override
    def connectionMade(self) -> None:
        if self.other is None:
            self.transport.pauseProducing()

    def join(self, other: Relay) -> None:
        """Carry bytes both ways from now on; what has ended already ends on the other side too."""
        self.other, other.other = other, self
        for side in (self, other):
            if side._lost:
                side._pass_on_loss()
                return
        readings = [Reading(side.transport) for side in (self, other)]
        lend = all(reading.lends for reading in readings)
        for side, reading in zip((other, self), readings, strict=True):
            side.transport.registerProducer(reading, True)
            if lend:
                side.transport.lend_to(side)
            limit_unread = getattr(side.transport, "limit_unread", None)
            if limit_unread is not None:
                limit_unread(UNREAD_BYTES)
        for side in (self, other):
            side.transport.resumeProducing()
        for side in (self, other):
            if side._finished:
                side.readConnectionLost()

    @override
    def dataReceived(self, data: bytes) -> None:
        if self.other is None:
            raise PeerError("data before the pipe was joined")
        self._passed(len(data))
        self.other.transport.write(data)

    def buffer(self) -> memoryview | None:
        """Where to read as much as the other side can send at once."""
        return self.other.transport.buffer() if self.other is not None else None

    def lent(self, data: memoryview) -> None:
        """Pass on what is lent to this side."""
        if self.other is not None:
            self._passed(len(data))
            self.other.transport.lend(data)

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        """Pass on what is lent to this side."""
        if self.other is not None:
            self._passed(sum(map(len, pieces)))
            if len(pieces) == 1:
                self.other.transport.lend(pieces[0])
            else:
                self.other.transport.lend_all(pieces)

    def readConnectionLost(self) -> None:
        """The peer will send no more: tell the other side so, and go on carrying what comes from there."""
        self._finished = True
        if self.other is None:
            return
        if self.other._finished:  # TCP does not end by itself when both halves are closed
            self.end()
            self.other.end()
        else:
            self.other.end_writing()

    def writeConnectionLost(self) -> None:
        """Nothing more can be sent to the peer; the transport tells of the loss when that is all."""

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:
            return
        self._lost = True
        self._finished = self._finished or isinstance(reason.value, error.ConnectionDone)
        self._ended()
        self._pass_on_loss()

    def _pass_on_loss(self) -> None:
        """Close the other side: after all that came from here when it was whole, else at once, so that it is seen."""
        other = self.other
        if other is None or other._lost:
            return
        other.transport.unregisterProducer()
        if self._finished:
            other.end()
        else:
            other.transport.abortConnection()

    def end_writing(self) -> None:
        """Nothing more will be written here: tell the peer so, when all that was has been sent."""
        self.transport.loseWriteConnection()

    def end(self) -> None:
        """Close, when all that was written has been sent."""
        self.transport.loseConnection()
