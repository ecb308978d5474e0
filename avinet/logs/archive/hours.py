"""The folders of an archive, by service engine, day and hour, and what is remembered of each."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec

from avinet.errors import AvinetError
from avinet.files import cannot, read_limited
from avinet.logs.archive.missing import spanning
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Gap, Manifest, read_manifest

HOUR = re.compile(r"[0-9]{2}\Z")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
ENGINE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_NAME = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,20}\.json\Z")
_SETTLED_NS = 2_000_000_000
"""A folder that has changed within so long is read again: its time may be the same after one more change."""
HOUR_MS = 3_600_000
_HOUR_BYTES, _SPAN_BYTES, _SEGMENT_BYTES, _ENTRY_BYTES = 1500, 500, 1600, 200
"""What these take in memory, and no more: an hour, what a generation in it comes to, a segment, and each service and
gap of a manifest."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment in the archive: its file of records, its manifest, what both take, and when it came, since 1970."""

    path: Path
    manifest: Manifest
    bytes: int
    came_ms: int = 0


Found = tuple[str, tuple[int, int, int], Segment | None]
"""The name of a manifest, what its file was like then, and its segment; None where it is none."""


@dataclass(slots=True)
class Hour:
    """What was read of the folder of an hour, and what the folder was like then.

    `spanned` stands for its manifests, by generation, where the hour is of no interest; all that they tell of lies in
    its time. Its segments may be left out. It takes about `bytes` of memory.
    """

    engine: str
    folder: Path
    begins_ms: int
    stamp: tuple[int, int]
    settled: bool
    from_ms: int
    to_ms: int
    spanned: dict[int, Manifest] = field(default_factory=dict)
    segments: dict[str, tuple[tuple[int, int, int], Segment | None]] | None = field(default_factory=dict)
    bytes: int = _HOUR_BYTES

    def take(self, found: Found) -> None:
        """One more is in it."""
        name, mark, segment = found
        if segment is not None:
            manifest = segment.manifest
            spans: list[Manifest | Gap] = [manifest, *manifest.gaps]
            for each in spans:
                self.from_ms, self.to_ms = min(self.from_ms, each.from_ms), max(self.to_ms, each.to_ms)
            self.spanned[manifest.generation] = spanning(self.spanned.get(manifest.generation), manifest)
        if self.segments is not None:
            self.segments[name] = mark, segment
            self.bytes += _bytes_of(segment)

    def summed_up(self) -> Hour:
        """This, without its segments."""
        size = _HOUR_BYTES + sum(_SPAN_BYTES + _ENTRY_BYTES * len(each.gaps) for each in self.spanned.values())
        return replace(self, segments=None, bytes=size)


def _bytes_of(segment: Segment | None) -> int:
    """What it takes in memory."""
    if segment is None:
        return _SEGMENT_BYTES
    return _SEGMENT_BYTES + _ENTRY_BYTES * (len(segment.manifest.services) + len(segment.manifest.gaps))


def read_hour(
    engine: str, folder: Path, begins_ms: int, known: Hour | None, now_ns: int, *, details: bool, most_bytes: float
) -> Hour | None:
    """What is in the folder of an hour, as it is known where it has not changed; None where there is none any more.

    Without `details` little of each manifest is kept, and no segments when these take more than `most_bytes`.
    """
    try:
        found = folder.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if known is not None and known.settled and stamp == known.stamp:
            return known
        settled = abs(now_ns - found.st_mtime_ns) > _SETTLED_NS
        now = Hour(engine, folder, begins_ms, stamp, settled, begins_ms, begins_ms + HOUR_MS - 1)
        for each in read_segments(engine, folder, known, details=details):
            now.take(each)
            if now.bytes > most_bytes and now.segments is not None:
                now = now.summed_up()
    except FileNotFoundError:  # retention was here
        return None
    except OSError as error:
        raise cannot("read", folder, error) from error
    return now


def read_segments(engine: str, folder: Path, known: Hour | None, *, details: bool) -> Iterator[Found]:
    """The segments in the folder of an hour, as they are known where they have not changed. Raises `OSError`."""
    segments = known.segments if known is not None and known.segments is not None else {}
    for each in os.scandir(folder):
        if not _NAME.match(each.name):
            continue
        status = each.stat(follow_symlinks=False)
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        before = segments.get(each.name)
        if before is not None and before[0] == mark:
            yield each.name, *before
            continue
        segment = _segment(engine, Path(each.path), status.st_mtime_ns // 1_000_000)
        yield each.name, mark, segment if details or segment is None else _without_details(segment)


def _without_details(segment: Segment) -> Segment:
    return replace(segment, manifest=msgspec.structs.replace(segment.manifest, services={}, gaps=[]))


def _segment(engine: str, path: Path, came_ms: int) -> Segment | None:
    """The segment whose manifest came to `path` then; None where it is none, or one of another place."""
    try:
        if size_of(path) is None:
            return None
        data = read_limited(path, MANIFEST_LIMIT_BYTES)
        manifest = read_manifest(data)
    except AvinetError:
        return None
    numbers = tuple(int(each) for each in path.stem.split("-"))
    if manifest.engine != engine or numbers != (manifest.generation, manifest.first, manifest.last):
        return None
    return Segment(path.with_suffix(".parquet"), manifest, len(data) + manifest.bytes, came_ms)


def folders(parent: Path, named: re.Pattern[str]) -> list[Path]:
    """The folders in `parent` with such a name, in order; links are none."""
    try:
        found = [each for each in os.scandir(parent) if named.match(each.name) and each.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot("read", parent, error) from error
    return sorted(Path(each.path) for each in found)


@functools.lru_cache(maxsize=65536)
def begins_ms_of(day: str, hour: str) -> int | None:
    """When the hour of two folders' names begins, in ms since 1970; None where there is no such hour."""
    try:
        return int(datetime.strptime(f"{day} {hour} +0000", "%Y-%m-%d %H %z").timestamp()) * 1000
    except ValueError:
        return None


def size_of(path: Path) -> int | None:
    """How long a file is; None where there is no such file, or a link."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
