"""One open channel as a Twisted transport, with half-close and back-pressure in both directions.

What is written waits in the outbox until the peer's window and the tunnel take it; past `HIGH_BYTES` the registered
producer is paused. What arrives is handed to the protocol, and given back to the peer as window only while the protocol
is not paused: what nobody takes fills the window, and there it ends.

EOF of the peer is `readConnectionLost` of a protocol that is half-closeable; any other protocol has its connection
closed then. A connection ends in order, with `ConnectionDone`, when both directions have ended or this end has closed
it; it is `ConnectionAborted` when this end dropped it, and `ConnectionLost` when the peer or the tunnel did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

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
from avinet.flow.window import ReceiveWindow, SendWindow
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_REQUEST,
    CHANNEL_WINDOW_ADJUST,
    STDERR,
)
from avinet.ssh.strings import string, uint32

HIGH_BYTES = 64 * 1024
"""What may wait to be sent before a producer is paused."""
LOW_BYTES = 16 * 1024
"""What is left when it is resumed."""

_CUT = "the peer closed the channel before all was sent"
_MESSAGES = {Send.EOF: CHANNEL_EOF, Send.CLOSE: CHANNEL_CLOSE}


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """Where a channel leads: the name of a service, and where the peer of its tunnel is seen."""

    service: str
    peer: str


class Carrier(Protocol):
    """What a channel needs of its connection."""

    def send(self, number: int, channel: int, *fields: bytes | memoryview) -> None:
        """Send a message to the peer's `channel`."""

    def ready(self, channel: Channel) -> None:
        """`channel` has something to send, and window for it: call its `send_some` when it is its turn."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call back when whatever is going on has ended."""

    def over(self, channel: Channel) -> None:
        """CLOSE has gone both ways."""


RequestTaker = Callable[[bytes, bytes], bool]
"""Answers a request on a channel: its name and its body; whether it was done."""


def refuse_request(name: bytes, body: bytes) -> bool:
    """No request makes sense on a channel that only carries bytes."""
    return False


