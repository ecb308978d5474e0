"""What a node believes of a service engine's list of segments, and what it makes of it: pure rules."""

from __future__ import annotations

from collections.abc import Callable

from avinet.errors import PeerError
from avinet.logs.pull.offering import Numbers, missing, removed, united
from avinet.units import format_bytes
from avinet.wire.pull import SEGMENT_LIMIT_BYTES, SegmentPage
from avinet.wire.segment import Manifest

SEGMENTS = 100_000
LIST_BYTES = 256 * 1024 * 1024
"""What a service engine may list: fifty weeks of segments as they are by default, in pages that have so much in all."""
ROWS = 2**31
"""No segment has so many records."""
SPANS_KEPT = 10_000
"""Of a list that is in more pieces, what is missing in it is not told one by one."""

_FEWER = "ask for fewer, by --since and --until"


class Listing:
    """The list of segments of one generation of a service engine, as its pages come. Each lie is a `PeerError`.

    All of them are `wanted`. What is listed once more is what was there `before`: not more, and what is newer is left.
    """

    def __init__(
        self, engine: str, generation: int, wanted: Callable[[Manifest], bool], before: Listing | None = None
    ) -> None:
        self._engine = engine
        self._generation = generation
        self._wanted = wanted
        self._before = before
        self._page_bytes = self._last = 0
        self.segments = self.bytes = 0
        """How many there are so far, and how many bytes these have."""
        self._spans: list[Numbers] = []
        self.acknowledged = 0
        """Up to which number records were safe when the first page came."""
        self.after = 0
        """What the next page is to be asked for behind."""
        self.over = False

    def take(self, page: SegmentPage, size: int) -> list[Manifest]:
        """The segments of the next page, of `size` bytes, each of which is what it should be."""
        if not self._page_bytes:
            self.acknowledged = page.acknowledged
        self._page_bytes += size
        if self._page_bytes > LIST_BYTES:
            raise self._lie(f"its list of segments has more than {format_bytes(LIST_BYTES)}", _FEWER)
        items = [each for each in page.items if self._before is None or each.first <= self._before._last]
        for each in items:
            self._check(each)
        if self._before is not None and page.next >= self._before._last:
            self.over = True
        elif page.next:
            if page.next <= self.after or page.next < self._last:
                raise self._lie("its list of segments does not go on")
            self.after = page.next
        else:
            self.over = True
        spans = [(each.first, each.last) for each in page.items] + [(each.first, each.last) for each in page.others]
        self._spans = united([*self._spans, *spans, *removed(page.items)])[:SPANS_KEPT]
        return items

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
        if not self._wanted(said):
            raise self._lie(f"{name} is none that was asked for")
        self._last = said.last
        self.segments += 1
        self.bytes += said.bytes
        if self.segments > SEGMENTS:
            raise self._lie(f"it lists more than {SEGMENTS} segments", _FEWER)
        if self._before is not None and (self.segments > self._before.segments or self.bytes > self._before.bytes):
            raise self._lie("it lists more segments, or larger ones, than it did before")

    def _lie(self, what: str, hint: str = "nothing more of it is believed") -> PeerError:
        return PeerError(f"service engine {self._engine}: {what}", hint=hint)

    @property
    def missing(self) -> list[Numbers]:
        """The numbers that no node has, and that are in no segment and no gap that is told of."""
        return missing(self._spans, self.acknowledged)
