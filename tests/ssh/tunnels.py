"""Two ends of a tunnel over two real transports joined in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory

from avinet.aio import as_deferred
from avinet.ssh.identity import Identity
from avinet.ssh.opening import ChannelLimits
from avinet.ssh.tunnel import ClientTunnel, ServerTunnel, Tunnel
from tests.ssh.joined import Talker, factory_of
from tests.ssh.pair import Pair


class Talkers(Factory):
    """A service that keeps the protocols it has made."""

    noisy = False

    def __init__(self) -> None:
        self.made: list[Talker] = []

    def buildProtocol(self, addr: Any) -> Talker:
        self.made.append(Talker())
        return self.made[-1]


class Tunnels:
    """`server` and `client` are the two ends; `server_services` and `client_services` what they serve."""

    def __init__(self, *, limits: ChannelLimits | None = None, dead_after_s: float = 15.0, **settings: Any) -> None:
        self.server_services: dict[str, IProtocolFactory] = {"control:80": Talkers(), "reports:80": Talkers()}
        self.client_services: dict[str, IProtocolFactory] = {"control:80": Talkers(), "ssh:22": Talkers()}
        self.offers: list[str] = []
        self.pair = Pair(
            lambda identity: self._server(identity, limits, dead_after_s),
            lambda identity: self._client(identity, limits, dead_after_s),
            **settings,
        )
        self.clock = self.pair.clock
        self.settle()
        server, client = self.pair.server.service, self.pair.client.service
        assert isinstance(server, ServerTunnel)
        assert isinstance(client, ClientTunnel)
        self.server, self.client = server, client

    def _server(self, identity: Identity, limits: ChannelLimits | None, dead_after_s: float) -> ServerTunnel:
        def services(tunnel: Tunnel) -> Mapping[str, IProtocolFactory]:
            return self.server_services

        def offered(tunnel: Tunnel, service: str) -> None:
            self.offers.append(service)

        clock = self.pair.clock
        return ServerTunnel(clock, identity, services, limits=limits, dead_after_s=dead_after_s, on_offer=offered)

    def _client(self, identity: Identity, limits: ChannelLimits | None, dead_after_s: float) -> ClientTunnel:
        clock = self.pair.clock
        return ClientTunnel(
            clock, identity, lambda tunnel: self.client_services, limits=limits, dead_after_s=dead_after_s
        )

    def settle(self) -> None:
        """Move all bytes, and let everything happen that is to happen at once."""
        now = self.pair.clock.seconds()
        for _ in range(100_000):
            self.pair.clock.advance(0)
            moved = self.pair.wires.step()
            if not moved and all(call.getTime() > now for call in self.pair.clock.getDelayedCalls()):
                return
        raise AssertionError("the two ends never fall silent")

    def talk(self, end: Tunnel, service: str) -> Talker:
        """A protocol of ours that is connected to `service` of the peer of `end`."""
        near = Talker()
        opened = end.endpoint(service).connect(factory_of(near))
        self.settle()
        assert opened.called
        opened.addErrback(lambda failure: failure.raiseException())
        return near

    def offer(self, service: str) -> Any:
        """The client offers a service of its own."""
        offered = as_deferred(self.client.offer(service))
        self.settle()
        return offered

    def close(self) -> None:
        """End the tunnel; nothing is left."""
        self.client.close("the test is over")
        self.settle()
        assert self.server.lost
        assert self.client.lost
        assert self.server.channels == self.client.channels == 0
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()
