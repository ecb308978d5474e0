"""What retention has removed is remembered: every number of it, in spans that are few, and nothing that is here."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.archive import removals
from avinet.logs.archive.missing import holes, removed
from avinet.logs.archive.removals import NAME, Removals, covered, noted, without
from avinet.wire.segment import Manifest, Removed
from tests.logs.test_missing import manifest

Spans = list[tuple[int, int, int]]
SEGMENTS = st.lists(st.builds(lambda one, rows, g: manifest(one, one + rows, generation=g), st.integers(1, 40), st.integers(0, 6), st.integers(1, 2)), max_size=8)  # fmt: skip


def numbers(spans: list[Removed] | list[Manifest]) -> set[tuple[int, int]]:
    return {(each.generation, number) for each in spans for number in range(each.first, each.last + 1)}


def shown(spans: list[Removed]) -> Spans:
    return [(each.generation, each.first, each.last) for each in spans]


class RuleTests(SynchronousTestCase):
    def test_what_touches_is_one_span_of_the_time_of_all(self) -> None:
        spans = noted(noted([], [manifest(1, 5), manifest(11, 15)]), [manifest(6, 10), manifest(1, 5, generation=2)])
        self.assertEqual(shown(spans), [(1, 1, 15), (2, 1, 5)])
        self.assertEqual((spans[0].from_ms, spans[0].to_ms), (1, 15))

    @given(SEGMENTS, SEGMENTS)
    def test_every_number_is_there_and_no_other(self, gone: list[Manifest], back: list[Manifest]) -> None:
        spans = noted([], gone)
        self.assertEqual(numbers(spans), numbers(gone))
        self.assertEqual(noted(spans, gone), spans)
        self.assertTrue(all(covered(spans, each) for each in gone))
        for each in back:
            spans = list(without(spans, each))
            self.assertFalse(covered(spans, each))
        self.assertEqual(numbers(spans), numbers(gone) - numbers(back))

    def test_an_answer_tells_it_apart_from_what_was_never_here(self) -> None:
        spans = noted([], [manifest(3, 5)])
        (gone,) = [removed("se-1", each) for each in spans]
        self.assertEqual((gone.after, gone.records, gone.reason), (2, 3, "removed"))
        found = [(each.after, each.records) for each in holes("se-1", [manifest(9, 9), *spans])]
        self.assertEqual(found, [(0, 2), (5, 3)])


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "se-1").mkdir(parents=True)
        self.removals = Removals(self.folder)

    def test_another_process_knows_it(self) -> None:
        self.removals.note("se-1", [manifest(1, 9)])
        self.removals.forget(manifest(4, 5))
        self.assertEqual(shown(Removals(self.folder).of("se-1")), [(1, 1, 3), (1, 6, 9)])
        self.assertTrue(self.removals.have(manifest(6, 8)))
        self.assertFalse(self.removals.have(manifest(3, 6)))
        self.assertFalse(self.removals.have(manifest(6, 8, generation=2)))

    def test_a_damaged_file_is_as_good_as_none(self) -> None:
        for data in (b"{", b"x" * (removals.LIMIT_BYTES + 1), b'{"spans": [{"first": 0}]}'):
            (self.folder / "se-1" / NAME).write_bytes(data)
            self.assertEqual(self.removals.of("se-1"), [])
        self.removals.note("se-1", [manifest(1, 9)])
        self.assertEqual(shown(self.removals.of("se-1")), [(1, 1, 9)])

    def test_there_are_so_many_spans_and_each_fits(self) -> None:
        """The last ones: the others a service engine lets go first."""
        far = 2**53 - 2
        many = [manifest(far - 2 * number, far - 2 * number, generation=2**40) for number in range(2 * removals.SPANS)]
        self.removals.note("se-1", many)
        spans = self.removals.of("se-1")
        self.assertEqual((len(spans), spans[-1].last), (removals.SPANS, far))
