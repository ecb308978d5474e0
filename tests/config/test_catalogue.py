"""The catalogue: which documents a service engine runs, in which version while one of them rolls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config import catalogue as catalogue_module
from avinet.config.catalogue import Catalogue, Rolling
from avinet.config.compile import Target, applies
from avinet.config.rollout import RolloutRecord
from avinet.wire.config import Document, DocumentVersion
from avinet.wire.rollout import RolloutPlan
from tests.config.making import catalogues, labels, web


def version(number: int, made: Document) -> DocumentVersion:
    return DocumentVersion(name=made.name, version=number, author="ada", time=0.0, document=made)


class Turns(RolloutRecord, frozen=True, kw_only=True):
    """It is the turn of those in `ids`."""

    ids: set[str]

    @override
    def turn(self, id: str) -> bool:
        return id in self.ids


def rolling(former: DocumentVersion | None, *ids: str) -> Rolling:
    return Rolling(
        Turns(name="-", version=2, former=1, plan=RolloutPlan(), author="ada", started=0.0, ids=set(ids)), former
    )


def catalogue(*made: Document, revision: int = 1) -> Catalogue:
    return Catalogue(revision, {each.name: version(1, each) for each in made})


class CatalogueTests(SynchronousTestCase):
    @given(catalogues, labels, st.sampled_from(["a", "b", "z"]))
    def test_the_catalogue_selects_as_each_document_does(self, made: list[Document], carried: dict, id: str) -> None:
        target = Target(id, carried)
        chosen = sorted((each.name, 1) for each in made if applies(each, target))
        self.assertEqual(catalogue(*made).applying(target), tuple(chosen))

    def test_equal_selections_are_compiled_once(self) -> None:
        made = catalogue(web("a", 80), web("b", 81, site="x"))
        first = made.compiled(made.applying(Target("se-1", {"site": "x"})))
        self.assertIs(made.compiled(made.applying(Target("se-2", {"site": "x", "more": "1"}))), first)

    def test_what_is_kept_is_bounded(self) -> None:
        made = catalogue(*(web(f"d{each}", 80, engine=f"se-{each}") for each in range(100)))
        for each in range(100):
            made.compiled(made.applying(Target(f"se-{each}", {})))
        self.assertEqual(len(made._compiled), catalogue_module.COMPILED_KEPT)

    def test_a_deleted_document_keeps_its_number_and_applies_nowhere(self) -> None:
        gone = DocumentVersion(name="a", version=2, author="ada", time=0.0, document=None)
        made = catalogue(web("a", 80)).with_version(gone)
        self.assertEqual(made.applying(Target("se", {})), ())
        self.assertEqual(made.versions["a"].version, 2)


class RollingTests(SynchronousTestCase):
    """Two documents roll at once; `a` from site x to all and port 81, `b` is new."""

    def setUp(self) -> None:
        before = catalogue(web("a", 80, site="x"), web("c", 90))
        before = before.with_version(version(2, web("a", 81)), rolling(before.versions["a"], "se-1", "se-2"))
        self.made = before.with_version(version(1, web("b", 82)), rolling(None, "se-2"))

    def applying(self, id: str, site: str = "x") -> tuple:
        return self.made.applying(Target(id, {"site": site}))

    def test_whose_turn_it_is_has_the_last_version_and_who_waits_the_former(self) -> None:
        self.assertEqual(self.applying("se-1"), (("a", 2), ("c", 1)))
        self.assertEqual(self.applying("se-2"), (("a", 2), ("b", 1), ("c", 1)))
        self.assertEqual(self.applying("se-3"), (("a", 1), ("c", 1)))

    def test_each_version_selects_for_itself(self) -> None:
        self.assertEqual(self.applying("se-2", "y"), (("a", 2), ("b", 1), ("c", 1)))
        self.assertEqual(self.applying("se-3", "y"), (("c", 1),))

    def test_each_composition_is_compiled_from_its_versions(self) -> None:
        ports = [
            [each.port for each in self.made.compiled(self.applying(f"se-{n}")).config.virtual_services]
            for n in (1, 2, 3)
        ]
        self.assertEqual(ports, [[81, 90], [81, 82, 90], [80, 90]])

    def test_one_that_has_come_everywhere_rolls_no_more(self) -> None:
        self.made = self.made.with_rolling("a", None)
        self.assertEqual(self.applying("se-3"), (("a", 2), ("c", 1)))
        self.assertEqual(set(self.made.rolling), {"b"})

    def test_both_versions_are_looked_at_for_their_smallest_targets(self) -> None:
        smallest = [dict(each.labels) for each in self.made.smallest_targets({})]
        self.assertEqual(sorted(map(str, smallest)), sorted(map(str, [{"site": "x"}, {}, {}, {}])))
