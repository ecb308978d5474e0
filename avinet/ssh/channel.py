"""One open channel as a Twisted transport, with half-close and back-pressure in both directions.

What is written goes out as the peer's window and the tunnel take it, else it waits in `Outgoing`, and the registered
producer with it. What arrives is handed to the protocol, or lent to a taker, and given back to the peer as window only
while neither is paused: what nobody takes fills the window, and there it ends.

EOF of the peer is `readConnectionLost` of a protocol that is half-closeable; any other protocol has its connection
closed then. A connection ends in order, with `ConnectionDone`, when both directions have ended or this end has closed
it; it is `ConnectionAborted` when this end dropped it, and `ConnectionLost` when the peer or the tunnel did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError, PeerError
from avinet.flow.chunks import Chunks
from avinet.flow.halfclose import Half, HalfClose, Send
from avinet.flow.turns import Priority
from avinet.flow.window import ReceiveWindow, SendWindow
from avinet.sockets import Taker, arrived
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_EOF,
    CHANNEL_REQUEST,
    CHANNEL_WINDOW_ADJUST,
)
from avinet.ssh.outgoing import Carrier, Outgoing
from avinet.ssh.strings import string, uint32

_CUT = "the peer closed the channel before all was sent"
_MESSAGES = {Send.EOF: CHANNEL_EOF, Send.CLOSE: CHANNEL_CLOSE}


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """Where a channel leads: the name of a service, and where the peer of its tunnel is seen."""

    service: str
    peer: str


RequestTaker = Callable[[bytes, bytes], bool]
"""Answers a request on a channel: its name and its body; whether it was done."""


def refuse_request(name: bytes, body: bytes) -> bool:
    """No request makes sense on a channel that only carries bytes."""
    return False


@implementer(ITransport, IConsumer, IPushProducer)
class Channel:
    """An open channel; `id` is its number here, `window` what the peer may still send."""

    log = Logger()

    __slots__ = (
        "_arrived",
        "_carrier",
        "_cut",
        "_ends",
        "_finishing",
        "_handing",
        "_host",
        "_inbox",
        "_outgoing",
        "_paused",
        "_peer",
        "_protocol",
        "_taker",
        "connected",
        "disconnecting",
        "id",
        "take_request",
        "window",
    )

    def __init__(
        self,
        carrier: Carrier,
        id: int,
        far_id: int,
        receive: ReceiveWindow,
        send: SendWindow,
        address: ChannelAddress,
        take_request: RequestTaker = refuse_request,
        priority: Priority = Priority.COMMANDS,
    ) -> None:
        self.id = id
        self.connected = True
        self.disconnecting = False
        self.take_request = take_request
        self._carrier = carrier
        self.window = receive
        self._outgoing = Outgoing(carrier, far_id, send, priority, self._guard, self._sent_all)
        self._peer = address
        self._host = ChannelAddress(address.service, "")
        self._protocol: IProtocol | None = None
        self._taker: Taker | None = None
        self._inbox = Chunks()
        self._ends = HalfClose()
        self._arrived = Half.OPEN
        self._cut = False
        self._finishing = False
        self._handing = False
        self._paused = False

    @property
    def priority(self) -> Priority:
        """What it has to let go first."""
        return self._outgoing.priority

    @property
    def far_id(self) -> int:
        """The channel's number at the peer."""
        return self._outgoing.far_id

    def start(self, protocol: IProtocol) -> None:
        """The channel is open on both ends: from now on it belongs to `protocol`."""
        self._protocol = protocol
        self._guard(protocol.makeConnection, self)

    # what the application wants to send

    def write(self, data: bytes) -> None:
        """Send `data`, in order; after the end of writing it is dropped, unless a producer is still at work."""
        if self._may_write():
            self._outgoing.write(data)

    def lend(self, data: memoryview) -> None:
        """Send `data`, which is good only during the call."""
        if self._may_write():
            self._outgoing.lend(data)

    def lend_all(self, pieces: Sequence[memoryview]) -> None:
        """Send several pieces of data, which are good only during the call."""
        self._carrier.cork()
        for piece in pieces:
            self.lend(piece)
        self._carrier.uncork()

    def buffer(self) -> memoryview | None:
        """Where to read what is lent next, as much as can be sent at once; else the producer is paused until it can."""
        return self._outgoing.buffer() if self.connected else arrived()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send all of `data`, in order."""
        self.write(b"".join(data))

    def write_error(self, data: bytes) -> None:
        """Send `data` as the standard error of a command, after all that was written."""
        if self._may_write():
            self._outgoing.write_error(data)

    def _may_write(self) -> bool:
        if self._arrived is Half.CLOSED:
            self._cut = True
            return False
        return self._ends.out is Half.OPEN and not (self._finishing and self._outgoing.producer is None)

    def request(self, name: bytes, body: bytes) -> None:
        """Send a request that wants no reply, ahead of data that waits for window."""
        if self._ends.out is not Half.CLOSED:
            self._carrier.send(CHANNEL_REQUEST, self.far_id, string(name), b"\0", body)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have `producer` write as fast as the peer takes it: pushed when `streaming`, else pulled piece by piece."""
        if not self.connected:
            producer.stopProducing()
            return
        self._outgoing.register(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._outgoing.unregister()
        self._end_when_empty()

    # how the application ends it

    def loseWriteConnection(self) -> None:
        """End this direction when all that was written is on its way; go on reading."""
        self._finishing = True
        self._end_when_empty()

    def loseConnection(self) -> None:
        """Close when all that was written is on its way; what still comes from the peer is dropped."""
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = self._finishing = True
        self.window.consumed(self._inbox.size)
        self._inbox.clear()
        self._end_when_empty()
        self._grant()

    def abortConnection(self) -> None:
        """Drop the connection at once."""
        if self.connected:
            self._obey(self._ends.abort())
            self._lose(ConnectionAborted())

    def stopProducing(self) -> None:
        """Whoever reads from this connection wants no more."""
        self.loseConnection()

    def _end_when_empty(self) -> None:
        if self._finishing and not self._outgoing.waiting:
            self._outgoing.drained()

    def _sent_all(self) -> None:
        """Nothing waits to be sent any more."""
        if self._finishing:
            self._finished()

    def _finished(self) -> None:
        """All is sent that will be."""
        if self.disconnecting:
            self._obey(self._ends.drop())
            self._end_when_closed()
        elif self._ends.out is Half.OPEN:
            self._obey(self._ends.finish())
            half_closeable = IHalfCloseableProtocol(self._protocol, None)
            if half_closeable is not None:
                self._carrier.soon(lambda: self._tell(half_closeable.writeConnectionLost))
            self._end_when_closed()

    def _obey(self, messages: Iterable[Send]) -> None:
        self._carrier.cork()
        for message in messages:
            self._carrier.send(_MESSAGES[message], self.far_id)
        self._carrier.uncork()
        if self._ends.over:
            self._carrier.over(self.id)

    def _end_when_closed(self) -> None:
        """Both directions have ended, in order unless the peer has cut ours off."""
        if self._ends.out is Half.CLOSED:
            self._lose(ConnectionLost(_CUT) if self._cut else ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        """The application has no connection any more: forget what waits, and tell it."""
        if not self.connected:
            return
        self.connected = False
        if self._arrived is Half.CLOSED:
            self._obey(self._ends.close())
        self.window.consumed(self._inbox.size)
        self._inbox.clear()
        self._outgoing.clear()
        self._carrier.soon(lambda: self._tell_lost(reason))

    def _tell_lost(self, reason: Exception) -> None:
        producer = self._outgoing.retire()
        protocol, self._protocol = self._protocol, None
        self._taker = None
        if producer is not None:
            self._guard(producer.stopProducing)
        if protocol is not None:
            self._guard(protocol.connectionLost, Failure(reason))

    # what the application reads

    def lend_to(self, taker: Taker) -> None:
        """Lend what arrives to `taker` from now on, instead of giving it to the protocol."""
        self._taker = taker

    def pauseProducing(self) -> None:
        """Hand over nothing more for now; what arrives fills the window, and no more than that."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Hand over what has arrived, and go on; not before whatever is going on has ended."""
        if self._paused and self.connected:
            self._paused = False
            self._carrier.soon(self._hand_over)

    def _hand_over(self) -> None:
        """Hand the protocol all that it takes, then the end of it."""
        protocol = self._protocol
        if self._handing or protocol is None:
            return
        self._handing = True
        try:
            while self._inbox.size and self._takes():
                data = self._inbox.pop()
                self.window.consumed(len(data))
                if self._taker is None:
                    self._guard(protocol.dataReceived, data)
                else:
                    self._guard(self._taker.lent_all, (memoryview(data),))
        finally:
            self._handing = False
        if self._takes():
            self._grant()
            if self._arrived is not Half.OPEN:
                self._hand_end()

    def _takes(self) -> bool:
        """Whether the protocol wants what there is."""
        return self.connected and not self._paused

    def _grant(self) -> None:
        """Give window back, unless the peer has no more use for it."""
        if not self.connected or self._arrived is not Half.OPEN:
            return
        granted = self.window.grant()
        if granted:
            self._carrier.resize(self.id, self.window, self.priority)
            self._carrier.send(CHANNEL_WINDOW_ADJUST, self.far_id, uint32(granted))

    def _hand_end(self) -> None:
        """The protocol has taken everything: it learns that there is no more."""
        if self._ends.into is Half.OPEN:
            self._obey(self._ends.eof())
            half_closeable = IHalfCloseableProtocol(self._protocol, None)
            if half_closeable is None:
                self.loseConnection()
            elif not self.disconnecting:
                self._guard(half_closeable.readConnectionLost)
            self._end_when_closed()
        if self._arrived is Half.CLOSED:
            self._lose(ConnectionLost(_CUT))

    def _guard(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the protocol: a fault of its own ends this channel, and no other."""
        try:
            call(*arguments)
        except AvinetError as error:
            self.log.warn("aborted a channel to {service}: {why}", service=self._peer.service, why=str(error))
            self.abortConnection()
        except Exception:
            self.log.failure("the protocol of a channel to {service} failed", service=self._peer.service)
            self.abortConnection()

    def _tell(self, call: Callable[[], object]) -> None:
        if self.connected:
            self._guard(call)

    # what the peer sends

    @property
    def lending(self) -> bool:
        """Whether data that arrives now goes straight to a taker."""
        return (
            self._taker is not None
            and self._arrived is Half.OPEN
            and self.connected
            and not (self.disconnecting or self._paused or self._inbox.size or self._handing)
        )

    def received_all(self, pieces: Sequence[memoryview]) -> None:
        """Lend data of the peer that was expected, good only during the call; the channel was `lending` since then."""
        assert self._taker is not None
        self.window.consumed(sum(map(len, pieces)))
        self._handing = True
        try:
            self._guard(self._taker.lent_all, pieces)
        finally:
            self._handing = False
        if not self._paused:
            self._grant()

    def received(self, data: memoryview) -> bool:
        """Keep or drop data of the peer that was expected; False when it must not come any more.

        It is good only during the call; a channel that is `lending` has `received_all`.
        """
        if self._arrived is not Half.OPEN or not self.connected:
            self.window.consumed(len(data))
            return self._arrived is Half.OPEN
        if self.disconnecting:
            self.window.consumed(len(data))
            self._grant()
        else:
            self._inbox.append(bytes(data))
            self._hand_over()
        return True

    def received_error(self, data: bytes) -> bool:
        """Data of a kind that nobody reads here: it costs window, which is given back; False when it must not come."""
        self.window.received(len(data))
        self.window.consumed(len(data))
        if self._takes():
            self._grant()
        return self._arrived is Half.OPEN

    def adjusted(self, count: int) -> None:
        """The peer has opened its window by `count` bytes. Raises `PeerError`."""
        self._outgoing.adjusted(count)

    def eof_received(self) -> bool:
        """The peer has sent EOF; False when it had before."""
        if self._arrived is not Half.OPEN:
            return False
        self._arrived = Half.ENDED
        self._hand_over()
        return True

    def close_received(self) -> bool:
        """The peer has sent CLOSE; False when it had before.

        After its EOF, what it sent is still handed over, and the channel stays until that is done.
        """
        if self._arrived is Half.CLOSED:
            return False
        in_order = self._arrived is Half.ENDED
        self._arrived = Half.CLOSED
        self._cut = self._outgoing.waiting
        self._outgoing.clear()
        if not self.connected:
            self._obey(self._ends.close())
        elif in_order and self._ends.out is not Half.CLOSED and not self.disconnecting:
            self._hand_over()
        else:
            self._lose(ConnectionLost("the peer dropped the channel"))
        return True

    def offended(self, error: PeerError) -> None:
        """The peer broke the rules of this channel: drop it, and say so."""
        self.log.warn("aborted a channel to {service}: {why}", service=self._peer.service, why=str(error))
        self._obey(self._ends.abort())
        self._lose(ConnectionLost(str(error)))

    def carrier_lost(self) -> None:
        """The tunnel is gone."""
        self._ends.abort()
        self._lose(ConnectionLost("the tunnel was lost"))

    # ITransport's rest

    def getPeer(self) -> ChannelAddress:
        """Where the channel leads."""
        return self._peer

    def getHost(self) -> ChannelAddress:
        """The service, at this end."""
        return self._host
