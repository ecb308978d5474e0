"""The tunnels of a service engine: one to each of its nodes, greeted, its services offered, its reports through one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.application.internet import ClientService
from twisted.internet.defer import DeferredList, DeferredLock, gatherResults, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from avinet.aio import Tasks, as_deferred
from avinet.backoff import Backoff
from avinet.errors import AvinetError, Conflict
from avinet.se.link import Link, link_service
from avinet.se.settings import Tunnel as TunnelSettings
from avinet.se.significant import SignificantRecords, sender
from avinet.ssh.policy import Policy
from avinet.telemetry.reports import Reporter
from avinet.wire.report import Report
from avinet.wire.session import Hello, HelloReply
from avinet.wire.trust import Node

HELLO_S = 15.0
PROBE_S = 5.0
FAILED_S = 10.0
"""How long to wait when the greeting failed."""
REFUSED_S = 60.0
"""How long to wait when a node has refused the hello."""


class Tunnels:
    """Keeps a link to each node that it is told of. `services` are offered to all of them.

    `hello` is the first request on each; no other hello is sent before `answered` has the reply, and the key that was
    logged in with. `greeted` is handed the reply before anything else happens. `refused` is told each reason why there
    is no link to a node.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: TunnelSettings,
        key: Ed25519PrivateKey,
        services: Mapping[str, IProtocolFactory],
        *,
        hello: Callable[[], Hello],
        answered: Callable[[Ed25519PrivateKey, HelloReply], None],
        greeted: Callable[[Link, HelloReply], Awaitable[None]],
        refused: Callable[[AvinetError], None],
        reporter: Reporter,
        significant: SignificantRecords,
        random: Callable[[], float],
        tasks: Tasks,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._policy = Policy(login_s=settings.login_s)
        self.key = key
        self._services = services
        self._hello = hello
        self._answered = answered
        self._greeted = greeted
        self._greeting = DeferredLock()
        self._refused = refused
        self._reporter = reporter
        self._significant = significant
        self._random = random
        self._tasks = tasks
        self._up_links: set[Link] = set()
        self._links: list[Link] = []
        """Those that were greeted."""
        self._nodes: dict[str, Node] = {}
        self._dialling: dict[str, ClientService] = {}

    @property
    def link(self) -> Link | None:
        """One that stands."""
        return self._links[0] if self._links else None

    @property
    def probes(self) -> dict[str, Callable[[], Awaitable[float]]]:
        """What asks the node of each tunnel that stands for a sign of life, by the node's id."""
        return {link.node.id: partial(link.tunnel.probe, PROBE_S) for link in self._links}

    def dial(self, nodes: Sequence[Node]) -> None:
        """Keep a link to each of `nodes` from now on, and to no other.

        A link that stands stays where another address or key is known now; one that does not is dialled at once.
        """
        before, self._nodes = self._nodes, {node.id: node for node in nodes}
        linked = {link.node.id for link in self._up_links}
        changed = {id for id, node in self._nodes.items() if id not in linked and before.get(id) != node}
        for id in {*(set(self._dialling) - set(self._nodes)), *(changed & set(self._dialling))}:
            self._tasks.spawn(maybeDeferred(self._dialling.pop(id).stopService), f"leaving node {id}")
        for id, node in self._nodes.items():
            if id not in self._dialling:
                service = self._dialling[id] = link_service(
                    self._reactor,
                    partial(self._known, node),
                    self.key,
                    lambda _: self._services,
                    policy=self._policy,
                    dead_after_s=self._settings.dead_after_s,
                    backoff=Backoff(self._settings.retry_first_s, self._settings.retry_cap_s),
                    random=self._random,
                    up=self._up,
                    gone=self._gone,
                    refused=self._refused,
                )
                service.startService()

    def _known(self, node: Node) -> Node:
        """What is known now of a node; what was, of one that is being left."""
        return self._nodes.get(node.id, node)

    def use(self, key: Ed25519PrivateKey) -> None:
        """Log in with `key` from now on: every node is dialled anew."""
        nodes, self.key = list(self._nodes.values()), key
        self.dial([])
        self.dial(nodes)

    def _up(self, link: Link) -> None:
        """Greet the node; a greeting that fails ends the link, so that it is dialled anew."""
        self._up_links.add(link)
        what = f"greeting node {link.node.id}"
        self._tasks.spawn(self._greet(link), what, lambda _: self._not_greeted(link))

    def _not_greeted(self, link: Link) -> None:
        link.come_back_after(max(FAILED_S, link.slot_s))
        link.tunnel.close("the greeting failed")

    async def _greet(self, link: Link) -> None:
        """The first request, then the services of this end, then reports."""
        reply: HelloReply = await self._greeting.run(lambda: as_deferred(self._say_hello(link)))
        link.come_back_after(reply.reconnect_slot_s)
        await self._greeted(link, reply)
        self._links.append(link)
        await gatherResults([as_deferred(link.tunnel.offer(service)) for service in self._services], consumeErrors=True)
        self.log.info("tunnel to {node} is up", node=link.node.id)
        self._report_through_first()

    async def _say_hello(self, link: Link) -> HelloReply:
        """The node's answer. Where it is no, there is nothing to hurry for."""
        try:
            answer = await link.control.request("PUT", "/v1/session", self._hello(), timeout_s=HELLO_S)
        except Conflict:
            link.come_back_after(REFUSED_S)
            raise
        reply = answer.decoded(HelloReply)
        self._answered(link.key, reply)
        return reply

    def _gone(self, link: Link) -> None:
        self._up_links.discard(link)
        if link in self._links:
            self._links.remove(link)
            self.log.info("tunnel to {node} is lost", node=link.node.id)
            self._report_through_first()

    def _report_through_first(self) -> None:
        """Reports go through one tunnel only, and so do significant records."""
        if not self._links:
            self._reporter.attach(None)
            self._significant.attach(None)
            return
        link = self._links[0]

        async def send(report: Report) -> None:
            await link.reports.request("POST", "/v1/reports", report)

        self._reporter.attach(send)
        self._significant.attach(sender(link.logs))

    async def stop(self) -> None:
        """Close all of them, and dial no more."""
        for link in list(self._links):
            link.tunnel.close("the service engine stops")
        await DeferredList([maybeDeferred(each.stopService) for each in self._dialling.values()], consumeErrors=True)
