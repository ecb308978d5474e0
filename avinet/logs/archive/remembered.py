"""What is remembered of the hours of an archive, in so much memory and no more; what is not is read again.

The segments of those hours that were needed least recently go first. What an hour comes to stays, as that is looked at
for each query; where not even this has room, an hour is read each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from avinet.files import cannot
from avinet.logs.archive.hours import DAY, HOUR, Hour, Segment, begins_ms_of, folders, read_hour, read_segments


class Remembered:
    """The hours of the archive in `folder`, remembered in about `limit_bytes`."""

    def __init__(self, folder: Path, now_ns: Callable[[], int], limit_bytes: float, *, details: bool) -> None:
        self._folder = folder
        self._now_ns = now_ns
        self._limit_bytes = limit_bytes
        self._details = details
        self._known: dict[str, dict[Path, Hour]] = {}
        self._whole: OrderedDict[Path, Hour] = OrderedDict()
        """Those with their segments; the last is what was needed last."""
        self.bytes = 0

    def of(self, engine: str) -> Iterator[Hour]:
        """The hours of a service engine. Raises `LocalError`."""
        known = self._known.setdefault(engine, {})
        gone = set(known)
        for day in folders(self._folder / engine, DAY):
            for folder in folders(day, HOUR):
                begins_ms = begins_ms_of(day.name, folder.name)
                if begins_ms is None:
                    continue
                hour = self._read(engine, folder, begins_ms, known.get(folder))
                if hour is not None:
                    gone.discard(folder)
                    yield hour
        for folder in gone:
            self._forget(known[folder])

    def segments(self, hour: Hour) -> Iterable[Segment | None]:
        """All that are in an hour, None for what is none. Raises `LocalError`."""
        if hour.segments is None:
            hour = self._read(hour.engine, hour.folder, hour.begins_ms, None) or hour
        if hour.segments is None:
            return self._one_by_one(hour)
        if hour.folder in self._whole:
            self._whole.move_to_end(hour.folder)
        return [segment for _, segment in hour.segments.values()]

    def _one_by_one(self, hour: Hour) -> Iterator[Segment | None]:
        """The segments of an hour that has too many."""
        try:
            for _, _, segment in read_segments(hour.engine, hour.folder, None, details=self._details):
                yield segment
        except FileNotFoundError:  # retention was here
            return
        except OSError as error:
            raise cannot("read", hour.folder, error) from error

    def _read(self, engine: str, folder: Path, begins_ms: int, known: Hour | None) -> Hour | None:
        hour = read_hour(
            engine, folder, begins_ms, known, self._now_ns(), details=self._details, most_bytes=self._limit_bytes
        )
        if hour is not None and hour is not known:
            self._keep(hour)
        return hour

    def _keep(self, hour: Hour) -> None:
        """Remember what was read of an hour, or what it comes to, where there is room."""
        before = self._known[hour.engine].get(hour.folder)
        if before is not None:
            self._forget(before)
        while self._whole and self.bytes + hour.bytes > self._limit_bytes:
            oldest = next(iter(self._whole.values()))
            self._forget(oldest)
            self._remember(oldest.summed_up())
        for each in (hour, hour.summed_up()):
            if self.bytes + each.bytes <= self._limit_bytes:
                self._remember(each)
                return

    def _remember(self, hour: Hour) -> None:
        self._known[hour.engine][hour.folder] = hour
        self.bytes += hour.bytes
        if hour.segments is not None:
            self._whole[hour.folder] = hour

    def _forget(self, hour: Hour) -> None:
        del self._known[hour.engine][hour.folder]
        self.bytes -= hour.bytes
        self._whole.pop(hour.folder, None)
