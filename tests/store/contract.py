"""What every store must do: one suite, run against each implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from avinet.errors import NotFound, TooLarge
from avinet.store.interface import (
    KEY_LIMIT_BYTES,
    OPERATIONS,
    VALUE_LIMIT_BYTES,
    Compacted,
    Delete,
    Event,
    Outcome,
    Put,
    Store,
    Transaction,
    Unchanged,
)
from tests.running import asynchronous, eventually


def put(key: bytes, value: bytes, *conditions: Unchanged, lease: int = 0) -> Transaction:
    return Transaction(conditions, (Put(key, value, lease),))


class StoreContract:
    """Mix into a trial TestCase that opens `self.store`, and can make seconds go by in `pass_time`.

    Leases live for `ttl_s`.
    """

    store: Store
    ttl_s = 10.0

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError  # abstract

    async def value(self, key: bytes) -> bytes | None:
        entry = (await self.store.read([key])).entries.get(key)
        return entry.value if entry else None

    @asynchronous
    async def test_what_is_written_is_read(self) -> None:
        outcome = await self.store.transact(put(b"a", b"1"))
        snapshot = await self.store.read([b"a", b"b"])
        self.assertTrue(outcome.succeeded)
        self.assertEqual(list(snapshot.entries), [b"a"])
        entry = snapshot.entries[b"a"]
        self.assertEqual((entry.value, entry.revision, entry.created), (b"1", outcome.revision, outcome.revision))

    @asynchronous
    async def test_revisions_count_the_changes(self) -> None:
        first = await self.store.transact(put(b"a", b"1"))
        second = await self.store.transact(put(b"a", b"2"))
        entry = (await self.store.read([b"a"])).entries[b"a"]
        self.assertEqual(second.revision, first.revision + 1)
        self.assertEqual((entry.revision, entry.created), (second.revision, first.revision))

    @asynchronous
    async def test_a_false_condition_writes_nothing(self) -> None:
        first = await self.store.transact(put(b"a", b"1"))
        for conditions in (
            (Unchanged(b"a", 0),),
            (Unchanged(b"a", first.revision + 1),),
            (Unchanged(b"a", first.revision), Unchanged(b"b", 7)),
        ):
            outcome = await self.store.transact(Transaction(conditions, (Put(b"a", b"2"), Put(b"c", b"3"))))
            self.assertEqual(outcome, Outcome(False, first.revision))
        self.assertEqual([await self.value(key) for key in (b"a", b"b", b"c")], [b"1", None, None])

    @asynchronous
    async def test_conditions_that_hold_let_all_of_it_happen(self) -> None:
        first = await self.store.transact(put(b"a", b"1"))
        outcome = await self.store.transact(
            Transaction((Unchanged(b"a", first.revision), Unchanged(b"b", 0)), (Delete(b"a"), Put(b"b", b"2")))
        )
        self.assertTrue(outcome.succeeded)
        self.assertEqual([await self.value(key) for key in (b"a", b"b")], [None, b"2"])

    @asynchronous
    async def test_a_key_that_comes_back_is_a_new_one(self) -> None:
        await self.store.transact(put(b"a", b"1"))
        await self.store.transact(Transaction((), (Delete(b"a"),)))
        again = await self.store.transact(put(b"a", b"1", Unchanged(b"a", 0)))
        entry = (await self.store.read([b"a"])).entries[b"a"]
        self.assertEqual((entry.revision, entry.created), (again.revision, again.revision))

    @asynchronous
    async def test_removing_nothing_changes_nothing(self) -> None:
        before = await self.store.transact(put(b"a", b"1"))
        events, _ = self.watched(b"", before.revision)
        outcome = await self.store.transact(Transaction((), (Delete(b"b"),)))
        self.assertTrue(outcome.succeeded)
        after = await self.store.transact(put(b"a", b"2", Unchanged(b"a", before.revision)))
        self.assertGreaterEqual(after.revision, outcome.revision)
        await eventually("the change is seen", lambda: events)
        self.assertEqual([(event.key, event.revision) for event in events], [(b"a", after.revision)])

    @asynchronous
    async def test_one_of_many_racers_wins(self) -> None:
        racers = [
            ensureDeferred(self.store.transact(put(b"a", b"%d" % each, Unchanged(b"a", 0)))) for each in range(50)
        ]
        outcomes: Sequence[Outcome] = await gatherResults(racers)
        winners = [index for index, outcome in enumerate(outcomes) if outcome.succeeded]
        self.assertEqual(len(winners), 1)
        self.assertEqual(await self.value(b"a"), b"%d" % winners[0])

    @asynchronous
    async def test_a_thousand_writers_at_once_lose_nothing(self) -> None:
        async def increment() -> None:
            while True:
                entry = (await self.store.read([b"n"])).entries.get(b"n")
                value, revision = (int(entry.value), entry.revision) if entry else (0, 0)
                if (await self.store.transact(put(b"n", b"%d" % (value + 1), Unchanged(b"n", revision)))).succeeded:
                    return

        await gatherResults([ensureDeferred(self.store.transact(put(b"w/%d" % each, b""))) for each in range(1000)])
        await gatherResults([ensureDeferred(increment()) for _ in range(20)])
        self.assertEqual(len((await self.store.range(b"w/", limit=2000)).entries), 1000)
        self.assertEqual(await self.value(b"n"), b"20")

    @asynchronous
    async def test_a_range_is_read_in_pages(self) -> None:
        for key in (b"a/1", b"a/2", b"a/3", b"a", b"b/1", b"a0"):
            await self.store.transact(put(key, key))
        first = await self.store.range(b"a/", limit=2)
        self.assertEqual(([entry.key for entry in first.entries], first.more), ([b"a/1", b"a/2"], True))
        rest = await self.store.range(b"a/", limit=2, after=b"a/2")
        self.assertEqual(([entry.key for entry in rest.entries], rest.more), ([b"a/3"], False))
        self.assertEqual(len((await self.store.range(b"")).entries), 6)

    @asynchronous
    async def test_what_is_over_the_limits_is_refused_and_changes_nothing(self) -> None:
        before = await self.store.transact(put(b"a", b"x" * VALUE_LIMIT_BYTES))
        for transaction in (
            put(b"b", b"x" * (VALUE_LIMIT_BYTES + 1)),
            put(b"k" * (KEY_LIMIT_BYTES + 1), b""),
            put(b"", b""),
            Transaction((), tuple(Put(b"%d" % each, b"") for each in range(OPERATIONS + 1))),
            Transaction((), tuple(Put(b"%d" % each, b"x" * VALUE_LIMIT_BYTES) for each in range(3))),
        ):
            await self.assertFailure(ensureDeferred(self.store.transact(transaction)), TooLarge)
        self.assertEqual((await self.store.read([b"a"])).revision, before.revision)
        many = Transaction((), tuple(Put(b"%d" % each, b"") for each in range(OPERATIONS)))
        self.assertTrue((await self.store.transact(many)).succeeded)

    def watched(self, prefix: bytes, revision: int) -> tuple[list[Event], Any]:
        events: list[Event] = []
        watch = self.store.watch(prefix, revision, events.extend)
        self.addCleanup(watch.stop)
        return events, watch

    @asynchronous
    async def test_a_watch_sees_each_change_once_and_in_order(self) -> None:
        await self.store.transact(put(b"w/0", b"before"))
        start = (await self.store.read([b"w/0"])).revision
        await self.store.transact(put(b"w/1", b"past"))
        events, _ = self.watched(b"w/", start)
        for each in range(2, 100):
            await self.store.transact(put(b"w/%d" % each, b""))
            await self.store.transact(put(b"x/%d" % each, b""))
        await self.store.transact(Transaction((), (Delete(b"w/0"), Put(b"w/end", b""))))
        await eventually("the last change is seen", lambda: len(events) >= 101)
        self.assertEqual([event.key for event in events[:3]], [b"w/1", b"w/2", b"w/3"])
        revisions = [event.revision for event in events]
        self.assertEqual(revisions, sorted(revisions))
        self.assertEqual(len({(event.key, event.revision) for event in events}), 101)
        self.assertEqual({event.key: event.entry is None for event in events[-2:]}, {b"w/0": True, b"w/end": False})

    @asynchronous
    async def test_a_watch_that_begins_amid_writes_misses_none(self) -> None:
        start = (await self.store.read([])).revision
        writing = [ensureDeferred(self.store.transact(put(b"w/%d" % each, b""))) for each in range(200)]
        events, _ = self.watched(b"w/", start)
        writing += [ensureDeferred(self.store.transact(put(b"w/%d" % each, b""))) for each in range(200, 400)]
        await gatherResults(writing)
        await eventually("all changes are seen", lambda: len(events) >= 400)
        self.assertEqual(sorted(event.revision for event in events), [event.revision for event in events])
        self.assertEqual(len({event.key for event in events}), 400)

    @asynchronous
    async def test_a_watch_that_was_stopped_sees_no_more(self) -> None:
        start = (await self.store.read([])).revision
        events, watch = self.watched(b"w/", start)
        others, _ = self.watched(b"w/", start)
        watch.stop()
        await self.store.transact(put(b"w/1", b""))
        await eventually("another watch sees the change", lambda: others)
        self.assertEqual(events, [])

    @asynchronous
    async def test_a_watch_from_before_the_compaction_fails(self) -> None:
        for each in range(10):
            await self.store.transact(put(b"w/%d" % each, b""))
        last = (await self.store.read([b"w/0"])).revision
        await self.store.compact(last - 2)
        _, watch = self.watched(b"w/", last - 5)
        await self.assertFailure(watch.failed, Compacted)
        events, _ = self.watched(b"w/", last - 2)
        await eventually("the rest of the history", lambda: len(events) == 2)
        self.assertEqual(await self.value(b"w/0"), b"")

    @asynchronous
    async def test_keys_go_when_their_lease_ends(self) -> None:
        lease = await self.store.grant(self.ttl_s)
        start = await self.store.transact(put(b"l/1", b"", lease=lease))
        await self.store.transact(put(b"l/2", b""))
        events, _ = self.watched(b"l/", start.revision + 1)
        await self.pass_time(1.1 * self.ttl_s)
        await eventually("the removal is seen", lambda: events)
        self.assertEqual([(event.key, event.entry) for event in events], [(b"l/1", None)])
        self.assertEqual([await self.value(key) for key in (b"l/1", b"l/2")], [None, b""])
        await self.assertFailure(ensureDeferred(self.store.keep_alive(lease)), NotFound)

    @asynchronous
    async def test_nothing_is_written_under_a_lease_that_has_ended(self) -> None:
        lease = await self.store.grant(self.ttl_s)
        await self.store.revoke(lease)
        late = Transaction((), (Put(b"l/1", b""), Put(b"l/2", b"", lease)))
        await self.assertFailure(ensureDeferred(self.store.transact(late)), NotFound)
        self.assertEqual([await self.value(key) for key in (b"l/1", b"l/2")], [None, None])

    @asynchronous
    async def test_a_put_without_the_lease_frees_the_key_of_it(self) -> None:
        lease = await self.store.grant(self.ttl_s)
        await self.store.transact(put(b"l/1", b"leased", lease=lease))
        self.assertEqual((await self.store.range(b"l/")).entries[0].lease, lease)
        self.assertEqual((await self.store.read([b"l/1"])).entries[b"l/1"].lease, lease)
        await self.store.transact(put(b"l/1", b"free"))
        await self.store.revoke(lease)
        self.assertEqual(await self.value(b"l/1"), b"free")

    @asynchronous
    async def test_a_watcher_that_fails_ends_its_own_watch_only(self) -> None:
        def broken(events: Sequence[Event]) -> None:
            raise ArithmeticError

        start = (await self.store.read([])).revision
        watch = self.store.watch(b"w/", start, broken)
        events, _ = self.watched(b"w/", start)
        await self.store.transact(put(b"w/1", b""))
        await self.assertFailure(watch.failed, ArithmeticError)
        await self.store.transact(put(b"w/2", b""))
        await eventually("the other watch sees both", lambda: len(events) == 2)

    @asynchronous
    async def test_a_lease_that_is_kept_alive_stays(self) -> None:
        lease = await self.store.grant(self.ttl_s)
        await self.store.transact(put(b"l/1", b"", lease=lease))
        for _ in range(3):
            await self.pass_time(0.6 * self.ttl_s)
            await self.store.keep_alive(lease)
        self.assertEqual(await self.value(b"l/1"), b"")
        await self.store.revoke(lease)
        self.assertIsNone(await self.value(b"l/1"))

    @asynchronous
    async def test_closing_finishes_what_was_asked(self) -> None:
        writing: list[Deferred[Outcome]] = [
            ensureDeferred(self.store.transact(put(b"c/%d" % each, b""))) for each in range(100)
        ]
        await self.store.close()
        self.assertEqual({outcome.succeeded for outcome in await gatherResults(writing)}, {True})
