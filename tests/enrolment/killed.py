"""A node's door for enrolments that kills itself: python -m tests.enrolment.killed FOLDER PORT POINT

FOLDER is a state folder with a domain of trust and a store. Before and after each answer of the store that an enrolment
waits for there is a point; the process kills itself (SIGKILL) at the one with the number POINT, from 1.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ServerEndpoint

from avinet.aio import Tasks
from avinet.enrolment.door import enrolment_routes
from avinet.enrolment.pending import PendingRequests
from avinet.enrolment.registrar import Registrar
from avinet.flow.allowance import Allowance
from avinet.rest.door import Door
from avinet.rest.table import Table
from avinet.store.sqlite import SQLiteStore
from avinet.trust import keys
from avinet.trust.document import sign_document
from avinet.trust.domain import Domain, load
from avinet.trust.tls import ServerTLS
from avinet.wire.message import encode
from avinet.wire.trust import Node, SignedTrust, TrustDocument


class Deadly:
    """A store that kills the process at a point."""

    def __init__(self, store: SQLiteStore, point: int) -> None:
        self._store = store
        self._left = point

    def _pass(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def called(*arguments: Any, **options: Any) -> Any:
            self._pass()
            answer = await getattr(self._store, name)(*arguments, **options)
            self._pass()
            return answer

        return called


def document(domain: Domain, port: int) -> TrustDocument:
    """What the domain says of itself, with this one door."""
    node = Node(
        id=domain.node,
        name=domain.name,
        https=[f"127.0.0.1:{port}"],
        ssh=["127.0.0.1:22"],
        ssh_host_keys=[keys.public_line(domain.ssh_host_key)],
        avictlruser_keys=[keys.public_line(domain.avictlruser_key)],
    )
    return TrustDocument(epoch=1, domain=domain.id, roots=[domain.root_pem], nodes=[node])


def main(folder: Path, port: int, point: int) -> None:
    """See the module."""
    domain = load(folder / "trust")
    said = document(domain, port)
    text = encode(said)
    signed = SignedTrust(
        document=text.decode(),
        signature=sign_document(text, domain.issuing),
        issuer=domain.issuing.certificate_pem.decode(),
    )
    store: Any = Deadly(SQLiteStore(reactor, folder / "store.sqlite"), point)
    routes = enrolment_routes(
        Registrar(store, PendingRequests(store, domain.node, time.time), lambda: domain, lambda: said, time.time),
        trust=lambda: signed,
        nonce_key=domain.nonce_key,
        signer=lambda: (domain.server.key, [domain.server.certificate, domain.issuing.certificate]),
        now=time.time,
        allowance=Allowance(time.monotonic, burst=1000, per_s=1000),
    )
    tls = ServerTLS(domain.server, [domain.issuing.certificate])
    endpoint = SSL4ServerEndpoint(reactor, port, tls, interface="127.0.0.1")
    endpoint.listen(Door(reactor, Table(routes), tasks=Tasks())).addCallback(lambda _: print("ready", flush=True))
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
