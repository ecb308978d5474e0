"""The one way from a query to SQL, for DuckDB over Parquet files.

The text is put together from the tables of columns and from words that stand here. Whatever was asked for goes in as a
parameter, the names of the files too, so that no value can change what is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from avinet.errors import Invalid
from avinet.logs.query.measures import GENERATION, NAMES, Parameters, from_histogram, histogrammed, measured
from avinet.wire.log import COLUMNS, Column
from avinet.wire.query import (
    ORDER,
    Filter,
    Gaps,
    LogQuery,
    Measure,
    Percentiles,
    Position,
    Rows,
    Series,
    Shape,
    Top,
    Totals,
    read_cursor,
)

_TYPES = {"int": "BIGINT", "time": "BIGINT", "text": "VARCHAR"}
_COMPARED = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_PLACE = [(NAMES | {"generation": GENERATION})[each] for each in ORDER]
_CALLED = {"prefix": "starts_with", "contains": "contains"}


def render(query: LogQuery, files: Sequence[str], whole: Sequence[str] = ()) -> tuple[str, list[object]]:
    """The SQL that answers `query` from `files` and from those that are `whole`, and its parameters in order.

    The files are segments where the archive has them. Of the whole ones all records lie in the range of time: to look
    at each would cost half as much again. The rows have the columns of `answer_columns`, and in pages of
    records their place in the `ORDER` behind them. Pages and top lists have one row more than asked for, where there
    is one. Raises `Invalid` for gaps, which are in no record.
    """
    parameters = Parameters()
    sources = []
    if files or not whole:
        in_range = f'"time" >= {parameters.add(query.since_ms)} AND "time" < {parameters.add(query.until_ms)}'
        sources.append(f"SELECT * FROM {_source(files, parameters)} WHERE {in_range}")
    if whole:
        sources.append(f"SELECT * FROM {_source(whole, parameters)}")
    source = f"({' UNION ALL '.join(sources)}) WHERE {_condition(query, parameters)}"
    return _select(query.get, source, parameters), parameters.values


def _select(get: Shape, source: str, parameters: Parameters) -> str:
    """The text that gives `get` from the records of `source`."""
    match get:
        case Rows() as rows:
            return _rows(rows, source, parameters)
        case Series(bucket_s=bucket_s, measures=measures):
            width = parameters.add(bucket_s * 1000)
            slot, source = f'"time" // {width} * {width}', f'{source} AND "time" IS NOT NULL'
            if column := histogrammed(measures):
                wanted, of = from_histogram(column, measures, source, slot, parameters)
                return f"SELECT slot, {', '.join(wanted)} FROM {of} GROUP BY slot ORDER BY slot"
            return f"SELECT {_all(slot, measures, parameters)} FROM {source} GROUP BY 1 ORDER BY 1"
        case Top() as top:
            return _top(top, source, parameters)
        case Percentiles(column=name, quantiles=quantiles):
            each_of = [Measure(of="percentile", column=name, quantile=quantile) for quantile in quantiles]
            if column := histogrammed(each_of):
                wanted, of = from_histogram(column, each_of, source, "0", parameters)
                return f"SELECT [{', '.join(wanted)}] FROM {of}"
            listed = ", ".join(measured(each, parameters) for each in each_of)
            return f"SELECT [{listed}] FROM {source}"
        case Totals(measures=measures):
            if column := histogrammed(measures):
                wanted, of = from_histogram(column, measures, source, "0", parameters)
                return f"SELECT {', '.join(wanted)} FROM {of}"
            return f"SELECT {_all('', measures, parameters)} FROM {source}"
        case Gaps():
            raise Invalid("gaps are not in the records, but in the manifests of their segments")


def _source(files: Sequence[str], parameters: Parameters) -> str:
    """The records of `files`: all columns with their types, whatever a file has; one that it does not have is empty."""
    if not files:
        none = ", ".join([*(f'NULL::{_TYPES[each.kind]} AS "{each.name}"' for each in COLUMNS), "'' AS filename"])
        return f"(SELECT {none} WHERE false)"
    schema = ", ".join(f"'{each.name}': {_field(each)}" for each in COLUMNS)
    return f"read_parquet({parameters.add(list(files))}, schema = MAP {{{schema}}}, filename = true)"


def _field(column: Column) -> str:
    empty = "''" if column.kind == "text" else "NULL"
    return f"{{name: '{column.name}', type: '{_TYPES[column.kind]}', default_value: {empty}}}"


def _condition(query: LogQuery, parameters: Parameters) -> str:
    """What a record in the range of time must be to count."""
    wanted = ["true"]
    for column, ids in (("engine", query.engines), ("service", query.services)):
        if ids:
            wanted.append(_among(NAMES[column], ids, parameters))
    wanted += [_passes(each, parameters) for each in query.filters]
    return " AND ".join(wanted)


def _passes(each: Filter, parameters: Parameters) -> str:
    column = NAMES[each.column]
    if each.op == "in":
        return _among(column, each.values, parameters)
    value = parameters.add(each.values[0])
    if each.op in _CALLED:
        return f"{_CALLED[each.op]}({column}, {value})"
    return f"{column} {_COMPARED[each.op]} {value}"


def _among(column: str, values: Sequence[object], parameters: Parameters) -> str:
    return f"{column} IN ({', '.join(parameters.add(each) for each in values)})"


def _rows(rows: Rows, source: str, parameters: Parameters) -> str:
    order, behind = ("DESC", "<") if rows.order == "newest" else ("ASC", ">")
    wanted = ", ".join([*(NAMES[each] for each in rows.columns), *_PLACE])
    after = f" AND {_behind(read_cursor(rows.after), behind, parameters)}" if rows.after else ""
    by = ", ".join(f"{each} {order}" for each in _PLACE)
    # A service engine may have sealed records without either, which no page can end with.
    there = ' AND "time" IS NOT NULL AND seq IS NOT NULL'
    return f"SELECT {wanted} FROM {source}{there}{after} ORDER BY {by} LIMIT {parameters.add(rows.limit + 1)}"


def _behind(last: Position, behind: str, parameters: Parameters) -> str:
    """What is behind the last record of a page. Its time stands alone too: that leaves out whole files."""
    time, *others = (parameters.add(each) for each in msgspec.structs.astuple(last))
    return f'"time" {behind}= {time} AND ({", ".join(_PLACE)}) {behind} ({", ".join([time, *others])})'


def _top(top: Top, source: str, parameters: Parameters) -> str:
    columns = [NAMES[each] for each in top.columns]
    wanted = ", ".join([*columns, measured(top.measure, parameters)])
    places = [str(place) for place in range(1, len(columns) + 1)]
    order = ", ".join([f"{len(columns) + 1} DESC NULLS LAST", *(f"{place} ASC NULLS LAST" for place in places)])
    group = ", ".join(places)
    return f"SELECT {wanted} FROM {source} GROUP BY {group} ORDER BY {order} LIMIT {parameters.add(top.n + 1)}"


def _all(first: str, measures: Sequence[Measure], parameters: Parameters) -> str:
    return ", ".join([*([first] if first else []), *(measured(each, parameters) for each in measures)])
