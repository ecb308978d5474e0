"""A stream of syslog that is lost, or read slowly: nothing is written faster than it is read, and nothing is lost unsaid."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import as_deferred, within
from avinet.dataplane.records import line
from avinet.errors import TimedOut, Unavailable
from avinet.logs.export.batch import Batch
from avinet.logs.export.exporter import Sent
from avinet.logs.export.rfc5424 import Sender
from avinet.logs.export.syslog import CLOSE_S, PROVEN_S, UNSURE_S, Syslog
from tests.logs.export.syslog_message import unframed
from tests.logs.test_significant import record


class Wire(StringTransport):
    """A connection, of which the test says when it is lost."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.lost = False

    def lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(ConnectionRefusedError()))

    @override
    def abortConnection(self) -> None:
        self.lose()

    @property
    def came(self) -> list[bytes]:
        """The paths of the records that came."""
        messages, rest = unframed(self.value())
        assert not rest
        return [each.text for each in messages]


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects when the test says so; `shakes` says whether the handshake is done at once."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.shakes = True
        self.refuses = False

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        if self.refuses:
            return fail(ConnectionRefusedError())
        protocol = protocolFactory.buildProtocol(None)
        wire = Wire(protocol)
        self.wires.append(wire)
        protocol.makeConnection(wire)
        if self.shakes:
            protocol.handshakeCompleted()
        return succeed(protocol)


def text(path: str) -> bytes:
    return line(record(path=path))


def batch(*paths: str) -> Batch:
    return Batch([], [text(each) for each in paths])


class SyslogTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.endpoint = Endpoint()
        self.syslog = Syslog(self.clock, self.endpoint, "the collector", Sender("edge", lambda: "se-1", 16, 32473))

    def send(self, *paths: str) -> Deferred[Sent]:
        return as_deferred(self.syslog.send(batch(*paths)))

    def sent(self, *paths: str) -> Sent:
        sending = self.send(*paths)
        self.clock.advance(PROVEN_S)
        return self.successResultOf(sending)

    def test_one_connection_is_kept(self) -> None:
        self.assertEqual((self.sent("/1", "/2"), self.sent("/3")), (Sent(), Sent()))
        [wire] = self.endpoint.wires
        self.assertEqual(wire.came, [text("/1"), text("/2"), text("/3")])

    def test_nothing_is_sent_before_it_is_known_who_is_there(self) -> None:
        self.endpoint.shakes = False
        sending = self.send("/1")
        self.assertEqual(self.endpoint.wires[0].value(), b"")
        self.endpoint.wires[0].protocol.handshakeCompleted()
        self.clock.advance(PROVEN_S)
        self.successResultOf(sending)
        self.assertEqual(self.endpoint.wires[0].came, [text("/1")])

    def test_a_handshake_that_fails_or_nobody_there_is_tried_again(self) -> None:
        self.endpoint.shakes = False
        sending = self.send("/1")
        self.endpoint.wires[0].lose()
        self.assertIn("the collector: the connection was lost", str(self.failureResultOf(sending, Unavailable).value))
        self.endpoint.refuses = True
        self.assertIn("cannot be reached", str(self.failureResultOf(self.send("/1"), Unavailable).value))
        self.endpoint.refuses, self.endpoint.shakes = False, True
        self.assertEqual(self.sent("/1"), Sent())

    def test_one_that_turns_it_away_after_the_handshake_has_taken_nothing(self) -> None:
        """As it is in TLS 1.3 with a client that may not come in."""
        sending = self.send("/1")
        self.assertNoResult(sending)
        self.endpoint.wires[0].lose()
        self.failureResultOf(sending, Unavailable)
        self.assertFalse(self.syslog.again)
        self.assertEqual(self.sent("/1"), Sent())

    def test_it_is_done_when_there_is_room_for_more(self) -> None:
        self.sent("/1")
        wire = self.endpoint.wires[0]
        assert wire.producer is not None
        wire.producer.pauseProducing()
        sending = self.send("/2")
        self.assertNoResult(sending)
        wire.producer.resumeProducing()
        self.assertEqual(self.successResultOf(sending), Sent())

    def test_after_a_loss_the_last_one_comes_once_more_and_so_it_is_said(self) -> None:
        self.sent("/1")
        self.sent("/2")
        told: list[bool] = []
        self.syslog.changed = lambda: told.append(self.syslog.again)
        self.endpoint.wires[0].lose()
        self.assertEqual(told, [True])
        self.assertEqual(self.sent("/3"), Sent(unsure=True))
        self.assertEqual(self.endpoint.wires[1].came, [text("/2"), text("/3")])
        self.assertEqual(self.sent("/4"), Sent())
        self.assertEqual(self.endpoint.wires[1].came, [text("/2"), text("/3"), text("/4")])

    def test_a_loss_long_after_the_last_write_is_none(self) -> None:
        self.sent("/1")
        self.clock.advance(UNSURE_S)
        self.endpoint.wires[0].lose()
        self.clock.advance(3600)
        self.assertEqual(self.sent("/2"), Sent())
        self.assertEqual(self.endpoint.wires[1].came, [text("/2")])

    def test_a_loss_while_it_is_written_brings_both_again(self) -> None:
        self.sent("/1")
        wire = self.endpoint.wires[0]
        assert wire.producer is not None
        wire.producer.pauseProducing()
        sending = self.send("/2")
        wire.lose()
        self.failureResultOf(sending, Unavailable)
        self.endpoint.refuses = True
        self.failureResultOf(self.send("/2"), Unavailable)
        self.endpoint.refuses = False
        self.assertEqual(self.sent("/2"), Sent(unsure=True))
        self.assertEqual(self.endpoint.wires[1].came, [text("/1"), text("/2")])

    def test_one_that_is_not_read_is_given_up_with_its_deadline(self) -> None:
        self.sent("/1")
        wire = self.endpoint.wires[0]
        assert wire.producer is not None
        wire.producer.pauseProducing()
        sending = as_deferred(within(self.clock, 10, self.syslog.send(batch("/2")), "it"))
        self.clock.advance(10)
        self.failureResultOf(sending, TimedOut)
        self.assertTrue(wire.lost)
        self.assertEqual(self.sent("/2"), Sent(unsure=True))

    def test_what_a_collector_says_is_not_kept(self) -> None:
        self.sent("/1")
        self.endpoint.wires[0].protocol.dataReceived(b"x" * 10**6)
        self.assertEqual(self.sent("/2"), Sent())

    def test_the_end_closes_it(self) -> None:
        self.sent("/1")
        closing = as_deferred(self.syslog.close())
        self.assertTrue(self.endpoint.wires[0].disconnecting)
        self.assertFalse(self.endpoint.wires[0].lost)
        self.clock.advance(CLOSE_S)
        self.successResultOf(closing)
        self.assertTrue(self.endpoint.wires[0].lost)
        self.assertFalse(self.syslog.again)
