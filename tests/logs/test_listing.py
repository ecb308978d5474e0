"""What a node believes of a list of segments: each lie is told in a line, and ends it."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.logs.pull import listing as rules
from avinet.logs.pull.listing import Listing
from avinet.wire.pull import SegmentPage, Span
from avinet.wire.segment import Manifest
from tests.logs.test_offering import cap, segment


def listing(before: Listing | None = None) -> Listing:
    return Listing("se-1", 1, lambda each: "web" in each.services, before)


def page(*items: Manifest, next: int = 0, acknowledged: int = 0, others: Any = ()) -> SegmentPage:
    spans = [Span(first=first, last=last) for first, last in others]
    return SegmentPage(items=list(items), next=next, acknowledged=acknowledged, others=spans)


class ListingTests(SynchronousTestCase):
    """A list without end, or of another service engine (H1, H4)."""

    def setUp(self) -> None:
        self.listing = listing()

    def lie(self, *pages: SegmentPage, before: Listing | None = None) -> str:
        lying = listing(before)
        for each in pages[:-1]:
            lying.take(each, 100)
        said = str(self.assertRaises(PeerError, lying.take, pages[-1], 100))
        self.assertNotIn("\n", said)
        return said

    def test_pages_that_go_on(self) -> None:
        self.assertEqual(self.listing.take(page(segment(1, 5), next=5), 100), [segment(1, 5)])
        self.assertEqual((self.listing.after, self.listing.over), (5, False))
        self.listing.take(page(next=20, others=[(6, 20)]), 100)
        self.listing.take(page(segment(21, 30)), 100)
        self.assertEqual((self.listing.over, self.listing.missing), (True, []))

    def test_of_another_engine_or_generation(self) -> None:
        for wrong in ({"engine": "se-2"}, {"generation": 2}):
            self.assertIn("says to be of", self.lie(page(msgspec.structs.replace(segment(1, 5), **wrong))))

    def test_numbers_that_contradict_one_another(self) -> None:
        for wrong in (
            {"rows": 6},
            {"services": {"web": 4}},
            {"from_ms": 10**9},
            {"bytes": 0},
            {"bytes": 2**62},
            {"last": 2**40, "rows": 2**40, "services": {"": 2**40}, "to_ms": 10**9},
        ):
            self.lie(page(msgspec.structs.replace(segment(1, 5), **wrong)))

    def test_segments_that_overlap_or_come_again(self) -> None:
        self.lie(page(segment(1, 5), segment(5, 9)))
        self.lie(page(segment(1, 5), next=5), page(segment(1, 5)))
        self.lie(page(segment(6, 9), segment(1, 5)))

    def test_pages_that_do_not_go_on_or_never_end(self) -> None:
        self.lie(page(segment(1, 5), next=5), page(next=5))
        self.lie(page(segment(1, 5), next=3))
        self.patch(rules, "LIST_BYTES", 300)
        self.assertIn("more than 300 B", self.lie(*[page(next=number) for number in range(1, 5)]))

    def test_segments_without_end(self) -> None:
        self.patch(rules, "SEGMENTS", 3)
        said = self.lie(page(segment(1, 5), segment(6, 9), next=9), page(segment(10, 10), segment(11, 11)))
        self.assertIn("more than 3 segments", said)

    def test_what_nobody_has_asked_for(self) -> None:
        self.assertIn("5-9 is none that was asked for", self.lie(page(segment(1, 4), segment(5, 9, service="shop"))))

    def test_once_more_it_is_what_it_was(self) -> None:
        """Fewer, where some had to go; what is newer comes with the next pull."""
        self.listing.take(page(segment(1, 5), segment(9, 12)), 100)
        again = listing(self.listing)
        self.assertEqual(again.take(page(segment(9, 12), segment(13, 20), next=20), 100), [segment(9, 12)])
        self.assertTrue(again.over)
        self.assertIn("than it did before", self.lie(page(*(segment(n, n) for n in (1, 2, 3))), before=self.listing))
        larger = msgspec.structs.replace(segment(1, 5), bytes=201)
        self.assertIn("than it did before", self.lie(page(larger), before=self.listing))

    def test_numbers_that_are_missing_in_silence(self) -> None:
        self.listing.take(page(segment(11, 20), segment(25, 30, gaps=[cap(20, 2)]), next=30, acknowledged=4), 100)
        self.listing.take(page(segment(41, 50), others=[(31, 38)]), 100)
        self.assertEqual(self.listing.missing, [(5, 10), (23, 24), (39, 40)])
