"""Lines to Parquet, with DuckDB. Only the sealer's process imports this: it costs memory, and holds the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from avinet.errors import AvinetError
from avinet.logs.spool.lines import IN_LINES, LONGEST_MS, absent
from avinet.wire.log import SEQUENCE, Column

MEMORY = "150MB"
ROW_GROUP = 51_200
"""Rows that are kept in memory to be written at once: 25 vectors of DuckDB's,"""
GROUPS_BYTES = (36_000_000, 9_000_000)
"""unless they take so much of it; where even that is more than there is, as clients choose the texts, the second."""
DIFFERENT = 20_480
"""A column with up to so many different values among those rows is written as a dictionary and places in it."""
OBJECT_BYTES = 128 * 1024


class Unfit(AvinetError):
    """Something in the lines is not as it should be: go through them one by one."""


@dataclass(frozen=True)
class Totals:
    """What a manifest says of the rows in a Parquet file."""

    from_ms: int
    to_ms: int
    services: dict[str, int]


@contextmanager
def _engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """One thread, no more memory than is needed, nothing from the network, and nothing of it on the disk."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": MEMORY,
            "preserve_insertion_order": False,  # else groups have no bound in bytes; one thread keeps the order
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        yield connection
    finally:
        connection.close()


def write(source: Path, to: Path, first: int) -> int:
    """Write the lines of `source` to the Parquet file `to`, numbered from `first`; how many rows it has now.

    Raises `Unfit` when a line is no record, or a value is not of its column's type.
    """
    much, little = GROUPS_BYTES
    try:
        try:
            return _copied(source, to, first, much)
        except duckdb.OutOfMemoryException:
            return _copied(source, to, first, little)
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.ConstraintException) as error:
        raise Unfit(str(error)) from error
    except duckdb.Error as error:
        raise OSError(5, str(error).partition("\n")[0], str(to)) from error


def _copied(source: Path, to: Path, first: int, group_bytes: int) -> int:
    kinds = ", ".join(f"{column.key}: '{'VARCHAR' if column.kind == 'text' else 'BIGINT'}'" for column in IN_LINES)
    columns = ", ".join(_selected(column) for column in IN_LINES)
    with _engine() as engine:
        found = engine.execute(
            f"COPY (SELECT {first - 1} + row_number() OVER () AS {SEQUENCE.name}, {columns}"
            f" FROM read_json({_quoted(source)}, format = 'newline_delimited', columns = {{{kinds}}},"
            f" maximum_object_size = {OBJECT_BYTES}, compression = 'uncompressed'))"
            f" TO {_quoted(to)} (FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP},"
            f" ROW_GROUP_SIZE_BYTES {group_bytes}, DICTIONARY_SIZE_LIMIT {DIFFERENT})"
        ).fetchone()
    assert found is not None
    return int(found[0])


def _selected(column: Column) -> str:
    if column.kind == "time":
        sound = f"{column.key} BETWEEN 1 AND {LONGEST_MS - 1}"
        return f"CASE WHEN {sound} THEN {column.key} ELSE error('no time') END AS {column.name}"
    nothing = absent(column)
    return f"coalesce({column.key}, {nothing if isinstance(nothing, int) else _text(nothing)}) AS {column.name}"


def totals(path: Path) -> Totals:
    """What is in the Parquet file `path`, which has a row at least."""
    with _engine() as engine:
        rows = engine.execute(
            f"SELECT service, count(*), min(time), max(time) FROM read_parquet({_quoted(path)}) GROUP BY service"
        ).fetchall()
    return Totals(min(row[2] for row in rows), max(row[3] for row in rows), {row[0]: row[1] for row in rows})


def _quoted(path: Path) -> str:
    """`path` as SQL has it, and not as a pattern: the names in the spool's folder have no `*`, the folder may."""
    return _text(str(path))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
