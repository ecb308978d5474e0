"""The 99th percentile of each minute of a log of JSON on standard input, by DuckDB: [[minute in ms, percentile], …]."""

from __future__ import annotations

import json

import duckdb

found = duckdb.execute(
    """SELECT t // 60000 * 60000 AS minute, quantile_cont(ta, 0.99)
    FROM read_json('/dev/stdin', format = 'newline_delimited', columns = {t: 'BIGINT', ta: 'INTEGER'})
    GROUP BY minute ORDER BY minute"""
).fetchall()
print(json.dumps(found))
