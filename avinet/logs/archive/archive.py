"""The archive of a node: segments of request logs by service engine and hour, and those that a query needs.

`FOLDER/ENGINE/YYYY-MM-DD/HH/GENERATION-FIRST-LAST.parquet` with its manifest beside it as `.json`; the hour is that of
the first record, in UTC. A service engine that was imaged anew counts its records from 1 again, in a new generation.
Only with its manifest is a segment one: the manifest comes last, and goes first. All of it blocks: it runs in the
process that answers queries, or in a thread.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from avinet.errors import Conflict, Damaged, Invalid, LocalError, TooLarge
from avinet.files import cannot, private_folder, read_limited, remove_durably, sync_file, sync_folder, write_atomic
from avinet.ids import parse_id
from avinet.logs.archive.hours import ENGINE, HOUR_MS, Hour, Segment, folders, size_of
from avinet.logs.archive.keeping import surplus
from avinet.logs.archive.missing import Lost, bare, holes, removed, told
from avinet.logs.archive.remembered import Remembered
from avinet.logs.archive.removals import Removals
from avinet.wire.query import LogQuery
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Gap, Manifest, manifest_bytes, read_manifest

_STRAY = re.compile(r"[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,20}\.parquet\Z")
_STRAY_S = 3600
"""After so long a file of records without a manifest is what a crash has left."""
_TRIES = 3
KEPT_BYTES = 1 << 28
"""Room to remember 100,000 segments of five services each, or 130,000 hours without their segments."""
MOST = 100_000
"""About how many segments, and gaps in them, a query may be: each takes up to 2.5 KB until it is answered."""
_FEW = 8
"""A manifest of no more services is not worth being made smaller."""


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


class Archive:
    """The segments below `folder`. What was read of it is kept, in `kept_bytes`; what has changed is read again.

    Without `details` nothing can be chosen; what is kept of a segment is little, whatever its manifest says, and of
    all that there are.
    Raises `LocalError` for a folder whose name DuckDB would take for a pattern.
    """

    def __init__(
        self,
        folder: Path,
        now_ns: Callable[[], int] = time.time_ns,
        *,
        details: bool = True,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        if set(str(folder)) & set("*?[]{}"):
            raise LocalError(
                f"the archive cannot be in {folder}", hint="choose a folder without any of *?[]{} in its name"
            )
        self.folder = folder.absolute()
        self.removals = Removals(self.folder)
        self._now_ns = now_ns
        self._hours = Remembered(self.folder, now_ns, kept_bytes if details else math.inf, details=details)

    def engines(self) -> list[str]:
        """The service engines of which there is, or was, anything."""
        return [path.name for path in folders(self.folder, ENGINE)]

    def choose(self, query: LogQuery, known: Iterable[str] = (), check: Callable[[], None] = lambda: None) -> Chosen:
        """Which files have what `query` asks for, by what their manifests say. Raises `Invalid`, `LocalError`, and
        `TooLarge` where it is about too much of the archive.

        `known` are service engines that it asks of, too, when it names none. `check` is called every hour of the
        archive, and may raise: what was read until then is kept.
        """
        segments: list[Segment] = []
        gaps: list[Lost] = []
        nothing_of = []
        damaged = looked_at = 0
        there = set(self.engines())
        for engine in sorted(set(query.engines) or there.union(known)):
            nothing = True
            if engine not in there:
                nothing_of.append(parse_id(engine))
                continue
            manifests: list[Manifest] = []
            for hour in self._hours.of(parse_id(engine)):
                check()
                if not _within(hour, query):
                    manifests += hour.spanned.values()
                    continue
                for each in self._hours.segments(hour):
                    if each is None:
                        damaged += hour.begins_ms < query.until_ms and hour.begins_ms + HOUR_MS > query.since_ms
                        continue
                    manifest = each.manifest
                    little = _little(manifest)
                    manifests.append(little)
                    gaps.extend(told(engine, manifest.generation, gap) for gap in manifest.gaps if _within(gap, query))
                    looked_at = _more(looked_at, 1 + len(manifest.gaps))
                    if not _within(manifest, query):
                        continue
                    nothing = False
                    if query.services and not _has_any(manifest, query.services):
                        continue
                    if size_of(each.path) == manifest.bytes:
                        segments.append(each if little is manifest else replace(each, manifest=little))
                    else:
                        damaged += 1
            gone = self.removals.of(engine)
            missing = [*holes(engine, [*manifests, *gone]), *(removed(engine, each) for each in gone)]
            missing = [each for each in missing if _within(each, query)]
            looked_at = _more(looked_at, len(missing))
            gaps += missing
            if nothing:
                nothing_of.append(engine)
        gaps.sort(key=lambda each: (each.from_ms, each.engine, each.generation, each.after))
        return Chosen(segments, gaps, nothing_of, damaged)

    def add(self, parquet: Path, manifest: bytes) -> Path:
        """Move the whole file `parquet`, which is on this file system, here with its manifest as it was sent.

        The same segment once more changes nothing. Raises `Invalid` for a manifest that is none or of another file,
        `Conflict` for other records of the same generation, numbers and hour, `LocalError` for the disk.
        """
        said = read_manifest(manifest)
        if size_of(parquet) != said.bytes:
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
                self.removals.forget(said)
                os.utime(parquet)  # one of which all had come before may be old, and is swept without its manifest then
                sync_file(parquet)
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
        if size_of(to.with_suffix(".json")) is None:
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
        return size_of(to) == said.bytes

    def had(self, said: Manifest) -> bool:
        """Whether the segment that `said` is of was here, and was removed by retention. Raises `LocalError`."""
        return self.removals.have(said)

    def _place(self, manifest: Manifest) -> Path:
        try:
            hour = datetime.fromtimestamp(manifest.from_ms // 1000, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise Invalid(f"a segment of {manifest.engine} says to be of a time that is none") from error
        name = f"{manifest.generation}-{manifest.first:020d}-{manifest.last:020d}.parquet"
        return self.folder / parse_id(manifest.engine) / f"{hour:%Y-%m-%d}" / f"{hour:%H}" / name

    def retain(self, limit_bytes: int, oldest_ms: int) -> list[Segment]:
        """Remove what came before `oldest_ms`, and then what is more than `limit_bytes`: see `surplus`.

        What was removed. What a crash left without a manifest goes too. Raises `LocalError`.
        """
        hours = [hour for engine in self.engines() for hour in self._hours.of(engine)]
        all_of_them = [each for hour in hours for each in self._hours.segments(hour) if each is not None]
        gone: defaultdict[str, list[Segment]] = defaultdict(list)
        for each in surplus(all_of_them, limit_bytes, oldest_ms):
            gone[each.manifest.engine].append(each)
        for engine, some in gone.items():
            self._remove_some(engine, some)
        for hour in hours:
            self._sweep(hour.folder)
        return [each for some in gone.values() for each in some]

    def _remove_some(self, engine: str, some: list[Segment]) -> None:
        """Remove segments of a service engine, and remember that they were here."""
        gone = [each.manifest for each in some]
        full = False
        try:
            self.removals.note(engine, gone)
        except LocalError:  # as the disk may be full, and has room for that when they are gone
            full = True
        for each in some:
            self._remove(each.path)
        if full:
            self.removals.note(engine, gone)

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
                left = _STRAY.match(each.name) and size_of(Path(each.path).with_suffix(".json")) is None
                if left and now_s - each.stat(follow_symlinks=False).st_mtime > _STRAY_S:
                    os.unlink(each.path)
            hour.rmdir()  # which fails where anything is in it
            hour.parent.rmdir()


def _little(manifest: Manifest) -> Manifest:
    """What is kept of a manifest for the time of a query: all of it only where that is not much."""
    return manifest if len(manifest.services) <= _FEW and not manifest.gaps else bare(manifest)


def _more(looked_at: int, more: int) -> int:
    """How much a query is about, with so much more. Raises `TooLarge`."""
    if looked_at + more > MOST:
        raise TooLarge(
            f"the query is about more than {MOST} segments, and gaps in them, in the archive",
            hint="ask for a shorter time, or fewer service engines",
        )
    return looked_at + more


def _within(each: Manifest | Gap | Lost | Hour, query: LogQuery) -> bool:
    return each.from_ms < query.until_ms and each.to_ms >= query.since_ms


def _has_any(manifest: Manifest, services: Iterable[str]) -> bool:
    """Whether it may have records of one of `services`: the empty name stands for those that are not listed."""
    return "" in manifest.services or any(each in manifest.services for each in services)
