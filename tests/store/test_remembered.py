"""What is said often and lost without harm."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.store.remembered import Remembered
from tests.store.memory import MemoryStore


class RememberedTests(SynchronousTestCase):
    def test_a_store_that_is_away_holds_up_no_end(self) -> None:
        clock = Clock()
        store = MemoryStore(clock)
        said = Remembered(clock, store, b"said/", int, batch_s=5)
        self.successResultOf(as_deferred(said.start()))
        said.set("se-1", 7)
        store.unavailable = "no quorum"
        self.successResultOf(as_deferred(said.stop()))
        self.assertEqual(clock.getDelayedCalls(), [])
