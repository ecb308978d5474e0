"""`diagnose`: what stands between a service engine and its nodes, step by step, in plain words."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from typing_extensions import override

from avinet.aio import CANCELLED, within
from avinet.enrolment.client import tls_client
from avinet.enrolment.identity import Identity
from avinet.enrolment.look import dialled, flaw
from avinet.errors import AvinetError
from avinet.se.clock import TOLERATED_S
from avinet.se.commands import Outcome
from avinet.ssh.shown import printable
from avinet.wire.enrolment import Challenge
from avinet.wire.trust import Node

STEP_S = 8.0
LEAST_MTU = 1280
"""What every path must carry (RFC 8200 §5); with less, something on the way is set up wrongly."""
_IP_MTU = 14
_LINE_BYTES = 255

Probe = Callable[[], Awaitable[float]]
"""Asks a node for a sign of life through a tunnel: the seconds that it took."""


class _Visit(Protocol):
    """A connection that is looked at: the line that the other side begins with, and what fits into its packets."""

    transport: Any

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred(lambda _: None)
        self.mtu = 0
        self._data = b""

    @override
    def connectionMade(self) -> None:
        handle = self.transport.getHandle()
        if handle.family == socket.AF_INET:
            self.mtu = handle.getsockopt(socket.IPPROTO_IP, _IP_MTU)

    @override
    def dataReceived(self, data: bytes) -> None:
        self._data += data
        line, end, _ = self._data.partition(b"\n")
        if (end or len(self._data) > _LINE_BYTES) and not self.line.called:
            self.line.callback(line[:_LINE_BYTES])
            self.transport.abortConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.line.called:
            self.line.callback(b"")


class Diagnosis:
    """Looks at the nodes that `identity` knows. `now` is the time as it is known here, `wall` this machine's clock.

    `tunnels` are the probes of the tunnels that stand, by the node's id.
    """

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        *,
        wall: Callable[[], float],
        now: Callable[[], float],
        tunnels: Callable[[], Mapping[str, Probe]],
    ) -> None:
        self._reactor = reactor
        self._identity = identity
        self._wall = wall
        self._now = now
        self._tunnels = tunnels
        self._said: list[str] = []
        self._good = True

    async def run(self) -> Outcome:
        """A line for each thing that was looked at; 1 when one of them is not as it should be."""
        self._said, self._good = [], True
        tunnels = self._tunnels()
        for node in self._identity.nodes():
            for address in node.https:
                await self._door(node, address, "enrolment", self._certificate)
            for address in node.ssh:
                await self._door(node, address, "tunnels", self._greeting)
            await self._tunnel(node, tunnels.get(node.id))
        return Outcome(int(not self._good), "".join(f"{line}\n" for line in self._said))

    def _say(self, good: bool, what: str, hint: str = "") -> None:
        self._good = self._good and good
        self._said.append(f"{'ok ' if good else 'BAD'}  {what}{'' if good or not hint else f'; {hint}'}")

    async def _door(
        self, node: Node, address: str, door: str, then: Callable[[Node, str, _Visit], Awaitable[None]]
    ) -> None:
        """Resolve, dial, and look at what answers."""
        place = f"{node.id}, {door} at {address}"
        host = address.rpartition(":")[0].strip("[]")
        if not (isIPAddress(host) or isIPv6Address(host)) and not await self._resolved(place, host):
            return
        began = self._reactor.seconds()
        factory = Factory.forProtocol(_Visit)
        factory.noisy = False
        try:
            visit: Any = await within(self._reactor, STEP_S, dialled(self._reactor, address).connect(factory), place)
        except Exception as error:
            if isinstance(error, CANCELLED):
                raise
            self._say(False, f"{place}: cannot be reached: {error}", "a firewall, or the node is not running")
            return
        took_ms = (self._reactor.seconds() - began) * 1000
        fits = f", packets of {visit.mtu} bytes" if visit.mtu else ""
        self._say(not visit.mtu or visit.mtu >= LEAST_MTU, f"{place}: reached in {took_ms:.0f} ms{fits}")
        await then(node, address, visit)

    async def _resolved(self, place: str, host: str) -> bool:
        began = self._reactor.seconds()
        looking = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM
        )
        try:
            found: Any = await within(self._reactor, STEP_S, looking, "DNS")
        except (OSError, AvinetError) as error:
            self._say(False, f"{place}: DNS: {error}", "check the name in the node's `addresses`, and resolv.conf here")
            return False
        addresses = ", ".join(sorted({each[4][0] for each in found}))
        self._say(True, f"{place}: DNS gives {addresses} in {(self._reactor.seconds() - began) * 1000:.0f} ms")
        return True

    async def _certificate(self, node: Node, address: str, visit: _Visit) -> None:
        """The node's certificate, by root and name, and its clock."""
        visit.transport.abortConnection()
        place = f"{node.id}, enrolment at {address}"
        roots, at = self._identity.roots(), self._identity.time(self._now())
        wrong = await flaw(self._reactor, node, address, roots, at)
        if wrong:
            self._say(False, f"{place}: {wrong}", "another node, or a proxy on the way; or the clock here is wrong")
            return
        client = tls_client(self._reactor, node, address, roots, at)
        try:
            challenge = (await client.request("GET", "/v1/enrol/challenge", timeout_s=STEP_S)).decoded(Challenge)
        except AvinetError as error:
            self._say(False, f"{place}: {error}")
            return
        finally:
            await client.close()
        self._say(True, f"{place}: its certificate is signed by our root CA, and for {node.name}")
        ahead_s = self._wall() - challenge.server_time
        shown = f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} that of {node.id}"
        self._say(
            abs(ahead_s) <= TOLERATED_S, f"the clock here is {shown}", "set it: the node's time is used meanwhile"
        )

    async def _greeting(self, node: Node, address: str, visit: _Visit) -> None:
        """Whether an SSH server of ours answers."""
        place = f"{node.id}, tunnels at {address}"
        try:
            line = await within(self._reactor, STEP_S, visit.line, place)
        except AvinetError as error:
            line = b""
            visit.transport.abortConnection()
            self._say(False, f"{place}: connected, and silent: {error}", "something on the way swallows SSH")
            return
        good = line.startswith(b"SSH-2.0-avinet_")
        said = printable(line.strip()) or "nothing"
        self._say(good, f"{place}: it says {said}", "that is no node of avinet, or it turns us away for now")

    async def _tunnel(self, node: Node, probe: Probe | None) -> None:
        if probe is None:
            self._say(False, f"{node.id}: no tunnel stands", "the log of this service engine says why")
            return
        try:
            took_s = await probe()
        except AvinetError as error:
            self._say(False, f"{node.id}: the tunnel gives no sign: {error}")
        else:
            self._say(True, f"{node.id}: the tunnel answers in {took_s * 1000:.1f} ms")
