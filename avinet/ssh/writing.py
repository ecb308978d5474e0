"""What a connection sends: packets in batches, what waits for new keys, and back-pressure on the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from twisted.conch.ssh.transport import DISCONNECT_PROTOCOL_ERROR, SSHTransportBase
from twisted.internet.interfaces import IPushProducer, IReactorTime
from typing_extensions import override
from zope.interface import implementer

from avinet.errors import AvinetError, PeerError
from avinet.sockets import READ_BYTES, has_all_of
from avinet.ssh import phases
from avinet.ssh.ciphers import Buffer
from avinet.ssh.packets import MOST_PAYLOAD_BYTES, Outbound
from avinet.ssh.phases import Phases
from avinet.ssh.policy import Policy

BATCH_BYTES = READ_BYTES
"""What is sealed before it is written, however much there is to send."""
GATHERED_BYTES = 512
"""A batch that is not larger waits for what else is sent in the reactor's turn."""


@runtime_checkable
class Paced(Protocol):
    """A service that stops sending when it is asked to."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


@implementer(IPushProducer)
class PacketWriter(SSHTransportBase):
    """The outgoing half of `BinaryPackets`."""

    __slots__ = (
        "_backlog_bytes",
        "_clock",
        "_corks",
        "_end_of_turn",
        "_full",
        "_lend",
        "_outbound",
        "_paced",
        "_running",
        "_waiting",
        "closing",
        "phases",
        "policy",
    )
    """There is a dictionary too, for what Conch keeps; it is small as long as it has at most 30 names."""

    transport: Any

    def __init__(self, clock: IReactorTime, policy: Policy) -> None:
        self.policy = policy
        self.phases = Phases(client=self.isClient, packets_before_login=policy.packets_before_login)
        self.closing = False
        self._clock = clock
        self._outbound = Outbound()
        self._waiting: list[tuple[int, bytes]] = []
        self._backlog_bytes = 0
        self._full = False
        self._paced = False
        self._running = False
        self._corks = 0
        self._end_of_turn: Callable[[Callable[[], None]], None] | None = getattr(clock, "at_end_of_turn", None)
        self._lend: Callable[[memoryview], None] = lambda batch: self.transport.write(bytes(batch))

    @override
    def sendPacket(self, messageType: int, payload: bytes) -> None:
        self.send(messageType, (bytes((messageType,)), payload), 1 + len(payload))

    def send(self, number: int, pieces: Sequence[Buffer], size: int) -> None:
        """Send message `number`, of `size` bytes with its number, put together from `pieces`.

        It waits for the end of a key exchange, and it is dropped when the connection is closing.
        """
        if self.closing:
            return
        if self.phases.sending_blocked and not self.phases.may_send(number):
            self._waiting.append((number, b"".join(pieces)[1:]))
            self._count_backlog(size)
            return
        outbound = self._outbound
        if outbound.size + size > MOST_PAYLOAD_BYTES:
            self._flush()
        outbound.add(pieces, size)
        if number == phases.NEWKEYS or number == phases.KEXINIT:
            self.phases.sent(number)
            if number == phases.NEWKEYS:
                self._new_keys_sent()
        if not self._corks or outbound.size >= BATCH_BYTES:
            self._write()

    def place(self, before: int, size: int) -> memoryview | None:
        """Where to put the last `size` bytes of the next message that is sent, if that saves copying them.

        `before` bytes of the message stand before them, its number included.
        """
        outbound = self._outbound
        if self.closing or self.phases.sending_blocked or outbound.size + before + size > MOST_PAYLOAD_BYTES:
            return None
        return outbound.space(before, size)

    def cork(self) -> None:
        """Write what is sent in one batch, once `uncork` was called as often as this."""
        self._corks += 1

    def uncork(self) -> None:
        """The end of what `cork` began."""
        self._corks -= 1
        if not self._corks:
            self._write()

    def _write(self) -> None:
        """Write the batch: little of it at the end of the reactor's turn, with what else is sent until then."""
        if self._end_of_turn is not None and 0 < self._outbound.size <= GATHERED_BYTES:
            self._end_of_turn(self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        """Write the batch now."""
        outbound = self._outbound
        size = outbound.size
        if self.closing:
            return
        if not size:
            outbound.clear()
            return
        self._lend(outbound.view())
        outbound.clear()
        if self._full:
            self._count_backlog(size)
        if not self._running:
            self._rekey_when_due()

    def _count_backlog(self, count: int) -> None:
        self._backlog_bytes += count
        if self._backlog_bytes > self.policy.backlog_bytes:
            self._backlog_bytes = 0
            self.fail(PeerError("it does not take what is sent to it"))

    def _send_waiting(self) -> None:
        """Send what waited for new keys."""
        waiting, self._waiting = self._waiting, []
        self._backlog_bytes = 0
        for number, payload in waiting:
            self.sendPacket(number, payload)
        self._pace()

    def pauseProducing(self) -> None:
        """The socket takes no more for now."""
        self._full = True
        self._pace()

    def resumeProducing(self) -> None:
        """All that was written has been sent."""
        self._full = False
        self._backlog_bytes = 0
        self._pace()

    def stopProducing(self) -> None:
        """The socket is gone; `connectionLost` follows."""
        self._full = True

    def _pace(self) -> None:
        """Tell the service when it had better stop sending, and when it may go on."""
        paced = self._full or self.phases.sending_blocked
        if paced is not self._paced and has_all_of(self.service, Paced) and not self.closing:
            self._paced = paced
            if paced:
                self.service.pauseProducing()
            else:
                self.service.resumeProducing()

    # what is above

    def fail(self, error: AvinetError, code: int = DISCONNECT_PROTOCOL_ERROR) -> None:
        """End the connection because of `error`."""
        raise NotImplementedError

    def _rekey_when_due(self) -> None:
        """Ask for new keys when it is time."""
        raise NotImplementedError

    def _new_keys_sent(self) -> None:
        """NEWKEYS went out: what follows is sealed with the new keys."""
        raise NotImplementedError
