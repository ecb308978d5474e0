"""What is said often and lost without harm."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.store.interface import Outcome, Transaction, Uncertain
from avinet.store.remembered import Remembered
from tests.store.memory import MemoryStore


class RememberedTests(SynchronousTestCase):
    def test_what_is_done_late_writes_nothing_over_what_is_newer(self) -> None:
        clock, store, said = self.begun()
        transact, late = store.transact, []

        async def uncertain(transaction: Transaction) -> Outcome:
            late.append(transaction)
            raise Uncertain("the store gave no answer")

        self.patch(store, "transact", uncertain)
        said.set("se-1", 1)
        clock.advance(5)
        self.patch(store, "transact", transact)
        said.set("se-1", 2)
        clock.advance(5)
        [asked] = late
        self.assertFalse(self.successResultOf(as_deferred(transact(asked))).succeeded)
        self.assertEqual(self.kept(store), {b"said/se-1": b"2"})

    def test_what_was_done_though_nobody_said_so_holds_nothing_up(self) -> None:
        clock, store, said = self.begun()
        transact = store.transact

        async def unheard(transaction: Transaction) -> Outcome:
            await transact(transaction)
            raise Uncertain("the store gave no answer")

        self.patch(store, "transact", unheard)
        said.set("se-1", 1)
        clock.advance(5)
        self.patch(store, "transact", transact)
        said.set("se-1", 2)
        clock.advance(5)
        self.assertEqual(self.kept(store), {b"said/se-1": b"2"})
        self.successResultOf(as_deferred(said.stop()))

    def begun(self) -> tuple[Clock, MemoryStore, Remembered[int]]:
        clock = Clock()
        store = MemoryStore(clock)
        said = Remembered(clock, store, b"said/", int, batch_s=5)
        self.successResultOf(as_deferred(said.start()))
        return clock, store, said

    def kept(self, store: MemoryStore) -> dict[bytes, bytes]:
        entries = self.successResultOf(as_deferred(store.range(b"said/"))).entries
        return {each.key: each.value for each in entries}

    def test_a_store_that_is_away_holds_up_no_end(self) -> None:
        clock, store, said = self.begun()
        said.set("se-1", 7)
        store.unavailable = "no quorum"
        self.successResultOf(as_deferred(said.stop()))
        self.assertEqual(clock.getDelayedCalls(), [])
