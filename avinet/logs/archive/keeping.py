"""What of an archive has to go: a pure rule."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from avinet.logs.archive.hours import Segment


def surplus(segments: Iterable[Segment], limit_bytes: int, oldest_ms: int) -> Iterator[Segment]:
    """Those of `segments` that came before `oldest_ms`, then as many as are too many: the first of whom has most.

    So a service engine that is flooded, or lies, pushes out its own records, and not those of all others. No clock of a
    service engine is asked: one that is off would have its records gone at once, or never.
    """
    there: defaultdict[str, deque[Segment]] = defaultdict(deque)
    sizes: defaultdict[str, int] = defaultdict(int)
    for each in sorted(segments, key=_place):
        if each.came_ms < oldest_ms:
            yield each
        else:
            there[each.manifest.engine].append(each)
            sizes[each.manifest.engine] += each.bytes
    total = sum(sizes.values())
    most = [(-size, engine) for engine, size in sizes.items()]
    heapify(most)
    while total > limit_bytes:
        size, engine = heappop(most)
        oldest = there[engine].popleft()
        yield oldest
        total -= oldest.bytes
        if there[engine]:
            heappush(most, (size + oldest.bytes, engine))


def _place(each: Segment) -> tuple[str, int, int]:
    return each.manifest.engine, each.manifest.generation, each.manifest.first
