"""The link in user space, with a clock that the test turns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bench.link import Direction


class DirectionTests(SynchronousTestCase):
    """It has the rate and the delay that it says, and loses nothing."""

    def link(self, rate: float, delay_s: float) -> tuple[Clock, Direction, list[tuple[float, bytes]]]:
        clock = Clock()
        came: list[tuple[float, bytes]] = []
        return clock, Direction(clock, rate, delay_s, lambda data: came.append((clock.seconds(), data))), came

    def test_a_byte_takes_the_delay(self) -> None:
        clock, direction, came = self.link(1e6, 0.5)
        direction.send(b"x")
        clock.pump([0.1] * 4)
        self.assertEqual(came, [])
        clock.pump([0.1, 0.01])
        self.assertEqual([data for _, data in came], [b"x"])

    def test_many_bytes_take_as_long_as_the_rate_says(self) -> None:
        clock, direction, came = self.link(1000, 0.5)
        direction.send(bytes(10_000))
        clock.pump([0.1] * 110)
        self.assertEqual(sum(len(data) for _, data in came), 10_000)
        self.assertApproximates(came[-1][0], 10.5, 0.11)
        self.assertEqual(direction.queued, 0)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.binary(max_size=5000), st.floats(0, 2)), max_size=8))
    def test_all_of_it_comes_in_order(self, sent: list[tuple[bytes, float]]) -> None:
        clock, direction, came = self.link(5000, 0.2)
        for data, wait_s in sent:
            direction.send(data)
            clock.advance(wait_s)
        for _ in range(600):
            clock.advance(0.1)
        self.assertEqual(b"".join(data for _, data in came), b"".join(data for data, _ in sent))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_what_is_under_way_can_be_forgotten(self) -> None:
        clock, direction, came = self.link(1000, 0.5)
        direction.send(bytes(10))
        direction.stop()
        clock.advance(10)
        self.assertEqual((came, clock.getDelayedCalls()), ([], []))
