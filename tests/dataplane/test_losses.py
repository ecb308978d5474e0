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
        self.losses.taken(3.0)
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
