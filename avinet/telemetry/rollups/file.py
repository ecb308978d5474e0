"""The file of the rollups: slots of two tiers in SQLite, each written as a whole; synchronous, one thread at a time.

A slot has parts, compressed: what each service engine did (`ENGINES`), and the sums over the fleet (`FLEET`), so that a
dashboard of a virtual service reads little, whatever the fleet's size.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from avinet.errors import Damaged, LocalError
from avinet.files import private_folder
from avinet.telemetry.rollups.merging import both, by_part, fleet_of, over_time, part_of_fleet
from avinet.telemetry.rollups.sums import COARSE_S, FINE_S, PARTS, Engine, pack, unpack_engines

NAME = "series.sqlite"
APPLICATION, FORMAT = 0x61766972, 1
ENGINES, FLEET = 0, 1
LEVEL = 1
"""Of zlib: higher ones take more of a processor than they save on the disk."""
RECENT_S = 120
"""Reports of so long before the end are known to be counted, after a start."""
_CAP_SHARE = 32
_SCHEMA = f"""
CREATE TABLE slots (
    tier INTEGER NOT NULL, at INTEGER NOT NULL, slots INTEGER NOT NULL, reports INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (tier, at)
) WITHOUT ROWID;
CREATE TABLE parts (
    id INTEGER PRIMARY KEY, tier INTEGER NOT NULL, kind INTEGER NOT NULL, part INTEGER NOT NULL, at INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX parts_by_place ON parts (tier, kind, part, at);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
"""


def compressed(value: object) -> bytes:
    """A part as it is on the disk."""
    return zlib.compress(pack(value), LEVEL)


def expanded(data: bytes) -> bytes:
    """And as it is packed. Raises `Damaged`."""
    try:
        return zlib.decompress(data)
    except zlib.error as error:
        raise Damaged(f"a part of the rollups is damaged: {error}") from error


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Raises `Damaged` for what SQLite or msgspec say of a broken file, and `LocalError` for what a disk does."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LocalError(f"cannot use the rollups {path}: {error}") from error
    except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"the rollups {path} are damaged: {error}") from error


class SeriesFile:
    """The file in `folder`, of which all parts together take `cap_bytes` at most. Opening it raises `LocalError` or
    `Damaged`.
    """

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self.path = private_folder(folder) / NAME
        self._cap_bytes = cap_bytes
        with told(self.path):
            if not self.path.exists():
                self.path.touch(mode=0o600)
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        run = self._connection.execute
        if self._number("SELECT count(*) FROM sqlite_schema"):
            found = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
            if found != (APPLICATION, FORMAT):
                raise Damaged(f"the rollups {self.path} have a format that this version of avinet does not know")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")  # a power cut loses the last slots, and none that is half
        if not self._number("SELECT count(*) FROM sqlite_schema"):
            self._connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")

    def _number(self, query: str, *values: object) -> int:
        (number,) = self._connection.execute(query, values).fetchone()
        return int(number or 0)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Use it no more."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def recent(self) -> dict[str, tuple[str, int]]:
        """The last report of each service engine that was counted before the end, as boot and number."""
        with told(self.path):
            last = self._number("SELECT max(at) FROM slots WHERE tier = ?", FINE_S)
            rows = self._connection.execute(
                "SELECT data FROM parts WHERE tier = ? AND kind = ? AND at > ? ORDER BY at",
                (FINE_S, ENGINES, last - RECENT_S),
            )
            return {
                id: (each.boot, each.seq) for (data,) in rows for id, each in unpack_engines(expanded(data)).items()
            }

    # Written

    def write(self, at: int, engines: Mapping[str, Engine]) -> bool:
        """Keep what was reported in the slot that begins `at`, whole or not at all. True.

        There may be something of it: of a process before, or from before the clock was set back.
        """
        with told(self.path):
            before = self._engines(at)
            if before:
                engines = {id: both(before.get(id), engines.get(id)) for id in before.keys() | engines.keys()}
            parts = [(ENGINES, part, compressed(each)) for part, each in by_part(engines).items()]
            parts += [(FLEET, part, compressed(each)) for part, each in by_part(fleet_of(engines)).items()]
            reports = sum(each.reports for each in engines.values())
            with self._transaction():
                if before:
                    self._forget(FINE_S, at, at + 1)
                if self._is_stale(coarse := at - at % COARSE_S):
                    self._forget(COARSE_S, coarse, coarse + 1)
                self._keep(FINE_S, at, parts)
                self._note(FINE_S, at, 1, reports, sum(len(data) for _, _, data in parts))
            self._cap()
        return True

    def _is_stale(self, coarse: int) -> bool:
        """Whether a slot of 5 min was made already, and can be made again."""
        oldest = self._number("SELECT min(at) FROM slots WHERE tier = ?", FINE_S)
        made = self._number("SELECT count(*) FROM slots WHERE tier = ? AND at = ?", COARSE_S, coarse)
        return bool(made) and oldest <= coarse

    def _engines(self, at: int) -> dict[str, Engine]:
        rows = self._connection.execute(
            "SELECT data FROM parts WHERE tier = ? AND kind = ? AND part BETWEEN 0 AND ? AND at = ?",
            (FINE_S, ENGINES, PARTS, at),
        )
        return {id: each for (data,) in rows for id, each in unpack_engines(expanded(data)).items()}

    def _keep(self, tier: int, at: int, parts: list[tuple[int, int, bytes]]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO parts (tier, kind, part, at, data) VALUES (?, ?, ?, ?, ?)",
            [(tier, kind, part, at, data) for kind, part, data in parts],
        )

    def _note(self, tier: int, at: int, slots: int, reports: int, size: int) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?)", (tier, at, slots, reports, size)
        )

    # Made coarse

    def due(self, before: int) -> list[int]:
        """The slots of 5 min that ended by the time `before`, and are to be made of those of 10 s."""
        with told(self.path):
            rows = self._connection.execute(
                "SELECT DISTINCT at / ?1 * ?1 FROM slots WHERE tier = ?2 AND at / ?1 * ?1 + ?1 <= ?3"
                " EXCEPT SELECT at FROM slots WHERE tier = ?1 ORDER BY 1",
                (COARSE_S, FINE_S, before),
            )
            return [at for (at,) in rows]

    def make_coarse(self, at: int, kind: int, part: int) -> bool:
        """Make one part of the slot of 5 min that begins `at`; it counts when `finish_coarse` has said so. True.

        Those of `FLEET` are made of all those of `ENGINES`.
        """
        with told(self.path):
            rows = self._connection.execute(
                "SELECT data FROM parts WHERE tier = ? AND kind = ? AND part = ? AND at >= ? AND at < ? ORDER BY at",
                (FINE_S, kind, part, at, at + COARSE_S),
            )
            if kind == ENGINES:
                made: object = over_time(expanded(data) for (data,) in rows)
            else:
                made = part_of_fleet(part, self._coarse_engines(at)) if rows.fetchone() else {}
            if made:
                with self._transaction():
                    self._keep(COARSE_S, at, [(kind, part, compressed(made))])
        return True

    def _coarse_engines(self, at: int) -> Iterator[bytes]:
        for part in range(PARTS):
            for (data,) in self._connection.execute(
                "SELECT data FROM parts WHERE tier = ? AND kind = ? AND part = ? AND at = ?",
                (COARSE_S, ENGINES, part, at),
            ):
                yield expanded(data)

    def finish_coarse(self, at: int) -> bool:
        """All parts of it are there. True."""
        with told(self.path), self._transaction():
            slots, reports = self._connection.execute(
                "SELECT count(*), sum(reports) FROM slots WHERE tier = ? AND at >= ? AND at < ?",
                (FINE_S, at, at + COARSE_S),
            ).fetchone()
            size = self._number("SELECT sum(length(data)) FROM parts WHERE tier = ? AND at = ?", COARSE_S, at)
            self._note(COARSE_S, at, slots, reports or 0, size)
        return True

    # Forgotten

    def trim(self, fine: int, coarse: int) -> None:
        """Forget what is before these times in each tier."""
        with told(self.path), self._transaction():
            self._forget(FINE_S, 0, fine)
            self._forget(COARSE_S, 0, coarse)

    def _forget(self, tier: int, first: int, end: int) -> None:
        self._connection.execute("DELETE FROM slots WHERE tier = ? AND at >= ? AND at < ?", (tier, first, end))
        for kind in (ENGINES, FLEET):
            for part in range(PARTS):
                self._connection.execute(
                    "DELETE FROM parts WHERE tier = ? AND kind = ? AND part = ? AND at >= ? AND at < ?",
                    (tier, kind, part, first, end),
                )

    def _cap(self) -> None:
        """While it is too large, forget the oldest of the tier that has more of it."""
        while self.used_bytes > self._cap_bytes:
            sizes = {
                tier: self._number("SELECT sum(bytes) FROM slots WHERE tier = ?", tier) for tier in (FINE_S, COARSE_S)
            }
            tier = max(sizes, key=lambda each: sizes[each])
            slots = self._number("SELECT count(*) FROM slots WHERE tier = ?", tier)
            if slots < 2:
                return
            end = self._number(
                "SELECT at FROM slots WHERE tier = ? ORDER BY at LIMIT 1 OFFSET ?", tier, max(1, slots // _CAP_SHARE)
            )
            with self._transaction():
                self._forget(tier, 0, end)

    @property
    def used_bytes(self) -> int:
        """What it takes on the disk, without what is free in it."""
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._number("PRAGMA page_size")


def set_aside(folder: Path) -> Path:
    """Move a damaged file out of the way, in the place of the one before. Raises `LocalError`."""
    path = folder / NAME
    aside = path.with_name(f"{NAME}.damaged")
    try:
        os.replace(path, aside)
        for more in ("-wal", "-shm"):
            path.with_name(NAME + more).unlink(missing_ok=True)
    except OSError as error:
        raise LocalError(f"cannot move {path} out of the way: {error.strerror}") from error
    return aside
