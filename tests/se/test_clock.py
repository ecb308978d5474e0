"""The time of a service engine whose own clock may say anything (E9)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.se.clock import TOLERATED_S, EngineClock

BUILT = 1_800_000_000.0


class EngineClockTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.wall = BUILT + 1000
        self.clock = EngineClock(lambda: self.wall, BUILT)

    def test_a_clock_that_is_right_is_believed(self) -> None:
        self.assertFalse(self.clock.learn(self.wall + TOLERATED_S))
        self.wall += 5
        self.assertEqual(self.clock.now(), self.wall)

    def test_it_is_never_before_the_image_was_built(self) -> None:
        self.wall = 0.0
        self.assertEqual(self.clock.now(), BUILT)

    def test_a_node_that_was_verified_corrects_it_in_either_direction(self) -> None:
        for wall in (0.0, BUILT + 2_000_000_000):
            self.wall = wall
            self.assertTrue(self.clock.learn(BUILT + 500))
            self.wall += 7
            self.assertEqual(self.clock.now(), BUILT + 507)

    def test_a_clock_that_was_set_right_meanwhile_is_believed_again(self) -> None:
        self.wall = 0.0
        self.clock.learn(BUILT + 500)
        self.wall = BUILT + 510
        self.assertFalse(self.clock.learn(BUILT + 511))
        self.assertEqual(self.clock.now(), BUILT + 510)
