"""What is missing: numbers that no segment has are counted, whatever is there, and what gaps tell is not told twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.archive.missing import NOT_HERE, Lost, counted, holes, spanning
from avinet.wire.query import LogQuery, Measure, Totals
from avinet.wire.segment import Gap, Manifest


def manifest(first: int, last: int, *gaps: Gap, generation: int = 1) -> Manifest:
    """A segment whose records are of the times of their numbers."""
    return Manifest(
        schema=1,
        engine="se-1",
        generation=generation,
        first=first,
        last=last,
        rows=last - first + 1,
        from_ms=first,
        to_ms=last,
        bytes=1,
        sha256="0" * 64,
        gaps=list(gaps),
    )


def cap(after: int, records: int) -> Gap:
    return Gap(after=after, records=records, reason="cap", from_ms=after, to_ms=after + records)


def spans(found: list[Manifest]) -> list[tuple[int, int, int]]:
    """Behind which number how many are missing, up to which time."""
    return [(each.after, each.records or 0, each.to_ms) for each in holes("se-1", found)]


def spanned(found: list[Manifest]) -> list[Manifest]:
    """What stands for these, whatever the order in which they come."""
    by_generation: dict[int, Manifest] = {}
    for each in found:
        by_generation[each.generation] = spanning(by_generation.get(each.generation), each)
    return list(by_generation.values())


Piece = tuple[int, str]
PIECES = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["here", "gone", "cap", "late"])), max_size=8)


def laid(pieces: list[Piece], generation: int) -> tuple[list[Manifest], int]:
    """The segments that are here of pieces one after the other, and how many records are gone before the last of them.

    What the service engine has removed itself is told of by the next segment, or the one behind that if it is late.
    """
    here = [length for length, fate in pieces if fate == "here"]
    found: list[Manifest] = []
    missing, number = 0, 1
    gaps: dict[int, list[Gap]] = {}
    for length, fate in pieces:
        following = len(found) + (fate == "late")
        if fate == "here":
            found.append(manifest(number, number + length - 1, *gaps.get(following, ()), generation=generation))
        elif fate in ("cap", "late") and following < len(here):
            gaps.setdefault(following, []).append(cap(number - 1, length))
        elif len(found) < len(here):
            missing += length
        number += length
    return found, missing


class HoleTests(SynchronousTestCase):
    def test_nothing_is_missing_where_numbers_follow_one_another(self) -> None:
        self.assertEqual(spans([]), [])
        self.assertEqual(spans([manifest(6, 9), manifest(1, 5), manifest(10, 10)]), [])

    def test_what_lies_between_is_missing_and_of_the_time_between(self) -> None:
        (hole,) = holes("se-1", [manifest(9, 9), manifest(1, 5)])
        self.assertEqual(hole, Lost("se-1", 1, 5, 3, NOT_HERE, 5, 9))

    def test_what_lies_before_the_first_is_of_any_time_before(self) -> None:
        (hole,) = holes("se-1", [manifest(4, 9)])
        self.assertEqual(hole, Lost("se-1", 1, 0, 3, NOT_HERE, 0, 4))

    def test_what_was_removed_is_told_once_though_a_later_segment_tells_of_it(self) -> None:
        """It is beside the file that was open then, before which others may have waited to be sealed."""
        self.assertEqual(spans([manifest(6, 7), manifest(8, 9, cap(0, 3), cap(3, 2))]), [])
        self.assertEqual(spans([manifest(6, 7), manifest(8, 9, cap(0, 3))]), [(0, 2, 6)])

    @given(PIECES, PIECES, st.randoms())
    def test_all_that_no_segment_and_no_gap_has_is_counted_once(
        self, one: list[Piece], two: list[Piece], r: Any
    ) -> None:
        former, lost_then = laid(one, 1)
        latter, lost_now = laid(two, 2)
        here = [*former, *latter]
        r.shuffle(here)
        self.assertEqual(sum(records for _, records, _ in spans(here)), lost_then + lost_now)

    @given(PIECES, st.integers(0, 30), st.integers(1, 20), st.randoms())
    def test_neighbours_that_are_summed_up_hide_nothing_but_what_is_among_them(
        self, pieces: list[Piece], first: int, many: int, r: Any
    ) -> None:
        here, _ = laid(pieces, 1)
        apart = [each for each in here if first <= each.first < first + many]
        r.shuffle(apart)
        others = [each for each in here if each not in apart]
        spans = spanned(apart)
        seen = [each for each in holes("se-1", here) if not any(span.first <= each.after < span.last for span in spans)]
        self.assertEqual(list(holes("se-1", [*others, *spans])), seen)
        self.assertEqual(len(spanned([*here, *laid(pieces, 2)[0]])), 2 if here else 0)


class CountTests(SynchronousTestCase):
    def test_the_count_is_by_reason_and_within_the_range(self) -> None:
        query = LogQuery(since_ms=100, until_ms=500, get=Totals(measures=[Measure(of="requests")]))
        lost = [
            Lost("se-1", 1, 0, None, "crash", 50, 120),
            Lost("se-1", 1, 7, 3, NOT_HERE, 130, 130),
            Lost("se-2", 1, 7, 4, NOT_HERE, 130, 900),
            Lost("se-2", 1, 7, 2**63 - 1, "full", 300, 310),
        ]
        found = counted(lost, query)
        self.assertEqual((found.gaps, found.records, found.unknown), (4, 2**63 - 1, 1))
        self.assertEqual((found.from_ms, found.to_ms), (100, 499))
        by_reason = [(each.reason, each.gaps, each.records, each.unknown) for each in found.reasons]
        self.assertEqual(by_reason, [("crash", 1, 0, 1), ("full", 1, 2**63 - 1, 0), (NOT_HERE, 2, 7, 0)])
        self.assertEqual(counted([], query).from_ms, None)
