"""What a query means, in a few lines of Python over records in memory; and the same records as an archive has them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from avinet.wire.log import COLUMNS
from avinet.wire.query import Filter, LogQuery, Measure, Percentiles, Rows, Series, Top, Totals

Record = dict[str, Any]
TYPES = {"int": "BIGINT", "time": "BIGINT", "text": "VARCHAR"}


def record(**fields: Any) -> Record:
    """A record, empty but for `fields`, of the first generation of service engine `se-1`."""
    empty = {column.name: "" if column.kind == "text" else 0 for column in COLUMNS}
    return {"engine": "se-1", "generation": 1, **empty, **fields}


def write_segment(path: Path, records: Sequence[Record]) -> str:
    """A Parquet file of `records`, in one statement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ", ".join(f'"{column.name}" {TYPES[column.kind]}' for column in COLUMNS)
    with duckdb.connect(":memory:", config={"threads": 1}) as database:
        database.execute(f"CREATE TABLE records ({columns})")
        if records:
            rows = [[each[column.name] for column in COLUMNS] for each in records]
            database.executemany(f"INSERT INTO records VALUES ({', '.join('?' * len(COLUMNS))})", rows)
        database.execute(f"COPY records TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return str(path)


def passes(each: Filter, record: Record) -> bool:
    value, wanted = record[each.column], each.values[0]
    return {
        "eq": lambda: value == wanted,
        "ne": lambda: value != wanted,
        "lt": lambda: value < wanted,
        "le": lambda: value <= wanted,
        "gt": lambda: value > wanted,
        "ge": lambda: value >= wanted,
        "in": lambda: value in each.values,
        "prefix": lambda: value.startswith(wanted),
        "contains": lambda: wanted in value,
    }[each.op]()


def percentile(values: list[int], quantile: float) -> float | None:
    if not values:
        return None
    values = sorted(values)
    place = quantile * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def measured(measure: Measure, records: list[Record]) -> Any:
    if measure.of == "requests":
        return len(records)
    if measure.of == "errors":
        return sum(each["status"] >= 500 or (each["status"] < 100 and each["connect_ms"] == -1) for each in records)
    if measure.of in ("bytes_in", "bytes_out"):
        return sum(each[measure.of] for each in records)
    values = [each[measure.column] for each in records if each[measure.column] != -1]
    if measure.of == "percentile":
        assert measure.quantile is not None
        return percentile(values, measure.quantile)
    return sum(values) / len(values) if values else None


def selected(query: LogQuery, records: Sequence[Record]) -> list[Record]:
    return [
        each
        for each in records
        if query.since_ms <= each["time"] < query.until_ms
        and (not query.engines or each["engine"] in query.engines)
        and (not query.services or each["service"] in query.services)
        and all(passes(one, each) for one in query.filters)
    ]


def answer(query: LogQuery, records: Sequence[Record]) -> list[list[Any]]:
    """The rows of the answer; of records all pages."""
    found = selected(query, records)
    match query.get:
        case Rows() as rows:
            order = itemgetter("time", "engine", "generation", "seq")
            found.sort(key=order, reverse=rows.order == "newest")
            return [[each[name] for name in rows.columns] for each in found]
        case Series(bucket_s=bucket_s, measures=measures):
            width = bucket_s * 1000
            times = sorted({each["time"] // width * width for each in found})
            slots = {time: [each for each in found if each["time"] // width * width == time] for time in times}
            return [[time, *(measured(each, slot) for each in measures)] for time, slot in slots.items()]
        case Top() as top:
            keys = sorted({tuple(each[name] for name in top.columns) for each in found})
            groups = {key: [each for each in found if tuple(each[name] for name in top.columns) == key] for key in keys}
            counted = [[*key, measured(top.measure, group)] for key, group in groups.items()]
            counted.sort(key=lambda row: -1e300 if row[-1] is None else row[-1], reverse=True)
            return counted[: top.n]
        case Percentiles(column=column, quantiles=quantiles):
            values = [each[column] for each in found if each[column] != -1]
            return [[quantile, percentile(values, quantile)] for quantile in quantiles]
        case Totals(measures=measures):
            return [[measured(each, found) for each in measures]]
    raise AssertionError(query.get)
