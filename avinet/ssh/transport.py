"""RFC 4253 over Conch: packets in their order, key exchange, and an authenticated connection for a service on top.

The service is made by a factory that is handed the `Identity` of the peer once both ends know each other. It is a Conch
`SSHService`; what it may use of its transport:

- `sendPacket(number, payload)` queues during a key exchange, and drops when the connection is closing;
- `pauseProducing` and `resumeProducing` of a service that is `Paced` are called when what is to be sent backs up and
  when it has drained;
- a `PeerError` out of `packetReceived` ends the connection, and so does `fail(error)` from anywhere else;
- `sendUnimplemented()` answers what it does not know, `close(why)` ends the connection in order;
- `identity`, `algorithms`, `exchanges`, `address` and `otherVersionString` are there to be shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_PROTOCOL_ERROR,
    SSHTransportBase,
)
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet import __version__
from avinet.errors import AvinetError, PeerError, TimedOut
from avinet.ssh import phases
from avinet.ssh.ciphers import Keys
from avinet.ssh.identity import Identity
from avinet.ssh.negotiation import Algorithms, Proposal, agree, guessed_wrong
from avinet.ssh.packets import Inbound, Outbound
from avinet.ssh.phases import Phases, Stage, Verdict
from avinet.ssh.policy import STRICT_CLIENT, STRICT_SERVER, Policy
from avinet.ssh.strings import Reader, string, uint32

_SHOWN = 160
_KEXINIT_BYTES = 35000

VERSION = b"SSH-2.0-avinet_" + __version__.encode("ascii")
ConnectionFactory = Callable[[Identity], SSHService]


@runtime_checkable
class Paced(Protocol):
    """A service that stops sending when it is asked to."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def host_of(address: object) -> str:
    """The IP address in `address`; empty when it has none, as inside a tunnel."""
    return address.host if isinstance(address, (IPv4Address, IPv6Address)) else ""


