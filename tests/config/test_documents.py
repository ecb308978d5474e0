"""Documents in the store: versions, conflicts, races; a refusal changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config import documents as documents_module
from avinet.config import versions as versions_module
from avinet.config.compile import Target
from avinet.config.documents import Documents
from avinet.config.versions import CHANGED
from avinet.errors import AvinetError, Invalid, LocalError, NotFound, Precondition, TooLarge, Unavailable
from avinet.store.interface import Outcome, Page, Put, Transaction, Unchanged
from avinet.wire.config import DOCUMENT_LIMIT_BYTES, Document, Pool, Server, Tls
from avinet.wire.fleet import DocumentApplied
from tests.config.making import Certificates, Fleet, audited, document, fired, pool, service, web
from tests.store.memory import MemoryStore


class DocumentCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet(se_1={"site": "x"}, se_2={"site": "y"})
        self.certificates = Certificates("shop", "blog")
        self.documents = self.another_node()

    def another_node(self) -> Documents:
        return Documents(self.clock, self.store, self.fleet, self.certificates, self.clock.seconds, audited)

    def done(self, coroutine: Any) -> Any:
        return self.successResultOf(fired(coroutine))

    def refused(self, coroutine: Any, kind: type[AvinetError] = Invalid) -> str:
        """The reason, when the coroutine was refused as `kind` and nothing was written."""
        before = self.store.revision
        failure = self.failureResultOf(fired(coroutine), kind)
        self.assertEqual(self.store.revision, before)
        self.assertNotIn("\n", str(failure.value))
        return str(failure.value)

    def apply(self, made: Document, **fields: Any) -> DocumentApplied:
        return self.done(self.documents.apply(made, "ada", **fields))


class ChangeTests(DocumentCase):
    def test_each_change_is_a_version_with_author_and_time(self) -> None:
        self.apply(web("a", 80))
        self.clock.advance(5)
        self.done(self.documents.apply(web("a", 81), "bob"))
        versions = self.done(self.documents.history("a")).items
        self.assertEqual(
            [(each.version, each.author, each.time) for each in versions], [(2, "bob", 1005.0), (1, "ada", 1000.0)]
        )
        self.assertEqual(versions[1].document, web("a", 80))
        self.assertEqual(self.done(self.documents.get("a")), versions[0])
        self.assertEqual(self.done(self.documents.get("a", 1)), versions[1])

    def test_one_transaction_writes_it(self) -> None:
        self.apply(web("a", 80))
        self.assertEqual(len(self.store.written), 1)

    def test_the_same_document_again_is_no_change(self) -> None:
        self.apply(web("a", 80))
        before = self.store.revision
        again = self.apply(web("a", 80))
        self.assertEqual((again.version, again.changed, again.service_engines), (1, False, 0))
        self.assertEqual(self.store.revision, before)

    def test_it_says_how_many_service_engines_run_something_else(self) -> None:
        self.assertEqual(self.apply(web("a", 80)).service_engines, 2)
        self.assertEqual(self.apply(web("b", 81, site="x")).service_engines, 1)
        self.assertEqual(self.apply(web("c", 82, engine="se-2")).service_engines, 1)
        self.assertEqual(self.apply(web("d", 83, site="nowhere")).service_engines, 0)

    def test_a_version_that_was_not_seen_is_not_overwritten(self) -> None:
        self.apply(web("a", 80))
        self.apply(web("a", 81), expected=1)
        self.assertIn(
            "at version 2, not 1", self.refused(self.documents.apply(web("a", 82), "ada", expected=1), Precondition)
        )
        self.refused(self.documents.apply(web("a", 82), "ada", expected=0), Precondition)
        self.refused(self.documents.apply(web("b", 82), "ada", expected=1), Precondition)
        self.refused(self.documents.delete("a", "ada", expected=1), Precondition)
        self.assertTrue(self.apply(web("b", 82), expected=0).changed)

    def test_a_deleted_document_is_gone_and_its_history_stays(self) -> None:
        self.apply(web("a", 80))
        deleted = self.done(self.documents.delete("a", "bob"))
        self.assertEqual((deleted.version, deleted.service_engines), (2, 2))
        self.refused(self.documents.get("a"), NotFound)
        self.refused(self.documents.delete("a", "bob"), NotFound)
        self.assertEqual(self.done(self.documents.list()).items, [])
        versions = self.done(self.documents.history("a")).items
        self.assertEqual([(each.version, each.document is None) for each in versions], [(2, True), (1, False)])

    def test_a_document_that_comes_back_goes_on_counting(self) -> None:
        self.apply(web("a", 80))
        self.done(self.documents.delete("a", "ada"))
        self.assertEqual(self.apply(web("a", 80), expected=0).version, 3)

    def test_old_versions_are_dropped_one_for_one(self) -> None:
        self.patch(versions_module, "KEPT_VERSIONS", 3)
        for port in range(80, 90):
            self.apply(web("a", port))
        kept = [each.version for each in self.done(self.documents.history("a")).items]
        self.assertEqual(kept, [10, 9, 8])

    def test_what_was_never_there_is_not_found(self) -> None:
        self.apply(web("a", 80))
        for asking in (self.documents.get("b"), self.documents.get("a", 7), self.documents.history("b")):
            self.refused(asking, NotFound)


class RefusalTests(DocumentCase):
    def test_a_conflict_on_a_service_engine_is_refused_naming_both(self) -> None:
        self.apply(web("a", 80, site="x"))
        said = self.refused(self.documents.apply(web("b", 80, engine="se-1"), "ada"))
        self.assertIn("document a", said)
        self.assertIn("document b", said)
        self.assertTrue(self.apply(web("b", 80, engine="se-2")).changed)

    def test_a_conflict_is_found_before_there_is_any_service_engine(self) -> None:
        self.fleet.engines.clear()
        self.apply(web("a", 80))
        self.refused(self.documents.apply(web("b", 80, site="x"), "ada"))
        self.refused(self.documents.apply(document("c", service("c", 81, "typo")), "ada"))

    def test_groups_that_no_service_engine_is_in_at_once_may_overlap(self) -> None:
        self.apply(web("a", 80, site="x"))
        self.assertTrue(self.apply(web("b", 80, site="y")).changed)

    def test_a_pool_that_others_use_is_not_deleted(self) -> None:
        self.apply(document("pools", pool("p", "a")))
        self.apply(document("services", service("w", 80, "p"), site="nowhere"))
        self.assertIn("document services refers to pool p", self.refused(self.documents.delete("pools", "ada")))
        self.refused(self.documents.apply(document("pools", pool("q", "a")), "ada"))

    def test_a_pool_must_come_from_where_it_always_applies(self) -> None:
        self.apply(document("pools", pool("p", "a"), site="x"))
        self.refused(self.documents.apply(document("services", service("w", 80, "p")), "ada"))
        self.assertTrue(self.apply(document("services", service("w", 80, "p"), site="x", tier="y")).changed)
        self.assertTrue(self.apply(document("one", service("v", 81, "p"), engine="se-1")).changed)

    def test_a_conflict_that_stands_already_hinders_no_repair(self) -> None:
        self.fleet.engines.clear()
        self.apply(web("a", 80, site="x"))
        self.apply(web("b", 80, tier="y"))
        self.apply(web("c", 81, site="x"))
        self.apply(web("d", 81, tier="y"))
        self.fleet.engines["se-3"] = {"site": "x", "tier": "y"}
        self.assertEqual(self.apply(web("a", 90, site="x")).service_engines, 0)
        self.assertEqual(self.apply(web("c", 91, site="x")).service_engines, 1)

    def test_a_label_that_would_bring_a_conflict_is_found_before(self) -> None:
        self.apply(web("a", 80, site="x"))
        self.apply(web("b", 80, tier="y"))
        self.done(self.documents.check(Target("se-9", {"site": "x"})))
        self.refused(self.documents.check(Target("se-9", {"site": "x", "tier": "y"})))

    def test_what_does_not_validate_is_never_written(self) -> None:
        bad = Document(name="a", pools=[Pool(name="p", servers=[Server(name="s", address="x\nlua-load y", port=80)])])
        self.refused(self.documents.apply(bad, "ada"))
        self.refused(self.documents.apply(web("a", 80), "ada\nroot"))
        self.refused(self.documents.apply(web("Not-An-Id", 80), "ada"))

    def test_a_document_that_is_too_large_is_refused(self) -> None:
        large = document("a", *(pool(f"p{each}", *(f"server-{n}" for n in range(100))) for each in range(60)))
        self.assertIn(str(DOCUMENT_LIMIT_BYTES), self.refused(self.documents.apply(large, "ada"), TooLarge))

    def test_the_number_of_documents_is_bounded(self) -> None:
        self.patch(documents_module, "DOCUMENTS", 3)
        for each in range(3):
            self.apply(web(f"d{each}", 80 + each))
        self.refused(self.documents.apply(web("more", 90), "ada"), TooLarge)
        self.assertTrue(self.apply(web("d0", 90)).changed)

    def test_without_the_store_nothing_changes(self) -> None:
        self.apply(web("a", 80))
        self.store.unavailable = "no quorum"
        self.refused(self.documents.apply(web("a", 81), "ada"), Unavailable)
        self.store.unavailable = ""
        self.assertEqual(self.done(self.documents.get("a")).version, 1)

    def test_a_value_that_a_newer_version_wrote_is_named(self) -> None:
        self.done(self.store.transact(Transaction((), (Put(b"config/doc/a", b'{"new": 1}'), Put(CHANGED, b"a")))))
        self.assertIn("config/doc/a", self.refused(self.documents.get("a"), LocalError))


class Meanwhile(MemoryStore):
    """Lets `first` happen before the next transaction, or `amid` before the next range, as another node would."""

    first: Any = None
    amid: Any = None

    @override
    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        if self.amid is not None:
            amid, self.amid = self.amid, None
            await amid()
        return await super().range(prefix, limit=limit, after=after)

    @override
    async def transact(self, transaction: Transaction) -> Outcome:
        if self.first is not None:
            first, self.first = self.first, None
            await first()
        return await super().transact(transaction)


class RaceTests(DocumentCase):
    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = Meanwhile(self.clock)
        self.documents, self.other = self.another_node(), self.another_node()

    def test_a_change_that_comes_in_between_is_seen(self) -> None:
        self.store.first = lambda: self.other.apply(web("b", 80), "bob")
        self.failureResultOf(fired(self.documents.apply(web("a", 80), "ada")), Invalid)
        self.assertEqual([each.name for each in self.done(self.documents.list()).items], ["b"])

    def test_both_happen_when_both_can(self) -> None:
        self.store.first = lambda: self.other.apply(web("b", 81), "bob")
        self.assertEqual(self.apply(web("a", 80)).version, 1)
        self.assertEqual([each.name for each in self.done(self.other.list()).items], ["a", "b"])

    def test_the_version_that_was_expected_is_judged_anew(self) -> None:
        self.apply(web("a", 80))
        self.store.first = lambda: self.other.apply(web("a", 81), "bob")
        self.failureResultOf(fired(self.documents.apply(web("a", 82), "ada", expected=1)), Precondition)
        self.assertEqual(self.done(self.documents.get("a")).author, "bob")

    def test_what_is_read_is_of_one_moment(self) -> None:
        self.apply(web("a", 80))
        self.store.amid = lambda: self.documents.apply(web("a", 81), "bob")
        catalogue = self.done(self.other.catalogue())
        self.assertEqual(catalogue.documents["a"], web("a", 81))
        self.assertEqual(catalogue.revision, self.done(self.store.read([CHANGED])).entries[CHANGED].revision)

    def test_it_gives_up_when_others_never_end(self) -> None:
        ports = iter(range(100, 1000))

        async def again() -> None:
            await self.other.apply(web("b", next(ports)), "bob")
            self.store.first = again

        self.store.first = again
        self.failureResultOf(fired(self.documents.apply(web("a", 80), "ada")), Unavailable)


class PageTests(DocumentCase):
    def test_documents_are_listed_in_pages(self) -> None:
        for each in "dbca":
            self.apply(web(each, ord(each)))
        first = self.done(self.documents.list(limit=3))
        rest = self.done(self.documents.list(limit=3, after=first.next))
        self.assertEqual(([each.name for each in first.items], first.next), (["a", "b", "c"], "c"))
        self.assertEqual(([each.name for each in rest.items], rest.next), (["d"], ""))

    def test_versions_are_listed_in_pages(self) -> None:
        for port in range(80, 85):
            self.apply(web("a", port))
        first = self.done(self.documents.history("a", limit=2))
        rest = self.done(self.documents.history("a", limit=9, after=first.next))
        self.assertEqual([each.version for each in first.items], [5, 4])
        self.assertEqual(([each.version for each in rest.items], rest.next), ([3, 2, 1], ""))

    def test_a_page_is_bounded_in_bytes_and_never_empty(self) -> None:
        self.patch(documents_module, "PAGE_LIMIT_BYTES", 10)
        self.apply(web("a", 80))
        self.apply(web("b", 81))
        first = self.done(self.documents.list())
        self.assertEqual(([each.name for each in first.items], first.next), (["a"], "a"))
        self.assertEqual([each.name for each in self.done(self.documents.list(after="a")).items], ["b"])

    def test_another_node_reads_the_same(self) -> None:
        for each in range(120):
            self.apply(web(f"d{each:03}", 80 + each, engine=f"se-{each}"))
        mine, theirs = self.done(self.documents.list(limit=500)), self.done(self.another_node().list(limit=500))
        self.assertEqual(len(mine.items), 120)
        self.assertEqual(msgspec.json.encode(mine), msgspec.json.encode(theirs))


class CertificateTests(DocumentCase):
    def with_tls(self, name: str, port: int, *certificates: str) -> Document:
        secure = service(f"{name}-web", port, f"{name}-pool", tls=Tls(certificates=list(certificates)))
        return document(name, pool(f"{name}-pool", "a"), secure)

    def test_a_certificate_that_does_not_exist_is_refused_in_a_line(self) -> None:
        said = self.refused(self.documents.apply(self.with_tls("a", 443, "shop", "unheard"), "ada"))
        self.assertIn("there is no certificate unheard, which document a names", said)
        self.assertIn("avictl certificate put unheard", said)

    def test_those_that_exist_may_be_named(self) -> None:
        self.assertTrue(self.apply(self.with_tls("a", 443, "shop", "blog")).changed)

    def test_one_that_goes_meanwhile_is_not_overlooked(self) -> None:
        certificates, store = self.certificates, self.store

        class Going(Certificates):
            """One is deleted between the look at it and the change of the document."""

            async def names(self) -> Any:
                found = await certificates.names()
                certificates.there = frozenset({"blog"})
                certificates.revision = (await store.transact(Transaction((), (Put(b"certificates", b"{}"),)))).revision
                return found

        documents = Documents(self.clock, store, self.fleet, Going(), self.clock.seconds, audited)
        certificates.revision = 0
        failure = self.failureResultOf(fired(documents.apply(self.with_tls("a", 443, "shop"), "ada")), Invalid)
        self.assertIn("no certificate shop", str(failure.value))
        self.assertEqual(self.done(self.documents.list()).items, [])

    def test_who_names_one_is_known_and_by_which_state_of_the_documents(self) -> None:
        self.apply(self.with_tls("b", 443, "shop"))
        self.apply(self.with_tls("a", 444, "shop", "blog"))
        self.apply(web("c", 80))
        names, unchanged = self.done(self.documents.naming("shop"))
        self.assertEqual((names, unchanged), (["a", "b"], Unchanged(CHANGED, self.store.revision)))
        self.assertEqual(self.done(self.documents.naming("blog"))[0], ["a"])
        self.done(self.documents.delete("a", "ada"))
        self.assertEqual(self.done(self.documents.naming("blog"))[0], [])


class TurnCountingClock(Clock):
    turns = 0

    @override
    def callLater(self, when: float, *args: Any, **kwargs: Any) -> Any:
        self.turns += 1
        return super().callLater(when, *args, **kwargs)


class LargeFleetTests(DocumentCase):
    def test_the_reactor_has_its_turn_while_a_large_fleet_is_checked(self) -> None:
        self.fleet.engines = {f"se-{each}": {} for each in range(100)}
        for each in range(100):
            self.apply(web(f"own-{each}", 81, engine=f"se-{each}"))
        self.clock = TurnCountingClock()
        applying: Deferred[DocumentApplied] = fired(self.another_node().apply(web("all", 80), "ada"))
        self.assertNoResult(applying)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(applying).service_engines, 100)
        self.assertEqual(self.clock.turns, 5)
