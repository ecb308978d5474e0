"""What each service engine should run: new only when it differs, the same after a restart, right after any trouble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config.apply import verified
from avinet.config.compile import compile_for
from avinet.config.desired import Desired
from avinet.config.documents import Documents
from avinet.errors import Unavailable
from avinet.store.interface import Compacted, Delete, Event, Outcome, Put, Seen, Transaction
from avinet.wire.config import Config, Document, Pool
from tests.config.making import Certificates, Fleet, audited, document, fired, pool, web
from tests.store.memory import MemoryStore, MemoryWatch


class DesiredCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet(se_1={"site": "x"}, se_2={"site": "y"})
        self.documents = Documents(self.clock, self.store, self.fleet, Certificates(), self.clock.seconds, audited)
        self.changed: list[str] = []
        self.desired = self.started()

    def started(self) -> Desired:
        """A node's view, as its start makes it."""
        documents = Documents(self.clock, self.store, self.fleet, Certificates(), self.clock.seconds, audited)
        desired = Desired(self.clock, self.store, documents, self.fleet, self.changed.append, lambda: 0.5)
        self.successResultOf(fired(desired.start()))
        self.addCleanup(desired.stop)
        self.clock.advance(0)
        return desired

    def apply(self, *made: Document) -> None:
        for each in made:
            self.successResultOf(fired(self.documents.apply(each, "ada")))
        self.clock.advance(0)

    def config(self, id: str, desired: Desired | None = None) -> Config:
        push = (desired or self.desired).push(id)
        assert push is not None
        return verified(push).config


