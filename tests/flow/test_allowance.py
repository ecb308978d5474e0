"""Who does something too often has to wait, and nobody else has."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import TooMany
from avinet.flow.allowance import Allowance


class AllowanceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def test_a_source_that_has_much_left_does_not_help_another(self) -> None:
        allowance = Allowance(self.clock.seconds, burst=2, per_s=1)
        allowance.take("a")
        allowance.take("b")
        allowance.take("a")
        self.assertRaises(TooMany, allowance.take, "a")
        allowance.take("b")
        self.clock.advance(100)
        allowance.take("a")
        allowance.take("a")
        self.assertRaises(TooMany, allowance.take, "a")

    def test_it_says_how_long_to_wait(self) -> None:
        allowance = Allowance(self.clock.seconds, burst=1, per_s=4)
        self.assertEqual(allowance.wait_s("a"), 0.0)
        allowance.spend("a")
        self.assertEqual(allowance.wait_s("a"), 0.25)
        self.clock.advance(0.25)
        self.assertEqual(allowance.wait_s("a"), 0.0)

    def test_what_was_done_all_the_same_is_owed_up_to_a_limit(self) -> None:
        for debt, wait_s in ((0, 1.0), (5, 6.0)):
            allowance = Allowance(self.clock.seconds, burst=3, per_s=1, debt=debt)
            for _ in range(100):
                allowance.spend("a")
            self.assertEqual(allowance.wait_s("a"), wait_s)

    def test_what_it_remembers_is_bounded(self) -> None:
        allowance = Allowance(self.clock.seconds, burst=1, per_s=1, sources=3)
        for source in "abcd":
            allowance.take(source)
        allowance.take("a")
        self.assertRaises(TooMany, allowance.take, "d")
