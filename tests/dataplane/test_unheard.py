"""What workers say to nobody is told of until they are gone, by whoever is there then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.losses import Losses
from avinet.dataplane.unheard import LONGEST_S, MARK, Unheard


class UnheardTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.clock.advance(100)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.mark = self.folder / MARK
        self.living = {7}
        self.told: list[Any] = []
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)

    def comes(self, *workers: int) -> Unheard:
        """A service engine comes, and finds these that leave."""
        self.losses = Losses(self.clock.seconds, lambda *missing: self.told.append(missing))
        unheard = Unheard(self.clock, self.folder, self.living.__contains__, self.losses)
        self.tasks = Tasks()
        self.tasks.spawn(unheard.outlast(workers), "waiting")
        return unheard

    def ends(self, unheard: Unheard) -> None:
        """It ends in order."""
        self.tasks.stop()
        unheard.keep()
        if self.mark.exists():
            os.utime(self.mark, (self.clock.seconds(),) * 2)
        self.losses.listens()

    def test_without_any_nothing_is_told(self) -> None:
        self.ends(self.comes())
        self.assertEqual((self.told, self.mark.exists(), self.clock.getDelayedCalls()), ([], False, []))

    def test_it_is_told_until_they_are_gone(self) -> None:
        self.comes(7)
        self.assertEqual(self.told, [("crash", None, 100_000, 100_000)])
        self.clock.pump([1] * 5)
        self.living.clear()
        self.clock.advance(1)
        self.assertEqual(self.told[1:], [("crash", None, 100_000, 106_000)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobody_is_waited_for_without_end(self) -> None:
        self.comes(7)
        self.clock.pump([1] * int(LONGEST_S + 1))
        self.assertEqual((len(self.told), self.clock.getDelayedCalls()), (2, []))

    def test_those_that_are_left_are_told_of_by_the_next_once(self) -> None:
        unheard = self.comes()
        unheard.left(7)
        unheard.left(8)
        self.ends(unheard)
        self.assertEqual(self.told, [])
        self.living.clear()
        self.clock.advance(10)
        self.ends(self.comes())
        self.assertEqual(self.told, [("crash", None, 100_000, 110_000)])
        self.comes()
        self.assertEqual(len(self.told), 1)

    def test_one_that_is_gone_at_the_end_leaves_no_mark(self) -> None:
        unheard = self.comes()
        unheard.left(7)
        self.living.clear()
        self.ends(unheard)
        self.assertFalse(self.mark.exists())

    def test_who_ends_meanwhile_tells_of_its_own_time_and_the_next_of_what_came_then(self) -> None:
        first = self.comes(7)
        self.clock.advance(5)
        self.ends(first)
        self.clock.advance(5)
        self.living.clear()
        self.comes()
        self.assertEqual(
            self.told,
            [("crash", None, 100_000, 100_000), ("crash", None, 100_000, 105_000), ("crash", None, 105_000, 110_000)],
        )
