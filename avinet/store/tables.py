"""The store's tables in SQLite and the statements on them; synchronous, for the one thread that owns the connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from avinet.errors import LocalError, NotFound, Unavailable
from avinet.store.interface import (
    Compacted,
    Delete,
    Entry,
    Event,
    Outcome,
    Page,
    Put,
    Snapshot,
    Transaction,
    end_of,
)

FORMAT = 1
APPLICATION = 0x6176696E
"""Marks a file as a store of avinet's (the bytes `avin`)."""
KEPT_REVISIONS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
"""How much history is kept for watches that begin in the past; it is trimmed when there is twice as much of either."""

_SCHEMA = """
CREATE TABLE entries (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX entries_by_lease ON entries (lease) WHERE lease != 0;
CREATE TABLE history (
    revision INTEGER NOT NULL, key BLOB NOT NULL, value BLOB, created INTEGER, PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_s REAL NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('revision', 0), ('compacted', 0);
"""


class Tables:
    """The connection to one database file. Nothing here is durable before `committed` ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        except (OSError, sqlite3.Error) as error:
            raise LocalError(f"cannot open the store {path}: {error}") from error
        try:
            self._prepare()
            self.revision = self._number("SELECT value FROM counters WHERE name = 'revision'")
            self.compacted = self._number("SELECT value FROM counters WHERE name = 'compacted'")
            self._history_bytes = self._number("SELECT coalesce(sum(length(value)), 0) FROM history")
        except sqlite3.Error as error:
            self._connection.close()
            raise LocalError(f"cannot open the store {path}: {error}") from error
        except LocalError:
            self._connection.close()
            raise
        self._changes: list[Event] = []

    def _prepare(self) -> None:
        """Look before anything is written whether the file is ours to use; make the tables in an empty one."""
        run = self._connection.execute
        application, found = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if self._number("SELECT count(*) FROM sqlite_schema") and application != APPLICATION:
            raise LocalError(f"{self._path} is no store of avinet's", hint="give this node a state folder of its own")
        if found > FORMAT:
            raise LocalError(
                f"the store {self._path} has format {found}, and this version of avinet knows {FORMAT}",
                hint="use the newer version that wrote it",
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        if found == 0:
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;"
            )

    def _number(self, query: str, *arguments: object) -> int:
        value: int = self._connection.execute(query, arguments).fetchone()[0]
        return value

    @contextmanager
    def committed(self) -> Iterator[list[Event]]:
        """All that is done inside becomes durable together, at the end, or not at all.

        Yields the list that then holds the changes, in order. Raises `Unavailable` when it cannot be made durable (a
        full disk); the store is then as before.
        """
        before = self.revision, self.compacted, self._history_bytes
        self._changes = []
        try:
            self._connection.execute("BEGIN")
            yield self._changes
            self._connection.execute("COMMIT")
        except BaseException as error:
            self.revision, self.compacted, self._history_bytes = before
            self._changes.clear()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _unwritable(self._path, error) from error
            raise

    def read(self, keys: Sequence[bytes]) -> Snapshot:
        """See `Store.read`."""
        marks = ",".join("?" * len(keys))
        rows = self._connection.execute(
            f"SELECT key, value, revision, created, lease FROM entries WHERE key IN ({marks})",
            tuple(keys),
        )
        return Snapshot(self.revision, {row[0]: Entry(*row) for row in rows})

    def range(self, prefix: bytes, limit: int, after: bytes) -> Page:
        """See `Store.range`."""
        first, last = max(prefix, after + b"\0" if after else b""), end_of(prefix)
        below, bounds = ("AND key < ?", (first, last)) if last else ("", (first,))
        rows = self._connection.execute(
            f"SELECT key, value, revision, created, lease FROM entries WHERE key >= ? {below} ORDER BY key LIMIT ?",
            (*bounds, limit + 1),
        ).fetchall()
        return Page(self.revision, [Entry(*row) for row in rows[:limit]], len(rows) > limit)

    def entries(self, prefix: bytes, *, page: int) -> Iterator[Entry]:
        """All entries below `prefix` in the order of their keys, `page` of them read at once, as they are then."""
        after, more = b"", True
        while more:
            found = self.range(prefix, page, after)
            for entry in found.entries:
                after = entry.key
                yield entry
            more = found.more

    def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`."""
        for condition in transaction.conditions:
            row = self._connection.execute("SELECT revision FROM entries WHERE key = ?", (condition.key,)).fetchone()
            if (row[0] if row else 0) != condition.revision:
                return Outcome(False, self.revision)
        for operation in transaction.then:
            lease = operation.lease if isinstance(operation, Put) else 0
            if lease and not self._number("SELECT count(*) FROM leases WHERE id = ?", lease):
                raise NotFound(f"lease {lease} has ended")
        return Outcome(True, self._write(transaction.then))

    def _write(self, operations: Sequence[Put | Delete]) -> int:
        revision, changed = self.revision + 1, False
        for operation in operations:
            old = self._connection.execute("SELECT created FROM entries WHERE key = ?", (operation.key,)).fetchone()
            if isinstance(operation, Put):
                created = old[0] if old else revision
                entry = Entry(operation.key, operation.value, revision, created)
                self._connection.execute(
                    "REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
                    (entry.key, entry.value, revision, created, operation.lease),
                )
                self._record(revision, entry.key, entry)
            elif old:
                self._connection.execute("DELETE FROM entries WHERE key = ?", (operation.key,))
                self._record(revision, operation.key, None)
            else:
                continue
            changed = True
        if changed:
            self.revision = revision
            self._connection.execute("UPDATE counters SET value = ? WHERE name = 'revision'", (revision,))
            if revision - self.compacted > 2 * KEPT_REVISIONS:
                self.compact(revision - KEPT_REVISIONS)
            if self._history_bytes > 2 * KEPT_BYTES:
                self.compact(self._oldest_kept(KEPT_BYTES) - 1)
        return self.revision

    def _oldest_kept(self, kept_bytes: int) -> int:
        """The first revision of the newest ones that have no more than `kept_bytes` together."""
        oldest = self.revision + 1
        for revision, size in self._connection.execute(
            "SELECT revision, coalesce(sum(length(value)), 0) FROM history GROUP BY revision ORDER BY revision DESC"
        ):
            kept_bytes -= size
            if kept_bytes < 0:
                break
            oldest = revision
        return oldest

    def _record(self, revision: int, key: bytes, entry: Entry | None) -> None:
        value, created = (entry.value, entry.created) if entry else (None, None)
        self._connection.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (revision, key, value, created))
        self._history_bytes += len(value or b"")
        self._changes.append(Event(key, revision, entry))

    def history(self, prefix: bytes, after: int) -> tuple[int, list[Event]]:
        """The store's revision, and what changed below `prefix` after revision `after`. Raises `Compacted`."""
        if after < self.compacted:
            raise Compacted(f"the history up to revision {self.compacted} is gone")
        last = end_of(prefix)
        below, bounds = ("AND key < ?", (prefix, last)) if last else ("", (prefix,))
        rows = self._connection.execute(
            "SELECT revision, key, value, created FROM history "
            f"WHERE revision > ? AND key >= ? {below} ORDER BY revision, key",
            (after, *bounds),
        )
        return self.revision, [
            Event(key, revision, None if value is None else Entry(key, value, revision, created))
            for revision, key, value, created in rows
        ]

    def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        self.compacted = max(self.compacted, min(revision, self.revision))
        self._connection.execute("DELETE FROM history WHERE revision <= ?", (self.compacted,))
        self._history_bytes = self._number("SELECT coalesce(sum(length(value)), 0) FROM history")
        self._connection.execute("UPDATE counters SET value = ? WHERE name = 'compacted'", (self.compacted,))

    def hasten(self) -> None:
        """Nothing is durable from now on: for a file that is of use once it is whole and its maker has synced it."""
        self._connection.execute("PRAGMA synchronous = OFF")

    def go_on(self, revision: int) -> None:
        """Have the revisions go on above `revision`; there is no history of before."""
        self.revision = self.compacted = revision
        self._connection.execute("UPDATE counters SET value = ? WHERE name IN ('revision', 'compacted')", (revision,))

    def grant(self, ttl_s: float) -> int:
        """See `Store.grant`."""
        lease = self._connection.execute("INSERT INTO leases (ttl_s) VALUES (?)", (ttl_s,)).lastrowid
        assert lease is not None
        return lease

    def leases(self) -> dict[int, float]:
        """All leases, with their times to live in seconds."""
        return dict(self._connection.execute("SELECT id, ttl_s FROM leases").fetchall())

    def revoke(self, lease: int) -> None:
        """See `Store.revoke`."""
        rows = self._connection.execute("SELECT key FROM entries WHERE lease = ?", (lease,)).fetchall()
        self._write([Delete(row[0]) for row in rows])
        self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        self._connection.close()


def _unwritable(path: Path, error: sqlite3.Error) -> Unavailable:
    """The error for a store that SQLite could not write."""
    hint = "free some space on that file system" if "full" in str(error) else ""
    return Unavailable(f"the store {path} cannot be written: {error}", hint=hint, retry_after_s=5)
