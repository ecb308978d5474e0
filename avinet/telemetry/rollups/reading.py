"""Series out of the file of the rollups; synchronous, with a connection of its own, for a thread."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from avinet.errors import TimedOut, TooLarge
from avinet.telemetry.rollups.file import ENGINES, FLEET, NAME, expanded, told
from avinet.telemetry.rollups.sums import (
    COARSE_S,
    FINE_S,
    PARTS,
    Sums,
    add,
    nothing,
    part_of,
    unpack_engines,
    unpack_lazily,
    unpack_service,
)

POINTS = 50_000
"""The points of all series together that are added up for one answer."""
LIMIT_S = 10.0
"""How long one answer may take."""
By = Literal["", "virtual-service", "server", "service-engine"]
Key = tuple[str, str, str]
"""Which series it is: service engine, virtual service, `POOL/SERVER`; each empty where it is not told apart."""


@dataclass(frozen=True)
class Wanted:
    """Series from `since` until `until`, in steps of `step_s`, a multiple of 10; times are multiples of that.

    `service` and `server` (as `POOL/SERVER`) are empty for all; `engines` is None for the whole fleet. Those of which
    the series are told apart are named by `by`.
    """

    since: int
    until: int
    step_s: int
    service: str = ""
    server: str = ""
    engines: frozenset[str] | None = None
    by: By = ""

    @property
    def tier_s(self) -> int:
        """The slots from which it is added up."""
        return FINE_S if self.step_s % COARSE_S else COARSE_S


@dataclass(slots=True)
class Point:
    """A step of one series: what was done, in `slots` of 10 s that had `reports`."""

    sums: Sums = field(default_factory=nothing)
    slots: int = 0
    reports: int = 0

    def add(self, sums: Sums) -> None:
        """More was done."""
        add(self.sums, sums)


@dataclass
class Found:
    """The points of each series by the time at which they begin; where nothing was reported there is none.

    `latest` is until when there is anything.
    """

    series: dict[Key, dict[int, Point]] = field(default_factory=dict)
    latest: int = 0


def read(folder: Path, wanted: Wanted, clock: Callable[[], float] = time.monotonic) -> Found:
    """What was asked for. Raises `TooLarge`, `TimedOut`, `Damaged` or `LocalError`."""
    path = folder / NAME
    if not path.exists():
        return Found()
    with (
        told(path),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection,
    ):
        connection.execute("BEGIN")  # all of it from one moment
        return _Reading(connection, wanted, clock).read()


class _Reading:
    def __init__(self, connection: sqlite3.Connection, wanted: Wanted, clock: Callable[[], float]) -> None:
        self._run = connection.execute
        self._wanted = wanted
        self._clock = clock
        self._ends = clock() + LIMIT_S
        self._points = 0
        self._found = Found()
        self._heard: dict[str, dict[int, tuple[int, int]]] = {}
        """By service engine, or all together: of how many 10 s each slot was heard, and how many reports it had."""

    def read(self) -> Found:
        wanted, found = self._wanted, self._found
        for tier in (FINE_S, COARSE_S):
            (last,) = self._run("SELECT max(at) FROM slots WHERE tier = ?", (tier,)).fetchone()
            found.latest = max(found.latest, (last or -tier) + tier)
        whole = wanted.engines is None and wanted.by != "service-engine"
        for tier, slots in self._slots():
            if whole:
                self._heard.setdefault("", {}).update(slots)
                self._read_fleet(tier, slots)
            else:
                self._read_engines(tier, slots)
        self._fill()
        return found

    def _slots(self) -> Iterator[tuple[int, dict[int, tuple[int, int]]]]:
        """The slots that are there, by tier: of how many of 10 s each is, and its reports. What is not coarse yet is
        taken from the fine ones.
        """
        since, until = self._wanted.since, self._wanted.until
        query = "SELECT at, slots, reports FROM slots WHERE tier = ? AND at >= ? AND at < ? AND reports > 0"
        fine = {at: (slots, reports) for at, slots, reports in self._run(query, (FINE_S, since, until))}
        if self._wanted.tier_s == COARSE_S:
            coarse = {at: (slots, reports) for at, slots, reports in self._run(query, (COARSE_S, since, until))}
            yield COARSE_S, coarse
            fine = {at: each for at, each in fine.items() if at - at % COARSE_S not in coarse}
        yield FINE_S, fine

    def _rows(
        self, tier: int, kind: int, parts: Iterable[int], slots: dict[int, tuple[int, int]]
    ) -> Iterator[tuple[int, bytes]]:
        if not slots:
            return
        for part in parts:
            for at, data in self._run(
                "SELECT at, data FROM parts WHERE tier = ? AND kind = ? AND part = ? AND at BETWEEN ? AND ?",
                (tier, kind, part, min(slots), max(slots)),
            ):
                if self._clock() > self._ends:
                    raise TimedOut(
                        f"the rollups were not read within {LIMIT_S:g} s",
                        hint="ask for a shorter time, for steps of 5m or more, or for fewer service engines",
                    )
                if at in slots:
                    yield at, expanded(data)

    def _read_fleet(self, tier: int, slots: dict[int, tuple[int, int]]) -> None:
        service = self._wanted.service
        for at, data in self._rows(tier, FLEET, [part_of(service)] if service else range(PARTS), slots):
            self._add(at, "", unpack_lazily(data))

    def _read_engines(self, tier: int, slots: dict[int, tuple[int, int]]) -> None:
        wanted, apart = self._wanted, self._wanted.by == "service-engine"
        parts = sorted({part_of(id) for id in wanted.engines}) if wanted.engines is not None else range(PARTS)
        for at, data in self._rows(tier, ENGINES, parts, slots):
            for id, engine in unpack_engines(data).items():
                if wanted.engines is not None and id not in wanted.engines:
                    continue
                name = id if apart else ""
                heard = self._heard.setdefault(name, {})
                before = heard.get(at, (0, 0))
                heard[at] = max(before[0], engine.slots), before[1] + engine.reports
                self._add(at, name, unpack_lazily(engine.services))

    def _add(self, at: int, id: str, packed: Mapping[str, msgspec.Raw]) -> None:
        """Add what is wanted of the services of a slot."""
        wanted = self._wanted
        for name in (wanted.service,) if wanted.service else packed:
            if name not in packed:
                continue
            service = unpack_service(packed[name])
            shown = name if wanted.by == "virtual-service" else wanted.service
            if wanted.by == "server":
                for server, sums in service.servers.items():
                    if not wanted.server or server == wanted.server:
                        self._point((id, shown, server), at - at % wanted.step_s).add(sums)
            elif not wanted.server:
                self._point((id, shown, ""), at - at % wanted.step_s).add(service.sums)
            elif wanted.server in service.servers:
                self._point((id, shown, wanted.server), at - at % wanted.step_s).add(service.servers[wanted.server])

    def _point(self, key: Key, step: int) -> Point:
        points = self._found.series.get(key)
        if points is None:
            points = self._found.series[key] = {}
        found = points.get(step)
        if found is None:
            found = points[step] = Point()
            self._points += 1
            if self._points > POINTS:
                raise TooLarge(
                    f"these are more than {POINTS} points", hint="ask for a shorter time, larger steps, or fewer series"
                )
        return found

    def _fill(self) -> None:
        """Who was heard and did nothing has done nothing; where nobody was heard, it is not known."""
        step_s = self._wanted.step_s
        steps: dict[str, dict[int, tuple[int, int]]] = {}
        for name, heard in self._heard.items():
            mine = steps[name] = {}
            for at, (slots, reports) in heard.items():
                before = mine.get(at - at % step_s, (0, 0))
                mine[at - at % step_s] = before[0] + slots, before[1] + reports
        for key in self._found.series:
            for step, (slots, reports) in steps[key[0]].items():
                point = self._point(key, step)
                point.slots, point.reports = slots, reports
