"""What a node believes of a service engine's list of segments, and what it makes of it: pure rules."""

from __future__ import annotations

from collections import deque

from avinet.errors import PeerError
from avinet.logs.offering import Numbers, missing, removed, united
from avinet.wire.pull import SEGMENT_LIMIT_BYTES, SegmentPage
from avinet.wire.segment import Manifest

PAGES = 10_000
ROWS = 2**31
"""No segment has so many records."""
SPANS_KEPT = 10_000
"""Of a list that is in more pieces, what is missing in it is not told one by one."""


class Listing:
    """The list of segments of one generation of a service engine, as its pages come. Each lie is a `PeerError`."""

    def __init__(self, engine: str, generation: int) -> None:
        self._engine = engine
        self._generation = generation
        self._pages = 0
        self._last = 0
        self._spans: list[Numbers] = []
        self.acknowledged = 0
        """Up to which number records were safe when the first page came."""
        self.after = 0
        """What the next page is to be asked for behind."""
        self.over = False

    def take(self, page: SegmentPage) -> list[Manifest]:
        """The segments of the next page, each of which is what it should be."""
        self._pages += 1
        if self._pages > PAGES:
            raise self._lie(f"its list of segments has more than {PAGES} pages")
        if self._pages == 1:
            self.acknowledged = page.acknowledged
        for each in page.items:
            self._check(each)
        if page.next:
            if page.next <= self.after or page.next < self._last:
                raise self._lie("its list of segments does not go on")
            self.after = page.next
        else:
            self.over = True
        spans = [(each.first, each.last) for each in page.items] + [(each.first, each.last) for each in page.others]
        self._spans = united([*self._spans, *spans, *removed(page.items)])[:SPANS_KEPT]
        return page.items

    def _check(self, said: Manifest) -> None:
        name = f"its segment {said.first}-{said.last}"
        if (said.engine, said.generation) != (self._engine, self._generation):
            raise self._lie(
                f"{name} says to be of {said.engine}, generation {said.generation}, and not {self._generation}"
            )
        if said.last - said.first + 1 != said.rows or sum(said.services.values()) != said.rows:
            raise self._lie(f"{name} has not as many rows as numbers")
        if said.from_ms > said.to_ms:
            raise self._lie(f"{name} ends before it begins")
        if said.first <= self._last:
            raise self._lie(f"{name} comes behind the number {self._last}")
        if not 0 < said.bytes <= SEGMENT_LIMIT_BYTES or said.rows >= ROWS:
            raise self._lie(f"{name} says to have {said.rows} rows in {said.bytes} bytes")
        self._last = said.last

    def _lie(self, what: str) -> PeerError:
        return PeerError(f"service engine {self._engine}: {what}", hint="nothing more of it is believed")

    @property
    def missing(self) -> list[Numbers]:
        """The numbers that no node has, and that are in no segment and no gap that is told of."""
        return missing(self._spans, self.acknowledged)


class Rate:
    """Bytes a second, over the last `over_s`."""

    def __init__(self, over_s: float = 10.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, total: int) -> float:
        """The rate, now that there are `total` bytes."""
        if not self._seen or now - self._seen[-1][0] >= self._over_s / 20:
            self._seen.append((now, total))
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return (total - before) / (now - then) if now > then else 0.0
