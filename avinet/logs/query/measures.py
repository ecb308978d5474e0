"""What is counted over many records, as SQL for DuckDB: directly, or by way of a histogram of one column.

A percentile is exact either way. Of milliseconds there are few different values: how often each occurs takes little
memory, whatever the number of records, where each value of each record would be kept to find the one in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence

from avinet.wire.log import ABSENT, COLUMNS
from avinet.wire.query import Measure

ENGINE = "split_part(filename, '/', -4)"
"""The service engine of a file, by where the archive has it: `ENGINE/YYYY-MM-DD/HH/NAME`."""
GENERATION = "regexp_extract(filename, '([0-9]+)-[^/]*$', 1)::BIGINT"
"""Which of its generations, by the NAME `GENERATION-FIRST-LAST.parquet`; `split_part` would take far longer for it."""
NAMES = {column.name: f'"{column.name}"' for column in COLUMNS} | {"engine": ENGINE}
_ERRORS = f"(status >= 500 OR (status < 100 AND connect_ms = {ABSENT}))"
_COUNTED = f"CASE WHEN v <> {ABSENT} THEN n ELSE 0 END"


class Parameters:
    """The values that a text of SQL speaks of by number."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object) -> str:
        """The place that stands for `value`."""
        self.values.append(value)
        return f"${len(self.values)}"


def measured(measure: Measure, parameters: Parameters) -> str:
    """`measure` of the records."""
    column = NAMES.get(measure.column, "")
    match measure.of:
        case "requests":
            return "count(*)"
        case "errors":
            return f"count(*) FILTER (WHERE {_ERRORS})"
        case "bytes_in" | "bytes_out":
            return f'coalesce(sum("{measure.of}"), 0)'
        case "mean":
            return f"avg({column}) FILTER (WHERE {column} <> {ABSENT})"
        case "percentile":
            quantile = parameters.add(measure.quantile)
            return f"quantile_cont({column}, {quantile}) FILTER (WHERE {column} <> {ABSENT})"


def histogrammed(measures: Sequence[Measure]) -> str:
    """The column of whose values a histogram serves all percentiles among `measures`; empty where none does."""
    columns = {each.column for each in measures if each.of == "percentile"}
    only = columns.pop() if len(columns) == 1 else ""
    return only if only.endswith("_ms") else ""


def from_histogram(
    column: str, measures: Sequence[Measure], source: str, slot: str, parameters: Parameters
) -> tuple[list[str], str]:
    """What is to be selected for `measures`, and from what: `source`, counted by `slot` and the values of `column`.

    For each value `v` there are `n` records; of those in which it is not absent `upto` have it or a smaller one, and
    there are `whole` in all.
    """
    parts: list[str] = []
    wanted = [_of_parts(each, parts, parameters) for each in measures]
    counted = ", ".join([f"{slot} AS slot", f"{NAMES[column]} AS v", "count(*) AS n", *parts])
    of = (
        f"(SELECT *, sum({_COUNTED}) OVER (PARTITION BY slot ORDER BY v) AS upto,"
        f" sum({_COUNTED}) OVER (PARTITION BY slot) AS whole"
        f" FROM (SELECT {counted} FROM {source} GROUP BY slot, v))"
    )
    return wanted, of


def _of_parts(measure: Measure, parts: list[str], parameters: Parameters) -> str:
    """`measure` of a histogram; what it needs of the records with one value is added to `parts`."""
    if measure.of == "requests":
        return "coalesce(sum(n), 0)"
    if measure.of == "percentile":
        place = f"({parameters.add(measure.quantile)} * (whole - 1))"
        low, high = (
            f"(min(v) FILTER (WHERE v <> {ABSENT} AND upto > {rounded}({place})))::DOUBLE"
            for rounded in ("floor", "ceil")
        )
        return f"{low} + ({high} - {low}) * any_value({place} - floor({place}))"
    part = f"p{len(parts)}"
    if measure.of == "mean":
        column = NAMES[measure.column]
        there = f"FILTER (WHERE {column} <> {ABSENT})"
        parts += [f"sum({column}) {there} AS {part}", f"count(*) {there} AS {part}_of"]
        return f"sum({part}) / nullif(sum({part}_of), 0)"
    parts.append(f"{measured(measure, parameters)} AS {part}")
    return f"coalesce(sum({part}), 0)"
