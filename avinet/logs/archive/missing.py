"""What an answer does not have: gaps that manifests tell of, and numbers of records that no segment here has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import attrgetter

import msgspec

from avinet.wire.answer import GapsOf, GapsThere
from avinet.wire.query import LogQuery
from avinet.wire.segment import Gap, Manifest, Removed, merged

NOT_HERE = "not-here"
"""The reason of what was sealed and is not here: not pulled yet, or lost with the archive."""
REMOVED = "removed"
"""The reason of what was here, and was removed by retention."""
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Lost:
    """Behind the record `after` of a generation of `engine` there are `records` missing, of between these times.

    None: nobody knows how many.
    """

    engine: str
    generation: int
    after: int
    records: int | None
    reason: str
    from_ms: int
    to_ms: int


def told(engine: str, generation: int, gap: Gap) -> Lost:
    """A gap that a manifest of `engine` tells of."""
    return Lost(engine, generation, gap.after, gap.records, gap.reason, gap.from_ms, gap.to_ms)


def removed(engine: str, span: Removed) -> Lost:
    """What was here of `engine`."""
    records = span.last - span.first + 1
    return Lost(engine, span.generation, span.first - 1, records, REMOVED, span.from_ms, span.to_ms)


def holes(engine: str, manifests: Iterable[Manifest | Removed]) -> Iterator[Lost]:
    """The numbers before the last of `engine` that are in none of `manifests`, and of which no gap tells.

    Numbers begin anew with each generation. What is before the first segment may be of any time before. What the
    service engine has removed may be told of by any later segment: others may have waited to be sealed before that.
    """
    ordered = sorted(manifests, key=attrgetter("generation", "first"))
    for generation, those in groupby(ordered, key=attrgetter("generation")):
        found = list(those)
        capped = _Capped(gap for each in found for gap in each.gaps)
        last = to_ms = 0
        for each in found:
            missing = each.first - last - 1 - capped.records(last, each.first - 1)
            if missing > 0:
                between = min(to_ms, each.from_ms), max(to_ms, each.from_ms)
                yield Lost(engine, generation, last, missing, NOT_HERE, *between)
            last, to_ms = max(last, each.last), max(to_ms, each.to_ms)


class _Capped:
    """How many records gaps tell of as removed."""

    def __init__(self, gaps: Iterable[Gap]) -> None:
        caps = sorted((gap.after, gap.records or 0) for gap in gaps if gap.reason == "cap")
        self._places = [after for after, _ in caps]
        self._sums = [0, *accumulate(records for _, records in caps)]

    def records(self, after: int, last: int) -> int:
        """Of those behind the number `after`, up to `last`."""
        begin, end = (bisect_left(self._places, each) for each in (after, last))
        return max(0, self._sums[end] - self._sums[begin])


def bare(manifest: Manifest) -> Manifest:
    """What `holes` needs of a manifest."""
    return msgspec.structs.replace(manifest, services={}, gaps=[gap for gap in manifest.gaps if gap.reason == "cap"])


def spanning(so_far: Manifest | None, each: Manifest) -> Manifest:
    """What `holes` needs of neighbours of one generation in whose own time nothing is of interest, and of one more."""
    gaps = each.gaps if so_far is None else [*so_far.gaps, *each.gaps]
    so_far = so_far or each
    first = min(so_far.first, each.first)
    caps = [gap for gap in gaps if gap.reason == "cap" and gap.after < first]
    return msgspec.structs.replace(
        so_far,
        first=first,
        last=max(so_far.last, each.last),
        from_ms=min(so_far.from_ms, each.from_ms),
        to_ms=max(so_far.to_ms, each.to_ms),
        gaps=merged(caps) if caps else [],
        services={},
    )


def counted(lost: Sequence[Lost], query: LogQuery) -> GapsThere:
    """What is missing in the range of `query`, in numbers."""
    reasons: dict[str, list[Lost]] = {}
    for each in lost:
        reasons.setdefault(each.reason, []).append(each)
    return GapsThere(
        gaps=len(lost),
        records=_records(lost),
        unknown=_unknown(lost),
        from_ms=max(query.since_ms, min(each.from_ms for each in lost)) if lost else None,
        to_ms=min(query.until_ms - 1, max(each.to_ms for each in lost)) if lost else None,
        reasons=[
            GapsOf(reason=reason, gaps=len(some), records=_records(some), unknown=_unknown(some))
            for reason, some in sorted(reasons.items())
        ],
    )


def _records(lost: Sequence[Lost]) -> int:
    return min(sum(each.records or 0 for each in lost), _MOST)


def _unknown(lost: Sequence[Lost]) -> int:
    return sum(each.records is None for each in lost)
