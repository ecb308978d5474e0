"""A page of records from many segments: those that are next by time are read first, and no more than the page needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avinet.logs.archive.hours import Segment
from avinet.wire.query import ORDER, Rows, read_cursor

Found = list[tuple[Any, ...]]
"""Rows, as the database gives them."""
_FIRST = 8
"""How many segments are read at first; then four times as many each time, as the page may be of what is rare."""


def page(rows: Rows, segments: Sequence[Segment], read: Callable[[Sequence[Segment]], Found]) -> Found:
    """The records of a page, and one behind it where there is one, as `read` gives them from some of the segments.

    Each has its place in the `ORDER` behind what was asked for.
    """
    newest = rows.order == "newest"
    left = sorted(segments, key=lambda each: _nearest(each, newest), reverse=newest)
    if rows.after:
        last = read_cursor(rows.after).time
        left = [each for each in left if (each.manifest.from_ms <= last if newest else each.manifest.to_ms >= last)]
    found: Found = []
    many = _FIRST
    while True:
        batch, left = left[:many], left[many:]
        many *= 4
        found += read(batch)
        found.sort(key=_position, reverse=newest)
        del found[rows.limit + 1 :]
        if not left or (len(found) > rows.limit and _beyond(left[0], found[-1], newest)):
            return found


def _nearest(segment: Segment, newest: bool) -> int:
    """The time of the record in it that comes first on the pages."""
    return segment.manifest.to_ms if newest else segment.manifest.from_ms


def _beyond(segment: Segment, row: tuple[Any, ...], newest: bool) -> bool:
    """Whether all that is in `segment` comes behind `row`."""
    time = _position(row)[0]
    return _nearest(segment, newest) < time if newest else _nearest(segment, newest) > time


def _position(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[-len(ORDER) :]
