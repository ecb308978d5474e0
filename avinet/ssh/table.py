"""The channels of a connection: which there are, and how they are opened from either end (RFC 4254 §5.1)."""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import count

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import as_deferred
from avinet.errors import AvinetError, PeerError, TooMany, Unavailable
from avinet.flow.turns import Priority
from avinet.flow.window import ReceiveWindow, SendWindow
from avinet.ssh.channel import Channel, ChannelAddress
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    CONNECT_FAILED,
    SHORTAGE,
    UNKNOWN_KIND,
)
from avinet.ssh.opening import (
    MOST_DATA_BYTES,
    Accepted,
    Accepting,
    ChannelLimits,
    Closing,
    Opening,
    OpenRefused,
    Terms,
)
from avinet.ssh.sending import Sending
from avinet.ssh.shown import printable
from avinet.ssh.strings import Reader, string, uint32
from avinet.ssh.windows import HURRIED_BYTES, HURRIED_LOGS_BYTES, Windows

KIND_BYTES = 64
"""What the name of a kind of channel, or of a request, may have."""
_CHANNELS = 1 << 32
_LIMITS = ChannelLimits()


class Channels(Sending):
    """What is between `Sending` and `Connection`: the table of channels. It forgives: strays are only counted."""

    log = Logger()

    def __init__(self, clock: IReactorTime, limits: ChannelLimits | None = None) -> None:
        super().__init__(clock)
        self.limits = limits or _LIMITS
        self.strays = 0
        self.refused = 0
        self._table: dict[int, Opening | Accepting | Closing | Channel] = {}
        self._numbers = count()
        self._windows = Windows(clock, self.limits)
        self._arrived_bytes = 0

    def accept(self, kind: bytes, body: bytes) -> Accepted | Awaitable[Accepted]:
        """The target of a channel that the peer opens, now or when it is there. Raises `OpenRefused`."""
        raise OpenRefused("there are no channels of this kind", UNKNOWN_KIND)

    @property
    def channels(self) -> int:
        """How many channels there are, those included that are being opened or closed."""
        return len(self._table)

    @property
    def _packet_bytes(self) -> int:
        """What a packet of the peer's may carry: of our own kind more than of others."""
        limits = self.limits
        return limits.packet_bytes if self.transport.kindred else limits.stock_packet_bytes

    def open(
        self,
        kind: bytes,
        body: bytes,
        factory: IProtocolFactory,
        address: ChannelAddress,
        priority: Priority = Priority.COMMANDS,
    ) -> Deferred[IProtocol]:
        """A protocol of `factory` on a new channel, once the peer has confirmed it; cancelling gives it up.

        Fails with `OpenRefused`, `TooMany`, `TimedOut` or `Unavailable`, and with what the factory raises.
        """
        if self.ended:
            return fail(Unavailable("the tunnel is gone"))
        if len(self._table) >= self.limits.channels:
            return fail(TooMany(f"the tunnel has {len(self._table)} channels already"))
        id = self._number()
        opening = self._table[id] = Opening(self._clock, self.limits.open_s, factory, address, priority)
        opened = opening.opened()
        ours = Terms(id, self.limits.window_bytes, self._packet_bytes)
        self.transport.sendPacket(CHANNEL_OPEN, string(kind) + ours.encode() + body)
        return opened

    def request(self, name: bytes, body: bytes = b"") -> Deferred[bytes]:
        """What the peer answers to a global request."""
        raise NotImplementedError

    def resize(self, channel: int, window: ReceiveWindow, priority: Priority) -> None:
        """Give our `channel` the window that it should have, now that data which arrived on it has been consumed."""
        count, self._arrived_bytes = self._arrived_bytes, 0
        hurried = (HURRIED_BYTES if priority.waited_for else HURRIED_LOGS_BYTES) if self.in_company else None
        self._windows.resize(channel, window, count, self.request, hurried)

    def over(self, channel: int) -> None:
        """CLOSE has gone both ways: the number is free."""
        self._table.pop(channel, None)
        self._windows.free(channel)

    def _number(self) -> int:
        for number in self._numbers:
            if number % _CHANNELS not in self._table:
                return number % _CHANNELS
        raise AssertionError

    def _start(self, id: int, theirs: Terms, accepted: Accepted) -> None:
        channel = Channel(
            self,
            id,
            theirs.id,
            ReceiveWindow(self.limits.window_bytes, self._packet_bytes),
            SendWindow(theirs.window_bytes, min(theirs.packet_bytes, MOST_DATA_BYTES)),
            accepted.address,
            accepted.take_request,
            accepted.priority,
        )
        self._table[id] = channel
        channel.start(accepted.protocol)

    # what the peer says

    def open_received(self, packet: bytes) -> None:
        """The peer opens a channel."""
        reader = Reader(packet, "CHANNEL_OPEN")
        kind, theirs, body = reader.string(KIND_BYTES), Terms.read(reader), reader.rest()
        try:
            self.limits.check(theirs)
            if len(self._table) >= self.limits.channels:
                raise OpenRefused("there are too many channels", SHORTAGE)
        except OpenRefused as refusal:
            self._refuse(theirs, refusal)
            return
        id = self._number()
        accepting = self._table[id] = Accepting()
        try:
            accepted = self.accept(kind, body)
        except Exception:
            self._not_accepted(Failure(), id, theirs, kind)
            return
        if isinstance(accepted, Accepted):
            self._accepted(accepted, id, theirs)
        else:
            accepting.work = as_deferred(accepted)
            accepting.work.addCallbacks(self._accepted, self._not_accepted, (id, theirs), {}, (id, theirs, kind))

    def _accepted(self, accepted: Accepted, id: int, theirs: Terms) -> None:
        """The target of a channel is there: confirm it."""
        if not self.ended:
            ours = Terms(id, self.limits.window_bytes, self._packet_bytes)
            self.send(CHANNEL_OPEN_CONFIRMATION, theirs.id, ours.encode())
            self._start(id, theirs, accepted)

    def _not_accepted(self, failure: Failure, id: int, theirs: Terms, kind: bytes) -> None:
        """There is no target: refuse the channel, if there is anyone left to tell."""
        if self._table.pop(id, None) is None:
            return
        match failure.value:
            case OpenRefused() as refusal:
                self._refuse(theirs, refusal)
            case PeerError() as error:
                self.transport.fail(error)
            case error:
                if not isinstance(error, AvinetError):
                    self.log.failure("a channel of the kind {kind} could not be opened", failure, kind=printable(kind))
                self._refuse(theirs, OpenRefused("the service does not answer", CONNECT_FAILED))

    def _refuse(self, theirs: Terms, refusal: OpenRefused) -> None:
        self.refused += 1
        text = string(refusal.what.encode("utf-8"))
        self.send(CHANNEL_OPEN_FAILURE, theirs.id, uint32(refusal.code), text, string(b""))

    def confirmation_received(self, packet: bytes) -> None:
        """A channel of ours is open."""
        reader = Reader(packet, "CHANNEL_OPEN_CONFIRMATION")
        id, theirs = reader.uint32(), Terms.read(reader)
        opening = self._table.get(id)
        if not isinstance(opening, Opening):
            self.strays += 1
        else:
            self._confirmed(id, theirs, opening)

    def _confirmed(self, id: int, theirs: Terms, opening: Opening) -> None:
        """Connect a protocol to the channel, unless nobody wants it any more, or the factory has none."""
        self._windows.opened(self._clock.seconds() - opening.began)
        waiting = opening.answered()
        try:
            if waiting is None:
                raise NoProtocol
            self.limits.check(theirs)
            protocol = opening.factory.buildProtocol(opening.address)
            if protocol is None:
                raise NoProtocol
        except Exception as error:
            self._table[id] = Closing()
            self.send(CHANNEL_CLOSE, theirs.id)
            if waiting is not None:
                waiting.errback(error)
        else:
            self._start(id, theirs, Accepted(protocol, opening.address, priority=opening.priority))
            waiting.callback(protocol)

    def failure_received(self, packet: bytes) -> None:
        """A channel of ours is refused."""
        reader = Reader(packet, "CHANNEL_OPEN_FAILURE")
        id, code, text = reader.uint32(), reader.uint32(), reader.string()
        opening = self._table.get(id)
        if isinstance(opening, Opening):
            del self._table[id]
            opening.fail(OpenRefused(f"the peer does not open the channel: {printable(text)}", code))
        else:
            self.strays += 1
