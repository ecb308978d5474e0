"""The windows of all channels together, whatever each of them wants, and whichever of them stop reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.budget import Budget

LEAST, MOST = 64, 4096


class BudgetTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 2 * MOST)))))
    def test_what_peers_may_have_us_hold_is_bounded(self, steps: list[tuple[int, int | None]]) -> None:
        """Each step is a channel and the window that it wants, when all that it had is full; None is its end."""
        budget = Budget(MOST, LEAST)
        sizes: dict[int, int] = {}
        for channel, wanted in steps:
            if wanted is None:
                budget.free(channel)
                sizes.pop(channel, None)
            else:
                held = sizes.get(channel, LEAST)
                sizes[channel] = max(held, budget.size(channel, held, wanted))
            self.assertLessEqual(sum(sizes.values()), MOST + LEAST * len(sizes))

    def test_one_alone_has_half_however_long_it_flows(self) -> None:
        budget = Budget(MOST, LEAST)
        held = LEAST
        for _ in range(10):
            held = budget.size(1, held, 10 * MOST)
        self.assertEqual(held, MOST // 2)

    def test_the_next_gets_something_after_many_that_stopped_reading(self) -> None:
        budget = Budget(MOST, LEAST)
        sizes = [budget.size(channel, LEAST, 10 * MOST) for channel in range(4)]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertGreater(sizes[-1], 2 * LEAST)

    def test_what_was_given_counts_until_it_is_used_up(self) -> None:
        budget = Budget(MOST, LEAST)
        large = budget.size(1, LEAST, 10 * MOST)
        self.assertEqual(budget.size(1, large, LEAST), LEAST)
        self.assertLess(budget.size(2, LEAST, 10 * MOST), MOST // 2)
        budget.size(1, LEAST, LEAST)
        self.assertGreater(budget.size(2, LEAST, 10 * MOST), MOST // 2 - LEAST)

    def test_nobody_gets_more_than_it_wants(self) -> None:
        self.assertEqual(Budget(MOST, LEAST).size(1, LEAST, 5), 5)

    def test_a_channel_that_ends_gives_all_of_it_back(self) -> None:
        budget = Budget(MOST, LEAST)
        first = budget.size(1, LEAST, 10 * MOST)
        budget.free(1)
        budget.free(1)
        self.assertEqual(budget.size(2, LEAST, 10 * MOST), first)
