"""Data both ways through one channel, hashed at both of its ends, and half-closed where one direction ends first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.ssh.policy import KIB, MIB

STREAM_BYTES = 64 * MIB
_PIECE_BYTES = 256 * KIB


@cache
def stream(which: int) -> bytes:
    """One of the two streams, each as noisy as the other."""
    return stream(0)[::-1] if which else Random(20).randbytes(STREAM_BYTES)


@cache
def digest(which: int) -> str:
    """The SHA-256 of `stream(which)`."""
    return sha256(stream(which)).hexdigest()


@implementer(IHalfCloseableProtocol, IPullProducer)
class End(Protocol):
    """One end of a channel: sends a stream and its end; `heard` fires with the SHA-256 of what came, at the end of it.

    With `last`, it keeps the end of its stream back until the other end has half-closed the channel. `moved` is told
    how many bytes have come.
    """

    transport: Any

    def __init__(self, which: int, *, last: bool, moved: Callable[[int], object] = int) -> None:
        self.heard: Deferred[str] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self._stream = memoryview(stream(which))
        self._at = 0
        self._until = STREAM_BYTES - last * _PIECE_BYTES
        self._hash = sha256()
        self._producing = True
        self._moved = moved

    @override
    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Send a piece more."""
        self._send()
        if self._at == self._until:
            self.transport.unregisterProducer()
            self._producing = False
            self._end()

    def stopProducing(self) -> None:
        """The connection is gone; `connectionLost` follows."""

    def _send(self) -> None:
        end = min(self._at + _PIECE_BYTES, self._until)
        piece, self._at = bytes(self._stream[self._at : end]), end
        self.transport.write(piece)

    def _end(self) -> None:
        """End what has ended of the connection."""
        if self._at == STREAM_BYTES:
            if self.heard.called:
                self.transport.loseConnection()
            else:
                self.transport.loseWriteConnection()

    @override
    def dataReceived(self, data: bytes) -> None:
        self._hash.update(data)
        self._moved(len(data))

    def readConnectionLost(self) -> None:
        self.heard.callback(self._hash.hexdigest())
        self._until = STREAM_BYTES
        if not self._producing:
            if self._at < STREAM_BYTES:
                self._send()
            self._end()

    def writeConnectionLost(self) -> None: ...

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.heard.called:
            self.heard.errback(reason)
        self.lost.callback(None)
