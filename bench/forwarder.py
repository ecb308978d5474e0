"""The two ends of a tunnel of ours as processes: python -m bench.forwarder server|client FOLDER PLACE FORWARD...

PLACE is the server's, ADDRESS:PORT. FORWARD is NAME=PORT, a service that leads to PORT of 127.0.0.1, or PORT=NAME, a
door there that leads to the peer's service. That is all that `ssh -L` and `ssh -R` do. FOLDER has `host_key` and
`user_key`. "ready" is printed when all of it can be used. The process is set up as those of the node and the service
engine are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure
from typing_extensions import override

from avinet import loop
from avinet.aio import Tasks
from avinet.relay import Relay
from avinet.sockets import direct
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.policy import BACKLOG
from avinet.ssh.server import Server
from avinet.ssh.tunnel import ClientTunnel, ServerTunnel, Tunnel
from avinet.taps.process import fewer_collections, keep_memory, more_files
from avinet.trust.keys import load_private, public_line

USER = "aviseuser"
reactor: Any = direct(loop.reactor())
tasks = Tasks()


class Far(Relay):
    """The other side of `near`, joined with it as soon as it is connected."""

    def __init__(self, near: Relay) -> None:
        super().__init__()
        self._near = near

    @override
    def connectionMade(self) -> None:
        self._near.join(self)


class FarFactory(ClientFactory):
    """Builds the other side of `near`, which is dropped when there is none."""

    log = Logger()
    noisy = False

    def __init__(self, near: Relay) -> None:
        self._near = near

    @override
    def buildProtocol(self, addr: IAddress | None) -> Far:
        return Far(self._near)

    @override
    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.failed(reason)

    def failed(self, reason: Failure) -> None:
        """There is no other side."""
        self.log.warn("a connection leads nowhere: {why}", why=reason.getErrorMessage())
        self._near.transport.abortConnection()


class Joint(Factory):
    """Joins each connection that it is asked to build a protocol for with another one, for which it calls `connect`."""

    noisy = False

    def __init__(self, connect: Callable[[FarFactory], object]) -> None:
        self._connect = connect

    @override
    def buildProtocol(self, addr: IAddress | None) -> Relay:
        near = Relay()
        self._connect(FarFactory(near))
        return near


def to_port(reactor: Any, port: int) -> Joint:
    """Joins with connections to `port` of this machine."""
    return Joint(lambda factory: reactor.connectTCP("127.0.0.1", port, factory))


def to_service(tunnel: Tunnel, service: str) -> Joint:
    """Joins with channels to `service` of the peer of `tunnel`."""
    return Joint(lambda factory: tunnel.open_service(service, factory).addErrback(factory.failed))


class Guests:
    """Lets one key in."""

    def __init__(self, line: str) -> None:
        self._line = line

    def known(self, user: str, public_key: str) -> bool:
        return public_key == self._line

    async def admit(self, user: str, public_key: str, address: str) -> object:
        return user

    def left(self, identity: Identity) -> None:
        """Nothing is kept of it."""


class End:
    """What the command line asks for; both roles have services, and listen for those of the peer."""

    def __init__(self, arguments: list[str]) -> None:
        pairs = [argument.split("=") for argument in arguments]
        self.services = {name: to_port(reactor, int(port)) for name, port in pairs if not name.isdigit()}
        self.doors = {name: int(port) for port, name in pairs if port.isdigit()}

    def open(self, tunnel: Tunnel, service: str) -> None:
        """Listen where connections lead to `service` of the peer."""
        reactor.listenTCP(self.doors[service], to_service(tunnel, service), backlog=BACKLOG, interface="127.0.0.1")


def server(folder: Path, address: str, port: int, end: End) -> None:
    """A node's end: ready at once, and its doors open as the client offers what is behind them."""

    def tunnel(identity: Identity) -> ServerTunnel:
        return ServerTunnel(
            reactor, identity, lambda _: end.services, may_offer=frozenset(end.doors), on_offer=end.open
        )

    guests = Guests(public_line(load_private(folder / "user_key")))
    factory = Server(reactor, load_private(folder / "host_key"), guests, tunnel)
    reactor.listenTCP(port, factory, backlog=BACKLOG, interface=address)
    print("ready", flush=True)


def client(folder: Path, address: str, port: int, end: End) -> None:
    """An engine's end: ready when its doors are open and its services on offer."""

    async def use(tunnel: Tunnel) -> None:
        for service in end.doors:
            end.open(tunnel, service)
        for service in end.services:
            await tunnel.offer(service)
        print("ready", flush=True)

    def up(tunnel: Tunnel) -> None:
        tasks.spawn(use(tunnel), "the services")

    def tunnel(identity: Identity) -> ClientTunnel:
        return ClientTunnel(reactor, identity, lambda _: end.services, on_up=up)

    host_key = public_line(load_private(folder / "host_key"))
    login = LoginEndpoint(
        reactor,
        TCP4ClientEndpoint(reactor, address, port),
        Credentials(USER, load_private(folder / "user_key"), (host_key,)),
        tunnel,
        where="the server",
    )
    tasks.spawn(login.connect(Factory.forProtocol(Protocol)), "the login")


def main(role: str, folder: str, place: str, *arguments: str) -> None:
    """Run one end until it is ended."""
    address, _, port = place.partition(":")
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    more_files()
    {"server": server, "client": client}[role](Path(folder), address, int(port), End(list(arguments)))
    fewer_collections()
    keep_memory()
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
