"""Whose turn it is: strict classes, and nobody of a class is passed over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.turns import Priority, Turns


class TurnsTests(SynchronousTestCase):
    """Classes go first by their number, and within one first come is first served."""

    @given(st.lists(st.sampled_from(Priority)))
    def test_higher_classes_go_first_and_each_class_keeps_its_order(self, priorities: list[Priority]) -> None:
        turns: Turns[tuple[Priority, int]] = Turns()
        arrivals = [(priority, number) for number, priority in enumerate(priorities)]
        for arrival in arrivals:
            turns.add(arrival, arrival[0])
        got = []
        while turns:
            got.append(turns.next())
        self.assertEqual(got, sorted(arrivals))

    def test_one_that_comes_later_but_is_more_urgent_is_next(self) -> None:
        turns: Turns[str] = Turns()
        turns.add("log", Priority.LOGS)
        turns.add("log too", Priority.LOGS)
        self.assertEqual(turns.next(), "log")
        turns.add("command", Priority.COMMANDS)
        turns.add("report", Priority.REPORTS)
        self.assertEqual([turns.next(), turns.next(), turns.next()], ["command", "report", "log too"])
        self.assertFalse(turns)

    def test_forgetting_all_leaves_nobody(self) -> None:
        turns: Turns[str] = Turns()
        turns.add("log", Priority.LOGS)
        turns.clear()
        self.assertFalse(turns)
