"""RFC 4253 over Conch: key exchange, and an authenticated connection for a service on top.

The service is made by a factory that is handed the `Identity` of the peer once both ends know each other. It is a Conch
`SSHService`; what it may use of its transport:

- `sendPacket(number, payload)` and `send(number, pieces, size)` queue during a key exchange, and drop when the
  connection is closing; between `cork()` and `uncork()` what is sent is written as one;
- `pauseProducing` and `resumeProducing` of a service that is `Paced` are called when what is to be sent backs up and
  when it has drained;
- a service that `TakesData` is handed CHANNEL_DATA where it lies in memory, everything else comes to `packetReceived`;
- a `PeerError` out of either ends the connection, and so does `fail(error)` from anywhere else;
- `sendUnimplemented()` answers what it does not know, `close(why)` ends the connection in order;
- `identity`, `algorithms`, `exchanges`, `address`, `heard_at` and `otherVersionString` are there to be shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from random import uniform

from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IReactorTime
from typing_extensions import override

from avinet.errors import PeerError
from avinet.ssh import phases
from avinet.ssh.binary import BinaryPackets
from avinet.ssh.ciphers import Keys
from avinet.ssh.exchange import derived
from avinet.ssh.identity import Identity
from avinet.ssh.negotiation import Algorithms, Proposal, agree, guessed_wrong
from avinet.ssh.phases import Stage
from avinet.ssh.policy import STRICT_CLIENT, STRICT_SERVER, Policy
from avinet.ssh.shown import printable
from avinet.ssh.strings import Reader, string

_TEXT_BYTES = 4096
_KEXINIT_BYTES = 8192
"""Several times what any implementation sends."""
_EARLIEST = 0.75
"""New keys come up to a quarter earlier than they must: a fleet that logged in at once does not rekey at once."""

ConnectionFactory = Callable[[Identity], SSHService]


class Transport(BinaryPackets):
    """What both roles share: the order of messages, key exchange, and the change to the service."""

    __slots__ = ("_keys", "_keys_until", "_proposal", "algorithms", "exchanges", "identity")

    def __init__(self, clock: IReactorTime, policy: Policy) -> None:
        super().__init__(clock, policy)
        self.identity: Identity | None = None
        self.algorithms: Algorithms | None = None
        self.exchanges = 0
        self._keys_until = float("inf")

    @override
    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum >= 80:
            if self.service is not None:
                self.service.packetReceived(messageNum, payload)
            return
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
        self.told(reader.uint32(), printable(reader.string(_TEXT_BYTES)))

    def told(self, code: int, text: str) -> None:
        """The peer ends the connection, for a reason of RFC 4253 §11.1."""
        self._leave(f"it said: {text}")

    # key exchange

    def rekey(self) -> None:
        """Ask for new keys now, unless that is under way."""
        if self.phases.stage is Stage.CONNECTED and not self.phases.exchanging and not self.closing:
            self.sendKexInit()

    @override
    def _rekey_when_due(self) -> None:
        policy, inbound, outbound = self.policy, self._inbound, self._outbound
        if (
            inbound.taken_bytes >= policy.rekey_bytes
            or outbound.sealed_bytes >= policy.rekey_bytes
            or inbound.taken_packets >= policy.rekey_packets
            or outbound.sealed_packets >= policy.rekey_packets
            or self.heard_at >= self._keys_until
        ):
            self.rekey()

    @override
    def sendKexInit(self) -> None:
        self._proposal = Proposal.of(self.policy, client=self.isClient)
        body = self._proposal.encode(os.urandom(16))
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
        client, server = (self._proposal, theirs) if self.isClient else (theirs, self._proposal)
        marker = STRICT_SERVER if self.isClient else STRICT_CLIENT
        self.phases.proposed(
            strict=marker in theirs.key_exchanges, skip_guess=theirs.guessed and guessed_wrong(client, server)
        )
        chosen = self.algorithms = agree(client, server, strict=self.phases.strict)
        ends = ((chosen.cipher_to_client, chosen.mac_to_client), (chosen.cipher_to_server, chosen.mac_to_server))
        (out_cipher, out_mac), (in_cipher, in_mac) = reversed(ends) if self.isClient else ends
        self._keys = Keys(out_cipher, in_cipher, out_mac, in_mac)

    def exchange_hash(self, host_key: bytes, to_server: bytes, to_client: bytes, secret: bytes) -> bytes:
        """What the server signs: all that was said in the exchange (RFC 8731 §3.1)."""
        ours = string(self.ourVersionString), string(self.ourKexInitPayload)
        theirs = string(self.otherVersionString), string(self.otherKexInitPayload)
        client, server = (ours, theirs) if self.isClient else (theirs, ours)
        proposals = client[0] + server[0] + client[1] + server[1]
        return sha256(proposals + string(host_key) + string(to_server) + string(to_client) + secret).digest()

    def exchanged(self, secret: bytes, exchange_hash: bytes) -> None:
        """Both ends have the secret: what is sent from now on is sealed with keys from it."""
        if self.sessionID is None:
            self.sessionID = exchange_hash
        to_server, to_client = derived(secret, exchange_hash, self.sessionID)
        if self.isClient:
            self._keys.derive(to_server, to_client)
        else:
            self._keys.derive(to_client, to_server)
        self.sendPacket(phases.NEWKEYS, b"")

    @override
    def _new_keys_sent(self) -> None:
        self._outbound.switch(self._keys.sealing, restart=self.phases.strict)
        self._keys_until = self._clock.seconds() + self.policy.rekey_s * uniform(_EARLIEST, 1)
        self._send_waiting()

    def new_keys_received(self, packet: bytes) -> None:
        """The peer seals with its new keys from the next packet on."""
        if packet:
            raise PeerError("its NEWKEYS is not empty")
        opening = self.phases.stage is Stage.OPENING
        self._inbound.switch(self._keys.opening, restart=self.phases.strict)
        self.phases.keyed()
        self.exchanges += 1
        del self._keys, self._proposal, self.ourKexInitPayload, self.otherKexInitPayload
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
        try:
            self.setService(connection(identity))
        except Exception as fault:
            self._at_fault(fault)
