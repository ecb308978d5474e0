"""A body that is taken in pieces: no more waits than may, and what broke off is no end."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from avinet.aio import as_deferred
from avinet.errors import TimedOut, Unavailable
from avinet.rest.pieces import HIGH_BYTES, LEAST_BYTES, MOST_PIECES, SOON_S, Pieces


class Reading:
    """What is read from."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def pauseProducing(self) -> None:
        self.said.append("pause")

    def resumeProducing(self) -> None:
        self.said.append("resume")

    def stopProducing(self) -> None:
        self.said.append("stop")


class PiecesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.reading = Clock(), Reading()
        self.pieces = Pieces(self.clock, "the peer", 200, {}, None, 30.0)
        self.pieces.makeConnection(self.reading)

    def test_all_that_has_arrived_is_taken_at_once_and_then_the_end(self) -> None:
        first = as_deferred(self.pieces.take())
        self.pieces.dataReceived(b"a")
        self.assertNoResult(first)
        self.clock.advance(SOON_S)
        self.assertEqual(self.successResultOf(first), [b"a"])
        for each in (b"b", b"c"):
            self.pieces.dataReceived(each)
        self.pieces.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.successResultOf(as_deferred(self.pieces.take())), [b"b", b"c"])
        self.assertEqual(self.successResultOf(as_deferred(self.pieces.take())), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_little_is_not_taken_at_once_and_much_is(self) -> None:
        self.pieces.dataReceived(b"a")
        self.clock.advance(SOON_S)
        self.assertEqual(self.successResultOf(as_deferred(self.pieces.take())), [b"a"], "it has waited long enough")
        taking = as_deferred(self.pieces.take())
        half = bytes(LEAST_BYTES // 2)
        self.pieces.dataReceived(half)
        self.assertNoResult(taking)
        self.pieces.dataReceived(half)
        self.assertEqual(self.successResultOf(taking), [half, half])

    def test_nor_while_many_small_pieces_do(self) -> None:
        for _ in range(MOST_PIECES - 1):
            self.pieces.dataReceived(b"x")
        self.assertEqual(self.reading.said, [])
        self.pieces.dataReceived(b"x")
        self.assertEqual(self.reading.said, ["pause"])
        self.clock.advance(SOON_S)
        self.assertEqual(len(self.successResultOf(as_deferred(self.pieces.take()))), MOST_PIECES)
        self.assertEqual(self.reading.said, ["pause", "resume"])

    def test_the_peer_is_not_read_while_much_waits(self) -> None:
        self.pieces.dataReceived(bytes(HIGH_BYTES))
        self.assertEqual(self.reading.said, [])
        self.pieces.dataReceived(b"x")
        self.assertEqual(self.reading.said, ["pause"])
        self.clock.pump([1] * 100)
        self.successResultOf(as_deferred(self.pieces.take()))
        self.assertEqual(self.reading.said, ["pause", "resume"], "it was not its fault that it was silent")
        self.clock.pump([1] * 30)
        self.failureResultOf(as_deferred(self.pieces.take()), TimedOut)
        self.assertEqual(self.reading.said, ["pause", "resume", "stop"])

    def test_what_broke_off_is_taken_first_and_is_no_end(self) -> None:
        self.pieces.dataReceived(b"a")
        self.pieces.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.successResultOf(as_deferred(self.pieces.take())), [b"a"])
        self.failureResultOf(as_deferred(self.pieces.take()), Unavailable)
