"""TLS contexts: TLS 1.3 only, a certificate that is replaced while it serves, clients that verify the node's name.

Clients verify the node's name with service-identity, through Twisted's `optionsForClientTLS`, whatever address they
have dialled, and judge validity at a time that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import within
from avinet.trust.authority import Credential

_REASONS = {
    "certificate verify failed": "its certificate is not signed by {authority}, or not valid now",
    "unsupported protocol": "it does not speak TLS 1.3",
    "wrong version number": "what listens there does not speak TLS",
}
_ALERTS = ("alert bad certificate", "alert certificate expired", "alert certificate required", "alert unknown ca")
"""How OpenSSL's words end for a peer that has refused the certificate of this side."""


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """Makes the server's end of TLS connections with the credential that is current."""

    def __init__(self, credential: Credential, chain: Sequence[x509.Certificate]) -> None:
        self.replace(credential, chain)

    def replace(self, credential: Credential, chain: Sequence[x509.Certificate]) -> None:
        """Serve `credential` with the certificates of `chain` above it from now on; open connections stay."""
        self._context = ssl.CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(credential.key),
            certificate=crypto.X509.from_cryptography(credential.certificate),
            extraCertChain=[crypto.X509.from_cryptography(each) for each in chain],
            raiseMinimumTo=TLSVersion.TLSv1_3,
        ).getContext()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Makes the client's end of TLS connections to the node called `name`, under one of `roots`, judged `at` a time.

    No root of the system is trusted. `credential` is what the client shows of itself.
    """

    def __init__(
        self, name: str, roots: Sequence[x509.Certificate], at: datetime, credential: Credential | None = None
    ) -> None:
        trusted = [ssl.Certificate(crypto.X509.from_cryptography(root)) for root in roots]
        own = None if credential is None else ssl.PrivateCertificate.fromCertificateAndKeyPair(*_pair(credential))
        self._at = at
        self._verifying = ssl.optionsForClientTLS(
            name,
            trustRoot=ssl.trustRootFromCertificates(trusted),
            clientCertificate=own,
            extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_3},
        )

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection: SSL.Connection = self._verifying.clientConnectionForTLS(protocol)
        store = connection.get_context().get_cert_store()
        assert store is not None
        store.set_time(self._at)
        return connection


def _pair(credential: Credential) -> tuple[ssl.Certificate, ssl.KeyPair]:
    certificate = ssl.Certificate(crypto.X509.from_cryptography(credential.certificate))
    return certificate, ssl.KeyPair(crypto.PKey.from_cryptography_key(credential.key))


@implementer(IOpenSSLClientConnectionCreator)
class UnverifiedTLS:
    """Makes the client's end of TLS connections that only look at a certificate: nothing is to be sent on them."""

    def __init__(self, name: str) -> None:
        self._name = name.encode("ascii")
        self._context = ssl.CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_3).getContext()

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._name)
        return connection


@implementer(IHandshakeListener)
class _Look(Protocol):
    """Sees the certificates of a TLS server, and leaves."""

    transport: Any

    def __init__(self) -> None:
        self.chain: Deferred[list[x509.Certificate]] = Deferred()

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`."""
        chain = self.transport.getHandle().get_peer_cert_chain(as_cryptography=True) or []
        self.transport.abortConnection()
        if not self.chain.called:
            self.chain.callback(chain)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.chain.called:
            self.chain.errback(reason)


async def shown_chain(
    clock: IReactorTime, endpoint: IStreamClientEndpoint, name: str, patience_s: float, what: str
) -> list[x509.Certificate]:
    """The certificates that the server `name` at `endpoint` shows, its own first, whoever has signed them.

    The look is a connection of its own. Raises `TimedOut`, in which it is called `what`, and what Twisted raises.
    """
    factory = Factory.forProtocol(_Look)
    factory.noisy = False
    look: Any = await within(clock, patience_s, wrapClientTLS(UnverifiedTLS(name), endpoint).connect(factory), what)
    return await within(clock, patience_s, look.chain, what)


def refusal(failure: Failure, authority: str = "the root CA") -> str | None:
    """Why a TLS handshake failed, in a few plain words; None when the failure is of another kind.

    `authority` is what the CA is called that should have signed the other side's certificate.
    """
    error = failure.value
    reasons = getattr(error, "reasons", None)
    if reasons:
        return refusal(reasons[0], authority)
    if type(error).__module__.startswith("service_identity"):
        return "its certificate is for another name"
    if not isinstance(error, SSL.Error):
        return None
    said = "; ".join(str(each[-1]) for each in (error.args[0] if error.args else []) if each) or "no reason given"
    if said.endswith(_ALERTS):
        return "it does not take this side's certificate: of another CA, or not valid now"
    last = said.rpartition("; ")[2]  # before it may stand what it is for, as of a CA with the same name
    return _REASONS[last].format(authority=authority) if last in _REASONS else said
