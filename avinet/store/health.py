"""What is seen of a store, whether or not a node runs on it, and what of that is wrong; here, of one in a file."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import msgspec

from avinet.errors import LocalError
from avinet.files import cannot
from avinet.store.resting import FilePlace
from avinet.store.tables import APPLICATION, FORMAT
from avinet.units import format_bytes

SPARE_BYTES = 256 * 1024 * 1024
"""What a file system has to have free for the store, and at least as much as the store has already."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong, and what to do."""

    what: str
    hint: str = ""


class FileHealth(msgspec.Struct, frozen=True, kw_only=True, tag_field="engine", tag="sqlite"):
    """A store in an SQLite file: its size with what is beside it, and what is free on its file system, in bytes."""

    path: str
    size: int = 0
    free: int = 0
    revision: int = 0
    keys: int = 0
    leases: int = 0
    faults: list[Fault] = []


def check_file(path: Path) -> FileHealth:
    """Look at the store in `path`, all of it; a process that writes to it is not disturbed. Raises `LocalError`."""
    if not path.exists():
        missing = Fault(f"there is no store {path}", "a node makes it when it starts")
        try:
            FilePlace(path.parent).check_used()
        except LocalError as error:
            missing = Fault(error.what, error.hint)
        return FileHealth(path=str(path), faults=[missing])
    try:
        size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise cannot("look at", path, error) from error
    faults = []
    if free < (needed := max(SPARE_BYTES, size)):
        faults.append(
            Fault(
                f"{format_bytes(free)} are free beside {path}, and {format_bytes(needed)} should be",
                "free some space on that file system",
            )
        )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as store:
            revision, keys, leases, more = _looked(store, path)
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.OperationalError) and "unable to open" in str(error):
            raise LocalError(f"cannot open {path}: {error}", hint="run it as the user who owns that folder") from error
        revision, keys, leases, more = 0, 0, 0, [_damaged(path, str(error))]
    return FileHealth(
        path=str(path), size=size, free=free, revision=revision, keys=keys, leases=leases, faults=[*faults, *more]
    )


def _looked(store: sqlite3.Connection, path: Path) -> tuple[int, int, int, list[Fault]]:
    def number(query: str) -> int:
        value: int = store.execute(query).fetchone()[0]
        return value

    if number("PRAGMA application_id") != APPLICATION:
        return 0, 0, 0, [Fault(f"{path} is no store of avinet's", "give this node a state folder of its own")]
    if (found := number("PRAGMA user_version")) > FORMAT:
        newer = f"{path} has format {found}, and this version of avinet knows {FORMAT}"
        return 0, 0, 0, [Fault(newer, "use the newer version that wrote it")]
    said = [row[0] for row in store.execute("PRAGMA integrity_check(3)")]
    faults = [] if said == ["ok"] else [_damaged(path, "; ".join(said))]
    revision = number("SELECT value FROM counters WHERE name = 'revision'")
    return revision, number("SELECT count(*) FROM entries"), number("SELECT count(*) FROM leases"), faults


def _damaged(path: Path, said: str) -> Fault:
    return Fault(f"{path} is damaged: {said}", "look at the disk, and put a backup back: avictl restore")
