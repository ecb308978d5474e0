"""The lower half of a connection: RFC 4253's greeting and packets over any transport, deadlines, and back-pressure.

Over the transports of `avinet.sockets` what arrives is opened where it lies, and what is sent in one go is sealed into
one batch and written with one system call; little things wait for the end of the turn of a reactor that has one, as
`avinet.loop` gives it. Over any other transport and reactor the same code works with a few more copies and calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_PROTOCOL_ERROR,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet import __version__
from avinet.errors import AvinetError, PeerError, TimedOut
from avinet.sockets import Lender, has_all_of
from avinet.ssh import phases
from avinet.ssh.messages import CHANNEL_DATA
from avinet.ssh.packets import Inbound
from avinet.ssh.phases import Exchange, Stage, Verdict
from avinet.ssh.policy import Policy
from avinet.ssh.shown import printable, shown_address
from avinet.ssh.strings import string, uint32
from avinet.ssh.writing import PacketWriter

_KIND = b"SSH-2.0-avinet_"
VERSION = _KIND + __version__.encode("ascii")


def _nothing() -> None:
    """Do nothing."""


@runtime_checkable
class TakesData(Protocol):
    """A service that takes CHANNEL_DATA as it lies in memory."""

    def data_received(self, payload: memoryview) -> None:
        """Take a whole message, its number first, which is good until `data_settled`."""

    def data_settled(self) -> None:
        """The messages before this are not good any longer."""


class BinaryPackets(PacketWriter):
    """What is below key exchange and services; `Transport` is the rest of it."""

    __slots__ = (
        "_deadline",
        "_hasty_bytes",
        "_held",
        "_inbound",
        "_read_least",
        "_settle_data",
        "_take_data",
        "address",
        "heard_at",
        "unknown_messages",
        "why",
    )

    log = Logger()
    transport: Any

    def __init__(self, clock: IReactorTime, policy: Policy) -> None:
        super().__init__(clock, policy)
        self.ourVersionString = VERSION
        self.address = ""
        self.why = ""
        self.unknown_messages = 0
        self.heard_at = clock.seconds()
        self._inbound = Inbound(policy.packet_bytes_before_login)
        self._deadline: IDelayedCall | None = None
        self._held = False
        self._hasty_bytes = 0
        self._take_data: Callable[[memoryview], None] | None = None
        self._settle_data: Callable[[], None] = _nothing
        self._read_least: Callable[[int], None] = lambda count: None

    # the connection

    @override
    def connectionMade(self) -> None:
        wire = self.transport
        self.address = shown_address(wire.getPeer())
        if ITCPTransport.providedBy(wire):
            wire.setTcpNoDelay(True)
            wire.setTcpKeepAlive(True)
        if has_all_of(wire, Lender):
            wire.lend_to(self)
            self._lend = wire.lend
        self._read_least = getattr(wire, "read_least", self._read_least)
        wire.registerProducer(self, True)
        self._arm(self.policy.login_s, self._late)
        self._outbound.begin(self.ourVersionString + b"\r\n")
        self.sendKexInit()

    def _arm(self, seconds: float, expire: Callable[[], None]) -> None:
        """Set the one deadline that is running: for the login, for new keys, or for closing."""
        self._disarm()
        self._deadline = self._clock.callLater(seconds, expire)

    def _disarm(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _late(self) -> None:
        if self.phases.stage is Stage.CONNECTED:
            self.fail(TimedOut(f"it did not finish a key exchange within {self.policy.rekey_timeout_s:g} s"))
        else:
            self.fail(TimedOut(f"it did not log in within {self.policy.login_s:g} s"))

    @override
    def fail(self, error: AvinetError, code: int = DISCONNECT_PROTOCOL_ERROR) -> None:
        """End the connection because of `error`, with one line in the log."""
        if not self.closing:
            self.blame(error)
            self.close(str(error), code)

    def blame(self, error: AvinetError) -> None:
        """Say once why the peer was cut off."""
        self.log.warn("closed the connection of {peer}: {why}", peer=self.address, why=str(error))

    def close(self, why: str, code: int = DISCONNECT_BY_APPLICATION) -> None:
        """End the connection in order, telling the peer `why`; what is still unsent after a while is dropped."""
        if not self.closing:
            self.sendPacket(phases.DISCONNECT, uint32(code) + string(why.encode("utf-8")) + string(b""))
            self._leave(why)

    def _leave(self, why: str) -> None:
        self._flush()
        self.why = self.why or why
        self.closing = True
        self._forget()
        self._waiting.clear()
        self._arm(self.policy.close_s, self.transport.abortConnection)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Drop the connection at once."""
        self.closing = True
        self._forget()
        self._outbound.clear()
        self.transport.abortConnection()

    def _forget(self) -> None:
        """What has arrived will not be taken."""
        self._inbound.clear()
        if not self._running:
            self._inbound.settle()

    @override
    def loseConnection(self) -> None:
        self.close("closed")

    @override
    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Conch's own way to give up on a peer, in the middle of a key exchange."""
        self.fail(PeerError(printable(desc.encode() if isinstance(desc, str) else desc)), reason)

    @override
    def connectionLost(self, reason: Failure | None = None) -> None:
        self.closing = True
        self._disarm()
        self._forget()
        self._waiting.clear()
        self._outbound.clear()
        self._take_data, self._settle_data = None, _nothing
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()

    # what arrives

    def buffer(self) -> memoryview:
        """Where to read what comes next."""
        return self._inbound.space()

    def lent(self, data: memoryview) -> None:
        """Take the packets in `data`, which was read into `buffer`."""
        if self.closing:
            self._forget()
            return
        self._inbound.filled(len(data))
        self._work()
        self._read_least(self._inbound.missing)

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        """Take the packets in several pieces of data."""
        for piece in pieces:
            self.dataReceived(piece)

    @override
    def dataReceived(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left and not self.closing:
            buffer = self._inbound.space()
            count = min(len(buffer), len(left))
            buffer[:count] = left[:count]
            self.lent(buffer[:count])
            left = left[count:]

    def _work(self) -> None:
        """Take what has arrived; what is sent because of it goes out in one batch."""
        if self._running:
            return
        self._running = True
        self._corks += 1
        try:
            self._advance()
        except Exception as fault:
            self._at_fault(fault)
        finally:
            self._inbound.settle()
            self.uncork()
            self._running = False

    def _at_fault(self, fault: Exception) -> None:
        """The peer's fault, just raised, ends its connection, and one of ours too, but that is logged as such."""
        if isinstance(fault, PeerError):
            self.fail(fault)
        else:
            self.log.failure("a fault of ours ended the connection of {peer}", peer=self.address)
            self.close("an internal error")

    def _advance(self) -> None:
        try:
            while not self._held and len(self._inbound) and self._take():
                pass
        finally:
            self._settle_data()
        if self._held and len(self._inbound) > self.policy.held_bytes:
            raise PeerError("it did not wait for the answer to its authentication")
        self.heard_at = self._clock.seconds()
        self._rekey_when_due()

    def _take(self) -> bool:
        """Take one line or packet out of what has arrived; False when there is no whole one."""
        if not self.gotVersion:
            line = self._inbound.next_line()
            if line is not None:
                self._greeted(line)
            return line is not None
        before = len(self._inbound) if self._hasty_bytes > 0 else 0
        payload = self._inbound.next_packet()
        if payload is None:
            return False
        number = payload[0]
        if before:
            self._hasty_bytes -= before - len(self._inbound)
            if number >= 80:
                raise PeerError(f"it sent message {number} before it was told that it is logged in")
        if number == CHANNEL_DATA and self._take_data is not None and self.phases.exchange is Exchange.NONE:
            self._take_data(payload)
            return True
        verdict = self.phases.received(number)
        if verdict is Verdict.TAKE:
            self.dispatchMessage(number, bytes(payload[1:]))
        elif verdict is Verdict.UNKNOWN:
            self.sendUnimplemented()
        return True

    def _greeted(self, line: bytes) -> None:
        """A line of the greeting: the version, or on a client one of those that a server may send before it."""
        if not line.startswith(b"SSH-"):
            if not self.isClient:
                raise PeerError("what came first is no SSH version")
            self.why = printable(line)
            return
        if not line.startswith(b"SSH-2.0-") or not (line.isascii() and line.decode().isprintable()):
            raise PeerError(f"its version is {printable(line[:60])!r}, and not SSH-2.0")
        self.why = ""
        self.gotVersion = True
        self.otherVersionString = line
        limit_unsent = getattr(self.transport, "limit_unsent", None)
        if limit_unsent is not None:
            limit_unsent(self.policy.unsent_bytes if self.kindred else self.policy.stock_unsent_bytes)

    @property
    def kindred(self) -> bool:
        """Whether the peer is of our own kind."""
        return self.otherVersionString.startswith(_KIND)

    def distrust_early(self) -> None:
        """What has come already was sent by a peer that did not know yet how its login ends: no channels in it."""
        self._hasty_bytes = len(self._inbound)

    def hold(self) -> None:
        """Take no more packets until `release`; the peer may send only little meanwhile."""
        self._held = True

    def release(self) -> None:
        """Take packets again."""
        self._held = False
        if not self.closing:
            self._work()

    @override
    def sendUnimplemented(self) -> None:
        self.unknown_messages += 1
        if self.unknown_messages > self.policy.unknown_messages:
            raise PeerError("it sent too many unknown messages")
        last = (self._inbound.sequence - 1) % (1 << 32)
        self.sendPacket(phases.UNIMPLEMENTED, uint32(last))

    # what is above

    @override
    def setService(self, service: SSHService) -> None:
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        service.serviceStarted()
        if has_all_of(service, TakesData):
            self._take_data, self._settle_data = service.data_received, service.data_settled
        else:
            self._take_data, self._settle_data = None, _nothing
        self._paced = False
        self._pace()
