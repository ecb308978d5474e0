"""What is offered of a spool, what is missing in it, and what may go: over segments that are only manifests."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.pull.offering import Safe, missing, page, united
from avinet.wire.message import encode
from avinet.wire.pull import PAGE_BYTES, PAGE_LIMIT_BYTES, SPANS, SegmentPage, Vouched
from avinet.wire.segment import NAME_LENGTH, SERVICES, Gap, Manifest


def segment(first: int, last: int, *, service: str = "web", gaps: Sequence[Gap] = ()) -> Manifest:
    """The records `first` to `last`, one a second."""
    rows = last - first + 1
    return Manifest(
        schema=1,
        engine="se-1",
        generation=1,
        first=first,
        last=last,
        rows=rows,
        from_ms=first * 1000,
        to_ms=last * 1000,
        services={service: rows},
        bytes=100,
        sha256=f"{first:064x}",
        gaps=list(gaps),
    )


def cap(after: int, records: int) -> Gap:
    return Gap(after=after, records=records, reason="cap", from_ms=0, to_ms=1)


def numbers(found: SegmentPage) -> list[tuple[int, int]]:
    return [(each.first, each.last) for each in found.items]


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.there = [segment(first, first + 9, service="shop" if first == 21 else "web") for first in range(1, 60, 10)]

    def test_what_had_to_go_and_is_told_by_the_next_segment_is_not_missing(self) -> None:
        self.assertEqual(self.others(after=15, gone=[(1, 3), (14, 17), (61, 70)]), [(16, 17), (61, 70)])
        many = [(2 * number, 2 * number) for number in range(1000, 9000)]
        self.assertLessEqual(len(self.others(gone=many)), SPANS)
        self.assertEqual(numbers(page(self.there, 0, gone=many)), numbers(page(self.there, 0)))

    def others(self, **asked: object) -> list[tuple[int, int]]:
        return [(each.first, each.last) for each in page(self.there, 0, **asked).others]  # type: ignore[arg-type]

    def test_pages_follow_one_another_to_the_end(self) -> None:
        found, after = [], 0
        while True:
            one = page(self.there, 0, after=after, limit=4)
            found += numbers(one)
            if not one.next:
                break
            self.assertGreater(one.next, after)
            after = one.next
        self.assertEqual(found, [(each.first, each.last) for each in self.there])
        self.assertEqual(numbers(page(self.there, 0, after=60)), [])

    def test_by_time_and_service_the_rest_is_told_as_numbers(self) -> None:
        found = page(self.there, 0, since_ms=15_000, until_ms=41_000)
        self.assertEqual(numbers(found), [(11, 20), (21, 30), (31, 40)])
        self.assertEqual(self.others(since_ms=15_000, until_ms=41_000), [(1, 10), (41, 60)])
        self.assertEqual(numbers(page(self.there, 0, service="shop")), [(21, 30)])
        self.assertEqual(self.others(service="shop", after=15), [(16, 20), (31, 60)])
        self.assertEqual(numbers(page([segment(1, 2, service="")], 0, service="shop")), [(1, 2)], "it may be in there")

    def test_what_segments_tell_of_as_removed_that_were_not_asked_for(self) -> None:
        self.there[3:5] = [segment(41, 50, gaps=[cap(30, 10)])]
        self.assertEqual(self.others(service="shop"), [(1, 20), (31, 60)])

    def test_a_page_is_bounded_in_bytes(self) -> None:
        names = {f"{number:0{NAME_LENGTH}d}": 1 for number in range(SERVICES)}
        there = [
            msgspec.structs.replace(segment(1 + at * SERVICES, (at + 1) * SERVICES), services=names) for at in range(40)
        ]
        found = page(there, 0)
        self.assertTrue(1 < len(found.items) < 40)
        self.assertTrue(PAGE_BYTES < len(encode(found)) < PAGE_LIMIT_BYTES)
        self.assertEqual(found.next, found.items[-1].last)


class MissingTests(SynchronousTestCase):
    def test_numbers_between_what_there_is(self) -> None:
        self.assertEqual(missing([(1, 10), (11, 20)], 0), [])
        self.assertEqual(missing([(5, 10), (31, 40), (11, 20)], 2), [(3, 4), (21, 30)])
        self.assertEqual(missing([(1, 10)], 20), [])
        self.assertEqual(missing([], 5), [])

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20)).map(lambda each: (each[0], sum(each)))))
    def test_every_number_is_there_or_missing(self, spans: list[tuple[int, int]]) -> None:
        there = {number for first, last in spans for number in range(first, last + 1)}
        gone = {number for first, last in missing(spans, 0) for number in range(first, last + 1)}
        self.assertEqual(there & gone, set())
        self.assertEqual(there | gone, set(range(1, max(there, default=0) + 1)))
        self.assertEqual(there, {number for first, last in united(spans) for number in range(first, last + 1)})


class SafeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.there = [segment(1, 10), segment(11, 20), segment(25, 30)]
        self.safe = Safe()

    def said(self, *places: int, through: int = 0) -> int:
        vouched = [Vouched(first=each.first, last=each.last, sha256=each.sha256) for each in self.there]
        return self.safe.through(self.there, through, [vouched[place] for place in places])

    def test_a_beginning_of_the_log_may_go_in_whatever_order_it_was_fetched(self) -> None:
        self.assertEqual([self.said(1), self.said(2), self.said(0)], [0, 0, 30])

    def test_what_was_safe_before_is_not_asked_for_again(self) -> None:
        self.assertEqual(self.said(1, through=10), 20)

    def test_another_file_of_the_same_numbers_is_not_the_segment(self) -> None:
        self.assertEqual(self.safe.through(self.there, 0, [Vouched(first=1, last=10, sha256="f" * 64)]), 0)
        self.assertEqual(self.safe.through(self.there, 0, [Vouched(first=1, last=20, sha256="f" * 64)]), 0)

    def test_what_is_gone_is_forgotten(self) -> None:
        self.said(2)
        self.there = self.there[:2]
        self.said()
        self.there.append(segment(25, 30))
        self.assertEqual(self.said(0, 1), 20)
