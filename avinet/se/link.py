"""One service engine's link to one node: dialled for ever, logged in, greeted, its services offered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.application.internet import ClientService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import Tasks
from avinet.backoff import Backoff
from avinet.errors import AvinetError, Unavailable
from avinet.rest.client import Client
from avinet.sockets import direct
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.policy import Policy
from avinet.ssh.tunnel import ClientTunnel, Services, Tunnel
from avinet.wire.trust import Node

USER = "aviseuser"
CONTROL, REPORTS, SSH = "control:80", "reports:80", "ssh:22"


class Link(Protocol):
    """A tunnel that stands: its clients for the node's services. `gone` is called when it is lost."""

    transport: Any

    def __init__(
        self, clock: IReactorTime, node: Node, up: Callable[[Link], None], gone: Callable[[Link], None]
    ) -> None:
        self.node = node
        self._clock = clock
        self._up = up
        self._gone = gone
        self.tunnel: Tunnel

    @override
    def connectionMade(self) -> None:
        self.tunnel = self.transport.service
        self.control = self._client(CONTROL)
        self.reports = self._client(REPORTS)
        self._up(self)

    def _client(self, service: str) -> Client:
        name = service.partition(":")[0]
        return Client(self._clock, self.tunnel.endpoint(service), authority=name, where=f"node {self.node.id}")

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone(self)


@implementer(IStreamClientEndpoint)
class _Rotating:
    """Logs in at the next of a node's addresses each time, and remembers why and until when it was refused."""

    log = Logger()

    def __init__(self, node: Node, endpoints: list[LoginEndpoint], refused: Callable[[AvinetError], None]) -> None:
        self._node = node
        self._endpoints = endpoints
        self._refused = refused
        self._next = 0
        self._said = ""
        self.retry_after_s = 0.0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        endpoint = self._endpoints[self._next % len(self._endpoints)]
        self._next += 1
        connecting = endpoint.connect(protocolFactory)
        connecting.addCallbacks(self._connected, self._failed)
        return connecting

    def _connected(self, protocol: IProtocol) -> IProtocol:
        self.retry_after_s, self._said = 0.0, ""
        return protocol

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        after_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
        self.retry_after_s = after_s if after_s > 1 else 0.0
        if isinstance(error, AvinetError):
            if str(error) != self._said:
                self._said = str(error)
                self.log.warn("no tunnel to {node} yet: {why}", node=self._node.id, why=self._said)
            self._refused(error)
        elif not isinstance(error, CancelledError):
            self.log.failure("dialling {node} failed", failure, node=self._node.id)
        return failure


def link_service(
    reactor: Any,
    node: Node,
    key: Ed25519PrivateKey,
    services: Callable[[Tunnel], Services],
    *,
    policy: Policy,
    dead_after_s: float,
    backoff: Backoff,
    random: Callable[[], float],
    up: Callable[[Link], None],
    gone: Callable[[Link], None],
    refused: Callable[[AvinetError], None],
) -> ClientService:
    """A service that keeps a link to `node`, whatever comes between.

    `up` and `gone` are called for each link; `refused` with each reason why there is none.
    """
    credentials = Credentials(USER, key, node.ssh_host_keys)

    def login(address: str) -> LoginEndpoint:
        host, _, port = address.rpartition(":")
        return LoginEndpoint(
            reactor,
            HostnameEndpoint(direct(reactor), host.strip("[]"), int(port), timeout=10),
            credentials,
            lambda identity: ClientTunnel(reactor, identity, services, dead_after_s=dead_after_s),
            where=f"node {node.id} at {address}",
            policy=policy,
        )

    rotating = _Rotating(node, [login(address) for address in node.ssh], refused)

    class Links(Factory):
        noisy = False

        @override
        def buildProtocol(self, addr: Any) -> Link:
            return Link(reactor, node, up, gone)

    def delay_s(failures: int) -> float:
        return backoff.delay_s(max(0, failures - 1), random, rotating.retry_after_s)

    return ClientService(rotating, Links(), retryPolicy=delay_s, clock=reactor)


def spawn_greeting(tasks: Tasks, link: Link, greet: Callable[[Link], Any]) -> None:
    """Greet the node; a greeting that fails ends the link, so that it is dialled anew."""
    tasks.spawn(greet(link), f"greeting node {link.node.id}", lambda _: link.tunnel.close("the greeting failed"))
