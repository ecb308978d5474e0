"""What a pull fetches from, and whom it tells of the way it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from avinet.errors import AvinetError
from avinet.logs.pull.turns import Turn
from avinet.rest.pieces import Pieces
from avinet.wire.pull import Acknowledgement, SegmentPage
from avinet.wire.segment import Manifest


class OutOfBudget(AvinetError):
    """There are more bytes than may be fetched."""


class Source(Protocol):
    """One generation of a service engine. Each raises `Unavailable` or `TimedOut` when it should be asked once more."""

    engine: str
    generation: int

    async def seal(self) -> None:
        """Have it seal what is open."""

    async def page(self, after: int) -> tuple[SegmentPage, int]:
        """The next of its segments, out of those that are wanted, and how many bytes have said so."""

    def wanted(self, manifest: Manifest) -> bool:
        """Whether it is one of those that were asked for."""

    async def open(self, manifest: Manifest, at: int) -> Pieces:
        """The file of a segment, from a byte on."""

    async def acknowledge(self, said: Acknowledgement) -> None:
        """These are safe here."""


class Course(Protocol):
    """What is told of the way it goes, and what may be spent."""

    def listed(self, segments: int, size: int, missing: Sequence[tuple[int, int]]) -> None:
        """There are so many segments of so many bytes in all, here or to be fetched, and these numbers are missing."""

    def there(self, size: int) -> None:
        """So many bytes need not come, as they are here already; below 0: they must, after all."""

    def kept(self) -> None:
        """One is in the archive already."""

    def removed(self, size: int) -> None:
        """One of so many bytes was in the archive before, and need not come: it is none of those that are listed."""

    def archived(self) -> None:
        """One more is in the archive."""

    def arrived(self, count: int) -> None:
        """So many more bytes have come."""

    def refused(self, why: str) -> None:
        """One is not in the archive, and will not be; others are."""

    def problem(self, why: str) -> None:
        """Something beside the segments did not go as it should."""

    def reserve(self, size: int) -> Callable[[int], None]:
        """So many bytes are to come: what to call with how many it were. Raises `OutOfBudget`."""

    def turn(self) -> Turn:
        """In which one segment may be fetched."""
