"""What HAProxy loses of its records is told with bounds in time, and nothing is told that was not lost."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.dataplane.losses import Losses


class LossesTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.told: list[object] = []
        self.losses = Losses(self.clock.seconds, lambda *missing: self.told.append(missing))

    def at(self, seconds: float) -> None:
        self.clock.advance(seconds - self.clock.seconds())

    def test_its_death_lasts_from_the_last_record_until_it_listens_again(self) -> None:
        self.at(3)
        self.losses.taken()
        self.at(5)
        self.losses.died()
        self.at(7)
        self.losses.died()
        self.losses.listens()
        self.losses.listens()
        self.assertEqual(self.told, [("crash", None, 3000, 7000)])
        self.assertEqual(self.losses.take(), 0)

    def test_one_that_died_while_nobody_looked_has_died_since_it_was_started(self) -> None:
        self.at(9)
        self.losses.died(2.5)
        self.losses.listens()
        self.at(10)
        self.losses.died(11.0)
        self.losses.listens()
        self.assertEqual(self.told, [("crash", None, 2500, 9000), ("crash", None, 10000, 10000)])

    def test_its_counter_is_of_one_life(self) -> None:
        for total in (0, 3, 3, 5, 0, 2):
            self.losses.dropped(total)
        self.assertEqual([each[:2] for each in self.told], [("dropped", 3), ("dropped", 2), ("dropped", 2)])
        self.assertEqual((self.losses.take(), self.losses.take()), (7, 0))

    def look(self, at: float, reloads: int, *, old: bool = False, busy: bool = False) -> None:
        self.at(at)
        self.losses.seen(reloads, old=old, busy=busy)

    def test_what_old_workers_served_to_its_end_is_missing_when_they_are_gone(self) -> None:
        self.look(1, 0, busy=True)
        self.look(2, 1, old=True)
        self.look(3, 1, old=True, busy=True)
        self.assertEqual(self.told, [])
        self.look(4, 1, busy=True)
        self.look(5, 1, busy=True)
        self.assertEqual(self.told, [("dropped", None, 1000, 4000)])

    def test_old_workers_that_were_gone_before_anybody_looked_were_busy_or_not(self) -> None:
        self.look(1, 0)
        self.look(2, 1, old=True)
        self.look(3, 1)
        self.assertEqual(self.told, [], "nothing was open")
        self.at(3.5)
        self.losses.taken()
        self.look(4, 1)
        self.look(5, 2)
        self.assertEqual(self.told, [("dropped", None, 4000, 5000)])

    def test_those_that_are_found_at_the_start_are_told_of_too(self) -> None:
        self.look(1, 4, old=True)
        self.look(2, 4, old=True)
        self.look(3, 4)
        self.assertEqual(self.told, [("dropped", None, 1000, 3000)])

    def test_workers_that_die_are_no_old_ones_of_the_next_haproxy(self) -> None:
        self.look(1, 1, busy=True)
        self.look(2, 2, old=True)
        self.losses.died()
        self.losses.listens()
        self.look(3, 0)
        self.assertEqual(self.told, [("crash", None, 0, 2000)])
