"""The server: a Twisted factory for a node's port 22, and with other settings for the SSH service inside a tunnel."""

from __future__ import annotations

from collections.abc import Callable
from random import random as uniform
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.transport import (
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    DISCONNECT_TOO_MANY_CONNECTIONS,
    SSHServerTransport,
)
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.errors import AvinetError, PeerError, TooMany
from avinet.flow.allowance import source_of
from avinet.ssh import phases
from avinet.ssh.auth import Admission, AuthServer, retry_text
from avinet.ssh.binary import VERSION
from avinet.ssh.exchange import EXCHANGES
from avinet.ssh.gate import Gate, Limits
from avinet.ssh.identity import Identity, Refusal
from avinet.ssh.packets import Outbound
from avinet.ssh.phases import Stage
from avinet.ssh.policy import Policy
from avinet.ssh.shown import host_of, printable, shortened, shown_address
from avinet.ssh.strings import ED25519, Reader, ed25519_blob, string, uint32
from avinet.ssh.transport import ConnectionFactory, Transport

_LINE_BYTES = 200
"""What is logged of a peer that was refused, whatever it said."""
_USER_BYTES = 20


class HostKey:
    """What a server proves itself with."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.blob = ed25519_blob(private_key.public_key().public_bytes_raw())
        self._sign = private_key.sign

    def signature(self, data: bytes) -> bytes:
        """The signature of `data`, as it is sent (RFC 8709 §6)."""
        return string(ED25519) + string(self._sign(data))


class ServerTransport(Transport, SSHServerTransport):
    """The server's end of one connection.

    `left_gate` is called once: when the peer has logged in, or when it is gone without, with how far it came. `refused`
    is called at most once, when it is gone without and is to blame for that; `turned_down` for each claim of who it is
    that proved nothing; `ended` once, when it is gone.
    """

    __slots__ = (
        "_admission",
        "_connection",
        "_ended",
        "_left_gate",
        "_refusal",
        "_refused",
        "_turned_down",
        "host_key",
    )

    def __init__(
        self,
        clock: IReactorTime,
        policy: Policy,
        host_key: HostKey,
        admission: Admission,
        connection: ConnectionFactory,
        left_gate: Callable[[Stage], None],
        refused: Callable[[Refusal], None],
        turned_down: Callable[[Refusal], None],
        ended: Callable[[ServerTransport], None],
    ) -> None:
        super().__init__(clock, policy)
        self.host_key = host_key
        self._admission = admission
        self._connection = connection
        self._left_gate = left_gate
        self._refused = refused
        self._turned_down = turned_down
        self._ended = ended
        self._refusal: Refusal | None = None

    def _remember(self, refusal: Refusal) -> None:
        """The last claim that was turned down: what is said of the peer if it never gets in."""
        self._refusal = refusal
        self._turned_down(refusal)

    @override
    def blame(self, error: AvinetError) -> None:
        if self.identity is not None:
            super().blame(error)
        elif self._refusal is None:
            self._refusal = Refusal(self.address, str(error))

    @override
    def exchange_received(self, payload: bytes) -> None:
        reader = Reader(payload, "key exchange")
        theirs = reader.string()
        reader.end()
        assert self.algorithms is not None
        ours, secret = EXCHANGES[self.algorithms.key_exchange].answered(theirs)
        host_key = self.host_key
        exchange_hash = self.exchange_hash(host_key.blob, theirs, ours, secret)
        answer = string(host_key.blob) + string(ours) + string(host_key.signature(exchange_hash))
        self.sendPacket(phases.KEX_REPLY, answer)
        self.exchanged(secret, exchange_hash)

    @override
    def service_received(self, payload: bytes) -> None:
        reader = Reader(payload, "SERVICE_REQUEST")
        name = reader.string()
        reader.end()
        if name != AuthServer.name:
            self.fail(PeerError(f"it asked for the service {printable(name)!r}"), DISCONNECT_SERVICE_NOT_AVAILABLE)
            return
        self.sendPacket(phases.SERVICE_ACCEPT, string(name))
        self.phases.login_began()
        self.setService(AuthServer(self._admission, self._connection, self.policy.auth_requests, self._remember))

    @override
    def logged_in(self, identity: Identity, connection: ConnectionFactory) -> None:
        self._left_gate(Stage.CONNECTED)
        self.distrust_early()
        self.sendPacket(phases.USERAUTH_SUCCESS, b"")
        super().logged_in(identity, connection)

    @override
    def connectionLost(self, reason: Failure | None = None) -> None:
        super().connectionLost(reason)
        if self.identity is not None:
            self._admission.left(self.identity)
        else:
            self._left_gate(self.phases.stage)
            if self._refusal is not None:
                self._refused(self._refusal)
        self._ended(self)


class _TurnedAway(Protocol):
    """A peer that is told to come back later, and nothing else.

    It reads so twice: in a line before the version (RFC 4253 §4.2), for who looks no further, and in a DISCONNECT.
    """

    transport: Any

    def __init__(self, error: TooMany, clock: IReactorTime, close_s: float) -> None:
        self._error = error
        self._clock = clock
        self._close_s = close_s

    @override
    def connectionMade(self) -> None:
        text = retry_text(self._error).encode("utf-8")
        greeting = b"avinet: " + text + b"\r\n" + VERSION + b"\r\n"
        told = bytes((phases.DISCONNECT,)) + uint32(DISCONNECT_TOO_MANY_CONNECTIONS) + string(text) + string(b"")
        self._deadline = self._clock.callLater(self._close_s, self.transport.abortConnection)
        self.transport.write(greeting + Outbound().seal(told))
        self.transport.loseConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._deadline.active():
            self._deadline.cancel()


class Server(Factory):
    """Makes the server's end of each connection.

    `connection` makes the service of a peer that `admission` has let in. `on_refused` is told of every peer that was
    not let in and is to blame for it; one warning line says the same. `on_claim` is told of each claim to be somebody
    that was turned down. `late_s` tells how late the event loop is.
    """

    log = Logger()
    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        host_key: Ed25519PrivateKey,
        admission: Admission,
        connection: ConnectionFactory,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        random: Callable[[], float] = uniform,
        late_s: Callable[[], float] = lambda: 0.0,
        on_refused: Callable[[Refusal], None] | None = None,
        on_claim: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self.policy = policy or Policy()
        self.turned_away = 0
        self._clock = clock
        self._host_key = HostKey(host_key)
        self._admission = admission
        self._connection = connection
        self._gate = Gate(limits or Limits(), clock.seconds, random, late_s)
        self._on_refused = on_refused
        self._on_claim = on_claim
        self._open: set[ServerTransport] = set()

    @property
    def logging_in(self) -> int:
        """How many connections are not logged in yet."""
        return len(self._gate)

    @property
    def connections(self) -> int:
        """How many connections there are, logged in or not."""
        return len(self._open)

    @override
    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        source = source_of(host_of(addr))
        try:
            self._gate.enter(source)
        except TooMany as error:
            self.turned_away += 1
            self._refused(Refusal(shown_address(addr), str(error)))
            return _TurnedAway(error, self._clock, self.policy.close_s)
        transport = ServerTransport(
            self._clock,
            self.policy,
            self._host_key,
            self._admission,
            self._connection,
            lambda stage: self._gate.leave(source, stage),
            self._refused,
            self._on_claim,
            self._open.discard,
        )
        self._open.add(transport)
        return transport

    def _refused(self, refusal: Refusal) -> None:
        user = shortened(refusal.user, _USER_BYTES)
        key = refusal.fingerprint
        who = f" (user {user!r}, key {key})" if refusal.user or refusal.public_key else ""
        left = _LINE_BYTES - len(f"refused {refusal.address}: {who}".encode())
        self.log.warn(
            "refused {peer}: {why}{who}",
            peer=refusal.address,
            why=shortened(refusal.why, left),
            who=who,
            user=user,
            key=key,
        )
        if self._on_refused is not None:
            self._on_refused(refusal)

    def prove_with(self, host_key: Ed25519PrivateKey) -> None:
        """Show another host key to who dials from now on; a connection keeps the one that it began with."""
        self._host_key = HostKey(host_key)

    def close(self, why: str) -> None:
        """End all connections in order, telling the peers `why`."""
        for transport in list(self._open):
            transport.close(why)
