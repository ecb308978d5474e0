"""What an answer does not have: gaps that manifests tell of, and numbers of records that no segment here has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from avinet.wire.answer import GapsOf, GapsThere
from avinet.wire.query import LogQuery
from avinet.wire.segment import Gap, Manifest, Removed

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

    Numbers begin anew with each generation. What is before the first segment may be of any time before.
    """
    generation, last, to_ms = -1, 0, 0
    for each in sorted(manifests, key=attrgetter("generation", "first")):
        if each.generation != generation:
            generation, last, to_ms = each.generation, 0, 0
        capped = sum(gap.records or 0 for gap in each.gaps if gap.reason == "cap" and gap.after >= last)
        missing = each.first - last - 1 - capped
        if missing > 0:
            between = min(to_ms, each.from_ms), max(to_ms, each.from_ms)
            yield Lost(engine, generation, last, missing, NOT_HERE, *between)
        last, to_ms = max(last, each.last), max(to_ms, each.to_ms)


def spanned(manifests: Iterable[Manifest]) -> list[Manifest]:
    """What `holes` needs of neighbours in whose own time nothing is of interest: one manifest for each generation."""
    found: dict[int, Manifest] = {}
    for each in sorted(manifests, key=attrgetter("first")):
        so_far = found.get(each.generation)
        if so_far is None:
            caps = [gap for gap in each.gaps if gap.reason == "cap"]
            found[each.generation] = msgspec.structs.replace(each, gaps=caps, services={})
        else:
            found[each.generation] = msgspec.structs.replace(
                so_far,
                last=max(so_far.last, each.last),
                from_ms=min(so_far.from_ms, each.from_ms),
                to_ms=max(so_far.to_ms, each.to_ms),
            )
    return list(found.values())


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
