"""Who asks and goes: what is done for them alone is given up, and all else is done all the same."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from avinet.aio import Tasks
from avinet.errors import PeerError
from avinet.rest.door import Door, DoorChannel
from avinet.rest.route import Reply, Request, Route
from avinet.rest.table import Table
from avinet.trust.tls import ServerTLS, UnverifiedTLS
from tests.enrolment.test_enrolment import domain

ASKS = b"GET /v1/question HTTP/1.1\r\nhost: x\r\n\r\n"
ORDERS = b"PUT /v1/order HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


class Slow:
    """A door whose answers take as long as the test likes."""

    def __init__(self, clock: Any) -> None:
        self.begun: Deferred[None] = Deferred()
        self.given_up: Deferred[None] = Deferred()
        self.answer: Deferred[bytes] = Deferred(lambda _: self.given_up.callback(None))
        self.tasks = Tasks()
        routes = [
            Route("GET", "/v1/question", self.work, "Ask", droppable=True),
            Route("PUT", "/v1/order", self.work, "Do"),
        ]
        self.door = Door(clock, Table(routes), tasks=self.tasks)

    async def work(self, request: Request) -> Reply:
        self.begun.callback(None)
        return Reply(200, await self.answer)


class End(StringTransport):
    """The door's end of a connection."""

    channel: DoorChannel

    def abortConnection(self) -> None:
        self.channel.connectionLost()


class GoneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.slow = Slow(Clock())

    def asked(self, request: bytes) -> End:
        channel, end = self.slow.door.buildProtocol(None), End()
        assert channel is not None
        end.channel = channel
        channel.makeConnection(end)
        channel.dataReceived(request)
        self.successResultOf(self.slow.begun)
        return end

    def test_what_a_peer_has_done_wrong_is_told_of_one_that_has_gone_too(self) -> None:
        end = self.asked(ORDERS)
        end.channel.connectionLost()
        self.slow.answer.errback(PeerError("it lies"))
        self.assertEqual((len(self.slow.tasks), end.value()), (0, b""))

    def test_a_question_is_dropped_with_the_connection(self) -> None:
        end = self.asked(ASKS)
        self.assertNoResult(self.slow.given_up)
        end.channel.connectionLost()
        self.successResultOf(self.slow.given_up)
        self.assertEqual((len(self.slow.tasks), end.value()), (0, b""))

    def test_what_changes_something_is_done_to_its_end(self) -> None:
        end = self.asked(ORDERS)
        end.channel.connectionLost()
        self.assertNoResult(self.slow.given_up)
        self.slow.answer.callback(b"done")
        self.assertEqual(len(self.slow.tasks), 0)

    def test_who_sends_no_more_is_gone_or_waits_and_a_question_is_dropped_for_both(self) -> None:
        end = self.asked(ASKS)
        end.channel.readConnectionLost()
        self.successResultOf(self.slow.given_up)
        self.assertEqual(end.value(), b"")

    def test_who_sends_no_more_is_told_what_became_of_an_order(self) -> None:
        end = self.asked(ORDERS)
        end.channel.readConnectionLost()
        self.slow.answer.callback(b"done")
        self.assertTrue(end.value().endswith(b"done"))
        self.assertTrue(end.disconnecting)

    def test_an_answer_in_time_goes_out_and_the_connection_stays(self) -> None:
        end = self.asked(ASKS)
        self.slow.answer.callback(b"42")
        self.assertTrue(end.value().endswith(b"42"))
        self.assertFalse(end.disconnecting)
        end.channel.connectionLost()
        self.assertNoResult(self.slow.given_up)

    def test_who_sends_on_without_its_answer_is_read_on_and_seen_to_go(self) -> None:
        """A transport that is not read does not tell of the end."""
        end = self.asked(ASKS)
        for _ in range(20):
            end.channel.dataReceived(ASKS * 200)
        self.assertEqual(end.producerState, "producing")
        self.slow.answer.callback(b"42")
        self.assertEqual(end.value().count(b"HTTP/1.1 200"), 1)
        self.assertTrue(end.disconnecting)

    def test_the_door_closes_and_both_end(self) -> None:
        for request in (ASKS, ORDERS):
            self.setUp()
            end = self.asked(request)
            self.slow.tasks.stop()
            self.successResultOf(self.slow.given_up)
            self.assertIn(b"HTTP/1.1 503", end.value())


class Asker(Protocol):
    """Asks, and waits."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(ASKS)


class SocketTests(TestCase):
    """The same through the kernel: a UNIX socket, TCP and TLS."""

    timeout = 60

    async def seen_to_go(self, ports: Any, client: Any, *, tls: bool = False) -> None:
        """Have somebody ask and go while the answer is made."""
        for how in ("loseConnection", "abortConnection"):
            slow = Slow(reactor)
            factory = (
                TLSMemoryBIOFactory(ServerTLS(domain().server, [domain().issuing.certificate]), False, slow.door)
                if tls
                else slow.door
            )
            port = await ports.listen(factory)
            try:
                asker = await client(port.getHost()).connect(Factory.forProtocol(Asker))
                await slow.begun
                getattr(asker.transport, how)()
                await slow.given_up
            finally:
                await port.stopListening()

    async def test_over_a_unix_socket(self) -> None:
        path = self.mktemp()
        await self.seen_to_go(UNIXServerEndpoint(reactor, path), lambda _: UNIXClientEndpoint(reactor, path))

    async def test_over_tcp(self) -> None:
        await self.seen_to_go(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), dialled)

    async def test_over_tls(self) -> None:
        def client(host: Any) -> Any:
            return wrapClientTLS(UnverifiedTLS("node"), dialled(host))

        await self.seen_to_go(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), client, tls=True)


def dialled(host: Any) -> TCP4ClientEndpoint:
    return TCP4ClientEndpoint(reactor, "127.0.0.1", host.port)
