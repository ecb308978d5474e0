"""Segments of an archive, made of records in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avinet.logs.archive.archive import Archive
from avinet.wire.log import VERSION
from avinet.wire.segment import Gap, Manifest, manifest_bytes
from tests.logs.naive import Record, write_segment

HOUR_MS = 3_600_000


def manifest_of(path: Path, found: Sequence[Record], gaps: Sequence[Gap] = (), generation: int = 1) -> Manifest:
    """What the manifest of the segment `path` says, whose records are `found`."""
    data = path.read_bytes()
    times = [each["time"] for each in found]
    return Manifest(
        schema=VERSION,
        engine=found[0]["engine"],
        generation=generation,
        first=found[0]["seq"],
        last=found[-1]["seq"],
        rows=len(found),
        from_ms=min(times),
        to_ms=max(times),
        services=dict(Counter(each["service"] for each in found)),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        gaps=list(gaps),
    )


def put(archive: Archive, found: Sequence[Record], gaps: Sequence[Gap] = (), generation: int = 1) -> Path:
    """Have `found`, records of one service engine in order, as a segment of `archive`; its file."""
    aside = archive.folder.parent / "aside.parquet"
    write_segment(aside, found)
    return archive.add(aside, manifest_bytes(manifest_of(aside, found, gaps, generation)))
