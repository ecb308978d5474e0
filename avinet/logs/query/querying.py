"""A query, answered from the archive by DuckDB: bounded in time and memory, with access to nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

import duckdb
import msgspec

from avinet.errors import Damaged, LocalError, TooLarge, Unavailable
from avinet.logs.archive.archive import Archive, Chosen
from avinet.logs.archive.hours import Segment
from avinet.logs.archive.missing import counted
from avinet.logs.query.answer import Row, shaped
from avinet.logs.query.duckdb_sql import render
from avinet.logs.query.paging import Found, page
from avinet.logs.query.patience import Patience
from avinet.wire.answer import Complete, LogAnswer, answer_columns
from avinet.wire.query import VALUES, Gaps, LogQuery, Rows

_LONGEST_REASON = 300
_TRIES = 3
_REMEMBERED = 1000
"""Of so many files at most it is remembered what they are made of, which is up to a tenth of a megabyte each."""
_OF_A_FILE = (
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.PermissionException,  # for a file that is gone: it looks for others in a folder of that name
)


class Querying:
    """Answers queries from `archive`, each with `memory_bytes` and on `threads`."""

    def __init__(self, archive: Archive, memory_bytes: int, threads: int) -> None:
        self._archive = archive
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._database: duckdb.DuckDBPyConnection | None = None
        self._known: set[Path] = set()

    def answer(self, query: LogQuery, patience: Patience, known: Sequence[str] = ()) -> LogAnswer:
        """The answer to `query`, which asks of the service engines `known` too when it names none.

        It blocks for as long as there is `patience`.

        Raises `TimedOut`, `TooLarge` where it wants more memory, `Damaged` for a file that is not what its manifest
        says, `Invalid`, `LocalError`. Files that retention has removed meanwhile are left out by another try.
        """
        began = time.monotonic()
        for _ in range(_TRIES):
            chosen = self._archive.choose(query, known, patience.check)
            try:
                return self._answer(query, chosen, began, patience)
            except Damaged:
                if all(each.path.exists() for each in chosen.segments):
                    raise
        raise Unavailable("segments are removed from the archive faster than they are read")

    def _answer(self, query: LogQuery, chosen: Chosen, began: float, patience: Patience) -> LogAnswer:
        after, more = "", False
        if isinstance(query.get, Gaps):
            rows: list[Row] = [list(astuple(each)) for each in chosen.gaps[: query.get.limit]]
            more = len(chosen.gaps) > len(rows)
        else:
            rows, after, more = shaped(query, self._found(query, chosen, patience))
        return LogAnswer(
            columns=answer_columns(query),
            rows=rows,
            next=after,
            complete=_complete(query, chosen, more),
            segments=len(chosen.segments),
            took_ms=int((time.monotonic() - began) * 1000),
        )

    def _found(self, query: LogQuery, chosen: Chosen, patience: Patience) -> Found:
        patience.check()
        database = self._opened(chosen.segments)
        well = False
        try:
            with patience.interrupting(database.interrupt):
                if isinstance(query.get, Rows):
                    found = page(query.get, chosen.segments, partial(_read, database, query))
                else:
                    found = _read(database, query, chosen.segments)
            well = True
            return found
        except duckdb.InterruptException as error:
            raise patience.lost() from error
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            raise TooLarge(
                f"the query needs more than the {self._memory_bytes >> 20} MiB of memory that it may have",
                hint="ask for a shorter time, fewer groups or fewer columns",
            ) from error
        except _OF_A_FILE as error:
            raise Damaged(f"a segment cannot be read: {_line(str(error))}") from error
        except duckdb.Error as error:
            raise LocalError(f"the query failed in DuckDB: {_line(str(error))}") from error
        finally:
            if not well:  # what it is like now is not known
                self.close()

    def _opened(self, segments: Sequence[Segment]) -> duckdb.DuckDBPyConnection:
        """The database that remembers what the files it has read are made of, as long as these are not too many."""
        if len(self._known) > _REMEMBERED:
            self.close()
        self._known.update(each.path for each in segments)
        if self._database is None:
            self._database = opened(self._archive.folder, self._memory_bytes, self._threads)
        return self._database

    def close(self) -> None:
        """Forget what was remembered."""
        if self._database is not None:
            self._database.close()
        self._database = None
        self._known = set()


def _read(database: duckdb.DuckDBPyConnection, query: LogQuery, segments: Sequence[Segment]) -> Found:
    query = msgspec.structs.replace(query, engines=[])  # of others there is no file among these
    files: list[str] = []
    whole: list[str] = []
    for each in segments:
        inside = query.since_ms <= each.manifest.from_ms and each.manifest.to_ms < query.until_ms
        (whole if inside else files).append(str(each.path))
    return database.execute(*render(query, files, whole)).fetchall()


def opened(folder: Path, memory_bytes: int, threads: int) -> duckdb.DuckDBPyConnection:
    """A database in memory that has access to what is in `folder` and to nothing else, and cannot be told otherwise."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes}B",
        "threads": threads,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
        "python_enable_replacements": False,
        "preserve_insertion_order": False,
    }
    database = duckdb.connect(":memory:", config=settings)
    database.execute("SET parquet_metadata_cache = true")
    database.execute("SET allowed_directories = $1", [[f"{folder}/"]])
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def _line(text: str) -> str:
    """The first line of what DuckDB says, which may quote what is in a file."""
    first = "".join(each if each.isprintable() else "?" for each in text.strip().partition("\n")[0])
    return first[:_LONGEST_REASON]


def _complete(query: LogQuery, chosen: Chosen, more: bool) -> Complete:
    return Complete(
        more=more,
        gaps=counted(chosen.gaps, query),
        nothing_of=chosen.nothing_of[:VALUES],
        without=len(chosen.nothing_of),
        damaged=chosen.damaged,
    )
