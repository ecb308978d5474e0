"""One service engine's link to one node: dialled for ever, logged in, greeted, its services offered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.application.internet import ClientService
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from avinet.backoff import Backoff
from avinet.errors import AvinetError, Unavailable
from avinet.rest.client import Client
from avinet.sockets import direct
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.policy import Policy
from avinet.ssh.tunnel import ClientTunnel, Services, Tunnel
from avinet.wire.trust import Node

USER = "aviseuser"
CONNECT_S = 10
MOST_SLOT_S = 600.0
"""No node may keep a service engine away for longer."""
CONTROL, REPORTS, SSH, LOGS = "control:80", "reports:80", "ssh:22", "logs:80"


class Waits:
    """How long to wait before the next dial to one node.

    After a loss of the node it is the slot that the node gave for that: a node that lost a whole fleet gets it back at
    the rate that it can take. Where not the node fell silent but the way to it, and between tries, it is the back-off.
    """

    def __init__(self, backoff: Backoff, random: Callable[[], float]) -> None:
        self.retry_after_s = 0.0
        """What the node asked for when it refused the last try."""
        self.slot_s = 0.0
        self.slotted = False
        """Whether the loss before the next try is one for which the slot is meant."""
        self._backoff = backoff
        self._random = random

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, of which the loss of a link is the first."""
        after_s = self.retry_after_s
        if self.slotted:
            self.slotted, after_s = False, self.slot_s
        return self._backoff.delay_s(max(0, failures - 1), self._random, after_s)


class Link(Protocol):
    """A tunnel that stands: its clients for the node's services. `gone` is called when it is lost."""

    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        node: Node,
        key: Ed25519PrivateKey,
        waits: Waits,
        up: Callable[[Link], None],
        gone: Callable[[Link], None],
    ) -> None:
        self.node = node
        self.key = key
        self._clock = clock
        self._waits = waits
        self._up = up
        self._gone = gone
        self.tunnel: Tunnel

    @override
    def connectionMade(self) -> None:
        self.tunnel = self.transport.service
        self.control = self._client(CONTROL)
        self.reports = self._client(REPORTS)
        self.logs = self._client(LOGS)
        self._up(self)

    def _client(self, service: str) -> Client:
        name = service.partition(":")[0]
        return Client(self._clock, self.tunnel.endpoint(service), authority=name, where=f"node {self.node.id}")

    @property
    def slot_s(self) -> float:
        """How long to wait before it is dialled again."""
        return self._waits.slot_s

    def come_back_after(self, slot_s: float) -> None:
        """The node wants to be dialled no sooner after it was lost."""
        self._waits.slot_s = min(slot_s, MOST_SLOT_S)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._waits.slotted = not self.tunnel.silent
        self.control.drop()
        self.reports.drop()
        self.logs.drop()
        self._gone(self)


@implementer(IStreamClientEndpoint)
class _Rotating:
    """Logs in at the next of a node's addresses each time, as it is known then, and remembers why it was refused.

    `login` makes the endpoint for one of its addresses.
    """

    log = Logger()

    def __init__(
        self,
        node: Callable[[], Node],
        login: Callable[[Node, str], LoginEndpoint],
        waits: Waits,
        refused: Callable[[AvinetError], None],
    ) -> None:
        self._node = node
        self._login = login
        self._waits = waits
        self._refused = refused
        self._next = 0
        self._said = ""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        node = self._node()
        endpoint = self._login(node, node.ssh[self._next % len(node.ssh)])
        self._next += 1
        connecting = endpoint.connect(protocolFactory)
        connecting.addCallbacks(self._connected, self._failed)
        return connecting

    def _connected(self, protocol: IProtocol) -> IProtocol:
        self._waits.retry_after_s, self._said = 0.0, ""
        return protocol

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        after_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
        self._waits.retry_after_s = after_s if after_s > 1 else 0.0
        if isinstance(error, AvinetError):
            if str(error) != self._said:
                self._said = str(error)
                self.log.warn("no tunnel to {node} yet: {why}", node=self._node().id, why=self._said)
            self._refused(error)
        elif not isinstance(error, CancelledError):
            self.log.failure("dialling {node} failed", failure, node=self._node().id)
        return failure


def link_service(
    reactor: Any,
    node: Callable[[], Node],
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
    """A service that keeps a link to a node, whatever comes between; `node` is what is known of it at each dial.

    `up` and `gone` are called for each link; `refused` with each reason why there is none.
    """

    def login(of: Node, address: str) -> LoginEndpoint:
        host, _, port = address.rpartition(":")
        return LoginEndpoint(
            reactor,
            _endpoint(direct(reactor), host.strip("[]"), int(port)),
            Credentials(USER, key, of.ssh_host_keys),
            lambda identity: ClientTunnel(reactor, identity, services, dead_after_s=dead_after_s),
            where=f"node {of.id} at {address}",
            policy=policy,
        )

    waits = Waits(backoff, random)
    rotating = _Rotating(node, login, waits, refused)

    class Links(Factory):
        noisy = False

        @override
        def buildProtocol(self, addr: Any) -> Link:
            return Link(reactor, node(), key, waits, up, gone)

    return ClientService(rotating, Links(), retryPolicy=waits.delay_s, clock=reactor)


def _endpoint(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    """Dials a name, or at once an address: nothing is asked of a resolver then."""
    if isIPAddress(host):
        return TCP4ClientEndpoint(reactor, host, port, timeout=CONNECT_S)
    if isIPv6Address(host):
        return TCP6ClientEndpoint(reactor, host, port, timeout=CONNECT_S)
    return HostnameEndpoint(reactor, host, port, timeout=CONNECT_S)
