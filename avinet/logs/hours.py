"""The folders of an archive, by service engine, day and hour, and what is remembered of each."""

from __future__ import annotations

import functools
import os
import re
import stat
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec

from avinet.errors import AvinetError
from avinet.files import cannot, read_limited
from avinet.logs.missing import spanned
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Gap, Manifest, read_manifest

HOUR = re.compile(r"[0-9]{2}\Z")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
ENGINE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_NAME = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,20}\.json\Z")
_SETTLED_NS = 2_000_000_000
"""A folder that has changed within so long is read again: its time may be the same after one more change."""
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment in the archive: its file of records, its manifest, what both take, and when it came, since 1970."""

    path: Path
    manifest: Manifest
    bytes: int
    came_ms: int = 0


@dataclass(slots=True)
class Hour:
    """What was read of the folder of an hour, and what the folder was like then.

    `spanned` stands for its manifests where the hour is of no interest; all that they tell of lies in its time.
    """

    begins_ms: int
    stamp: tuple[int, int]
    settled: bool
    segments: dict[str, tuple[tuple[int, int, int], Segment | None]] = field(default_factory=dict)
    from_ms: int = 0
    to_ms: int = 0
    spanned: list[Manifest] = field(default_factory=list)

    def summed_up(self) -> Hour:
        """This, with what its segments have in common."""
        manifests = [each.manifest for _, each in self.segments.values() if each is not None]
        spans: list[Manifest | Gap] = [*manifests, *(gap for each in manifests for gap in each.gaps)]
        self.from_ms = min([self.begins_ms, *(each.from_ms for each in spans)])
        self.to_ms = max([self.begins_ms + HOUR_MS - 1, *(each.to_ms for each in spans)])
        self.spanned = spanned(manifests)
        return self


def read_hour(
    engine: str, hour: Path, begins_ms: int, known: Hour | None, now_ns: int, *, details: bool
) -> Hour | None:
    """What is in the folder of an hour, as it is known where it has not changed; None where there is none any more.

    Without `details` little of each manifest is kept.
    """
    try:
        found = hour.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if known is not None and known.settled and stamp == known.stamp:
            return known
        now = Hour(begins_ms, stamp, abs(now_ns - found.st_mtime_ns) > _SETTLED_NS)
        for each in os.scandir(hour):
            if not _NAME.match(each.name):
                continue
            status = each.stat(follow_symlinks=False)
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            before = known.segments.get(each.name) if known is not None else None
            if before is None or before[0] != mark:
                segment = _segment(engine, Path(each.path), status.st_mtime_ns // 1_000_000)
                before = mark, segment if details else _without_details(segment)
            now.segments[each.name] = before
    except FileNotFoundError:  # retention was here
        return None
    except OSError as error:
        raise cannot("read", hour, error) from error
    return now.summed_up()


def _without_details(segment: Segment | None) -> Segment | None:
    if segment is None:
        return None
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
