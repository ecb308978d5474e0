"""What kept the loop from its next turn is known for a minute or two."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.stalls import TICK_S, WINDOW_S, Stalls


class StallsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.stalls = Stalls(self.clock)
        self.stalls.start()

    def quiet(self, seconds: float) -> None:
        """The loop turns as it should."""
        self.clock.pump([TICK_S] * round(seconds / TICK_S))

    def test_a_loop_that_turns_has_none(self) -> None:
        self.quiet(1)
        self.assertAlmostEqual(self.stalls.longest_s, 0)

    def test_the_longest_is_kept_and_less_a_tick_is_seen_of_it(self) -> None:
        for seconds in (0.1, 0.3, 0.2):
            self.clock.advance(seconds)
            self.quiet(1)
        self.assertAlmostEqual(self.stalls.longest_s, 0.3 - TICK_S)

    def test_it_is_remembered_for_a_minute_and_forgotten_after_two(self) -> None:
        self.clock.advance(0.5)
        self.quiet(WINDOW_S)
        self.assertGreater(self.stalls.longest_s, 0.4)
        self.quiet(WINDOW_S + 1)
        self.assertAlmostEqual(self.stalls.longest_s, 0)

    def test_it_can_be_ended(self) -> None:
        self.stalls.stop()
        self.stalls.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
