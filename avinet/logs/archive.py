"""The archive of a node: segments of request logs by service engine and hour, and those that a query needs.

`FOLDER/ENGINE/YYYY-MM-DD/HH/GENERATION-FIRST-LAST.parquet` with its manifest beside it as `.json`; the hour is that of
the first record, in UTC. A service engine that was imaged anew counts its records from 1 again, in a new generation.
Only with its manifest is a segment one: the manifest comes last, and goes first. All of it blocks: it runs in the
process that answers queries, or in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from avinet.errors import AvinetError, Conflict, Damaged, Invalid, LocalError, TooLarge
from avinet.files import cannot, private_folder, read_limited, remove_durably, sync_folder, write_atomic
from avinet.ids import parse_id
from avinet.logs.missing import Lost, holes, told
from avinet.wire.query import LogQuery
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Gap, Manifest, manifest_bytes, read_manifest

_HOUR = re.compile(r"[0-9]{2}\Z")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_ENGINE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_NAME = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,20}\.json\Z")
_STRAY = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,20}\.parquet\Z")
_STRAY_S = 3600
"""After so long a file of records without a manifest is what a crash has left."""
_SETTLED_NS = 2_000_000_000
"""A folder that has changed within so long is read again: its time may be the same after one more change."""
_HOUR_MS = 3_600_000
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment in the archive: its file of records, its manifest, what both take, and when it came, since 1970."""

    path: Path
    manifest: Manifest
    bytes: int
    came_ms: int = 0

    @property
    def age_from_ms(self) -> int:
        """From when on it grows old: its last record, which no clock of a service engine sets behind its coming."""
        return min(self.manifest.to_ms, self.came_ms)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a query needs, and what it will not find.

    The `segments` may have records for it; `gaps`, by time, lie in its range. `nothing_of` are the service engines
    without a segment there. `damaged` segments cannot be read.
    """

    segments: list[Segment]
    gaps: list[Lost]
    nothing_of: list[str]
    damaged: int


@dataclass(slots=True)
class _Hour:
    """What was read of the folder of an hour, and what the folder was like then."""

    stamp: tuple[int, int] = (0, 0)
    settled: bool = False
    segments: dict[str, tuple[tuple[int, int, int], Segment | None]] = field(default_factory=dict)


class Archive:
    """The segments below `folder`. What was read of it is kept, and read again where a folder has changed.

    Without `details` nothing can be chosen, and what is kept of a segment is little, whatever its manifest says.
    Raises `LocalError` for a folder whose name DuckDB would take for a pattern.
    """

    def __init__(self, folder: Path, now_ns: Callable[[], int] = time.time_ns, *, details: bool = True) -> None:
        if set(str(folder)) & set("*?[]{}"):
            raise LocalError(
                f"the archive cannot be in {folder}", hint="choose a folder without any of *?[]{} in its name"
            )
        self.folder = folder.absolute()
        self._now_ns = now_ns
        self._details = details
        self._hours: dict[str, dict[Path, _Hour]] = {}
        """By service engine."""

    def engines(self) -> list[str]:
        """The service engines of which there is, or was, anything."""
        return [path.name for path in _folders(self.folder, _ENGINE)]

    def choose(self, query: LogQuery, known: Iterable[str] = ()) -> Chosen:
        """Which files have what `query` asks for, by what their manifests say. Raises `Invalid`, `LocalError`.

        `known` are service engines that it asks of, too, when it names none.
        """
        segments: list[Segment] = []
        gaps: list[Lost] = []
        nothing_of = []
        damaged = 0
        there = set(self.engines())
        for engine in sorted(set(query.engines) or there.union(known)):
            nothing = True
            if engine not in there:
                nothing_of.append(parse_id(engine))
                continue
            manifests = []
            for hour_ms, each in self._of(parse_id(engine)):
                if each is None:
                    damaged += hour_ms < query.until_ms and hour_ms + _HOUR_MS > query.since_ms
                    continue
                manifest = each.manifest
                manifests.append(manifest)
                gaps.extend(told(engine, gap) for gap in manifest.gaps if _within(gap, query))
                if not _within(manifest, query):
                    continue
                nothing = False
                if query.services and not _has_any(manifest, query.services):
                    continue
                if _size(each.path) == manifest.bytes:
                    segments.append(each)
                else:
                    damaged += 1
            gaps.extend(each for each in holes(engine, manifests) if _within(each, query))
            if nothing:
                nothing_of.append(engine)
        gaps.sort(key=lambda each: (each.from_ms, each.engine, each.after))
        return Chosen(segments, gaps, nothing_of, damaged)

    def add(self, parquet: Path, manifest: bytes) -> Path:
        """Move the whole file `parquet`, which is on this file system, here with its manifest as it was sent.

        The same segment once more changes nothing. Raises `Invalid` for a manifest that is none or of another file,
        `Conflict` for other records of the same generation, numbers and hour, `LocalError` for the disk.
        """
        said = read_manifest(manifest)
        if _size(parquet) != said.bytes:
            raise Invalid(
                f"the segment {said.first} to {said.last} of {said.engine} is not as long as its manifest says"
            )
        to = self._place(said)
        for tries in range(1, _TRIES + 1):
            private_folder(to.parent)
            if self.has(said):
                remove_durably(parquet)
                return to
            try:
                os.utime(parquet)  # one of which all had come before may be old, and is swept without its manifest then
                _sync(parquet)
                os.rename(parquet, to)
                for each in (to.parent, *to.parents[1:4]):
                    sync_folder(each)
                break
            except FileNotFoundError as error:  # retention has taken the empty folder away meanwhile
                if tries == _TRIES or to.parent.is_dir():
                    raise cannot("move a segment to", to, error) from error
            except OSError as error:
                raise cannot("move a segment to", to, error) from error
        write_atomic(to.with_suffix(".json"), manifest)
        return to

    def has(self, said: Manifest) -> bool:
        """Whether the segment that `said` is of is here, and whole. Raises what `add` raises."""
        to = self._place(said)
        if _size(to.with_suffix(".json")) is None:
            return False
        try:
            there = read_manifest(read_limited(to.with_suffix(".json"), MANIFEST_LIMIT_BYTES))
        except (Invalid, TooLarge, Damaged):  # a whole one takes its place
            return False
        if manifest_bytes(there) != manifest_bytes(said):
            raise Conflict(
                f"there are other records {said.first} to {said.last} of {said.engine} in the archive, of the same"
                f" generation {said.generation}"
            )
        return _size(to) == said.bytes

    def _place(self, manifest: Manifest) -> Path:
        try:
            hour = datetime.fromtimestamp(manifest.from_ms // 1000, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise Invalid(f"a segment of {manifest.engine} says to be of a time that is none") from error
        name = f"{manifest.generation}-{manifest.first:020d}-{manifest.last:020d}.parquet"
        return self.folder / parse_id(manifest.engine) / f"{hour:%Y-%m-%d}" / f"{hour:%H}" / name

    def retain(self, limit_bytes: int, oldest_ms: int) -> list[Segment]:
        """Remove what ended before `oldest_ms`, then the oldest until the rest takes `limit_bytes` at most.

        What was removed. What a crash left without a manifest goes too. Raises `LocalError`.
        """
        all_of_them = [each for engine in self.engines() for _, each in self._of(engine) if each is not None]
        all_of_them.sort(key=lambda each: (each.age_from_ms, each.manifest.engine, each.manifest.first))
        total = sum(each.bytes for each in all_of_them)
        removed = []
        for each in all_of_them:
            if each.age_from_ms >= oldest_ms and total <= limit_bytes:
                break
            self._remove(each.path)
            total -= each.bytes
            removed.append(each)
        for hours in self._hours.values():
            for hour in hours:
                self._sweep(hour)
        return removed

    def _remove(self, path: Path) -> None:
        try:
            remove_durably(path.with_suffix(".json"))
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error

    def _sweep(self, hour: Path) -> None:
        """Remove what is left of segments in the folder of an hour, and the folder when nothing is in it."""
        now_s = self._now_ns() / 1e9
        with contextlib.suppress(OSError):
            for each in list(os.scandir(hour)):
                left = _STRAY.match(each.name) and _size(Path(each.path).with_suffix(".json")) is None
                if left and now_s - each.stat(follow_symlinks=False).st_mtime > _STRAY_S:
                    os.unlink(each.path)
            hour.rmdir()  # which fails where anything is in it
            hour.parent.rmdir()

    def _of(self, engine: str) -> Iterator[tuple[int, Segment | None]]:
        """The segments of a service engine with the beginning of their hour; None is one that cannot be read."""
        seen = set()
        known = self._hours.setdefault(engine, {})
        for day in _folders(self.folder / engine, _DAY):
            for hour in _folders(day, _HOUR):
                begins = _begins_ms(day.name, hour.name)
                if begins is None:
                    continue
                seen.add(hour)
                for _, each in self._read(engine, hour).segments.values():
                    yield begins, each
        for gone in known.keys() - seen:
            del known[gone]

    def _read(self, engine: str, hour: Path) -> _Hour:
        """What is in the folder of an hour; from memory where it has not changed."""
        hours = self._hours.setdefault(engine, {})
        known = hours.get(hour) or _Hour()
        try:
            found = hour.stat()
            stamp = (found.st_ino, found.st_mtime_ns)
            if known.settled and stamp == known.stamp:
                return known
            now = _Hour(stamp, abs(self._now_ns() - found.st_mtime_ns) > _SETTLED_NS)
            for each in os.scandir(hour):
                if not _NAME.match(each.name):
                    continue
                status = each.stat(follow_symlinks=False)
                mark = (status.st_ino, status.st_mtime_ns, status.st_size)
                before = known.segments.get(each.name)
                if before is None or before[0] != mark:
                    before = mark, self._kept(_segment(engine, Path(each.path), status.st_mtime_ns // 1_000_000))
                now.segments[each.name] = before
        except FileNotFoundError:  # retention was here
            return _Hour()
        except OSError as error:
            raise cannot("read", hour, error) from error
        hours[hour] = now
        return now

    def _kept(self, segment: Segment | None) -> Segment | None:
        """What is kept of a segment."""
        if self._details or segment is None:
            return segment
        return replace(segment, manifest=msgspec.structs.replace(segment.manifest, services={}, gaps=[]))


def _segment(engine: str, path: Path, came_ms: int) -> Segment | None:
    """The segment whose manifest came to `path` then; None where it is none, or one of another place."""
    try:
        if _size(path) is None:
            return None
        data = read_limited(path, MANIFEST_LIMIT_BYTES)
        manifest = read_manifest(data)
    except AvinetError:
        return None
    numbers = tuple(int(each) for each in path.stem.split("-"))
    if manifest.engine != engine or numbers != (manifest.generation, manifest.first, manifest.last):
        return None
    return Segment(path.with_suffix(".parquet"), manifest, len(data) + manifest.bytes, came_ms)


def _folders(parent: Path, named: re.Pattern[str]) -> list[Path]:
    """The folders in `parent` with such a name, in order; links are none."""
    try:
        found = [each for each in os.scandir(parent) if named.match(each.name) and each.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot("read", parent, error) from error
    return sorted(Path(each.path) for each in found)


def _begins_ms(day: str, hour: str) -> int | None:
    try:
        return int(datetime.strptime(f"{day} {hour} +0000", "%Y-%m-%d %H %z").timestamp()) * 1000
    except ValueError:
        return None


def _within(each: Manifest | Gap | Lost, query: LogQuery) -> bool:
    return each.from_ms < query.until_ms and each.to_ms >= query.since_ms


def _has_any(manifest: Manifest, services: Iterable[str]) -> bool:
    """Whether it may have records of one of `services`: the empty name stands for those that are not listed."""
    return "" in manifest.services or any(each in manifest.services for each in services)


def _size(path: Path) -> int | None:
    """How long a file is; None where there is no such file, or a link."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
