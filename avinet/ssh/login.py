"""The login: an endpoint that fires only when both ends know each other, for `ClientService` to dial again and again.

What it fires with is a protocol of the caller's factory, whose `transport` is the authenticated SSH transport, on which
`transport.service` runs. However the login fails, its connection is closed, and the error says why: `Unavailable` (with
`retry_after_s`) when the node cannot be reached or asks for patience, `TimedOut` past the deadline, `Unauthenticated`
when it does not take the key, `WrongHostKey` when it is not the pinned node, `PeerError` else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from twisted.conch.ssh.transport import DISCONNECT_TOO_MANY_CONNECTIONS, SSHClientTransport
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import as_deferred, within
from avinet.errors import AvinetError, PeerError, TimedOut, Unauthenticated, Unavailable
from avinet.ssh import phases
from avinet.ssh.auth import AuthClient
from avinet.ssh.exchange import EXCHANGES, Exchange
from avinet.ssh.identity import Identity
from avinet.ssh.policy import Policy
from avinet.ssh.strings import Reader, key_line, read_ed25519_blob, read_ed25519_signature, string
from avinet.ssh.transport import ConnectionFactory, Transport
from avinet.trust.keys import fingerprint, parse_public_line, public_line

_RETRY_AFTER = re.compile(r"\bretry-after=(\d{1,6})\b")
_RETRY_AFTER_CAP_S = 600.0
_NO_MORE_METHODS = 14


class WrongHostKey(PeerError):
    """The node shows a host key that is not pinned for it."""


@dataclass(frozen=True)
class Credentials:
    """Who logs in, by which key, and to whom: `host_keys` are the pins, as lines like `ssh-ed25519 AAAA…`."""

    user: str
    private_key: Ed25519PrivateKey
    host_keys: Collection[str]


class ClientTransport(Transport, SSHClientTransport):
    """The client's end of one connection; `where` names the node in errors.

    It takes only pinned host keys, compared by equality, and only nodes with strict key exchange.
    """

    def __init__(
        self, clock: IReactorTime, policy: Policy, credentials: Credentials, connection: ConnectionFactory, where: str
    ) -> None:
        super().__init__(clock, policy)
        self._settled = False
        self._failed: AvinetError | None = None
        self._waiter: Deferred[None] | None = None
        self.lost: Callable[[Failure], None] | None = None
        self._credentials = credentials
        self._pins = frozenset(public_line(parse_public_line(line)) for line in credentials.host_keys)
        self._connection = connection
        self._where = where
        self._host_key = b""
        self._exchange: Exchange

    @override
    def blame(self, error: AvinetError) -> None:
        if self.identity is not None:
            super().blame(error)
        else:
            self._settle(_about(self._where, error))

    @override
    def told(self, code: int, text: str) -> None:
        self._settle(_refusal(self._where, code, text))
        super().told(code, text)

    def ready(self) -> Deferred[None]:
        """Fires when both ends know each other, fails when the connection ends before that; cancelling drops it."""
        if self._failed is not None:
            return fail(self._failed)
        if self.identity is not None:
            return succeed(None)
        self._waiter = Deferred(lambda _: self.abortConnection())
        return self._waiter

    def _settle(self, error: AvinetError | None) -> None:
        """The login has ended: the first to say how is believed."""
        if self._settled:
            return
        self._settled, self._failed = True, error
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None) if error is None else waiter.errback(error)

    @override
    def ssh_KEXINIT(self, packet: bytes) -> None:
        super().ssh_KEXINIT(packet)
        if not self.phases.strict:
            raise PeerError("it does not offer strict key exchange")
        assert self.algorithms is not None
        self._exchange = EXCHANGES[self.algorithms.key_exchange]()
        self.sendPacket(phases.KEX_INIT, string(self._exchange.ours))

    @override
    def exchange_received(self, payload: bytes) -> None:
        reader = Reader(payload, "key exchange")
        host_key, answer, signature = reader.string(), reader.string(), reader.string()
        reader.end()
        public = read_ed25519_blob(host_key)
        self._check_pin(host_key)
        secret = self._exchange.secret(answer)
        exchange_hash = self.exchange_hash(host_key, self._exchange.ours, answer, secret)
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(read_ed25519_signature(signature), exchange_hash)
        except (InvalidSignature, ValueError):
            raise PeerError("it does not have the host key that it shows") from None
        self._host_key = host_key
        self.exchanged(secret, exchange_hash)

    def _check_pin(self, host_key: bytes) -> None:
        line = key_line(host_key)
        if self._host_key and host_key != self._host_key:
            was = fingerprint(key_line(self._host_key))
            raise WrongHostKey(f"its host key changed in mid-life from {was} to {fingerprint(line)}")
        if line not in self._pins:
            pinned = ", ".join(sorted(map(fingerprint, self._pins))) or "none"
            raise WrongHostKey(f"its host key is {fingerprint(line)}, and pinned is {pinned}")

    @override
    def secured(self) -> None:
        credentials = self._credentials
        self.requestService(AuthClient(credentials.user, credentials.private_key, self._accepted, self._rejected))

    @override
    def service_received(self, payload: bytes) -> None:
        reader = Reader(payload, "SERVICE_ACCEPT")
        if reader.string() != self.instance.name:
            raise PeerError("it accepted a service that it was not asked for")
        reader.end()
        self.phases.login_began()
        self.setService(self.instance)

    def _accepted(self) -> None:
        identity = Identity(self._credentials.user, key_line(self._host_key), self.address)
        self.logged_in(identity, self._connection)
        if not self.closing:
            self._settle(None)

    def _rejected(self) -> None:
        self._settle(Unauthenticated(f"{self._where} does not let {self._credentials.user} in with this key"))
        self.close("no other key to try", _NO_MORE_METHODS)

    @override
    def connectionLost(self, reason: Failure | None = connectionDone) -> None:
        super().connectionLost(reason)
        said = f": {self.why}" if self.why else ""
        self._settle(Unavailable(f"{self._where} closed the connection before the login{said}"))
        if self.lost is not None:
            self.lost(reason or Failure(connectionDone))


def _about(where: str, error: AvinetError) -> AvinetError:
    if isinstance(error, WrongHostKey):
        return WrongHostKey(f"{where} is not the node that it should be: {error}")
    if isinstance(error, TimedOut):
        return TimedOut(f"{where} is too slow: {error}")
    return PeerError(f"{where} does not log in as it should: {error}")


def _refusal(where: str, code: int, text: str) -> AvinetError:
    """The error for a DISCONNECT before the login."""
    if code == DISCONNECT_TOO_MANY_CONNECTIONS:
        found = _RETRY_AFTER.search(text)
        retry_after_s = min(float(found[1]), _RETRY_AFTER_CAP_S) if found else 1.0
        return Unavailable(f"{where} has no time: {text}", retry_after_s=retry_after_s)
    return Unavailable(f"{where} closed the connection before the login: {text}")


class _Dialling(Factory):
    """Builds the transport of a connection that is being dialled."""

    noisy = False

    def __init__(self, build: Callable[[], ClientTransport]) -> None:
        self._build = build

    @override
    def buildProtocol(self, addr: IAddress | None) -> ClientTransport:
        return self._build()


@implementer(IStreamClientEndpoint)
class LoginEndpoint:
    """Dials `endpoint`, logs in, and connects the protocol of the caller's factory to the authenticated transport.

    `where` names the node in errors; `connection` makes the service that runs once both ends know each other.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        credentials: Credentials,
        connection: ConnectionFactory,
        *,
        where: str,
        policy: Policy | None = None,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._credentials = credentials
        self._connection = connection
        self._where = where
        self._policy = policy or Policy()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        """A protocol of `protocolFactory` on the authenticated transport; cancelling closes what there is."""
        return as_deferred(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        transport = await within(self._clock, self._policy.login_s, self._log_in(), self._where)
        protocol = factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.close("not wanted any more")
            raise NoProtocol
        protocol.makeConnection(transport)  # type: ignore[arg-type]  # it provides what a stream transport does
        transport.lost = protocol.connectionLost
        return protocol

    async def _log_in(self) -> ClientTransport:
        try:
            transport = await self._endpoint.connect(_Dialling(self._transport))
        except (ConnectError, DNSLookupError) as error:
            raise Unavailable(f"{self._where} cannot be reached: {error}") from error
        except ConnectingCancelledError:
            raise CancelledError from None
        assert isinstance(transport, ClientTransport)
        await transport.ready()
        return transport

    def _transport(self) -> ClientTransport:
        return ClientTransport(self._clock, self._policy, self._credentials, self._connection, self._where)
