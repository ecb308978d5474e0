"""TLS that ends at a data plane: what is spoken, and how the built-in proxy chooses certificates and exchanges them.

The ciphers are Mozilla's recommendation "intermediate" (Server Side TLS 5.7), without those that need a Diffie-Hellman
group of their own: every browser since 2015 knows what is left. There are no session tickets, as it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from avinet.dataplane.certificates import Certificates
from avinet.errors import Invalid
from avinet.trust.server_certificate import ServerCertificate
from avinet.wire.config import Tls

CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
HANDSHAKE_S = 10.0
"""How long a client may take for the handshake."""
LINGER_S = 60.0
"""How long a client may take what was sent to it, and close, once this side has."""
FORWARDED_PROTO = b"x-forwarded-proto"

_MINIMUM = {"1.2": TLSVersion.TLSv1_2, "1.3": TLSVersion.TLSv1_3}
_ACCEPTABLE = ssl.AcceptableCiphers.fromOpenSSLCipherString(f"{SUITES}:{CIPHERS}")


@implementer(IOpenSSLServerConnectionCreator)
class Termination:
    """Makes the server's end of TLS for one virtual service; `protocols` are offered by ALPN (RFC 7301).

    What OpenSSL needs for a certificate is made when that is asked for first.
    """

    def __init__(self, protocols: Sequence[bytes]) -> None:
        self._protocols = protocols
        self._minimum = ""
        self._served: list[ServerCertificate] = []
        self._by_name: dict[str, ServerCertificate] = {}
        self._contexts: dict[ServerCertificate, SSL.Context] = {}

    def serve(self, tls: Tls, certificates: Certificates) -> None:
        """Serve new connections as `tls` says from now on, with what is held; those that are open stay as they are."""
        self._served = [certificates[name] for name in tls.certificates]
        same = tls.minimum == self._minimum
        self._contexts = {each: self._contexts[each] for each in self._served if same and each in self._contexts}
        self._minimum = tls.minimum
        self._by_name = {name: each for each in reversed(self._served) for name in each.names}

    def _context(self, certificate: ServerCertificate) -> SSL.Context:
        made = self._contexts.get(certificate)
        if made is None:
            made = self._contexts[certificate] = context(certificate, self._minimum, self._protocols, self._chosen)
        return made

    def _chosen(self, asked: bytes | None) -> SSL.Context | None:
        """What serves the name that a client asks for: its own, else that of `*.suffix`; None for the first one."""
        name = (asked or b"").decode("ascii", "replace").lower()
        found = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        return self._context(found) if found is not None else None

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        connection = SSL.Connection(self._context(self._served[0]), None)
        connection.set_app_data(protocol)
        return connection


def context(
    certificate: ServerCertificate,
    minimum: str,
    protocols: Sequence[bytes] = (),
    chosen: Callable[[bytes | None], SSL.Context | None] | None = None,
) -> SSL.Context:
    """What OpenSSL serves `certificate` with, unless another one is `chosen` by name. Raises `Invalid`."""
    try:
        made: SSL.Context = ssl.CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(certificate.key),
            certificate=crypto.X509.from_cryptography(certificate.chain[0]),
            extraCertChain=[crypto.X509.from_cryptography(each) for each in certificate.chain[1:]],
            raiseMinimumTo=_MINIMUM[minimum],
            acceptableCiphers=_ACCEPTABLE,
            acceptableProtocols=protocols or None,
            contextForServerName=chosen,
        ).getContext()
    except SSL.Error as error:
        said = "; ".join(str(each[-1]) for each in error.args[0]) if error.args else ""
        raise Invalid(f"OpenSSL does not take it: {said or 'no reason given'}") from error
    made.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    return made
