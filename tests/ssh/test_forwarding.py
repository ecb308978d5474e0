"""TCP connections forwarded through a tunnel, all of them real: come and gone at once, and stuck at either end."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import as_deferred, pause
from avinet.relay import Relay
from avinet.sockets import direct
from avinet.ssh.identity import Identity
from avinet.ssh.login import Credentials, LoginEndpoint
from avinet.ssh.server import Server
from avinet.ssh.tunnel import ClientTunnel, ServerTunnel
from tests.running import asynchronous, eventually
from tests.ssh.pair import HOST_KEY, USER, USER_KEY, Guests, line_of, protocol_factory

SERVICE = "control:80"
RESET = struct.pack("ii", 1, 0)
MIB = 1 << 20
KERNEL_BYTES = 40 * MIB
"""What the kernel's buffers of all the connections on the way hold, at most."""
PROCESS_BYTES = 8 * MIB
"""What this process holds of it, both ends of the tunnel together."""


class Joining(Factory):
    """Joins every connection to another one, which `connect` makes."""

    noisy = False

    def __init__(self, connect: Callable[[Factory], Awaitable[Any]]) -> None:
        self._connect = connect

    @override
    def buildProtocol(self, addr: Any) -> Relay:
        near, far = Relay(), Relay()

        def failed(failure: Failure) -> None:
            near.transport.abortConnection()

        connecting = as_deferred(self._connect(protocol_factory(lambda: far)))
        connecting.addCallbacks(lambda _: near.join(far), failed)
        return near


class Target(Protocol):
    """Counts what it reads, and its hash; it may not read, or write without end."""

    transport: Any

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self.count = 0
        self.hash = sha256()

    @override
    def connectionMade(self) -> None:
        self.targets.open.add(self)
        self.targets.made += 1
        if self.targets.deaf:
            self.transport.pauseProducing()
        if self.targets.endless:
            self.source = Source(self.transport)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.count += len(data)
        self.hash.update(data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.targets.open.discard(self)


@implementer(IPushProducer)
class Source:
    """Writes as long as it is let."""

    CHUNK = bytes(64 * 1024)

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.written = 0
        self.going = True
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.going = True
        self._write()

    def _write(self) -> None:
        if self.going:
            self.written += len(self.CHUNK)
            self.transport.write(self.CHUNK)
            reactor.callLater(0, self._write)  # type: ignore[attr-defined]

    def pauseProducing(self) -> None:
        self.going = False

    def stopProducing(self) -> None:
        self.going = False


class Targets(Factory):
    noisy = False

    def __init__(self) -> None:
        self.open: set[Target] = set()
        self.made = 0
        self.deaf = self.endless = False

    @override
    def buildProtocol(self, addr: Any) -> Target:
        return Target(self)


class ForwardCase(TestCase):
    """A port of the node leads through the tunnel of a service engine to a target behind it."""

    timeout = 240

    async def start(self) -> None:
        self.targets = Targets()
        target = self.listen(self.targets)
        self.up: Deferred[Any] = Deferred()
        server = Server(reactor, HOST_KEY, Guests(), self._tunnel)
        node = self.listen(server)

        def serve(tunnel: Any) -> dict[str, Any]:
            dial = TCP4ClientEndpoint(direct(reactor), "127.0.0.1", target)
            return {SERVICE: Joining(dial.connect)}

        endpoint = LoginEndpoint(
            reactor,
            HostnameEndpoint(direct(reactor), "127.0.0.1", node),
            Credentials(USER, USER_KEY, (line_of(HOST_KEY),)),
            lambda identity: ClientTunnel(reactor, identity, serve),
            where="the node",
        )
        protocol: Any = await endpoint.connect(protocol_factory())
        self.engine: Any = protocol.transport.service
        await self.engine.offer(SERVICE)
        self.node: ServerTunnel = await self.up
        self.addCleanup(self.stop, server)
        self.port = self.listen(Joining(self.node.endpoint(SERVICE).connect))

    def _tunnel(self, identity: Identity) -> ServerTunnel:
        return ServerTunnel(reactor, identity, lambda tunnel: {}, on_up=lambda tunnel: self.up.callback(tunnel))

    def listen(self, factory: Any) -> int:
        port = direct(reactor).listenTCP(0, factory, interface="127.0.0.1", backlog=1000)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def stop(self, server: Server) -> Deferred[Any]:
        lost = [self.node.when_lost(), self.engine.when_lost()]
        server.close("the test is over")
        return DeferredList(lost)

    def dial(self) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self.port), 20)
        one.setblocking(False)
        self.addCleanup(one.close)
        return one

    def idle(self) -> bool:
        """Whether nothing is left of any connection."""
        return self.node.channels == self.engine.channels == 0 and not self.targets.open

    async def at_rest(self, count: Callable[[], int]) -> int:
        """What `count` gives when it has not changed for a while."""
        last = -1
        while last != (last := count()):
            await pause(reactor, 0.3)
        return last


