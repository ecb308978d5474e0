"""A tunnel: one authenticated connection with named services on both ends, and the knowledge whether the peer is alive.

The client end reaches the server's services by `direct-tcpip`; it offers services of its own by `tcpip-forward`, which
the server reaches by `forwarded-tcpip`. That is what `ssh -L` and `ssh -R` of a stock client do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import within
from avinet.errors import AvinetError, Conflict, NotFound, PeerError
from avinet.flow.liveness import Liveness, Verdict
from avinet.ssh.channel import ChannelAddress
from avinet.ssh.connection import Connection
from avinet.ssh.identity import Identity
from avinet.ssh.messages import KEEPALIVE, UNKNOWN_KIND
from avinet.ssh.opening import Accepted, ChannelLimits, OpenRefused, RequestRefused
from avinet.ssh.services import (
    CANCEL,
    DIRECT,
    ENGINE_SERVICES,
    FORWARD,
    FORWARDED,
    Destination,
    Offers,
    canonical,
    priority_of,
)

DEAD_AFTER_S = 15.0

Services = Mapping[str, IProtocolFactory]
"""What this end offers through a tunnel; a factory that builds no protocol refuses the channel."""


@implementer(IStreamClientEndpoint)
class ServiceEndpoint:
    """Opens channels to one service of the peer of `tunnel`."""

    def __init__(self, tunnel: Tunnel, service: str) -> None:
        self._tunnel = tunnel
        self._service = service

    @override
    def __repr__(self) -> str:
        return f"<{self._service} of {self._tunnel.identity.address}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        """A protocol of the factory, once the service is there; cancelling gives it up."""
        return self._tunnel.open_service(self._service, protocolFactory)


class Tunnel(Connection):
    """What both ends share.

    `services` is called once, with the tunnel, and `on_up` when the tunnel can be used. A peer that is silent for
    `dead_after_s` is lost.
    """

    __slots__ = (
        "_heard_at",
        "_liveness",
        "_look",
        "_on_up",
        "_services",
        "_waiting",
        "identity",
        "lost",
        "silent",
        "why",
    )

    log = Logger()
    quiet = 0.7
    """The part of `dead_after_s` after which a silent peer is asked.

    Late enough that a service engine that reports every 10 s need not ask at all, and early enough that the kernel can
    send the question four times before the answer is missed.
    """

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        services: Callable[[Tunnel], Services],
        *,
        limits: ChannelLimits | None = None,
        dead_after_s: float = DEAD_AFTER_S,
        on_up: Callable[[Tunnel], None] | None = None,
    ) -> None:
        super().__init__(clock, limits)
        self.identity = identity
        self.lost = False
        self.silent = False
        """Whether it was given up because the peer gave no sign of life."""
        self.why = ""
        self._services = services(self)
        self._liveness = Liveness(dead_after_s, clock.seconds(), self.quiet)
        self._heard_at = clock.seconds()
        self._look: IDelayedCall | None = None
        self._on_up = on_up
        self._waiting: list[Deferred[str]] = []

    # what is to be had of the peer

    @property
    def offered(self) -> frozenset[str]:
        """The services that the peer has offered; a server offers none, it has them."""
        return frozenset()

    def endpoint(self, service: str) -> IStreamClientEndpoint:
        """Connects to a service of the peer. Raises `Invalid` for what is no name of one."""
        return ServiceEndpoint(self, canonical(service))

    def open_service(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """A protocol of `factory` on a new channel to the peer's `service`; cancelling gives it up.

        Fails with `NotFound` when it is not on offer, `OpenRefused`, `TooMany`, `TimedOut` or `Unavailable`.
        """
        raise NotImplementedError

    async def offer(self, service: str) -> None:
        """Let the peer open channels to a service of this end. Raises `RequestRefused` when it does not want to."""
        raise NotImplementedError

    async def probe(self, timeout_s: float) -> float:
        """The round trip through the tunnel in seconds. Raises `TimedOut` or `Unavailable`."""
        began = self._clock.seconds()
        with suppress(RequestRefused):
            await within(self._clock, timeout_s, self.request(KEEPALIVE), f"the tunnel of {self.identity.address}")
        return self._clock.seconds() - began

    def close(self, why: str) -> None:
        """End the tunnel in order; the peer is told why."""
        self.transport.close(why)

    def when_lost(self) -> Deferred[str]:
        """Fires with the reason once the tunnel is gone and all its channels with it, however that came."""
        waiting: Deferred[str] = Deferred()
        if self.lost:
            waiting.callback(self.why)
        else:
            self._waiting.append(waiting)
        return waiting

    # liveness

    @override
    def serviceStarted(self) -> None:
        self._watch()
        if self._on_up is not None:
            self.soon(self._tell_up)

    def _tell_up(self) -> None:
        if self._on_up is not None and not self.transport.closing:
            self._on_up(self)

    def _watch(self) -> None:
        self._look = None
        if self.transport.heard_at > self._heard_at:
            self._heard_at = self.transport.heard_at
            self._liveness.heard(self._heard_at)
        verdict, wait_s = self._liveness.due(self._clock.seconds())
        if verdict is Verdict.DEAD:
            self.silent, self.why = True, "it gives no sign of life"
            self.transport.blame(PeerError(self.why))
            self.transport.abortConnection()
            return
        if verdict is Verdict.PROBE:
            self.request(KEEPALIVE).addErrback(lambda failure: failure.trap(AvinetError))
        if not self.lost:
            self._look = self._clock.callLater(wait_s, self._watch)

    @override
    def stopped(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self.lost = True
        self.why = self.why or self.transport.why or "the connection was lost"
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self.why)

    # what the peer may have

    def _served(self, service: str) -> Accepted:
        """A channel to a service of this end. Raises `OpenRefused`."""
        address = ChannelAddress(service, self.identity.address)
        factory = self._services.get(service)
        protocol = factory.buildProtocol(address) if factory is not None else None
        if protocol is None:
            raise OpenRefused("there is no such service")
        return Accepted(protocol, address, priority=priority_of(service))


class ServerTunnel(Tunnel):
    """A node's end. `on_offer` is told of each service that the peer offers out of those that it may."""

    __slots__ = ("_offers", "_on_offer")

    quiet = 0.8

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        services: Callable[[Tunnel], Services],
        *,
        limits: ChannelLimits | None = None,
        dead_after_s: float = DEAD_AFTER_S,
        on_up: Callable[[Tunnel], None] | None = None,
        may_offer: frozenset[str] = ENGINE_SERVICES,
        on_offer: Callable[[Tunnel, str], None] | None = None,
    ) -> None:
        super().__init__(clock, identity, services, limits=limits, dead_after_s=dead_after_s, on_up=on_up)
        self._offers = Offers(may_offer, self.limits.offers)
        self._on_offer = on_offer

    @property
    @override
    def offered(self) -> frozenset[str]:
        return self._offers.names

    @override
    def open_service(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        destination = self._offers.find(service)
        if destination is None:
            return fail(NotFound(f"{self.identity.address} offers no {service}"))
        address = ChannelAddress(service, self.identity.address)
        return self.open(FORWARDED, destination.encode_open(), factory, address, priority_of(service))

    @override
    async def offer(self, service: str) -> None:
        raise Conflict("the server's services need not be offered")

    @override
    def accept(self, kind: bytes, body: bytes) -> Accepted:
        if kind != DIRECT:
            raise OpenRefused("there are no channels of this kind", UNKNOWN_KIND)
        return self._served(Destination.of_open(body).service)

    @override
    def requested(self, name: bytes, body: bytes) -> bytes | None:
        if name == FORWARD:
            destination = Destination.of_request(body)
            if self._offers.add(destination):
                if self._on_offer is not None:
                    service = destination.service
                    self.soon(lambda: self._tell_offer(service))
                return b""
        elif name == CANCEL and self._offers.remove(Destination.of_request(body)):
            return b""
        return None

    def _tell_offer(self, service: str) -> None:
        if self._on_offer is not None and not self.transport.closing and service in self.offered:
            self._on_offer(self, service)


class ClientTunnel(Tunnel):
    """A service engine's end."""

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        services: Callable[[Tunnel], Services],
        *,
        limits: ChannelLimits | None = None,
        dead_after_s: float = DEAD_AFTER_S,
        on_up: Callable[[Tunnel], None] | None = None,
    ) -> None:
        super().__init__(clock, identity, services, limits=limits, dead_after_s=dead_after_s, on_up=on_up)
        self._offering: dict[Destination, str] = {}

    @override
    def open_service(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        address = ChannelAddress(service, self.identity.address)
        body = Destination.named(service).encode_open()
        return self.open(DIRECT, body, factory, address, priority_of(service))

    @override
    async def offer(self, service: str) -> None:
        destination = Destination.named(service)
        if service not in self._services:
            raise NotFound(f"this end has no {service} to offer")
        if destination in self._offering:
            raise Conflict(f"{service} is on offer already")
        self._offering[destination] = service
        try:
            await self.request(FORWARD, destination.encode())
        except BaseException:
            del self._offering[destination]
            raise

    @override
    def accept(self, kind: bytes, body: bytes) -> Accepted:
        if kind != FORWARDED:
            raise OpenRefused("there are no channels of this kind", UNKNOWN_KIND)
        service = self._offering.get(Destination.of_open(body))
        if service is None:
            raise OpenRefused("this is not on offer")
        return self._served(service)