def shown_address(address: object) -> str:
    """`address` as it is logged."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return "a tunnel"


def printable(data: bytes) -> str:
    """What a peer said, cut and escaped so that it fits into a line of a log."""
    text = data[: _SHOWN + 1].decode("utf-8", "replace")
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)


@implementer(IPushProducer)
class Transport(SSHTransportBase):
    """What both roles share: packets, order, key exchange, deadlines and back-pressure."""

    log = Logger()
    transport: Any

    def __init__(self, clock: IReactorTime, policy: Policy) -> None:
        self.ourVersionString = VERSION
        self.policy = policy
        self.phases = Phases(client=self.isClient, packets_before_login=policy.packets_before_login)
        self.identity: Identity | None = None
        self.algorithms: Algorithms | None = None
        self.address = ""
        self.why = ""
        self.closing = False
        self.unknown_messages = 0
        self.exchanges = 0
        self._clock = clock
        self._inbound = Inbound(policy.packet_bytes_before_login)
        self._outbound = Outbound()
        self._deadline: IDelayedCall | None = None
        self._waiting: list[tuple[int, bytes]] = []
        self._backlog_bytes = 0
        self._keyed_at = 0.0
        self._full = False
        self._paced = False
        self._held = False
        self._running = False
        self._hasty_bytes = 0

    # the connection

    @override
    def connectionMade(self) -> None:
        wire = self.transport
        self.address = shown_address(wire.getPeer())
        if ITCPTransport.providedBy(wire):
            wire.setTcpNoDelay(True)
            wire.setTcpKeepAlive(True)
        wire.registerProducer(self, True)
        self._arm(self.policy.login_s, self._late)
        super().connectionMade()

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
        self.why = self.why or why
        self.closing = True
        self._inbound.clear()
        self._waiting.clear()
        self._arm(self.policy.close_s, self.transport.abortConnection)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        """Drop the connection at once."""
        self.closing = True
        self._inbound.clear()
        self.transport.abortConnection()

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
        self._waiting.clear()
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()

    # what arrives

    @override
    def dataReceived(self, data: bytes) -> None:
        if not self.closing:
            self._inbound.feed(data)
            self._guarded(self._advance)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work` for the peer: its faults end its connection, and ours too, but ours are logged as such."""
        try:
            work()
        except PeerError as error:
            self.fail(error)
        except Exception:
            self.log.failure("a fault of ours ended the connection of {peer}", peer=self.address)
            self.close("an internal error")

    def _advance(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            while not self._held and self._take():
                pass
        finally:
            self._running = False
        if self._held and len(self._inbound) > self.policy.held_bytes:
            raise PeerError("it did not wait for the answer to its authentication")

    def _take(self) -> bool:
        """Take one line or packet out of what has arrived; False when there is no whole one."""
        if not self.gotVersion:
            line = self._inbound.next_line()
            if line is not None:
                self._greeted(line)
            return line is not None
        before = len(self._inbound)
        payload = self._inbound.next_packet()
        if payload is None:
            return False
        number = payload[0]
        verdict = self.phases.received(number)
        if self._hasty_bytes > 0:
            self._hasty_bytes -= before - len(self._inbound)
            if number >= 80:
                raise PeerError(f"it sent message {number} before it was told that it is logged in")
        if verdict is Verdict.TAKE:
            self.dispatchMessage(number, payload[1:])
        elif verdict is Verdict.UNKNOWN:
            self.sendUnimplemented()
        self._rekey_when_due()
        return True

    def _greeted(self, line: bytes) -> None:
        """A line of the greeting: the version, or on a client one of those that a server may send before it."""
        if not line.startswith(b"SSH-"):
            if not self.isClient:
                raise PeerError("what came first is no SSH version")
            self.why = printable(line)
            return
        if not line.startswith(b"SSH-2.0-") or not all(32 <= char < 127 for char in line):
            raise PeerError(f"its version is {printable(line[:60])!r}, and not SSH-2.0")
        self.why = ""
        self.gotVersion = True
        self.otherVersionString = line

    @override
    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        match messageNum:
            case phases.DISCONNECT:
                self.ssh_DISCONNECT(payload)
            case phases.KEXINIT:
                self.ssh_KEXINIT(payload)
            case phases.NEWKEYS:
                self.new_keys_received(payload)
            case phases.KEX_INIT | phases.KEX_REPLY:
                self.exchange_received(payload)
            case phases.SERVICE_REQUEST | phases.SERVICE_ACCEPT:
                self.service_received(payload)
            case _:
                if self.service is not None:
                    self.service.packetReceived(messageNum, payload)

    def exchange_received(self, payload: bytes) -> None:
        """The peer's own message of the key exchange's method."""
        raise NotImplementedError

    def service_received(self, payload: bytes) -> None:
        """The peer asks for a service, or says that it runs."""
        raise NotImplementedError

    @override
    def ssh_DISCONNECT(self, packet: bytes) -> None:
        reader = Reader(packet, "DISCONNECT")
        self.told(reader.uint32(), printable(reader.string()))

    def told(self, code: int, text: str) -> None:
        """The peer ends the connection, for a reason of RFC 4253 §11.1."""
        self._leave(f"it said: {text}")

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
            self._guarded(self._advance)

    @override
    def sendUnimplemented(self) -> None:
        self.unknown_messages += 1
        if self.unknown_messages > self.policy.unknown_messages:
            raise PeerError("it sent too many unknown messages")
        last = (self._inbound.sequence - 1) % (1 << 32)
        self.sendPacket(phases.UNIMPLEMENTED, uint32(last))

    # what is sent

    @override
    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.closing:
            return
        if not self.phases.may_send(messageType):
            self._waiting.append((messageType, payload))
            self._count_backlog(len(payload))
            return
        packet = self._outbound.seal(bytes((messageType,)) + payload)
        self.transport.write(packet)
        self.phases.sent(messageType)
        if messageType == phases.NEWKEYS:
            self._new_keys_sent()
        elif messageType != phases.DISCONNECT:
            if self._full:
                self._count_backlog(len(packet))
            self._rekey_when_due()

    def _count_backlog(self, count: int) -> None:
        self._backlog_bytes += count
        if self._backlog_bytes > self.policy.backlog_bytes:
            self.fail(PeerError("it does not take what is sent to it"))

    def _new_keys_sent(self) -> None:
        self._outbound.switch(self._keys.sealing, restart=self.phases.strict)
        self._keyed_at = self._clock.seconds()
        waiting, self._waiting = self._waiting, []
        self._backlog_bytes = 0
        for number, payload in waiting:
            self.sendPacket(number, payload)
        self._pace()

    @override
    def setService(self, service: SSHService) -> None:
        if self.service is not None:
            self.service.serviceStopped()
        self.service = service
        service.transport = self
        service.serviceStarted()
        self._paced = False
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
        if paced is not self._paced and isinstance(self.service, Paced) and not self.closing:
            self._paced = paced
            if paced:
                self.service.pauseProducing()
            else:
                self.service.resumeProducing()

    # key exchange

    def rekey(self) -> None:
        """Ask for new keys now, unless that is under way."""
        if self.phases.stage is Stage.CONNECTED and not self.phases.exchanging and not self.closing:
            self.sendKexInit()

    def _rekey_when_due(self) -> None:
        if (
            self._outbound.sealed_bytes >= self.policy.rekey_bytes
            or self._inbound.taken_bytes >= self.policy.rekey_bytes
            or self._clock.seconds() - self._keyed_at >= self.policy.rekey_s
        ):
            self.rekey()

    @override
    def sendKexInit(self) -> None:
        body = Proposal.of(self.policy, client=self.isClient).encode(os.urandom(16))
        self.ourKexInitPayload = bytes((phases.KEXINIT,)) + body
        self.sendPacket(phases.KEXINIT, body)
        if self.phases.stage is Stage.CONNECTED:
            self._arm(self.policy.rekey_timeout_s, self._late)
            self._pace()

    @override
    def ssh_KEXINIT(self, packet: bytes) -> None:
        if len(packet) > _KEXINIT_BYTES:
            raise PeerError(f"its KEXINIT has {len(packet)} bytes")
        theirs = Proposal.decode(packet)
        self.otherKexInitPayload = bytes((phases.KEXINIT,)) + packet
        if not self.phases.sending_blocked:
            self.sendKexInit()
        ours = Proposal.of(self.policy, client=self.isClient)
        client, server = (ours, theirs) if self.isClient else (theirs, ours)
        marker = STRICT_SERVER if self.isClient else STRICT_CLIENT
        self.phases.proposed(
            strict=marker in theirs.key_exchanges, skip_guess=theirs.guessed and guessed_wrong(client, server)
        )
        chosen = self.algorithms = agree(client, server)
        self.kexAlg, self.keyAlg = chosen.key_exchange, chosen.host_key
        ends = ((chosen.cipher_to_client, chosen.mac_to_client), (chosen.cipher_to_server, chosen.mac_to_server))
        (out_cipher, out_mac), (in_cipher, in_mac) = reversed(ends) if self.isClient else ends
        self._keys = Keys(out_cipher, in_cipher, out_mac, in_mac)
        self.nextEncryptions: Any = self._keys

    def new_keys_received(self, packet: bytes) -> None:
        """The peer seals with its new keys from the next packet on."""
        if packet:
            raise PeerError("its NEWKEYS is not empty")
        opening = self.phases.stage is Stage.OPENING
        self._inbound.switch(self._keys.opening, restart=self.phases.strict)
        self.phases.keyed()
        self.exchanges += 1
        if opening:
            self.secured()
        else:
            self._disarm()

    def secured(self) -> None:
        """The first keys are in use in both directions."""

    def logged_in(self, identity: Identity, connection: ConnectionFactory) -> None:
        """Both ends know each other: a service of `connection` takes over."""
        self._disarm()
        self.phases.logged_in()
        self.identity = identity
        self._inbound.packet_bytes = self.policy.packet_bytes
        self._guarded(lambda: self.setService(connection(identity)))
