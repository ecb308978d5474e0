"""A look at a node's certificate that was refused: OpenSSL says no more than that, and an operator needs the reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import within
from avinet.trust.path import Distrusted, verify_node
from avinet.trust.tls import UnverifiedTLS
from avinet.wire.trust import Node

LOOK_S = 10.0
_log = Logger()


def dialled(reactor: Any, address: str) -> HostnameEndpoint:
    """The endpoint of `address`, host:port."""
    host, _, port = address.rpartition(":")
    return HostnameEndpoint(reactor, host.strip("[]"), int(port), timeout=LOOK_S)


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


async def flaw(reactor: Any, node: Node, address: str, roots: Sequence[x509.Certificate], at: datetime) -> str | None:
    """What is wrong with the certificate of `node` at `address`, in plain words; None when that cannot be seen.

    OpenSSL says of a certificate that it has refused no more than that. The look is a connection of its own.
    """
    factory = Factory.forProtocol(_Look)
    factory.noisy = False
    try:
        connecting = wrapClientTLS(UnverifiedTLS(node.name), dialled(reactor, address)).connect(factory)
        look: Any = await within(reactor, LOOK_S, connecting, "the node")
        verify_node(await within(reactor, LOOK_S, look.chain, "the node"), node.name, roots, at)
    except Distrusted as error:
        return error.what
    except Exception as error:  # the reason that is known already has to do
        _log.debug("no look at the certificate of {node}: {why}", node=node.id, why=str(error))
    return None