class QuickTests(ForwardCase):
    @asynchronous
    async def test_10000_connections_that_are_reset_at_once_leave_nothing(self) -> None:
        """(S29)"""
        await self.start()
        await self.burst(100)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            await self.burst(100)
        await eventually("no descriptor is left", lambda: len(os.listdir("/proc/self/fd")) <= before)
        self.assertGreater(self.targets.made, 5_000, "the tunnel was used")
        self.assertEqual((self.node.strays, self.engine.strays, self.node.refused, self.engine.refused), (0, 0, 0, 0))
        await self.node.probe(10.0)

    async def burst(self, count: int) -> None:
        """Connections at once: some reset right away, some with data on its way, some closed in order."""
        for number in range(count):
            one = socket.create_connection(("127.0.0.1", self.port), 20)
            if number % 4:
                one.send(b"hello")
            if number % 8 != 7:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
        await pause(reactor, 0)
        await eventually("all of them are gone", self.idle)


class StuckTests(ForwardCase):
    """A reader that does not read, a target that does not read: nothing piles up, and nothing spins."""

    async def assert_at_rest(self, count: Callable[[], int]) -> None:
        """What flows comes to rest, little of it is held by this process, and it takes no CPU to hold it."""
        self.assertLess(await self.at_rest(count), KERNEL_BYTES)
        gc.collect()
        self.assertLess(tracemalloc.get_traced_memory()[1], PROCESS_BYTES)
        began = time.process_time()
        await pause(reactor, 1.0)
        self.assertLess(time.process_time() - began, 0.3)
        await self.node.probe(5.0)

    def watch_memory(self) -> None:
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

    @asynchronous
    async def test_a_slow_reader_stops_an_endless_source(self) -> None:
        """(S24)"""
        await self.start()
        self.targets.endless = True
        self.watch_memory()
        one = self.dial()
        (target,) = await eventually("it is connected", lambda: self.targets.open)
        await self.assert_at_rest(lambda: target.source.written)
        before = target.source.written
        await eventually("it goes on as it is read", lambda: self.read(one) and target.source.written > before + MIB)
        one.close()
        await eventually("nothing is left", self.idle)

    def read(self, one: socket.socket) -> bool:
        try:
            return bool(one.recv(MIB))
        except BlockingIOError:
            return False

    @asynchronous
    async def test_a_slow_target_stops_who_sends_to_it(self) -> None:
        """(S25)"""
        await self.start()
        self.targets.deaf = True
        self.watch_memory()
        one = self.dial()
        (target,) = await eventually("it is connected", lambda: self.targets.open)
        sent, hashed, chunk = 0, sha256(), os.urandom(MIB)

        def send() -> int:
            nonlocal sent
            while True:
                try:
                    count = one.send(chunk)
                except BlockingIOError:
                    return sent
                hashed.update(chunk[:count])
                sent += count

        await self.assert_at_rest(send)
        self.assertEqual(target.count, 0)
        target.transport.resumeProducing()
        before = sent
        await eventually("it goes on as the target reads", lambda: send() > before + 30 * MIB)
        one.close()
        await eventually("nothing is left", self.idle)
        self.assertEqual((target.count, target.hash.digest()), (sent, hashed.digest()))
