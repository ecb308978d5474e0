"""Tests with a node of ours over real sockets, and a tunnel to it that a stock client holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory
from twisted.trial.unittest import TestCase
from typing_extensions import override

from avinet.sockets import direct
from avinet.ssh.identity import Identity, Refusal
from avinet.ssh.policy import Policy
from avinet.ssh.server import Server
from avinet.ssh.tunnel import ServerTunnel, Tunnel
from tests.interop.process import Process
from tests.ssh.pair import HOST_KEY, Guests

reactor: Any = direct(_reactor)


class NodeCase(TestCase):
    """`tunnel_up` fires with the one tunnel that is held, `offered` with the first service that is offered through it."""

    timeout = 60

    @override
    def setUp(self) -> None:
        # Paths of UNIX sockets are short.
        self.folder = Path(os.path.relpath(self.mktemp()))
        self.folder.mkdir()
        self.refusals: list[Refusal] = []
        self.tunnels: list[Any] = []
        self.tunnel_up: Deferred[ServerTunnel] = Deferred()
        self.services: dict[str, IProtocolFactory] = {}
        self.offered: Deferred[str] = Deferred()
        self.dead_after_s = 15.0

    def listen(self, connection: Any, policy: Policy | None = None) -> int:
        """The port of a server until the end of the test."""
        server = Server(reactor, HOST_KEY, Guests(), connection, policy=policy, on_refused=self.refusals.append)
        port = reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(self._stop, port, server)
        number: int = port.getHost().port
        return number

    def _stop(self, port: Any, server: Server) -> Deferred[Any]:
        lost = [tunnel.when_lost() for tunnel in self.tunnels]
        server.close("the test is over")
        return DeferredList([port.stopListening(), *lost])

    def node(self, policy: Policy | None = None) -> int:
        """The port of a node."""
        return self.listen(self._tunnel, policy)

    def _tunnel(self, identity: Identity) -> ServerTunnel:
        def services(tunnel: Tunnel) -> Mapping[str, IProtocolFactory]:
            return self.services

        def offered(tunnel: Tunnel, service: str) -> None:
            if not self.offered.called:
                self.offered.callback(service)

        def up(tunnel: Any) -> None:
            self.tunnels.append(tunnel)
            self.tunnel_up.callback(tunnel)

        return ServerTunnel(reactor, identity, services, on_offer=offered, dead_after_s=self.dead_after_s, on_up=up)

    def target(self, factory: IProtocolFactory) -> int:
        """The port of 127.0.0.1 where `factory` serves until the end of the test."""
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def run_peer(self, command: list[str], env: Mapping[str, str] = os.environ) -> Process:
        """A process that runs until the end of the test."""
        process = Process.start(command, env)
        self.addCleanup(process.end, "KILL")
        return process
