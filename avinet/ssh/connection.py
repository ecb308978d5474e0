"""RFC 4254: many channels and requests over one authenticated connection, whoever has it.

A subclass says which channels and global requests of the peer make sense; everything else is refused, and the
connection lives. The table of channels forgives: a message for a channel that is not open is counted, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.errors import PeerError, TooMany, Unavailable
from avinet.flow.window import CHAT_BYTES
from avinet.sockets import MOST_PIECES
from avinet.ssh.channel import Channel
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_EOF,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CHANNEL_WINDOW_ADJUST,
    DRAIN,
    GLOBAL_REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
)
from avinet.ssh.opening import (
    Accepting,
    ChannelLimits,
    Closing,
    Opening,
    RequestRefused,
)
from avinet.ssh.sending import DATA_HEAD
from avinet.ssh.strings import Reader, string
from avinet.ssh.table import KIND_BYTES, Channels

GATHERED_BYTES = 64 * 1024
"""Packets of a peer that are not larger are lent several at once."""


class Connection(Channels):
    """One end of the `ssh-connection` service. Subclasses override `accept`, `requested`, and what else they need."""

    name = b"ssh-connection"
    log = Logger()

    def __init__(self, clock: IReactorTime, limits: ChannelLimits | None = None) -> None:
        super().__init__(clock, limits)
        self._requests: list[Deferred[bytes]] = []
        self._loan: Channel | None = None
        self._loans: list[memoryview] = []

    # what subclasses say

    def requested(self, name: bytes, body: bytes) -> bytes | None:
        """The answer to a global request of the peer; None refuses it."""
        return None

    def stopped(self) -> None:
        """The connection is gone, and all channels with it."""

    # what an application does

    @override
    def request(self, name: bytes, body: bytes = b"") -> Deferred[bytes]:
        """What the peer answers to a global request. Fails with `RequestRefused`, `TooMany` or `Unavailable`."""
        answered: Deferred[bytes] = Deferred()
        if self.ended:
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
        if self.ended:
            return
        self.stop_sending()
        self._loan = None
        self._loans.clear()
        entries = list(self._table.values())
        self._table.clear()
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
        self.hurry()
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

    # global requests

    def _global_request(self, packet: bytes) -> None:
        reader = Reader(packet, "GLOBAL_REQUEST")
        name, wants_reply = reader.string(KIND_BYTES), reader.boolean()
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
        if len(payload) < DATA_HEAD.size:
            raise PeerError("a CHANNEL_DATA ends in the middle of a field")
        _, id, size = DATA_HEAD.unpack_from(payload)
        if len(payload) != DATA_HEAD.size + size:
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
        if size < CHAT_BYTES and channel.priority.waited_for and window.chats(size):
            self.chatted()
        try:
            window.received(size)
        except PeerError as error:
            self.data_settled()
            self._offends(channel, error)
            return
        self._arrived_bytes += size
        data = payload[DATA_HEAD.size :]
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
        id, name, wants_reply = reader.uint32(), reader.string(KIND_BYTES), reader.boolean()
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
        CHANNEL_OPEN: Channels.open_received,
        CHANNEL_OPEN_CONFIRMATION: Channels.confirmation_received,
        CHANNEL_OPEN_FAILURE: Channels.failure_received,
        CHANNEL_WINDOW_ADJUST: _window_adjust,
        CHANNEL_EXTENDED_DATA: _extended_data,
        CHANNEL_EOF: _eof,
        CHANNEL_CLOSE: _close,
        CHANNEL_REQUEST: _channel_request,
        CHANNEL_SUCCESS: _stray,
        CHANNEL_FAILURE: _stray,
    }
