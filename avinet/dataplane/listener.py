"""A listener of the built-in proxy: a port, and the virtual service behind it, which may change while it listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.balance import route
from avinet.dataplane.certificates import Certificates
from avinet.dataplane.counting import Counter
from avinet.dataplane.http_proxy import HTTPFront
from avinet.dataplane.pools import LivePool
from avinet.dataplane.tcp_proxy import TCPFront
from avinet.dataplane.timeline import Take
from avinet.dataplane.tls import Termination
from avinet.wire.config import VirtualService

Pools = Callable[["str | None"], "LivePool | None"]


class Served:
    """One virtual service that is being served; `pools` finds the pool of a name, `take` gets the records.

    It may change in all but its mode, and whether TLS ends here: see `fits`.
    """

    def __init__(
        self, reactor: Any, service: VirtualService, counter: Counter, pools: Pools, tasks: Tasks, take: Take
    ) -> None:
        tls = service.tls is not None
        self.service = service
        self.front: HTTPFront | TCPFront
        if service.mode == "http":
            self.front = HTTPFront(
                reactor, counter, lambda host, path: pools(route(self.service, host, path)), tasks, take, tls=tls
            )
        else:
            self.front = TCPFront(reactor, counter, lambda: pools(self.service.pool), tasks, take, tls=tls)
        self._termination = Termination([b"http/1.1"] if service.mode == "http" else [])
        self.entry: Any = TLSMemoryBIOFactory(self._termination, False, self.front, reactor) if tls else self.front

    def fits(self, service: VirtualService) -> bool:
        """Whether this can go on as `service`."""
        return (service.mode, service.tls is None) == (self.service.mode, self.service.tls is None)

    def change(self, service: VirtualService, counter: Counter, certificates: Certificates) -> None:
        """Serve new connections as `service` says, with `certificates`, from now on."""
        self.service = service
        self.front.counter = counter
        if service.tls is not None:
            self._termination.serve(service.tls, certificates)


class Listener(Factory):
    """Gives the connections of a port to what is `served` there now."""

    noisy = False

    def __init__(self, served: Served) -> None:
        self.served = served

    @override
    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self.served.entry.buildProtocol(addr)
