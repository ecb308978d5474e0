"""Servers to put behind virtual services: they accept, and close at once. python -m bench.backend PORT..."""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from typing_extensions import override


class Closing(Protocol):
    """Alive, and no more than that."""

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class Server(ServerFactory):
    """Accepts."""

    noisy = False

    @override
    def buildProtocol(self, addr: IAddress | None) -> Closing:
        return Closing()


if __name__ == "__main__":
    for port in sys.argv[1:]:
        reactor.listenTCP(int(port), Server(), interface="127.0.0.1", backlog=1024)
    reactor.run()
