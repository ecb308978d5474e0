"""The two ends of many bare tunnels as processes: python -m bench.bare server|client FOLDER PORT [FIRST COUNT]

They are the server, the login and the tunnels that avinet ships, without anything on top. FOLDER has `host_key` and
`user_key`. The clients dial from addresses of 127.0.0.0/8, FIRST being the number of the first; "ready" is printed when
all of it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogBeginner, textFileLogObserver

from avinet import loop
from avinet.aio import Tasks, as_deferred
from avinet.sockets import direct
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.policy import BACKLOG
from avinet.ssh.server import Server
from avinet.ssh.tunnel import ClientTunnel, ServerTunnel
from avinet.taps.process import fewer_collections, keep_memory, more_files
from avinet.trust.keys import load_private, public_line
from bench.forwarder import USER, Guests
from bench.identities import source

DIALLING = 32
"""How many tunnels a process of clients dials at once."""
reactor: Any = direct(loop.reactor())
tasks = Tasks()


def server(folder: Path, port: int) -> None:
    """The end of a controller."""
    factory = Server(
        reactor,
        load_private(folder / "host_key"),
        Guests(public_line(load_private(folder / "user_key"))),
        lambda identity: ServerTunnel(reactor, identity, lambda _: {}),
    )
    reactor.listenTCP(port, factory, backlog=BACKLOG, interface="127.0.0.1")
    print("ready", flush=True)


def client(folder: Path, port: int, first: int, count: int) -> None:
    """Tunnels of `count` service engines."""
    credentials = Credentials(
        USER, load_private(folder / "user_key"), (public_line(load_private(folder / "host_key")),)
    )
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False

    async def dial(numbers: Iterator[int]) -> None:
        for number in numbers:
            await LoginEndpoint(
                reactor,
                TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=(source(number), 0)),
                credentials,
                lambda identity: ClientTunnel(reactor, identity, lambda _: {}),
                where="the server",
            ).connect(factory)

    async def dial_all() -> None:
        numbers = iter(range(first, first + count))
        await gatherResults([as_deferred(dial(numbers)) for _ in range(DIALLING)])
        print("ready", flush=True)

    tasks.spawn(dial_all(), "dialling")


def main(role: str, folder: str, port: str, *numbers: str) -> None:
    """Run one end until it is ended."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    more_files()
    fewer_collections()
    keep_memory()
    if role == "server":
        server(Path(folder), int(port))
    else:
        first, count = map(int, numbers)
        client(Path(folder), int(port), first, count)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
