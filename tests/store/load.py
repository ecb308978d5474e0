"""Writers, readers and a watcher that are at work on a store while something happens to it, and what must hold then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest import TestCase

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from avinet.aio import pause
from avinet.errors import Unavailable
from avinet.store.interface import Delete, Entry, Event, Outcome, Put, Store, Transaction, Uncertain, Unchanged
from tests.running import eventually

AGAIN_S = 0.02
PATIENCE_S = 90.0


class Load:
    """`writers` write through `store`, readers read there, and a watch of `watching` sees it.

    Each transaction of a writer puts a key of its own, moves the writer's `last`, and every third time removes the
    key before. Every fourth writer counts in one place under a condition.
    """

    def __init__(
        self, store: Store, watching: Store, *, place: bytes = b"near/", writers: int = 8, readers: int = 3
    ) -> None:
        self._place = place
        self._total = place + b"total"
        self._store = store
        self._watching = watching
        self._counts = (writers, readers)
        self._ending = False
        self._work: list[Deferred[Any]] = []
        self.acknowledged: dict[bytes, int] = {}
        self.uncertain: set[bytes] = set()
        self.counted = 0
        self.uncertain_counts = 0
        self.reads = 0
        self.batches: list[list[Event]] = []
        self._newest = 0

    async def start(self) -> None:
        self.begun = (await self._store.read([])).revision
        self.watch = self._watching.watch(self._place, self.begun, lambda events: self.batches.append(list(events)))
        writers, readers = self._counts
        self._work += [ensureDeferred(self._write(number)) for number in range(writers)]
        self._work += [ensureDeferred(self._read()) for _ in range(readers)]

    async def goes_on(self, count: int = 25) -> None:
        """Wait until so many more writes were acknowledged, and some reads."""
        writes, reads = len(self.acknowledged) + count, self.reads + count // 4
        await eventually(
            "writes and reads go on", lambda: len(self.acknowledged) >= writes and self.reads >= reads, PATIENCE_S
        )

    async def _transact(self, transaction: Transaction) -> Outcome | None:
        """None where nobody knows what became of it; it is tried again where it was refused."""
        while True:
            try:
                return await self._store.transact(transaction)
            except Uncertain:
                return None
            except Unavailable:
                await pause(reactor, AGAIN_S)

    async def _write(self, number: int) -> None:
        count = 0
        while not self._ending:
            if number % 4 == 0:
                await self._count()
            key = self._place + b"%d/%d" % (number, count)
            then: list[Put | Delete] = [Put(key, b"%d" % count), Put(self._place + b"%d/last" % number, key)]
            if count % 3 == 2:
                then.append(Delete(self._place + b"%d/%d" % (number, count - 1)))
            outcome = await self._transact(Transaction((), tuple(then)))
            if outcome is None:
                self.uncertain.add(key)
            else:
                assert outcome.succeeded
                self._seen_revision(outcome.revision)
                self.acknowledged[key] = outcome.revision
            count += 1

    async def _count(self) -> None:
        found = await self._look(self._total)
        value, revision = (int(found.value), found.revision) if found else (0, 0)
        outcome = await self._transact(
            Transaction((Unchanged(self._total, revision),), (Put(self._total, b"%d" % (value + 1)),))
        )
        if outcome is None:
            self.uncertain_counts += 1
        elif outcome.succeeded:
            self.counted += 1

    async def _look(self, key: bytes) -> Entry | None:
        while True:
            newest = self._newest
            try:
                found = await self._store.read([key])
            except Unavailable:
                await pause(reactor, AGAIN_S)
            else:
                assert found.revision >= newest, "a read has missed what was acknowledged before it began"
                self._seen_revision(found.revision)
                return found.entries.get(key)

    async def _read(self) -> None:
        while not self._ending:
            await self._look(self._total)
            self.reads += 1

    def _seen_revision(self, revision: int) -> None:
        self._newest = max(self._newest, revision)

    async def end(self) -> None:
        self._ending = True
        await gatherResults(self._work)

    async def check(self, test: TestCase) -> None:
        """End, and compare what was acknowledged with what is there, and with what the watch has seen."""
        await self.end()
        kept = await everything(self._store, self._place)
        last = max((entry.revision for entry in kept.values()), default=0)
        await eventually(
            "the watch has seen the last change", lambda: self.batches and self.batches[-1][-1].revision >= last, 60
        )
        seen = [event for batch in self.batches for event in batch]
        revisions = [event.revision for event in seen]
        test.assertEqual(revisions, sorted(revisions), "events are in order")
        test.assertEqual(len({(event.key, event.revision) for event in seen}), len(seen), "each event comes once")
        ends = [(batch[0].revision, batch[-1].revision) for batch in self.batches]
        test.assertTrue(all(one[1] < other[0] for one, other in pairwise(ends)), "whole revisions")
        test.assertEqual(replayed(seen), kept, "no event is missing")
        puts = {event.key: event.revision for event in seen if event.entry is not None}
        missing = {key for key, revision in self.acknowledged.items() if puts.get(key) != revision}
        test.assertEqual(missing, set(), "no acknowledged write is lost, nor done at another time")
        written = {key for key in puts if key.count(b"/") == 2 and not key.endswith(b"/last")}
        test.assertLessEqual(
            written, {*self.acknowledged, *self.uncertain}, "nothing was written that nobody asked for"
        )
        times = [event.key for event in seen if event.entry is not None and event.key in written]
        test.assertEqual(len(times), len(set(times)), "nothing was written twice")
        total = int(kept[self._total].value)
        test.assertGreaterEqual(total, self.counted)
        test.assertLessEqual(total, self.counted + self.uncertain_counts)


async def everything(store: Store, place: bytes) -> dict[bytes, Entry]:
    """All entries below `place`; nobody writes meanwhile."""
    found: dict[bytes, Entry] = {}
    after = b""
    while True:
        page = await store.range(place, after=after)
        found.update((entry.key, entry) for entry in page.entries)
        if not page.more:
            return found
        after = page.entries[-1].key


def replayed(events: Sequence[Event]) -> dict[bytes, Entry]:
    """What is there after these events."""
    found: dict[bytes, Entry] = {}
    for event in events:
        if event.entry is None:
            found.pop(event.key, None)
        else:
            found[event.key] = event.entry
    return found
