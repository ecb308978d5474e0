"""TLS at the built-in proxy in memory: a handshake that does not end, data that comes with its end, and ends of both sides."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks
from avinet.dataplane.counting import Counter
from avinet.dataplane.records import Record
from avinet.dataplane.tcp_proxy import TCPFront
from avinet.dataplane.tls import HANDSHAKE_S, LINGER_S, Termination
from avinet.wire.config import Tls
from tests.dataplane.test_http_proxy import Servers, Transport
from tests.issuing import Issuer


class TCPTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.servers, self.counter = Clock(), Servers(), Counter("web")
        self.records: list[Record] = []
        front = TCPFront(self.clock, self.counter, lambda: self.servers, Tasks(), self.records.append, tls=True)
        termination = Termination([])
        termination.serve(Tls(certificates=["shop"]), {"shop": Issuer().serve("shop.example")})
        self.front = TLSMemoryBIOFactory(termination, False, front, self.clock).buildProtocol(None)
        self.client = Transport()
        self.front.makeConnection(self.client)
        self.peer = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        self.peer.set_connect_state()
        self.left = False
        self.addCleanup(self.end)

    def end(self) -> None:
        """Lose what is still open: nothing is left of it."""
        self.lose(ConnectionLost())
        for protocol, transport in self.servers.opened:
            protocol.connectionLost(Failure(ConnectionLost()))
            self.assertTrue(transport.gone)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.counter.connections, self.servers.member.active), (0, 0))

    def lose(self, why: Exception) -> None:
        if not self.left:
            self.left = True
            self.front.connectionLost(Failure(why))

    def said(self) -> bytes:
        """What the client has to send now."""
        data = b""
        while True:
            try:
                data += self.peer.bio_read(65536)
            except SSL.WantReadError:
                return data

    def hear(self) -> None:
        """Give the client what was sent to it."""
        self.clock.advance(0)
        data = self.client.take()
        if data:
            self.peer.bio_write(data)

    def shake_hands(self) -> None:
        """All but the client's last message, which `said` gives with whatever it writes then."""
        for _ in range(5):
            try:
                self.peer.do_handshake()
            except SSL.WantReadError:
                self.front.dataReceived(self.said())
                self.hear()
            else:
                return
        self.fail("no end of the handshake")

    def ended(self) -> str:
        """How it ended, in the one record."""
        [found] = self.records
        return found.termination

    def received(self) -> bytes:
        self.hear()
        try:
            return self.peer.recv(65536)
        except SSL.ZeroReturnError:
            return b"(closed)"

    def test_no_server_is_asked_before_the_handshake_is_done(self) -> None:
        self.assertEqual(self.servers.opened, [])
        self.shake_hands()
        self.assertEqual(self.servers.opened, [])
        self.front.dataReceived(self.said())
        self.assertEqual(len(self.servers.opened), 1)

    def test_a_handshake_that_does_not_end_is_broken_off_and_is_no_connection_that_was_served(self) -> None:
        self.clock.advance(HANDSHAKE_S - 0.1)
        self.assertFalse(self.client.gone)
        self.clock.advance(0.2)
        self.assertTrue(self.client.gone)
        self.lose(ConnectionLost())
        self.assertEqual((self.counter.servers, self.records), ({}, []))

    def test_what_comes_with_the_end_of_the_handshake_waits_for_the_server(self) -> None:
        self.servers.ready = Deferred()
        self.shake_hands()
        self.peer.send(b"early")
        self.front.dataReceived(self.said())
        self.assertEqual(self.client.producerState, "paused")
        self.servers.ready.callback(None)
        self.assertEqual(self.servers.opened[0][1].value(), b"early")
        self.assertEqual(self.client.producerState, "producing")
        self.peer.send(b" late")
        self.front.dataReceived(self.said())
        self.assertEqual(self.servers.opened[0][1].value(), b"early late")
        self.assertEqual(self.counter.bytes_in, len("early late"))

    def test_a_client_that_is_gone_before_its_server_is_there_leaves_nothing(self) -> None:
        self.servers.ready = Deferred()
        self.shake_hands()
        self.front.dataReceived(self.said())
        self.lose(ConnectionLost())
        self.servers.ready.callback(None)
        self.assertTrue(self.servers.opened[0][1].gone)
        self.assertEqual(self.ended(), "CC")

    def test_without_a_server_the_client_is_broken_off(self) -> None:
        self.servers.away = True
        self.shake_hands()
        self.front.dataReceived(self.said())
        self.assertTrue(self.client.gone)
        self.lose(ConnectionLost())
        self.assertEqual(self.ended(), "SC")

    def test_a_server_that_breaks_off_is_told_from_a_client_that_does(self) -> None:
        self.shake_hands()
        self.front.dataReceived(self.said())
        back, server = self.servers.opened[0]
        self.clock.advance(0.5)
        back.connectionLost(Failure(ConnectionLost()))
        server.disconnected = True
        self.lose(ConnectionLost())
        self.assertEqual(self.ended(), "SD")
        self.assertEqual((self.records[0].total_ms, self.records[0].connect_ms), (500, 0))

    def test_a_client_that_breaks_off(self) -> None:
        self.shake_hands()
        self.front.dataReceived(self.said())
        self.lose(ConnectionLost())
        self.assertEqual(self.ended(), "CD")

    def test_when_the_server_ends_the_client_gets_all_of_it_and_the_end(self) -> None:
        self.shake_hands()
        self.front.dataReceived(self.said())
        back, server = self.servers.opened[0]
        back.dataReceived(b"all of it")
        back.readConnectionLost()
        self.assertEqual(self.received(), b"all of it")
        self.assertEqual(self.received(), b"(closed)")
        self.clock.advance(LINGER_S)
        self.assertTrue(self.client.gone)
        self.lose(ConnectionLost())
        self.assertTrue(server.gone)

    def test_when_the_client_ends_the_server_gets_all_of_it_and_the_end(self) -> None:
        self.shake_hands()
        self.peer.send(b"all of it")
        self.peer.shutdown()
        self.front.dataReceived(self.said())
        self.assertTrue(self.client.gone)
        self.lose(ConnectionDone())
        _, server = self.servers.opened[0]
        self.assertEqual(server.value(), b"all of it")
        self.assertTrue(server.disconnecting)
        self.assertEqual(self.ended(), "--")
        self.assertEqual((self.records[0].bytes_in, self.records[0].tls_version), (9, "TLSv1.3"))
