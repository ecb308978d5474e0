"""When a service engine dials again."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.backoff import Backoff
from avinet.se.link import Waits


class WaitsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.waits = Waits(Backoff(first_s=0.25, cap_s=3.0), lambda: 0.5)

    def test_between_tries_it_is_the_back_off(self) -> None:
        self.assertEqual([self.waits.delay_s(failures) for failures in (1, 2, 3, 9)], [0.125, 0.25, 0.5, 1.5])

    def test_after_a_loss_of_the_node_it_is_the_slot_and_then_the_back_off(self) -> None:
        self.waits.slot_s, self.waits.slotted = 20.0, True
        self.assertEqual([self.waits.delay_s(failures) for failures in (1, 2, 3)], [20.125, 0.25, 0.5])

    def test_the_first_in_the_line_comes_at_once(self) -> None:
        self.waits.slotted = True
        self.assertLess(self.waits.delay_s(1), 0.25)

    def test_where_the_way_was_lost_and_not_the_node_the_slot_is_not_waited_for(self) -> None:
        self.waits.slot_s = 20.0
        self.assertEqual(self.waits.delay_s(1), 0.125)

    def test_a_node_that_asks_for_patience_is_given_it(self) -> None:
        self.waits.retry_after_s = 7.0
        self.assertEqual(self.waits.delay_s(2), 7.25)
