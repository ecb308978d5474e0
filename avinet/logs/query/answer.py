"""What the database gave, as rows of an answer: bounded in number and bytes, and with the way to the next page."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from avinet.wire.log import TEXT_BYTES
from avinet.wire.query import ORDER, LogQuery, Percentiles, Position, Rows, Top, cursor

Value = int | float | str | None
Row = list[Value]
ROWS_BYTES = 4 * 1024 * 1024
"""What the rows of one answer take as JSON; at least one is in it."""
_MOST = 2**63 - 1


def shaped(query: LogQuery, found: Sequence[Sequence[object]]) -> tuple[list[Row], str, bool]:
    """The rows of the answer to `query`, the cursor behind them, and whether there are more.

    `found` is what the SQL of `avinet.logs.query.duckdb_sql` gives.
    """
    match query.get:
        case Rows() as rows:
            return _page(rows, found)
        case Top(n=n):
            return [_plain(row) for row in found[:n]], "", len(found) > n
        case Percentiles(quantiles=quantiles):
            values = found[0][0]
            listed = values if isinstance(values, list) else [None] * len(quantiles)
            return [[float(each), value] for each, value in zip(quantiles, listed, strict=True)], "", False
        case _:
            return [_plain(row) for row in found], "", False


def _page(rows: Rows, found: Sequence[Sequence[object]]) -> tuple[list[Row], str, bool]:
    page: list[Row] = []
    left = ROWS_BYTES
    for row in found[: rows.limit]:
        plain = _plain(row)[: -len(ORDER)]
        left -= len(msgspec.json.encode(plain))
        if page and left < 0:
            break
        page.append(plain)
    if len(page) == len(found):
        return page, "", False
    last = dict(zip(ORDER, found[len(page) - 1][-len(ORDER) :], strict=True))
    return page, cursor(msgspec.convert(last, Position)), True


def _plain(row: Sequence[object]) -> Row:
    """`row` within the limits of JSON and of the schema, whatever the file had."""
    return [_value(each) for each in row]


def _value(value: object) -> Value:
    match value:
        case str():
            return value[:TEXT_BYTES]
        case int():
            return max(-_MOST - 1, min(value, _MOST))
        case float() | None:
            return value
    raise TypeError(f"a value of type {type(value).__name__} is in no column")
