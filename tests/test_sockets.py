"""TCP that sends at once and lends what arrives, over real sockets; and the same from below, where a kernel is full."""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from avinet.aio import pause, within
from avinet.sockets import READ_BYTES, Lender, arrived, direct

DATA = bytes(range(256)) * 40_000


class Person(Protocol):
    """Keeps what it is given; `enough` fires when that is `wanted` bytes, `lost` at the end."""

    transport: Any

    def __init__(self, wanted: int = 0) -> None:
        self.received = bytearray()
        self.wanted = wanted
        self.made: Deferred[None] = Deferred()
        self.enough: Deferred[None] = Deferred()
        self.lost: Deferred[Exception] = Deferred()

    @override
    def connectionMade(self) -> None:
        self.made.callback(None)

    @override
    def dataReceived(self, data: bytes) -> None:
        assert type(data) is bytes
        self.take(data)

    def take(self, data: bytes | memoryview) -> None:
        self.received += data
        if len(self.received) >= self.wanted and not self.enough.called:
            self.enough.callback(None)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class _Dialling(ClientFactory):
    """Builds one protocol."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    @override
    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class Borrower(Person):
    """Is lent what arrives; it may have no room for a while."""

    def __init__(self, wanted: int = 0) -> None:
        super().__init__(wanted)
        self.largest = READ_BYTES
        self.pieces: list[int] = []

    @override
    def connectionMade(self) -> None:
        self.transport.lend_to(self)
        super().connectionMade()

    def buffer(self) -> memoryview | None:
        if not self.largest:
            self.transport.pauseProducing()
            return None
        return arrived()[: self.largest]

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        raise AssertionError("a socket is read in one piece")

    def lent(self, data: memoryview) -> None:
        self.pieces.append(len(data))
        self.take(data)

    @override
    def dataReceived(self, data: bytes) -> None:
        raise AssertionError("what is lent is not given")


class Feeder:
    """Lends all of `data` to a transport, as much as it has room for at a time."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self.transport, self.left = transport, memoryview(data)
        self.pauses = 0
        transport.registerProducer(self, True)
        self.paused = False
        self.run()

    def run(self) -> None:
        while not self.paused and self.left:
            piece = bytearray(self.left[:100_000])
            self.left = self.left[len(piece) :]
            self.transport.lend(memoryview(piece))
            piece[:] = bytes(len(piece))
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        self.run()

    def stopProducing(self) -> None:
        self.paused = True


class Puller:
    """Writes `data` to a transport, piece by piece as it is asked to, and ends the connection."""

    def __init__(self, transport: Any, data: bytes) -> None:
        self.transport, self.left = transport, data
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        piece, self.left = self.left[:1000], self.left[1000:]
        self.transport.write(piece)
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        self.left = b""


def fill(near: Person, far: Person) -> None:
    """Lend to `near` until it has to wait, as `far` does not read."""
    far.transport.stopReading()
    while near.transport.buffer() is not None:
        near.transport.lend(memoryview(DATA)[:50_000])


