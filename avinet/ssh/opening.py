"""How a channel comes to be (RFC 4254 §5.1): on what terms, within which limits, and what stands for it meanwhile."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime

from avinet.errors import AvinetError, TimedOut
from avinet.flow.turns import Priority
from avinet.sockets import READ_BYTES
from avinet.ssh.channel import ChannelAddress, RequestTaker, refuse_request
from avinet.ssh.messages import PROHIBITED
from avinet.ssh.strings import Reader

_TERMS = struct.Struct(">III")

MOST_DATA_BYTES = READ_BYTES
"""What we put into a packet at most, whatever a peer would take."""


class OpenRefused(AvinetError):
    """The other side does not open this channel; `code` says why by RFC 4254 §5.1."""

    def __init__(self, what: str, code: int = PROHIBITED) -> None:
        super().__init__(what)
        self.code = code


class RequestRefused(AvinetError):
    """The other side does not do what it was asked for."""


class Terms(NamedTuple):
    """One end's half of opening a channel: its number for it, and what it lets the other send."""

    id: int
    window_bytes: int
    packet_bytes: int

    @classmethod
    def read(cls, reader: Reader) -> Terms:
        """The terms that come next in a message."""
        return cls(*_TERMS.unpack(reader.take(_TERMS.size)))

    def encode(self) -> bytes:
        """As they are sent."""
        return _TERMS.pack(*self)


@dataclass(frozen=True)
class ChannelLimits:
    """How much of a connection one peer may use; sizes in bytes, times in seconds.

    `channels` counts both directions, and those that are being opened or closed. A peer's channel with a smaller packet
    than `least_packet_bytes`, no window, or more of either than `most_bytes` is refused.
    """

    channels: int = 256
    offers: int = 16
    requests: int = 32
    """Global requests of ours that wait for their answer."""
    open_s: float = 10.0
    window_bytes: int = 128 * 1024
    """Of a new channel; it grows and shrinks with what the link turns out to hold."""
    most_window_bytes: int = 32 * 1024 * 1024
    """All windows of a tunnel together, beyond the least that each has: one gets half of what is left."""
    packet_bytes: int = MOST_DATA_BYTES
    stock_packet_bytes: int = 32 * 1024
    """What a packet may carry when the peer is not of our own kind."""
    least_packet_bytes: int = 256
    most_bytes: int = (1 << 31) - 1

    def check(self, terms: Terms) -> None:
        """Raises `OpenRefused` for terms that no sane peer has."""
        if not self.least_packet_bytes <= terms.packet_bytes <= self.most_bytes:
            raise OpenRefused(f"channels have packets of {self.least_packet_bytes} to {self.most_bytes} bytes")
        if not 0 < terms.window_bytes <= self.most_bytes:
            raise OpenRefused(f"channels have windows of 1 to {self.most_bytes} bytes")


@dataclass(frozen=True)
class Accepted:
    """A channel of the peer's that makes sense: who talks to it, and who answers its requests."""

    protocol: IProtocol
    address: ChannelAddress
    take_request: RequestTaker = refuse_request
    priority: Priority = Priority.COMMANDS


class Opening:
    """A channel that we asked for: what it is for, and who waits for it, but no longer than `seconds`."""

    __slots__ = ("_seconds", "_timer", "_waiting", "address", "began", "factory", "priority")

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        factory: IProtocolFactory,
        address: ChannelAddress,
        priority: Priority,
    ) -> None:
        self.factory = factory
        self.address = address
        self.priority = priority
        self.began = clock.seconds()
        self._seconds = seconds
        self._timer = clock.callLater(seconds, self._expire)
        self._waiting: Deferred[IProtocol] | None = None

    def opened(self) -> Deferred[IProtocol]:
        """Fires with the protocol once it is connected; cancelling gives it up."""
        self._waiting = Deferred(self._forget)
        return self._waiting

    def _forget(self, _: Deferred[IProtocol]) -> None:
        self.answered()

    def answered(self) -> Deferred[IProtocol] | None:
        """Who waits, to be told at once; nobody any more, when they have been told or have given up."""
        waiting, self._waiting = self._waiting, None
        if self._timer.active():
            self._timer.cancel()
        return waiting

    def fail(self, error: Exception) -> None:
        """Tell who waits that there will be no channel."""
        waiting = self.answered()
        if waiting is not None:
            waiting.errback(error)

    def _expire(self) -> None:
        self.fail(TimedOut(f"the peer, asked for {self.address.service}, gave no answer within {self._seconds:g} s"))


class Accepting:
    """A channel that the peer asked for, and whose target is not there yet."""

    __slots__ = ("work",)

    def __init__(self) -> None:
        self.work: Deferred[Accepted] | None = None


class Closing:
    """A channel that was never used: we have sent CLOSE, and wait for the peer's."""

    __slots__ = ()