@implementer(ITransport, IConsumer, IPushProducer)
class Channel:
    """An open channel; `id` is its number here, `far_id` at the peer."""

    log = Logger()

    __slots__ = (
        "_arrived",
        "_carrier",
        "_cut",
        "_ends",
        "_errors",
        "_finishing",
        "_handing",
        "_host",
        "_inbox",
        "_outbox",
        "_paused",
        "_peer",
        "_producer",
        "_producer_paused",
        "_protocol",
        "_receive",
        "_send",
        "_streaming",
        "connected",
        "disconnecting",
        "far_id",
        "id",
        "queued",
        "take_request",
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
    ) -> None:
        self.id = id
        self.far_id = far_id
        self.queued = False
        self.connected = True
        self.disconnecting = False
        self.take_request = take_request
        self._carrier = carrier
        self._receive = receive
        self._send = send
        self._peer = address
        self._host = ChannelAddress(address.service, "")
        self._protocol: IProtocol | None = None
        self._inbox = Chunks()
        self._outbox = Chunks()
        self._errors: Chunks | None = None
        self._ends = HalfClose()
        self._arrived = Half.OPEN
        self._cut = False
        self._finishing = False
        self._handing = False
        self._paused = False
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False

    def start(self, protocol: IProtocol) -> None:
        """The channel is open on both ends: from now on it belongs to `protocol`."""
        self._protocol = protocol
        self._guard(protocol.makeConnection, self)

    # what the application wants to send

    def write(self, data: bytes) -> None:
        """Send `data`, in order; after the end of writing it is dropped, unless a producer is still at work."""
        if self._may_write():
            self._outbox.append(data)
            self._offer()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send all of `data`, in order."""
        self.write(b"".join(data))

    def write_error(self, data: bytes) -> None:
        """Send `data` as the standard error of a command, after all that was written."""
        if self._may_write():
            if self._errors is None:
                self._errors = Chunks()
            self._errors.append(data)
            self._offer()

    def _may_write(self) -> bool:
        if self._arrived is Half.CLOSED:
            self._cut = True
            return False
        return self._ends.out is Half.OPEN and not (self._finishing and self._producer is None)

    def request(self, name: bytes, body: bytes) -> None:
        """Send a request that wants no reply, ahead of data that waits for window."""
        if self._ends.out is not Half.CLOSED:
            self._carrier.send(CHANNEL_REQUEST, self.far_id, string(name), b"\0", body)

    def _offer(self) -> None:
        """Something waits to be sent: send it, or have the producer wait."""
        if self._send.left and not self.queued:
            self._carrier.ready(self)
        if self._streaming and not self._producer_paused and len(self._outbox) > HIGH_BYTES:
            self._producer_paused = True
            self._producer.pauseProducing()

    def send_some(self) -> bool:
        """Send one packet of what waits; whether there is more that the window has room for."""
        source, number, head = self._outbox, CHANNEL_DATA, b""
        if not source and self._errors:
            source, number, head = self._errors, CHANNEL_EXTENDED_DATA, uint32(STDERR)
        size = min(len(source), self._send.room)
        if not size:
            return False
        self._send.sent(size)
        self._carrier.send(number, self.far_id, head, uint32(size), *source.take(size))
        self._drained()
        return bool(self._send.left and (self._outbox or self._errors))

    def _drained(self) -> None:
        """Less waits than before: let the producer go on, or end the writing if that was all."""
        if self._producer_paused and len(self._outbox) <= LOW_BYTES:
            self._carrier.soon(self._resume_producer)
        if self._outbox or self._errors:
            return
        if self._producer is not None and (self._producer_paused or not self._streaming):
            if not self._streaming:
                self._carrier.soon(self._pull)
        elif self._finishing:
            self._finished()

    def _resume_producer(self) -> None:
        if self._producer_paused and len(self._outbox) <= LOW_BYTES:
            self._producer_paused = False
            self._guard(self._producer.resumeProducing)
            self._end_when_empty()

    def _pull(self) -> None:
        if self._producer is not None and not self._streaming and not self._outbox:
            self._guard(self._producer.resumeProducing)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have `producer` write as fast as the peer takes it: pushed when `streaming`, else pulled piece by piece."""
        if self._producer is not None:
            raise RuntimeError(f"cannot register {producer} while {self._producer} is registered")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()
        elif len(self._outbox) > HIGH_BYTES:
            self._offer()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._producer, self._streaming, self._producer_paused = None, False, False
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
        self._receive.consumed(len(self._inbox))
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
        if self._finishing and not self._outbox and not self._errors:
            self._drained()

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
        for message in messages:
            self._carrier.send(_MESSAGES[message], self.far_id)
        if self._ends.over:
            self._carrier.over(self)

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
        self._inbox.clear()
        self._outbox.clear()
        self._errors = None
        self._carrier.soon(lambda: self._tell_lost(reason))

    def _tell_lost(self, reason: Exception) -> None:
        producer, self._producer = self._producer, None
        protocol, self._protocol = self._protocol, None
        if producer is not None:
            self._guard(producer.stopProducing)
        if protocol is not None:
            self._guard(protocol.connectionLost, Failure(reason))

    # what the application reads

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
            while self._inbox and self._takes():
                data = self._inbox.pop()
                self._receive.consumed(len(data))
                self._guard(protocol.dataReceived, data)
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
        granted = self._receive.grant() if self.connected and self._arrived is Half.OPEN else 0
        if granted:
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

    def received(self, data: bytes) -> bool:
        """Data of the peer; False when it must not come any more. Raises `PeerError` past the window."""
        self._receive.received(len(data))
        if self._arrived is not Half.OPEN:
            return False
        if self.disconnecting:
            self._receive.consumed(len(data))
            self._grant()
        elif self.connected:
            self._inbox.append(data)
            self._hand_over()
        return True

    def received_error(self, data: bytes) -> None:
        """Data of a kind that nobody reads here: it costs window, which is given back."""
        self._receive.received(len(data))
        self._receive.consumed(len(data))
        if self._takes():
            self._grant()

    def adjusted(self, count: int) -> None:
        """The peer has opened its window by `count` bytes. Raises `PeerError`."""
        self._send.add(count)
        if count and (self._outbox or self._errors) and not self.queued:
            self._carrier.ready(self)

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
        self._cut = bool(self._outbox or self._errors)
        self._outbox.clear()
        self._errors = None
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