class DirectTests(TestCase):
    """Between two processes' worth of protocols."""

    timeout = 20

    async def joined(self, near: Person, far: Person, *, ours: bool = True) -> None:
        """Connect `near`, on a direct transport, to `far`, on one too or on Twisted's own."""
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: far  # type: ignore[method-assign]
        port = (direct(reactor) if ours else reactor).listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        dialling = Factory()
        dialling.noisy = False
        dialling.buildProtocol = lambda address: near  # type: ignore[method-assign]
        await HostnameEndpoint(direct(reactor), "127.0.0.1", port.getHost().port).connect(dialling)
        await within(reactor, 10, far.made, "the other end")

    async def test_what_is_written_arrives_with_other_transports_too(self) -> None:
        for ours in (True, False):
            near, far = Person(), Person(len(DATA))
            await self.joined(near, far, ours=ours)
            near.transport.write(DATA)
            near.transport.loseConnection()
            await within(reactor, 10, far.lost, "the end")
            self.assertEqual(sha256(far.received).digest(), sha256(DATA).digest())

    async def test_what_is_lent_arrives_although_its_memory_is_used_again(self) -> None:
        near, far = Person(), Borrower(len(DATA))
        await self.joined(near, far)
        self.assertIsInstance(near.transport, Lender)
        far.transport.pauseProducing()
        feeder = Feeder(near.transport, DATA)
        self.assertGreater(feeder.pauses, 0, "a kernel that is full pauses the producer")
        self.assertIsNone(near.transport.buffer())
        far.transport.resumeProducing()
        reason = await within(reactor, 10, far.lost, "the end")
        self.assertIsInstance(reason, ConnectionDone)
        self.assertEqual(sha256(far.received).digest(), sha256(DATA).digest())

    async def test_a_producer_that_is_pulled_is_asked_for_more_although_all_was_sent_at_once(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        Puller(near.transport, DATA[:100_000])
        self.assertIsInstance(await within(reactor, 10, far.lost, "the end"), ConnectionDone)
        self.assertEqual(far.received, DATA[:100_000])

    async def test_no_more_is_read_than_there_is_room_for(self) -> None:
        near, far = Person(), Borrower(100_000)
        far.largest = 5000
        await self.joined(near, far)
        near.transport.write(bytes(100_000))
        await within(reactor, 10, far.enough, "the data")
        self.assertLessEqual(max(far.pieces), 5000)
        near.transport.loseConnection()
        await within(reactor, 10, far.lost, "the end")

    async def test_without_room_nothing_is_read_until_there_is(self) -> None:
        near, far = Person(), Borrower(10)
        far.largest = 0
        await self.joined(near, far)
        near.transport.write(bytes(10))
        await within(reactor, 10, self.paused(far), "the pause")
        self.assertEqual(far.pieces, [])
        far.largest = READ_BYTES
        far.transport.resumeProducing()
        await within(reactor, 10, far.enough, "the data")
        near.transport.loseConnection()
        await within(reactor, 10, far.lost, "the end")

    def paused(self, far: Borrower) -> Deferred[None]:
        """Fires once `far` was asked for room and had none."""
        fired: Deferred[None] = Deferred()
        original = far.transport.pauseProducing

        def pause() -> None:
            original()
            fired.callback(None)

        far.transport.pauseProducing = pause
        return fired

    async def test_a_message_goes_out_before_the_reactor_turns(self) -> None:
        near, far = Person(), Person(5)
        await self.joined(near, far)
        handle: socket.socket = far.transport.getHandle()
        far.transport.stopReading()
        near.transport.write(b"hello")
        handle.settimeout(10)
        self.assertEqual(handle.recv(5), b"hello")
        handle.setblocking(False)
        near.transport.abortConnection()
        far.transport.abortConnection()
        await within(reactor, 10, near.lost, "the end")
        await within(reactor, 10, far.lost, "the end")

    async def answered(self, near: Person, far: Person) -> socket.socket:
        """The socket of `far`, which has taken all that the kernel held of `near`'s, and answered with a byte."""
        handle: socket.socket = far.transport.getHandle()
        with contextlib.suppress(BlockingIOError):
            while handle.recv(READ_BYTES):
                pass
        handle.send(b"x")
        await within(reactor, 10, near.enough, "the byte")
        return handle

    async def test_what_waits_is_tried_again_whenever_something_comes(self) -> None:
        near, far = Borrower(1), Person()
        await self.joined(near, far)
        fill(near, far)
        reactor.removeWriter(near.transport)  # type: ignore[attr-defined]
        await self.answered(near, far)
        await pause(reactor, 0)
        self.assertIsNotNone(near.transport.buffer())
        near.transport.abortConnection()
        far.transport.abortConnection()
        await within(reactor, 10, near.lost, "the end")
        await within(reactor, 10, far.lost, "the end")

    async def test_half_a_close_behind_what_waits_is_no_fault_when_something_comes(self) -> None:
        near, far = Borrower(1), Person()
        await self.joined(near, far)
        fill(near, far)
        near.transport.loseWriteConnection()
        handle = await self.answered(near, far)
        for _ in range(1000):
            await pause(reactor, 0)
            with contextlib.suppress(BlockingIOError):
                if not handle.recv(READ_BYTES):
                    break
        self.assertFalse(near.lost.called)
        far.transport.abortConnection()
        await within(reactor, 10, near.lost, "the end")
        await within(reactor, 10, far.lost, "the end")

    async def test_half_a_close_with_nothing_to_send_is_seen_before_the_reactor_turns(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        handle: socket.socket = far.transport.getHandle()
        far.transport.stopReading()
        near.transport.loseWriteConnection()
        handle.settimeout(10)
        self.assertEqual(handle.recv(1), b"")
        handle.setblocking(False)
        near.transport.write(b"too late")
        self.assertFalse(near.lost.called)
        far.transport.abortConnection()
        self.assertIsInstance(await within(reactor, 10, near.lost, "the end"), ConnectionLost)
        await within(reactor, 10, far.lost, "the end")

    async def test_an_end_comes_after_the_call_that_asks_for_it_and_all_that_is_written_until_then(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        near.transport.loseConnection()
        self.assertFalse(near.lost.called)
        for _ in range(3):
            near.transport.write(DATA)
        self.assertIsInstance(await within(reactor, 10, near.lost, "the end"), ConnectionDone)
        self.assertIsInstance(await within(reactor, 10, far.lost, "the end"), ConnectionDone)
        self.assertEqual(sha256(far.received).digest(), sha256(3 * DATA).digest())

    async def test_an_end_at_once_overtakes_one_in_order(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        near.transport.loseConnection()
        near.transport.abortConnection()
        self.assertIsInstance(await within(reactor, 10, near.lost, "the end"), ConnectionAborted)
        self.assertIsInstance(await within(reactor, 10, far.lost, "the end"), ConnectionLost)

    async def test_a_peer_that_is_gone_is_an_end_and_no_error(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        far.transport.abortConnection()
        await within(reactor, 10, far.lost, "the end")
        for _ in range(1000):
            near.transport.write(DATA)
        await within(reactor, 10, near.lost, "the end")
        near.transport.write(b"too late")
        near.transport.lend(memoryview(b"too late"))

    async def test_a_port_of_this_machine_where_nobody_listens_refuses_once(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            for each in (reactor, direct(reactor)):
                endpoint = TCP4ClientEndpoint(each, "127.0.0.1", nobody.getsockname()[1])
                await self.assertFailure(endpoint.connect(Factory.forProtocol(Person)), ConnectionRefusedError)

    async def test_a_port_of_this_machine_is_reached_in_the_next_turn(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near, turn = Person(), Deferred[None]()
            direct(reactor).connectTCP(*listening.getsockname(), _Dialling(near))
            reactor.callLater(0, turn.callback, None)
            await turn
            self.assertTrue(near.made.called)
            near.transport.abortConnection()
            await near.lost

    async def test_nothing_is_paced_on_this_machine(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        for person in (near, far):
            used = person.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            self.assertEqual(used.rstrip(b"\0"), b"reno")
        near.transport.loseConnection()
        await within(reactor, 10, far.lost, "the end")
        await within(reactor, 10, near.lost, "the end")

    async def test_where_others_may_come_from_the_system_decides_how_to_send(self) -> None:
        with socket.socket() as usual:
            expected = usual.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        for interface in ("", "localhost"):
            port: Any = direct(reactor).listenTCP(0, Factory(), interface=interface)
            self.addCleanup(port.stopListening)
            used = port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            self.assertEqual(used, expected)

    async def test_little_waits_to_be_read_from_a_peer_on_this_machine(self) -> None:
        near, far = Person(), Person()
        await self.joined(near, far)
        near.transport.limit_unread(100_000)
        size = near.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.assertLessEqual(size, 2 * 100_000, "the kernel counts its own memory too")
        before = far.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        far.transport.getPeer = lambda: IPv4Address("TCP", "192.0.2.1", 7)
        far.transport.limit_unread(100_000)
        self.assertEqual(far.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), before)
        near.transport.abortConnection()
        await near.lost
        near.transport.limit_unread(100_000)

    async def test_a_connection_that_is_gone_does_not_keep_its_taker(self) -> None:
        near, far, taker = Person(), Person(), Borrower()
        await self.joined(near, far)
        near.transport.lend_to(taker)
        known = weakref.ref(taker)
        del taker
        self.assertIsNotNone(known())
        far.transport.loseConnection()
        await within(reactor, 10, near.lost, "the end")
        await within(reactor, 10, far.lost, "the end")
        await pause(reactor, 0)
        self.assertIsNone(known())


class OtherReactorTests(SynchronousTestCase):
    def test_a_reactor_without_real_sockets_stays_what_it_is(self) -> None:
        clock = Clock()
        self.assertIs(direct(clock), clock)
