"""RFC 4254: many channels and requests over one authenticated connection, whoever has it.

A subclass says which channels and global requests of the peer make sense; everything else is refused, and the
connection lives. The table of channels forgives: a message for a channel that is not open is counted, and that is all.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, ClassVar

from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import AvinetError, PeerError, TooMany, Unavailable
from avinet.flow.turns import Priority, Turns
from avinet.flow.window import CHAT_BYTES, ReceiveWindow, SendWindow
from avinet.sockets import MOST_PIECES, READ_BYTES
from avinet.ssh.channel import Channel, ChannelAddress
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CHANNEL_WINDOW_ADJUST,
    CONNECT_FAILED,
    DRAIN,
    GLOBAL_REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
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
    RequestRefused,
    Terms,
)
from avinet.ssh.outgoing import Outgoing
from avinet.ssh.shown import printable
from avinet.ssh.strings import Reader, string, uint32
from avinet.ssh.transport import Transport
from avinet.ssh.windows import Windows

_HEAD = struct.Struct(">BI")
_DATA = struct.Struct(">BII")
_NAME_BYTES = 64
_CHANNELS = 1 << 32
_LIMITS = ChannelLimits()

GATHERED_BYTES = 64 * 1024
"""Packets of a peer that are not larger are lent several at once."""
COMPANY_S = 0.1
"""How long after such a piece a channel with much to send makes room for others."""
COMPANY_BYTES = 32 * 1024
"""What it sends at once then."""
STOCK_BATCH_BYTES = 512 * 1024
"""What a channel to a peer of another kind sends at once, in its small packets."""


class Connection(SSHService):
    """One end of the `ssh-connection` service. Subclasses override `accept`, `requested`, and what else they need."""

    name = b"ssh-connection"
    log = Logger()
    transport: Transport

    def __init__(self, clock: IReactorTime, limits: ChannelLimits | None = None) -> None:
        self.limits = limits or _LIMITS
        self.strays = 0
        self.refused = 0
        self._clock = clock
        self._table: dict[int, Opening | Accepting | Closing | Channel] = {}
        self._numbers = count()
        self._requests: list[Deferred[bytes]] = []
        self._turns: Turns[Outgoing] = Turns()
        self._windows = Windows(clock, self.limits)
        self._chat_at = float("-inf")
        self._arrived_bytes = 0
        self._loan: Channel | None = None
        self._loans: list[memoryview] = []
        self.flowing = True
        """Whether what is sent now goes out at once, and nobody waits for a turn."""
        self._paused = False
        self._sending = False
        self._stopped = False
        self._soon: list[Callable[[], None]] = []
        self._wakeup: IDelayedCall | None = None

    # what subclasses say

    def accept(self, kind: bytes, body: bytes) -> Accepted | Awaitable[Accepted]:
        """The target of a channel that the peer opens, now or when it is there. Raises `OpenRefused`."""
        raise OpenRefused("there are no channels of this kind", UNKNOWN_KIND)

    def requested(self, name: bytes, body: bytes) -> bytes | None:
        """The answer to a global request of the peer; None refuses it."""
        return None

    def stopped(self) -> None:
        """The connection is gone, and all channels with it."""

    # what an application does

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
        if self._stopped:
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
        """What the peer answers to a global request. Fails with `RequestRefused`, `TooMany` or `Unavailable`."""
        answered: Deferred[bytes] = Deferred()
        if self._stopped:
            answered.errback(Unavailable("the tunnel is gone"))
        elif len(self._requests) >= self.limits.requests:
            answered.errback(TooMany(f"{len(self._requests)} requests wait for the peer's answer already"))
        else:
            self._requests.append(answered)
            self.transport.sendPacket(GLOBAL_REQUEST, string(name) + b"\1" + body)
        return answered

    # the service

    @override
    def serviceStopped(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._loan = None
        self._loans.clear()
        entries = list(self._table.values())
        self._table.clear()
        self._turns.clear()
        self._reckon()
        for entry in entries:
            match entry:
                case Channel():
                    entry.carrier_lost()
                case Opening():
                    entry.fail(Unavailable("the tunnel was lost before the channel was open"))
                case Accepting(work=Deferred() as work):
                    work.cancel()
        while self._requests:
            self._requests.pop(0).errback(Unavailable("the tunnel was lost before the answer"))
        while self._wakeup is not None:
            if self._wakeup.active():
                self._wakeup.cancel()
            self._run_soon()
        self.stopped()

    @override
    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        if self._loan is not None:
            self.data_settled()
        take = self._messages.get(messageNum)
        if take is None:
            self.transport.sendUnimplemented()
        else:
            take(self, packet)

    def pauseProducing(self) -> None:
        """What is sent backs up below: channels wait for their turn."""
        self._paused = True
        self._reckon()

    def resumeProducing(self) -> None:
        """What was sent has gone out."""
        self._paused = False
        self._reckon()
        self._send_ready()

    # what channels need

    def send(self, number: int, channel: int, *fields: bytes | memoryview) -> None:
        """Send a message to the peer's `channel`."""
        head = _HEAD.pack(number, channel)
        self.transport.send(number, (head, *fields), _HEAD.size + sum(map(len, fields)))

    def send_data(self, channel: int, data: bytes | memoryview, packet_bytes: int) -> int:
        """Send `data` to the peer's `channel` in packets of `packet_bytes`, until it had better wait.

        Returns how much was sent: one packet in any case. With no data at all, the place for it is given back.
        """
        size, transport = len(data), self.transport
        if 0 < size <= packet_bytes:
            transport.send(CHANNEL_DATA, (_DATA.pack(CHANNEL_DATA, channel, size), data), _DATA.size + size)
            return size
        sent = 0
        transport.cork()
        while sent < size:
            piece = data[sent : sent + packet_bytes]
            count = len(piece)
            transport.send(CHANNEL_DATA, (_DATA.pack(CHANNEL_DATA, channel, count), piece), _DATA.size + count)
            sent += count
            if not self.flowing:
                break
        transport.uncork()
        return sent

    def place(self, size: int) -> memoryview | None:
        """Where `size` bytes that `send_data` sends next may be put, so that they are not copied."""
        return self.transport.place(_DATA.size, size)

    def cork(self) -> None:
        """What is sent until `uncork` goes out as one."""
        self.transport.cork()

    def uncork(self) -> None:
        """The end of what `cork` began."""
        self.transport.uncork()

    def _reckon(self) -> None:
        """See whether what is sent now goes out at once."""
        self.flowing = not (self._paused or self._turns or self._stopped)

    @property
    def batch_bytes(self) -> int:
        """How much one channel may send at once: little while others say little things and wait for the answer."""
        if self._in_company:
            return COMPANY_BYTES
        return READ_BYTES if self.transport.kindred else STOCK_BATCH_BYTES

    @property
    def heard_at(self) -> float:
        """When the peer was last heard."""
        return self.transport.heard_at

    def chatted(self) -> None:
        """A little thing was said."""
        self._chat_at = self.transport.heard_at

    @property
    def _in_company(self) -> bool:
        return self.transport.heard_at - self._chat_at < COMPANY_S

    def ready(self, outgoing: Outgoing) -> None:
        """`outgoing` has something to send, and window for it; those of a class send one packet each in turn."""
        self._queue(outgoing)
        self._send_ready()

    def _queue(self, outgoing: Outgoing) -> None:
        outgoing.queued = True
        self._turns.add(outgoing, outgoing.priority)
        self.flowing = False

    def _send_ready(self) -> None:
        if self._sending or self._paused or not self._turns:
            return
        self._sending = True
        self.transport.cork()
        try:
            while self._turns and not self._paused:
                outgoing = self._turns.next()
                outgoing.queued = False
                self._reckon()
                if outgoing.send_some() and not outgoing.queued:
                    self._queue(outgoing)
        finally:
            self._sending = False
            self.transport.uncork()

    def resize(self, channel: int, window: ReceiveWindow) -> None:
        """Give our `channel` the window that it should have, now that data which arrived on it has been consumed."""
        count, self._arrived_bytes = self._arrived_bytes, 0
        self._windows.resize(channel, window, count, self.request, hurried=self._in_company)

    def soon(self, call: Callable[[], None]) -> None:
        """Call back when whatever is going on has ended."""
        self._soon.append(call)
        if self._wakeup is None:
            self._wakeup = self._clock.callLater(0, self._run_soon)

    def _run_soon(self) -> None:
        self._wakeup = None
        calls, self._soon = self._soon, []
        for call in calls:
            call()

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

    # global requests

    def _global_request(self, packet: bytes) -> None:
        reader = Reader(packet, "GLOBAL_REQUEST")
        name, wants_reply = reader.string(_NAME_BYTES), reader.boolean()
        if name == DRAIN:
            self._windows.drain(self.request)
        answer = self.requested(name, reader.rest())
        if answer is None:
            self.refused += 1
        if wants_reply:
            self.transport.sendPacket(REQUEST_FAILURE if answer is None else REQUEST_SUCCESS, answer or b"")

    def _request_success(self, packet: bytes) -> None:
        self._answered(packet)

    def _request_failure(self, packet: bytes) -> None:
        self._answered(Failure(RequestRefused("the peer refuses the request")))

    def _answered(self, result: bytes | Failure) -> None:
        if self._requests:
            self._requests.pop(0).callback(result)
        else:
            self.strays += 1

    # opening

    def _open(self, packet: bytes) -> None:
        reader = Reader(packet, "CHANNEL_OPEN")
        kind, theirs, body = reader.string(_NAME_BYTES), Terms.read(reader), reader.rest()
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
        if not self._stopped:
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

    def _open_confirmation(self, packet: bytes) -> None:
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

    def _open_failure(self, packet: bytes) -> None:
        reader = Reader(packet, "CHANNEL_OPEN_FAILURE")
        id, code, text = reader.uint32(), reader.uint32(), reader.string()
        opening = self._table.get(id)
        if isinstance(opening, Opening):
            del self._table[id]
            opening.fail(OpenRefused(f"the peer does not open the channel: {printable(text)}", code))
        else:
            self.strays += 1

    # open channels

    def _channel(self, id: int) -> Channel | None:
        """The open channel with our number `id`; without one, the message is a stray."""
        entry = self._table.get(id)
        if isinstance(entry, Channel):
            return entry
        self.strays += 1
        return None

    def _obeys(self, channel: Channel, take: Callable[[Any], bool | None], value: Any) -> None:
        """Let the channel take what came for it; breaking its rules costs the peer the channel."""
        try:
            if take(value) is False:
                self.strays += 1
        except PeerError as error:
            self._offends(channel, error)

    def _offends(self, channel: Channel, error: PeerError) -> None:
        self.refused += 1
        channel.offended(error)

    def _window_adjust(self, packet: bytes) -> None:
        reader = Reader(packet, "CHANNEL_WINDOW_ADJUST")
        channel, size = self._channel(reader.uint32()), reader.uint32()
        if channel is not None:
            self._obeys(channel, channel.adjusted, size)

    def data_received(self, payload: memoryview) -> None:
        """CHANNEL_DATA, its number first, which is good until `data_settled`.

        Small packets for a channel that lends what arrives are gathered, and lent together.
        """
        if len(payload) < _DATA.size:
            raise PeerError("a CHANNEL_DATA ends in the middle of a field")
        _, id, size = _DATA.unpack_from(payload)
        if len(payload) != _DATA.size + size:
            raise PeerError("a CHANNEL_DATA has another length than it says")
        channel, gathering = self._table.get(id), self._loan
        if gathering is not None and (
            gathering is not channel or size > GATHERED_BYTES or len(self._loans) >= MOST_PIECES
        ):
            self.data_settled()
            gathering = None
        if not isinstance(channel, Channel):
            self.strays += 1
            return
        window = channel.window
        if size < CHAT_BYTES and window.chats(size):
            self.chatted()
        try:
            window.received(size)
        except PeerError as error:
            self.data_settled()
            self._offends(channel, error)
            return
        self._arrived_bytes += size
        data = payload[_DATA.size :]
        if gathering is not None:
            self._loans.append(data)
        elif not channel.lending:
            if not channel.received(data):
                self.strays += 1
        elif size > GATHERED_BYTES:
            channel.received_all((data,))
        else:
            self._loan = channel
            self._loans.append(data)

    def data_settled(self) -> None:
        """Hand over the data that was gathered."""
        channel, self._loan = self._loan, None
        if channel is not None:
            pieces, self._loans = self._loans, []
            channel.received_all(pieces)

    def _extended_data(self, packet: bytes) -> None:
        reader = Reader(packet, "CHANNEL_EXTENDED_DATA")
        channel, _, data = self._channel(reader.uint32()), reader.uint32(), reader.string()
        if channel is not None:
            self._obeys(channel, channel.received_error, data)

    def _eof(self, packet: bytes) -> None:
        channel = self._channel(Reader(packet, "CHANNEL_EOF").uint32())
        if channel is not None and not channel.eof_received():
            self.strays += 1

    def _close(self, packet: bytes) -> None:
        id = Reader(packet, "CHANNEL_CLOSE").uint32()
        if isinstance(self._table.get(id), Closing):
            del self._table[id]
            return
        channel = self._channel(id)
        if channel is not None and not channel.close_received():
            self.strays += 1

    def _channel_request(self, packet: bytes) -> None:
        reader = Reader(packet, "CHANNEL_REQUEST")
        id, name, wants_reply = reader.uint32(), reader.string(_NAME_BYTES), reader.boolean()
        channel = self._channel(id)
        if channel is None:
            return
        done = channel.connected and channel.take_request(name, reader.rest())
        if wants_reply:
            self.send(CHANNEL_SUCCESS if done else CHANNEL_FAILURE, channel.far_id)

    def _stray(self, packet: bytes) -> None:
        """The answer to a request on a channel: there are none of ours that want one."""
        self.strays += 1

    _messages: ClassVar[dict[int, Callable[[Connection, bytes], None]]] = {
        GLOBAL_REQUEST: _global_request,
        REQUEST_SUCCESS: _request_success,
        REQUEST_FAILURE: _request_failure,
        CHANNEL_OPEN: _open,
        CHANNEL_OPEN_CONFIRMATION: _open_confirmation,
        CHANNEL_OPEN_FAILURE: _open_failure,
        CHANNEL_WINDOW_ADJUST: _window_adjust,
        CHANNEL_EXTENDED_DATA: _extended_data,
        CHANNEL_EOF: _eof,
        CHANNEL_CLOSE: _close,
        CHANNEL_REQUEST: _channel_request,
        CHANNEL_SUCCESS: _stray,
        CHANNEL_FAILURE: _stray,
    }
