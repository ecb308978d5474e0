"""A look at a node's certificate that was refused: OpenSSL says no more than that, and an operator needs the reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger

from avinet.trust.path import Distrusted, verify_node
from avinet.trust.tls import shown_chain
from avinet.wire.trust import Node

LOOK_S = 10.0
_log = Logger()


def dialled(reactor: Any, address: str) -> HostnameEndpoint:
    """The endpoint of `address`, host:port."""
    host, _, port = address.rpartition(":")
    return HostnameEndpoint(reactor, host.strip("[]"), int(port), timeout=LOOK_S)


async def flaw(reactor: Any, node: Node, address: str, roots: Sequence[x509.Certificate], at: datetime) -> str | None:
    """What is wrong with the certificate of `node` at `address`, in plain words; None when that cannot be seen.

    OpenSSL says of a certificate that it has refused no more than that. The look is a connection of its own.
    """
    try:
        chain = await shown_chain(reactor, dialled(reactor, address), node.name, LOOK_S, "the node")
        verify_node(chain, node.name, roots, at)
    except Distrusted as error:
        return error.what
    except Exception as error:  # the reason that is known already has to do
        _log.debug("no look at the certificate of {node}: {why}", node=node.id, why=str(error))
    return None
