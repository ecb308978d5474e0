"""The model of queries: what may be asked is bounded, and what may not is refused in a line that names the field."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid, TooLarge
from avinet.wire.answer import answer_columns
from avinet.wire.log import COLUMNS, TEXT_BYTES
from avinet.wire.message import decode, encode
from avinet.wire.query import KINDS, MEASURED, QUERY_LIMIT_BYTES, LogQuery, Measure, Position, cursor, read_cursor

DAY_MS = 86_400_000
COUNT = {"shape": "totals", "measures": [{"of": "requests"}]}


def read(**fields: Any) -> LogQuery:
    plain = {"since_ms": 0, "until_ms": 3_600_000, "get": COUNT, **fields}
    return decode(json.dumps(plain).encode(), LogQuery, limit_bytes=QUERY_LIMIT_BYTES, what="query")


def one(column: str, op: str, *values: Any) -> list[dict[str, Any]]:
    return [{"column": column, "op": op, "values": list(values)}]


class QueryTests(SynchronousTestCase):
    def refused(self, *words: str, **fields: Any) -> None:
        error = self.assertRaises((Invalid, TooLarge), read, **fields)
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))

    def test_all_columns_can_be_asked_for(self) -> None:
        get = {"shape": "rows", "columns": [*(each.name for each in COLUMNS), "engine"]}
        self.assertEqual([each.kind for each in answer_columns(read(get=get))], list(KINDS.values()))
        self.assertEqual(MEASURED[:3], ("bytes_in", "bytes_out", "request_ms"))

    def test_the_range_is_bounded(self) -> None:
        read(until_ms=400 * DAY_MS)
        self.refused("until_ms", "400 days", until_ms=400 * DAY_MS + 1)
        self.refused("until_ms", "after since_ms", since_ms=5, until_ms=5)
        self.refused("since_ms", since_ms=-1)
        self.refused("until_ms", until_ms=2**53)

    def test_service_engines_are_named_or_selected(self) -> None:
        read(engines=["se-1"])
        read(selector="site=paris")
        self.refused("selector", "engines", engines=["se-1"], selector="site=paris")
        self.refused("selector", selector="x" * 1025)
        read(engines=[f"se-{n}" for n in range(10_000)])
        self.refused("engines", engines=[f"se-{n}" for n in range(10_001)])

    def test_the_buckets_are_bounded(self) -> None:
        series = {"shape": "series", "bucket_s": 1, "measures": [{"of": "requests"}]}
        read(until_ms=2_000_000, get=series)
        self.refused("get.bucket_s", "2001", until_ms=2_000_001, get=series)
        self.refused("get.bucket_s", "2001", since_ms=999, until_ms=2_000_001, get=series)
        self.refused("bucket_s", get={**series, "bucket_s": 0})

    def test_an_operation_goes_with_the_kind_of_its_column(self) -> None:
        for column, kind in KINDS.items():
            value: Any = "x" if kind == "text" else 7
            for op in ("eq", "ne", "in"):
                read(filters=one(column, op, value))
                self.refused("values", "$.filters[0]", filters=one(column, op, 7 if kind == "text" else "7"))
            for op in ("lt", "le", "gt", "ge"):
                if kind == "text":
                    self.refused("op", column, filters=one(column, op, "x"))
                else:
                    read(filters=one(column, op, 7))
            for op in ("prefix", "contains"):
                if kind == "text":
                    read(filters=one(column, op, "x"))
                else:
                    self.refused("op", column, filters=one(column, op, 7))

    def test_values_are_bounded(self) -> None:
        read(filters=one("path", "in", *["x"] * 100))
        read(filters=one("path", "eq", "x" * TEXT_BYTES))
        self.refused("values", filters=one("path", "in", *["x"] * 101))
        self.refused("values", filters=one("path", "eq", "x" * (TEXT_BYTES + 1)))
        self.refused("values", filters=one("path", "in"))
        self.refused("values must be one", filters=one("path", "eq", "x", "y"))
        self.refused("values", filters=one("status", "eq", 2**63))
        self.refused("values", filters=one("status", "eq", True))
        self.refused("values", filters=one("status", "eq", 1.5))
        self.refused("filters", filters=one("status", "eq", 1) * 33)
        self.refused(
            "1048576 bytes", filters=one("path", "in", *["x" * TEXT_BYTES] * 100) * (2**20 // (100 * TEXT_BYTES) + 1)
        )

    def test_columns_are_those_of_the_schema(self) -> None:
        for name in ("nix", "", "time;--", 'seq"', "filename", "x" * 64):
            self.refused("column", filters=one(name, "eq", "x"))
            for shape in ("rows", "top"):
                self.refused("columns", "$.get", get={"shape": shape, "columns": [name]})
            self.refused("column", "$.get", get={"shape": "percentiles", "column": name})
        for name in ("seq", "status", "path", "retries"):
            self.refused("column", "total_ms", get={"shape": "percentiles", "column": name})
        self.refused("columns", "twice", get={"shape": "rows", "columns": ["path", "path"]})

    def test_shapes_are_bounded(self) -> None:
        for get in (
            {"shape": "rows", "columns": ["path"], "limit": 1001},
            {"shape": "rows", "columns": ["path"], "limit": 0},
            {"shape": "rows", "columns": []},
            {"shape": "rows", "columns": ["path"], "order": "random"},
            {"shape": "rows", "columns": ["path"], "after": "x"},
            {"shape": "top", "columns": ["path"], "n": 101},
            {"shape": "top", "columns": ["path", "host", "client", "status"]},
            {"shape": "top", "columns": ["bytes_in"], "measure": {"of": "bytes_in"}},
            {"shape": "percentiles", "column": "total_ms", "quantiles": []},
            {"shape": "percentiles", "column": "total_ms", "quantiles": [1.01]},
            {"shape": "totals", "measures": []},
            {"shape": "totals", "measures": [{"of": "requests"}] * 2},
            {"shape": "gaps", "limit": 1001},
            {"shape": "sql", "text": "SELECT 1"},
        ):
            self.refused("$.get", get=get)

    def test_a_measure_has_what_it_needs_and_no_more(self) -> None:
        for measure, word in (
            ({"of": "mean"}, "column"),
            ({"of": "requests", "column": "total_ms"}, "column"),
            ({"of": "percentile", "column": "total_ms"}, "quantile"),
            ({"of": "mean", "column": "total_ms", "quantile": 0.5}, "quantile"),
            ({"of": "median"}, "$.get.measures[0]"),
        ):
            self.refused(word, get={"shape": "totals", "measures": [measure]})

    def test_measures_have_names(self) -> None:
        named = [(0.5, "p50_total_ms"), (0.999, "p99.9_total_ms"), (0.57, "p57_total_ms"), (1.0, "p100_total_ms")]
        for quantile, name in named:
            self.assertEqual(Measure(of="percentile", column="total_ms", quantile=quantile).name, name)
        self.assertEqual(Measure(of="mean", column="bytes_in").name, "mean_bytes_in")

    def test_gaps_are_asked_for_without_filters(self) -> None:
        read(get={"shape": "gaps"}, engines=["se-1"])
        self.refused("services and filters", get={"shape": "gaps"}, services=["web"])
        self.refused("services and filters", get={"shape": "gaps"}, filters=one("path", "eq", "x"))

    @given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
    def test_a_cursor_comes_back(self, time: int, generation: int, seq: int) -> None:
        position = Position(time=time, engine="se-1" * 15, generation=generation, seq=seq)
        text = cursor(position)
        self.assertEqual(read_cursor(text), position)
        read(get={"shape": "rows", "columns": ["path"], "after": text})

    def test_a_cursor_of_an_earlier_form_is_refused(self) -> None:
        """Without its generation it says nothing of where to go on."""
        earlier = base64.urlsafe_b64encode(msgspec.msgpack.encode({"time": 1, "engine": "se-1", "seq": 2})).decode()
        self.refused(
            "after is not the `next` of an answer", get={"shape": "rows", "columns": ["path"], "after": earlier}
        )

    @given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.hex()))
    def test_no_other_text_is_a_cursor_or_more_than_a_line(self, text: str) -> None:
        try:
            self.assertIsInstance(read_cursor(text), Position)
        except ValueError as error:
            self.assertEqual(str(error), "after is not the `next` of an answer")

    def test_it_is_the_same_after_the_wire(self) -> None:
        after = cursor(Position(time=1, engine="se-1", generation=1, seq=2))
        query = read(filters=one("path", "prefix", "%'"), get={"shape": "rows", "columns": ["path"], "after": after})
        self.assertEqual(decode(encode(query), LogQuery, limit_bytes=1000), query)