class DesiredTests(DesiredCase):
    def test_a_service_engine_without_documents_should_run_nothing(self) -> None:
        self.assertEqual(self.config("se-1"), Config())

    def test_a_push_is_what_was_compiled_under_the_version_that_names_it(self) -> None:
        self.apply(web("a", 80), web("b", 81, site="x"))
        self.assertEqual(
            self.config("se-1"), compile_for("se-1", {"site": "x"}, [web("a", 80), web("b", 81, site="x")])
        )
        push = self.desired.push("se-1")
        assert push is not None
        self.assertEqual(push.version, self.desired.version("se-1"))

    def test_only_those_change_that_the_document_reaches(self) -> None:
        before = self.desired.version("se-2")
        self.apply(web("b", 81, site="x"))
        self.assertEqual(self.desired.version("se-2"), before)
        self.assertNotEqual(self.desired.version("se-1"), before)

    def test_a_later_version_has_a_higher_revision(self) -> None:
        revisions = []
        for port in (80, 81, 80):
            self.apply(web("a", port))
            revisions.append(self.desired.version("se-1").revision)
        self.assertEqual(revisions, sorted(set(revisions)))

    def test_a_change_that_makes_no_difference_changes_no_version(self) -> None:
        self.apply(document("a", pool("p", "a", "b")))
        before = self.desired.version("se-1")
        swapped = pool("p", "a", "b")
        self.apply(document("a", Pool(name="p", servers=swapped.servers[::-1])))
        self.apply(document("z", site="x"))
        self.assertEqual(self.desired.version("se-1"), before)

    def test_it_is_the_same_after_a_restart(self) -> None:
        self.apply(web("a", 80), web("b", 81, site="x"))
        before = [self.desired.version(each) for each in ("se-1", "se-2")]
        self.desired.stop()
        written = self.store.revision
        again = self.started()
        self.assertEqual([again.version(each) for each in ("se-1", "se-2")], before)
        self.assertEqual(self.store.revision, written)
        self.assertEqual(self.config("se-1", again), self.config("se-1"))

    def test_what_changed_while_the_node_was_down_is_compiled_at_its_start(self) -> None:
        self.desired.stop()
        self.apply(web("a", 80))
        self.fleet.engines["se-3"] = {}
        again = self.started()
        self.assertEqual(self.config("se-3", again), compile_for("se-3", {}, [web("a", 80)]))

    def test_a_new_service_engine_gets_its_version(self) -> None:
        self.apply(web("a", 80))
        self.assertIsNone(self.desired.version("se-3"))
        self.fleet.engines["se-3"] = {}
        self.desired.reconsider("se-3")
        self.assertEqual(self.config("se-3"), self.config("se-1"))
        self.assertIn("se-3", self.changed)

    def test_other_labels_make_another_version(self) -> None:
        self.apply(web("b", 81, site="x"))
        self.fleet.engines["se-2"] = {"site": "x"}
        self.assertIsNone(self.desired.push("se-2"))
        self.desired.reconsider("se-2")
        self.assertEqual(self.config("se-2"), self.config("se-1"))

    def test_one_that_is_gone_is_forgotten_and_comes_back_with_a_higher_revision(self) -> None:
        before = self.desired.version("se-1")
        labels = self.fleet.engines.pop("se-1")
        self.desired.reconsider("se-1")
        self.assertIsNone(self.desired.version("se-1"))
        self.assertEqual(self.successResultOf(fired(self.store.range(b"config/desired/se-1"))).entries, [])
        self.fleet.engines["se-1"] = labels
        self.desired.reconsider("se-1")
        self.assertEqual(self.desired.version("se-1").sha256, before.sha256)
        self.assertGreater(self.desired.version("se-1").revision, before.revision)

    def test_a_conflict_by_labels_keeps_the_last_version_until_it_is_resolved(self) -> None:
        self.apply(web("a", 80, site="x"), web("b", 80, tier="y"))
        before = self.desired.version("se-1")
        self.fleet.engines["se-1"] = {"site": "x", "tier": "y"}
        self.desired.reconsider("se-1")
        self.assertEqual(self.desired.version("se-1"), before)
        self.assertIn("both listen on port 80", self.desired.problem("se-1"))
        self.assertIsNone(self.desired.push("se-1"))
        self.changed.clear()
        self.fleet.engines["se-1"] = {"site": "x"}
        self.desired.reconsider("se-1")
        self.assertEqual((self.desired.version("se-1"), self.desired.problem("se-1")), (before, ""))
        self.assertIsNotNone(self.desired.push("se-1"))
        self.assertIn("se-1", self.changed)

    def test_a_large_fleet_is_written_in_few_transactions(self) -> None:
        for each in range(100):
            self.fleet.engines[f"large-{each:03}"] = {"site": "z"}
        self.store.written.clear()
        self.apply(web("a", 80))
        self.clock.advance(0)
        self.assertEqual(len(self.store.written), 1 + 4)
        self.assertEqual({self.config(f"large-{each:03}") == self.config("se-1") for each in range(100)}, {True})


