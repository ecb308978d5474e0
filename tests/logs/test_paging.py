"""A page from many segments: the same as from all of them at once, and no more is read than it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.archive.hours import Segment
from avinet.logs.query.paging import Found, page
from avinet.wire.query import Position, Rows, cursor, read_cursor
from avinet.wire.segment import Manifest

Spot = tuple[int, str, int, int]
TIMES = st.lists(st.integers(0, 30), min_size=1, max_size=6)


class Shelf:
    """Segments in memory, whose records are their positions."""

    def __init__(self, rows: Rows, held: list[list[Spot]]) -> None:
        self.rows = rows
        self.held = {f"/{number}": spots for number, spots in enumerate(held)}
        self.segments = [self.segment(name, spots) for name, spots in self.held.items()]
        self.was_read: list[str] = []

    def segment(self, name: str, spots: list[Spot]) -> Segment:
        times = [time for time, *_ in spots]
        manifest = Manifest(
            schema=1,
            engine=spots[0][1],
            generation=spots[0][2],
            first=1,
            last=len(spots),
            rows=len(spots),
            from_ms=min(times),
            to_ms=max(times),
            bytes=1,
            sha256="0" * 64,
        )
        return Segment(Path(name), manifest, 1)

    def read(self, segments: Sequence[Segment]) -> Found:
        """What the SQL would give of these."""
        names = [str(each.path) for each in segments]
        self.was_read += names
        found = [spot for name in names for spot in self.held.get(name, [])]
        newest = self.rows.order == "newest"
        if self.rows.after:
            last = read_cursor(self.rows.after)
            at = (last.time, last.engine, last.generation, last.seq)
            found = [spot for spot in found if (spot < at if newest else spot > at)]
        return [(f"{spot}", *spot) for spot in sorted(found, reverse=newest)[: self.rows.limit + 1]]

    def page(self) -> Found:
        return page(self.rows, self.segments, self.read)


class PagingTests(SynchronousTestCase):
    @settings(max_examples=300, deadline=None)
    @given(st.lists(TIMES, max_size=12), st.integers(1, 6), st.sampled_from(["newest", "oldest"]), st.data())
    def test_a_page_is_that_of_all_segments(self, held: list[list[int]], limit: int, order: Any, data: Any) -> None:
        spots: list[list[Spot]] = []
        for number, times in enumerate(held):
            spots.append([(time, f"se-{number % 3}", number % 2, number * 10 + at) for at, time in enumerate(times)])
        after = ""
        if data.draw(st.booleans()):
            after = cursor(
                Position(
                    time=data.draw(st.integers(0, 30)),
                    engine="se-1",
                    generation=data.draw(st.integers(0, 2)),
                    seq=data.draw(st.integers(0, 120)),
                )
            )
        shelf = Shelf(Rows(columns=["path"], limit=limit, order=order, after=after), spots)
        self.assertEqual(shelf.page(), shelf.read(shelf.segments))

    def test_only_what_the_page_needs_is_read(self) -> None:
        held = [[(hour * 100 + n, "se-1", 1, hour * 10 + n) for n in range(5)] for hour in range(20)]
        for order, first in (("newest", range(19, 11, -1)), ("oldest", range(8))):
            shelf = Shelf(Rows(columns=["path"], limit=5, order=order), held)  # type: ignore[arg-type]
            self.assertEqual(len(shelf.page()), 6)
            self.assertEqual(shelf.was_read, [f"/{number}" for number in first])

    def test_a_later_page_begins_where_it_is(self) -> None:
        held = [[(hour * 100 + n, "se-1", 1, hour * 10 + n) for n in range(5)] for hour in range(20)]
        after = cursor(Position(time=700, engine="se-1", generation=1, seq=70))
        shelf = Shelf(Rows(columns=["path"], limit=3, after=after), held)
        shelf.page()
        self.assertEqual(shelf.was_read, [f"/{number}" for number in range(7, -1, -1)])

    def test_what_is_rare_is_looked_for_in_all_with_few_reads(self) -> None:
        shelf = Shelf(Rows(columns=["path"], limit=500), [[(n, "se-1", 1, n)] for n in range(100)])
        reads: list[int] = []

        def read(names: Sequence[Segment]) -> Found:
            reads.append(len(names))
            return shelf.read(names)

        self.assertEqual(len(page(shelf.rows, shelf.segments, read)), 100)
        self.assertEqual(reads, [8, 32, 60])
