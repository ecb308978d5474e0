"""What a service engine offers to nodes of its segments, and which of them it may let go: pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from avinet.logs.spool.room import chosen
from avinet.wire.message import encode
from avinet.wire.pull import PAGE_BYTES, PAGE_MANIFESTS, SPANS, SegmentPage, Span, Vouched
from avinet.wire.segment import Manifest

Numbers = tuple[int, int]


def page(
    there: Sequence[Manifest],
    acknowledged: int,
    *,
    after: int = 0,
    since_ms: int | None = None,
    until_ms: int | None = None,
    service: str = "",
    limit: int = PAGE_MANIFESTS,
    gone: Iterable[Numbers] = (),
) -> SegmentPage:
    """The next of the segments `there` that have records behind `after`, of that time and that virtual service.

    `gone` are numbers that were removed, and of which no segment tells yet.
    """
    items: list[Manifest] = []
    others = united((max(first, after + 1), last) for first, last in gone if last > after)[: SPANS // 4]
    size = following = 0
    for manifest in chosen(there, after, None, None):
        if len(items) >= limit or size >= PAGE_BYTES or len(others) >= SPANS // 2:
            break
        following = manifest.last
        if wanted(manifest, since_ms, until_ms, service):
            items.append(manifest)
            size += len(encode(manifest))
        else:
            spans = [*removed([manifest]), (manifest.first, manifest.last)]
            others = united([*others, *((max(first, after + 1), last) for first, last in spans if last > after)])
    more = bool(there) and following and following < there[-1].last
    return SegmentPage(
        items=items,
        others=[Span(first=first, last=last) for first, last in others[:SPANS]],
        acknowledged=acknowledged,
        next=following if more else 0,
    )


def wanted(manifest: Manifest, since_ms: int | None, until_ms: int | None, service: str) -> bool:
    """Whether a segment may have records of that time and that virtual service; empty: of any."""
    if not chosen([manifest], 0, since_ms, until_ms):
        return False
    return not service or has_service(manifest, service)


def has_service(manifest: Manifest, service: str) -> bool:
    """Whether it may have records of `service`: the empty name stands for those that are not listed."""
    return service in manifest.services or "" in manifest.services


def removed(manifests: Iterable[Manifest]) -> list[Numbers]:
    """The numbers that `manifests` tell of as removed before a node had them."""
    gaps = [gap for manifest in manifests for gap in manifest.gaps if gap.reason == "cap" and gap.records]
    return [(gap.after + 1, gap.after + (gap.records or 0)) for gap in gaps]


def united(spans: Iterable[Numbers]) -> list[Numbers]:
    """`spans` in order, those that touch as one."""
    result: list[Numbers] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def missing(spans: Iterable[Numbers], after: int) -> list[Numbers]:
    """The numbers behind `after` that are in none of `spans`, up to the last one that is in any."""
    result = []
    for first, last in united(spans):
        if first > after + 1:
            result.append((after + 1, first - 1))
        after = max(after, last)
    return result


class Safe:
    """Segments of which nodes have said, one by one and in any order, that they are safe there.

    What of it is not a beginning of the log is in memory alone: after a restart it is said again, or is told of as a
    gap when there is no room for it.
    """

    def __init__(self) -> None:
        self._spans: set[Numbers] = set()

    def through(self, there: Sequence[Manifest], acknowledged: int, said: Iterable[Vouched]) -> int:
        """Up to which number all of the segments `there` are safe, now that these are `said` to be, too."""
        known = {(each.first, each.last): each.sha256 for each in there}
        self._spans |= {(each.first, each.last) for each in said if known.get((each.first, each.last)) == each.sha256}
        self._spans &= known.keys()
        for each in there:
            if each.last <= acknowledged:
                continue
            if (each.first, each.last) not in self._spans:
                break
            acknowledged = each.last
        return acknowledged
