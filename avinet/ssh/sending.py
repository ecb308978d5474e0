"""The sending half of a connection: what its channels need of it, whose turn it is, and how much goes out at once."""

from __future__ import annotations

import struct
from collections.abc import Callable

from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.flow.turns import Turns
from avinet.sockets import READ_BYTES
from avinet.ssh.messages import CHANNEL_DATA
from avinet.ssh.outgoing import Outgoing
from avinet.ssh.transport import Transport

_HEAD = struct.Struct(">BI")
DATA_HEAD = struct.Struct(">BII")
"""What stands before the data of a CHANNEL_DATA: its number, the channel's, and how many bytes there are."""

COMPANY_S = 0.1
"""How long after a little thing was said a channel with much to send makes room for others."""
COMPANY_BYTES = 32 * 1024
"""What it sends at once then."""
STOCK_BATCH_BYTES = 512 * 1024
"""What a channel to a peer of another kind sends at once, in its small packets."""


class Sending(SSHService):
    """The lower half of `Connection`: a `Carrier` but for windows and the ends of channels."""

    transport: Transport

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.flowing = True
        """Whether what is sent now goes out at once, and nobody waits for a turn."""
        self.ended = False
        """Whether nothing is sent any more."""
        self._turns: Turns[Outgoing] = Turns()
        self._chat_at = float("-inf")
        self._paused = False
        self._sending = False
        self._soon: list[Callable[[], None]] = []
        self._wakeup: IDelayedCall | None = None

    def pauseProducing(self) -> None:
        """What is sent backs up below: channels wait for their turn."""
        self._paused = True
        self._reckon()

    def resumeProducing(self) -> None:
        """What was sent has gone out."""
        self._paused = False
        self._reckon()
        self._send_ready()

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
            transport.send(CHANNEL_DATA, (DATA_HEAD.pack(CHANNEL_DATA, channel, size), data), DATA_HEAD.size + size)
            return size
        sent = 0
        transport.cork()
        while sent < size:
            piece = data[sent : sent + packet_bytes]
            count = len(piece)
            transport.send(CHANNEL_DATA, (DATA_HEAD.pack(CHANNEL_DATA, channel, count), piece), DATA_HEAD.size + count)
            sent += count
            if not self.flowing:
                break
        transport.uncork()
        return sent

    def place(self, size: int) -> memoryview | None:
        """Where `size` bytes that `send_data` sends next may be put, so that they are not copied."""
        return self.transport.place(DATA_HEAD.size, size)

    def cork(self) -> None:
        """What is sent until `uncork` goes out as one."""
        self.transport.cork()

    def uncork(self) -> None:
        """The end of what `cork` began."""
        self.transport.uncork()

    def _reckon(self) -> None:
        """See whether what is sent now goes out at once."""
        self.flowing = not (self._paused or self._turns or self.ended)

    @property
    def batch_bytes(self) -> int:
        """How much one channel may send at once: little while others say little things and wait for the answer."""
        if self.in_company:
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
    def in_company(self) -> bool:
        """Whether little things are being said."""
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

    def stop_sending(self) -> None:
        """The connection is gone: nobody waits for a turn any more."""
        self.ended = True
        self._turns.clear()
        self._reckon()

    # what is to be done later

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

    def hurry(self) -> None:
        """Do now all that was to be done soon, and what comes of it."""
        while self._wakeup is not None:
            if self._wakeup.active():
                self._wakeup.cancel()
            self._run_soon()
