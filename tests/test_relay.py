"""Two connections joined into one, with Twisted's own TCP transports in memory: what passes through, and how it ends."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from avinet.errors import PeerError
from avinet.relay import Relay
from tests.sockets import CAPACITY, Net, Person

BOTH_WAYS = (0, 1)


class Joint:
    """Two persons, each connected to one side of a relay; not joined yet."""

    def __init__(self) -> None:
        self.net = Net()
        self.persons = (Person(), Person())
        self.passed = [0, 0]
        self.ended = [0, 0]
        self.sides = (self._side(0), self._side(1))
        for person, side in zip(self.persons, self.sides, strict=True):
            self.net.connect(person, side)

    def _side(self, number: int) -> Relay:
        def passed(count: int) -> None:
            self.passed[number] += count

        def ended() -> None:
            self.ended[number] += 1

        return Relay(passed, ended)

    def join(self) -> None:
        self.sides[0].join(self.sides[1])
        self.net.run()

    def nothing_is_left(self) -> bool:
        return not self.net.getReaders() and not self.net.getWriters() and not self.net.getDelayedCalls()


class RelayCase(SynchronousTestCase):
    def joint(self, *, joined: bool = True) -> Joint:
        joint = Joint()
        joint.net.run()
        if joined:
            joint.join()
        return joint

    def assert_over(self, joint: Joint) -> None:
        """Both persons were told once, each side has ended once, and no socket is open."""
        self.assertTrue(joint.nothing_is_left())
        self.assertEqual(joint.ended, [1, 1])
        self.assertTrue(all(person.lost for person in joint.persons))


class PassingTests(RelayCase):
    def test_a_relay_hears_of_half_closes(self) -> None:
        self.assertTrue(verifyObject(IHalfCloseableProtocol, Relay()))

    def test_bytes_go_both_ways_and_are_counted(self) -> None:
        joint = self.joint()
        joint.persons[0].transport.write(b"question")
        joint.persons[1].transport.write(b"answer")
        joint.net.run()
        self.assertEqual([person.heard for person in joint.persons], [b"answer", b"question"])
        self.assertEqual(joint.passed, [8, 6])

    def test_nothing_is_read_before_it_can_be_passed_on(self) -> None:
        joint = self.joint(joined=False)
        for person in joint.persons:
            person.transport.write(b"x" * 3 * CAPACITY)
        joint.net.run()
        self.assertEqual(joint.passed, [0, 0])
        joint.join()
        self.assertEqual([person.heard for person in joint.persons], [b"x" * 3 * CAPACITY] * 2)

    def test_bytes_that_come_before_they_can_be_passed_on_are_not_lost_in_silence(self) -> None:
        self.assertRaises(PeerError, Relay().dataReceived, b"early")

    def test_a_reader_that_stops_stops_the_writer_alone(self) -> None:
        for reader in BOTH_WAYS:
            joint = self.joint()
            slow, fast = joint.persons[reader], joint.persons[1 - reader]
            data = bytes(range(256)) * 4096
            slow.transport.pauseProducing()
            fast.transport.write(data)
            slow.transport.write(b"still here")
            joint.net.run()
            self.assertEqual(fast.heard, b"still here")
            self.assertLess(joint.passed[1 - reader], 256 * 1024)
            slow.transport.resumeProducing()
            joint.net.run()
            self.assertTrue(slow.heard == data)


class EndTests(RelayCase):
    def test_half_a_close_is_passed_on_and_the_other_half_goes_on(self) -> None:
        for first in BOTH_WAYS:
            joint = self.joint()
            asks, answers = joint.persons[first], joint.persons[1 - first]
            asks.transport.write(b"question")
            asks.transport.loseWriteConnection()
            joint.net.run()
            self.assertEqual((answers.heard, answers.heard_all, asks.heard_all), (b"question", True, False))
            answers.transport.write(b"answer" * CAPACITY)
            answers.transport.loseWriteConnection()
            joint.net.run()
            self.assertEqual((asks.heard, asks.heard_all), (b"answer" * CAPACITY, True))
            for person in joint.persons:
                person.transport.loseConnection()
            joint.net.run()
            self.assert_over(joint)

    def test_half_a_close_before_the_joining_is_passed_on(self) -> None:
        for first in BOTH_WAYS:
            joint = self.joint(joined=False)
            asks, answers = joint.persons[first], joint.persons[1 - first]
            asks.transport.write(b"question")
            asks.transport.loseWriteConnection()
            joint.net.run()
            joint.join()
            self.assertEqual((answers.heard, answers.heard_all, asks.heard_all), (b"question", True, False))
            answers.transport.write(b"answer")
            joint.net.run()
            self.assertEqual(asks.heard, b"answer")

    def test_half_a_close_that_was_told_before_the_joining_is_passed_on(self) -> None:
        """Some transports tell of it though they are paused, when there is nothing to hand over before."""
        for first in BOTH_WAYS:
            joint = self.joint(joined=False)
            asks, answers = joint.persons[first], joint.persons[1 - first]
            asks.transport.loseWriteConnection()
            joint.sides[first].transport.resumeProducing()
            joint.net.run()
            joint.join()
            self.assertEqual((answers.heard_all, asks.heard_all), (True, False))
            answers.transport.write(b"answer")
            joint.net.run()
            self.assertEqual(asks.heard, b"answer")

    def test_both_halves_closed_before_the_joining_end_it(self) -> None:
        for told in (False, True):
            joint = self.joint(joined=False)
            for person, side in zip(joint.persons, joint.sides, strict=True):
                person.transport.write(b"" if told else b"last words")
                person.transport.loseWriteConnection()
                if told:
                    side.transport.resumeProducing()
            joint.net.run()
            joint.join()
            self.assertEqual([person.heard for person in joint.persons], [b"" if told else b"last words"] * 2)
            self.assertEqual([person.heard_all for person in joint.persons], [True, True])
            self.assertEqual(joint.ended, [1, 1])
            for person in joint.persons:  # as for the relay: TCP does not end by itself
                person.transport.loseConnection()
            joint.net.run()
            self.assert_over(joint)

    def test_a_clean_end_comes_after_all_that_was_said(self) -> None:
        for first in BOTH_WAYS:
            joint = self.joint()
            leaves, stays = joint.persons[first], joint.persons[1 - first]
            stays.transport.pauseProducing()
            leaves.transport.write(b"x" * 50 * CAPACITY)
            leaves.transport.loseConnection()
            joint.net.run()
            stays.transport.resumeProducing()
            joint.net.run()
            self.assertEqual((len(stays.heard), stays.heard_all), (50 * CAPACITY, True))
            stays.transport.loseConnection()
            joint.net.run()
            self.assert_over(joint)

    def test_an_abort_is_an_abort_on_the_other_side(self) -> None:
        for first in BOTH_WAYS:
            for joined in (True, False):
                joint = self.joint(joined=joined)
                leaves, stays = joint.persons[first], joint.persons[1 - first]
                leaves.transport.abortConnection()
                joint.net.run()
                if not joined:
                    joint.join()
                self.assertIsNotNone(stays.lost)
                assert stays.lost is not None
                stays.lost.trap(ConnectionLost)
                self.assertFalse(stays.heard_all)
                self.assert_over(joint)

    def test_an_abort_that_was_told_before_the_joining_is_passed_on(self) -> None:
        for first in BOTH_WAYS:
            joint = self.joint(joined=False)
            leaves, stays = joint.persons[first], joint.persons[1 - first]
            leaves.transport.abortConnection()
            joint.sides[first].transport.resumeProducing()
            joint.net.run()
            self.assertEqual(joint.ended[first], 1)
            joint.join()
            assert stays.lost is not None
            stays.lost.trap(ConnectionLost)
            self.assert_over(joint)

    def test_an_abort_after_half_a_close_ends_it(self) -> None:
        for first in BOTH_WAYS:
            joint = self.joint()
            leaves, stays = joint.persons[first], joint.persons[1 - first]
            leaves.transport.write(b"question")
            leaves.transport.loseWriteConnection()
            joint.net.run()
            stays.transport.write(b"x" * CAPACITY)
            leaves.transport.abortConnection()
            joint.net.run()
            stays.transport.write(b"to nobody")
            stays.transport.loseConnection()
            joint.net.run()
            self.assertEqual(stays.heard, b"question")
            self.assertIsNotNone(stays.lost)
            self.assert_over(joint)
