"""The spool's folder: all that is done to its files, by one thread at a time. See `avinet.logs.spool.naming`."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.files import private_folder, read_limited, remove_durably, sync_folder, write_atomic
from avinet.logs.spool import lines as records
from avinet.logs.spool.losses import Loss, loss_of, read, settled
from avinet.logs.spool.naming import (
    ACKNOWLEDGED,
    CLEAN,
    MANIFEST,
    PARQUET,
    Span,
    found,
    next_number,
    plan,
    sealed_name,
)
from avinet.logs.spool.openfile import OpenFile, remove_open, rename_open
from avinet.logs.spool.pending import Batch
from avinet.wire.segment import MANIFEST_LIMIT_BYTES, Gap, Manifest, read_manifest


class SpoolFolder:
    """The folder at `path`: sealed `segments`, `waiting` files to be sealed, and the one that is open, `file`."""

    log = Logger()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments: list[Manifest] = []
        self.waiting: deque[OpenFile] = deque()
        self.dated: dict[int, float] = {}
        """When each segment that was there at the start was sealed, by its first number, in seconds since 1970."""
        self.acknowledged = 0
        self.file: OpenFile

    # the start

    def start(self, now_ms: int) -> None:
        """Take up what is there, and tell of a crash when the last process has not ended in order.

        Raises `LocalError` and `OSError`; it may be tried again then.
        """
        private_folder(self.path)
        there = found(os.listdir(self.path))
        steps = plan(there)
        for old, new in steps.rename:
            os.rename(self.path / old, self.path / new)
        self.acknowledged = self._read_acknowledged()
        self.segments, lost = self._read_manifests(steps.segments, steps.damaged, now_ms)
        files: list[OpenFile] = []
        last: OpenFile | None = None
        try:
            for first in steps.seal:
                files.append(OpenFile.recovered(self.path, first))  # noqa: PERF401 - those before are closed if it fails
            self._settle(files, there.lines)
            self._drop_covered(files)
            for name in steps.remove:
                remove_durably(self.path / name)
            spans = there.parquet | there.manifests
            following = next_number(spans, {file.first: file.lines for file in files}, self.acknowledged)
            if files and not files[-1].lines:
                last = files.pop()
                if last.first != following:
                    rename_open(self.path, last.first, following)
                    last.first = following
            else:
                last = OpenFile(self.path, following)
            known = bool(spans or files or there.lines)
            if known and not there.clean:
                lost.append(Loss(reason="crash", from_ms=self._last_ms(files, now_ms), to_ms=now_ms))
            for name in steps.stray:
                lost += read((self.path / name).read_bytes())
            if lost := [each for each in lost if each not in last.losses]:
                last.lose(lost)
            for name in [*steps.stray, CLEAN]:
                remove_durably(self.path / name)
        except BaseException:
            for each in [*files, *([last] if last is not None else [])]:
                each.close()
            raise
        for each in files:
            each.close()
        self.file = last
        self.waiting = deque(files)

    def _settle(self, files: Sequence[OpenFile], there: set[int]) -> None:
        """Finish what follows from sealing: names of the open files behind a sealed one that is still there."""
        done = [segment for segment in self.segments if segment.first in there]
        if done and files and files[0].first > done[-1].last:
            self.shift(files, done[-1].last + 1)

    def _drop_covered(self, files: Sequence[OpenFile]) -> None:
        """Finish what the cap has begun: a segment whose removal is told of already."""
        for loss in (each for file in files for each in file.losses):
            if loss.reason == "cap" and loss.after is not None and loss.records is not None:
                while self.segments and loss.after < self.segments[0].last <= loss.after + loss.records:
                    self._remove_segment(self.segments[0])

    def _read_manifests(
        self, spans: Sequence[Span], damaged: Sequence[Span], now_ms: int
    ) -> tuple[list[Manifest], list[Loss]]:
        """The manifests of the segments `spans`, and what is lost by damage."""
        segments, lost = [], []
        for first, last in sorted([*spans, *damaged]):
            path = self.path / sealed_name((first, last), MANIFEST)
            try:
                manifest = read_manifest(read_limited(path, MANIFEST_LIMIT_BYTES))
                if (first, last) in damaged or manifest.bytes != self.parquet(manifest).stat().st_size:
                    raise OSError(f"{path.with_suffix(PARQUET)} is missing or not whole")
                self.dated[first] = path.stat().st_mtime
                segments.append(manifest)
            except (AvinetError, OSError) as error:
                self.log.error("a segment of request logs is lost: {why}", why=str(error))
                if last > self.acknowledged:
                    rows = last - first + 1
                    lost.append(Loss(after=first - 1, records=rows, reason="cap", from_ms=0, to_ms=now_ms))
                for suffix in (MANIFEST, PARQUET):
                    with contextlib.suppress(OSError):
                        path.with_suffix(suffix).rename(path.with_suffix(suffix + ".damaged"))
        return segments, lost

    def _last_ms(self, files: Sequence[OpenFile], now_ms: int) -> int:
        """A time, not after `now_ms`, before which nothing was lost: that of the last record that there is."""
        for file in reversed(files):
            found = records.record(file.last_line())
            if found is not None:
                return min(int(found.t), now_ms)
        return min(self.segments[-1].to_ms, now_ms) if self.segments else 0

    def _read_acknowledged(self) -> int:
        try:
            return int((self.path / ACKNOWLEDGED).read_text("ascii"))
        except (OSError, ValueError):
            return 0

    # the open file

    def write(self, batch: Batch) -> None:
        """Make `batch` durable: what of it is, is taken out of it. Raises `OSError`."""
        before = self.file.lines
        if batch.lines:
            self.file.append(batch.lines)
            batch.lines = []
        if batch.losses:
            placed = [
                Loss(at=before + each.at, after=each.after, records=each.records, reason=each.reason,
                     from_ms=each.from_ms, to_ms=each.to_ms)
                for each in batch.losses
            ]  # fmt: skip
            batch.losses = [
                Loss(after=each.after, records=each.records, reason=each.reason, from_ms=each.from_ms, to_ms=each.to_ms)
                for each in batch.losses
            ]
            self.file.lose(placed)
            batch.losses = []

    def rotate(self) -> None:
        """Have the open file wait to be sealed, and open the next. Raises `OSError`, and changes nothing then."""
        self.file.cut()
        following = OpenFile(self.path, self.file.first + self.file.lines)
        self.file.close()
        self.waiting.append(self.file)
        self.file = following

    def close(self) -> None:
        """All is written: mark that nothing is lost between this process and the next. Raises `LocalError`."""
        self.file.close()
        write_atomic(self.path / CLEAN, b"")

    # sealing

    def sealed(self, file: OpenFile, manifest: Manifest | None, gaps: Sequence[Gap]) -> None:
        """The oldest of the waiting files is a segment, or there was no record in it. Raises `OSError`.

        The names of those behind it follow from how many of its lines were records.
        """
        followers = [*list(self.waiting)[1:], self.file]
        if manifest is not None:
            self.shift(followers, manifest.last + 1)
            remove_open(self.path, file.first)
            self.segments.append(manifest)
        else:
            carried = [each for each in map(loss_of, gaps) if each not in followers[0].losses]
            if carried:
                followers[0].lose(carried)
            remove_open(self.path, file.first)
            self.shift(followers, file.first)
        self.waiting.popleft()

    def shift(self, files: Sequence[OpenFile], first: int) -> None:
        """Have `files` begin with `first`, each behind the one before. Raises `OSError`; it may be tried again then."""
        for file in files:
            if file.first != first:
                rename_open(self.path, file.first, first)
                file.first = first
            first += file.lines

    # room

    def acknowledge(self, through: int) -> None:
        """Records up to `through` are safe on a node. Raises `LocalError`."""
        write_atomic(self.path / ACKNOWLEDGED, b"%d" % through)
        self.acknowledged = through

    def drop_segment(self, through: int) -> list[Loss]:
        """Remove the oldest segment, of which nodes have the records up to the number `through`. What of it is lost is
        told first; returned is what could not be told for now, as the disk is full: the room is needed for that, too.

        Raises `OSError`.
        """
        manifest = self.segments[0]
        losses = []
        if manifest.last > through:
            losses = [*map(loss_of, manifest.gaps), cap_loss(manifest)]
        untold = self._tell(losses)
        self._remove_segment(manifest)
        return untold

    def _remove_segment(self, manifest: Manifest) -> None:
        for suffix in (MANIFEST, PARQUET):
            (self.path / sealed_name((manifest.first, manifest.last), suffix)).unlink(missing_ok=True)
        sync_folder(self.path)
        self.segments.remove(manifest)

    def drop_waiting(self, now_ms: int) -> list[Loss]:
        """Remove the oldest file that waits to be sealed; see `drop_segment`."""
        file = self.waiting[0]
        from_ms = self.segments[-1].to_ms if self.segments else 0
        lost = Loss(after=file.first - 1, records=file.lines, reason="cap", from_ms=min(from_ms, now_ms), to_ms=now_ms)
        untold = self._tell([*map(loss_of, settled(file.losses, file.first, [])), lost])
        remove_open(self.path, file.first)
        self.waiting.popleft()
        return untold

    def _tell(self, losses: Sequence[Loss]) -> list[Loss]:
        fresh = [each for each in losses if each not in self.file.losses]
        try:
            if fresh:
                self.file.lose(fresh)
        except OSError:
            return fresh
        return []

    def date(self, dates: Mapping[int, float]) -> None:
        """Say of segments, by their first numbers, when they were sealed: the clock was set. Raises `OSError`."""
        for each in self.segments:
            if each.first in dates:
                path = self.path / sealed_name((each.first, each.last), MANIFEST)
                os.utime(path, (dates[each.first], dates[each.first]))

    @property
    def size(self) -> int:
        """How many bytes all of it has."""
        opened = sum(file.size for file in self.waiting) + self.file.size
        return opened + sum(segment.bytes for segment in self.segments)

    def parquet(self, manifest: Manifest) -> Path:
        """The Parquet file of a segment."""
        return self.path / sealed_name((manifest.first, manifest.last), PARQUET)


def cap_loss(manifest: Manifest) -> Loss:
    """What is lost with a segment."""
    return Loss(
        after=manifest.first - 1,
        records=manifest.rows,
        reason="cap",
        from_ms=manifest.from_ms,
        to_ms=manifest.to_ms,
    )