class TroubleTests(DesiredCase):
    def test_without_the_store_it_tries_again_until_it_is_back(self) -> None:
        self.apply(web("a", 80))
        before = self.desired.version("se-1")
        self.fleet.engines["se-1"] = {"site": "z"}
        self.apply(web("z", 90, site="z"))
        self.assertNotEqual(self.desired.version("se-1"), before)
        before = self.desired.version("se-1")
        self.fleet.engines["se-1"] = {}
        self.store.unavailable = "no quorum"
        self.desired.reconsider("se-1")
        self.clock.pump([0.1] * 100)
        self.assertEqual(self.desired.version("se-1"), before)
        self.store.unavailable = ""
        self.clock.advance(10)
        self.assertEqual(self.config("se-1"), compile_for("se-1", {}, [web("a", 80)]))

    def test_a_watch_that_is_lost_is_begun_anew_and_misses_nothing(self) -> None:
        self.store.break_watches(lambda: Compacted("gone"))
        self.apply(web("a", 80))
        self.assertEqual(self.config("se-1"), compile_for("se-1", {}, [web("a", 80)]))
        self.apply(web("a", 81))
        self.assertEqual(self.config("se-1"), compile_for("se-1", {}, [web("a", 81)]))

    def test_two_nodes_agree(self) -> None:
        other = self.started()
        for port in (80, 81, 82):
            self.apply(web("a", port))
            self.assertEqual(other.version("se-1"), self.desired.version("se-1"))
        self.assertEqual(self.config("se-1", other), self.config("se-1"))

    def test_what_another_node_forgot_is_forgotten_here(self) -> None:
        del self.fleet.engines["se-1"]
        self.successResultOf(fired(self.store.transact(Transaction((), (Delete(b"config/desired/se-1"),)))))
        self.assertIsNone(self.desired.version("se-1"))

    def test_what_was_forgotten_while_the_watch_was_lost_is_forgotten_here(self) -> None:
        self.store.unavailable = "no quorum"
        self.store.break_watches(lambda: Unavailable("no quorum"))
        del self.fleet.engines["se-1"]
        self.store.unavailable = ""
        self.successResultOf(fired(self.store.transact(Transaction((), (Delete(b"config/desired/se-1"),)))))
        self.assertIsNotNone(self.desired.version("se-1"))
        self.clock.advance(1)
        self.assertIsNone(self.desired.version("se-1"))

    def test_a_write_that_another_node_overtook_is_judged_anew(self) -> None:
        store = Overtaken(self.clock)
        self.store = store
        self.documents = Documents(self.clock, store, self.fleet, Certificates(), self.clock.seconds, audited)
        self.desired = self.started()
        store.overtaking = b"config/desired/se-1"
        self.apply(web("a", 80))
        self.assertEqual(store.overtaking, b"")
        self.assertEqual(self.config("se-1"), compile_for("se-1", {}, [web("a", 80)]))
        entry = self.successResultOf(fired(store.range(b"config/desired/se-1"))).entries[0]
        self.assertEqual(self.desired.version("se-1").revision, entry.revision)

    def test_one_that_lags_behind_does_not_overwrite_what_is_newer(self) -> None:
        store = self.lagging()
        store.meanwhile = lambda: self.documents.apply(web("a", 81), "bob")
        self.fleet.engines["se-3"] = {}
        self.desired.reconsider("se-3")
        self.assertEqual(self.config("se-3"), compile_for("se-3", {}, [web("a", 81)]))

    def test_news_that_come_late_undo_nothing(self) -> None:
        store = self.lagging()
        labels = self.fleet.engines.pop("se-1")
        self.desired.reconsider("se-1")
        self.fleet.engines["se-1"] = labels
        self.desired.reconsider("se-1")
        version = self.desired.version("se-1")
        self.assertIsNotNone(version)
        self.assertGreater(len(store.news), 1)
        for seen, events in store.news:
            seen(events)
            self.assertEqual(self.desired.version("se-1"), version)

    def lagging(self) -> Overtaken:
        """A node with the document `a`, that hears no more news."""
        self.store = store = Overtaken(self.clock)
        self.documents = Documents(self.clock, store, self.fleet, Certificates(), self.clock.seconds, audited)
        self.desired = self.started()
        self.apply(web("a", 80))
        self.clock.advance(0)
        store.late = True
        return store


class Overtaken(MemoryStore):
    """Another node writes `overtaking`, or does `meanwhile`, just before desired versions are written here.

    While it is `late`, what the watches would see waits in `news`.
    """

    overtaking = b""
    meanwhile: Any = None
    late = False

    @override
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.news: list[tuple[Seen, Sequence[Event]]] = []

    @override
    def watch(self, prefix: bytes, revision: int, seen: Seen) -> MemoryWatch:
        def hear(events: Sequence[Event]) -> None:
            if self.late:
                self.news.append((seen, events))
            else:
                seen(events)

        return super().watch(prefix, revision, hear)

    @override
    async def transact(self, transaction: Transaction) -> Outcome:
        if any(each.key.startswith(b"config/desired/") for each in transaction.then):
            if self.overtaking:
                key, self.overtaking = self.overtaking, b""
                await super().transact(Transaction((), (Put(key, b'{"sha256":"' + b"0" * 64 + b'"}'),)))
            if self.meanwhile:
                meanwhile, self.meanwhile = self.meanwhile, None
                await meanwhile()
        return await super().transact(transaction)
