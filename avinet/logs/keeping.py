"""What of an archive has to go: a pure rule."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from avinet.logs.hours import Segment


def surplus(segments: Iterable[Segment], limit_bytes: int, oldest_ms: int) -> Iterator[Segment]:
    """Those of `segments` that are older than `oldest_ms`, then as many as are too many: the oldest of whom has most.

    So a service engine that is flooded, or lies, pushes out its own records, and not those of all others.
    """
    there: defaultdict[str, deque[Segment]] = defaultdict(deque)
    sizes: defaultdict[str, int] = defaultdict(int)
    for each in sorted(segments, key=lambda each: (each.age_from_ms, each.manifest.engine, each.manifest.first)):
        if each.age_from_ms < oldest_ms:
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
