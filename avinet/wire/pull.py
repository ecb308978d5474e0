"""What a service engine says of its request logs through `logs:80`: which segments there are, and which are safe."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from avinet.wire.message import Count, Message, Sha256
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Manifest, Number

PAGE_MANIFESTS = 100
PAGE_BYTES = 512 * 1024
"""What the manifests of a page have in all, but for the last one."""
PAGE_LIMIT_BYTES = PAGE_BYTES + MANIFEST_LIMIT_BYTES + 64 * 1024
SPANS = 1000
VOUCHED = 1000
SEGMENT_LIMIT_BYTES = 8 * 1024**3
"""No segment is larger: it is made of 2 GiB of lines at most, and takes less than these."""


class Span(Message, frozen=True, kw_only=True):
    """The records from `first` to `last`."""

    first: Number
    last: Number


class SegmentPage(Message, frozen=True, kw_only=True):
    """Segments in the order of their numbers. `next` asks for those behind it; 0: there are no more.

    `others` are numbers behind the one that was asked for that are in segments which were not asked for, or which
    those, or the next one that is sealed, tell of as removed. Records up to `acknowledged` are safe on nodes.
    """

    items: Annotated[list[Manifest], Meta(max_length=PAGE_MANIFESTS)] = []
    others: Annotated[list[Span], Meta(max_length=SPANS)] = []
    acknowledged: Count = 0
    next: Count = 0


class Vouched(Message, frozen=True, kw_only=True):
    """A segment that is safe on a node: its numbers, and the SHA-256 of its file."""

    first: Number
    last: Number
    sha256: Sha256


class Acknowledgement(Message, frozen=True, kw_only=True):
    """Segments that are safe on a node; those that the service engine does not have are left out of account."""

    segments: Annotated[list[Vouched], Meta(min_length=1, max_length=VOUCHED)]


class Acknowledged(Message, frozen=True, kw_only=True):
    """Up to which number all records that the service engine still has are safe on nodes."""

    acknowledged: Count = 0


class SealedThrough(Message, frozen=True, kw_only=True):
    """The number of the last record in a segment; 0: there is none."""

    last: Count = 0
