"""The SQL of a query: no value changes it, and DuckDB answers it as a few lines of Python would."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.logs.query import answer as answers
from avinet.logs.query.answer import shaped
from avinet.logs.query.duckdb_sql import render
from avinet.wire.answer import answer_columns
from avinet.wire.log import COLUMNS, TEXT_BYTES
from avinet.wire.query import KINDS, MEASURED, Filter, Gaps, LogQuery, Measure, Percentiles, Rows, Series, Top, Totals
from tests.logs.naive import Record, answer, record, write_segment

SHARP = ["'", '"', "%", "_", "\x00", "';--", "') OR 1=1 --", "$1", "?", "\\", "\n", "{}", "é", "", "a", "ab", "a%b"]
TEXTS = st.sampled_from(SHARP) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBERS = st.sampled_from([-1, 0, 1, 99, 100, 200, 499, 500, 503, 2**63 - 1, -(2**63)]) | st.integers(-2, 12)
SMALL = st.sampled_from([-1, 0, 1, 7, 200, 500])
IDS = st.sampled_from(["se-1", "se-2", "web", "a"])
TEXT_COLUMNS = [name for name, kind in KINDS.items() if kind == "text"]
NUMBER_COLUMNS = [name for name, kind in KINDS.items() if kind != "text"]


@st.composite
def text_filters(draw: Any, values: Any = TEXTS) -> Filter:
    op = draw(st.sampled_from(["eq", "ne", "in", "prefix", "contains"]))
    count = draw(st.integers(1, 4)) if op == "in" else 1
    return Filter(column=draw(st.sampled_from(TEXT_COLUMNS)), op=op, values=[draw(values) for _ in range(count)])


@st.composite
def number_filters(draw: Any, values: Any = NUMBERS) -> Filter:
    op = draw(st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "in"]))
    count = draw(st.integers(1, 4)) if op == "in" else 1
    return Filter(column=draw(st.sampled_from(NUMBER_COLUMNS)), op=op, values=[draw(values) for _ in range(count)])


QUANTILES = st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
MEASURES = st.one_of(
    st.builds(Measure, of=st.sampled_from(["requests", "errors", "bytes_in", "bytes_out"])),
    st.builds(Measure, of=st.just("mean"), column=st.sampled_from(MEASURED)),
    st.builds(Measure, of=st.just("percentile"), column=st.sampled_from(MEASURED), quantile=QUANTILES),
)
MANY = st.lists(MEASURES, min_size=1, max_size=4, unique_by=lambda each: each.name)


def names(largest: int) -> Any:
    return st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=largest, unique=True)


@st.composite
def tops(draw: Any) -> Top:
    measure = draw(MEASURES)
    columns = [name for name in draw(names(3)) if name != measure.name] or ["path"]
    return Top(columns=columns, measure=measure, n=draw(st.integers(1, 4)))


SHAPES = st.one_of(
    st.builds(Rows, columns=names(6), limit=st.integers(1, 5), order=st.sampled_from(["newest", "oldest"])),
    st.builds(Series, bucket_s=st.integers(1, 4), measures=MANY),
    tops(),
    st.builds(Percentiles, column=st.sampled_from(MEASURED), quantiles=st.tuples(QUANTILES, QUANTILES)),
    st.builds(Totals, measures=MANY),
)
SINCE, UNTIL = 10_000, 20_000
QUERIES = st.builds(
    LogQuery,
    since_ms=st.integers(SINCE, SINCE + 3000),
    until_ms=st.integers(UNTIL - 3000, UNTIL),
    engines=st.lists(IDS, max_size=2),
    services=st.lists(IDS, max_size=2) | st.just([]),
    filters=st.lists(text_filters() | number_filters(), max_size=2),
    get=SHAPES,
)


@st.composite
def records(draw: Any) -> Record:
    """A record most of whose fields are empty."""
    fields: Record = {"engine": draw(st.sampled_from(["se-1", "se-2"])), "time": draw(st.integers(SINCE - 1, UNTIL))}
    fields["generation"] = draw(st.sampled_from([1, 2, 10]))
    fields["service"] = draw(IDS)
    for name in draw(names(5)):
        if name not in fields:
            fields[name] = draw(TEXTS if KINDS[name] == "text" else SMALL)
    return record(**fields)


def numbered(found: list[Record]) -> list[Record]:
    """The records with the numbers that they have in the generation of their service engine."""
    count: Counter[Any] = Counter()
    numbers: list[int] = []
    for each in found:
        count[_source(each)] += 1
        numbers.append(count[_source(each)])
    return [{**each, "seq": number} for number, each in zip(numbers, found, strict=True)]


def _source(each: Record) -> tuple[str, int]:
    return each["engine"], each["generation"]


class AsPythonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.database = duckdb.connect(":memory:", config={"threads": 1})
        self.addCleanup(self.database.close)

    def files(self, found: list[Record]) -> list[str]:
        """The records in one segment of each generation of each service engine."""
        where = Path(tempfile.mkdtemp(dir=self.folder))
        return [
            write_segment(where / self.name(*source), [each for each in found if _source(each) == source])
            for source in sorted({_source(each) for each in found})
        ]

    def name(self, engine: str, generation: int) -> str:
        return f"{engine}/1970-01-01/00/{generation}-1-2.parquet"

    def ask(self, query: LogQuery, files: list[str], whole: Sequence[str] = ()) -> list[list[Any]]:
        """All rows of the answer, page after page."""
        files = [each for each in files if each not in whole]
        found: list[list[Any]] = []
        for _ in range(1000):
            rows, after, more = shaped(query, self.database.execute(*render(query, files, whole)).fetchall())
            for row in rows:
                self.assertEqual(len(row), len(answer_columns(query)))
            found += rows
            if not isinstance(query.get, Rows) or not more:
                return found
            self.assertTrue(rows)
            query = msgspec.structs.replace(query, get=msgspec.structs.replace(query.get, after=after))
        raise AssertionError("the pages do not end")

    def same(self, query: LogQuery, found: list[Record], files: list[str]) -> None:
        """The answer is that of Python, whether or not each record of a file that lies in the range is looked at."""
        whole = [
            file
            for file in files
            if all(
                query.since_ms <= each["time"] < query.until_ms
                for each in found
                if file.endswith(self.name(*_source(each)))
            )
        ]
        self.equal(self.ask(query, files), answer(query, found))
        if whole:
            self.equal(self.ask(query, files, whole), answer(query, found))

    def equal(self, got: list[list[Any]], wanted: list[list[Any]]) -> None:
        self.assertEqual(len(got), len(wanted), (got, wanted))
        for one, other in zip(got, wanted, strict=True):
            for mine, its in zip(one, other, strict=True):
                if isinstance(mine, float) and its is not None:
                    self.assertLessEqual(abs(mine - its), 1e-9 * max(1.0, abs(its)), (got, wanted))
                else:
                    self.assertEqual(mine, its, (got, wanted))

    def test_every_query_is_answered_as_python_would(self) -> None:
        self.folder.mkdir()

        @settings(max_examples=60, deadline=None)
        @given(st.lists(records(), max_size=8), st.lists(QUERIES, min_size=12, max_size=12))
        def check(found: list[Record], queries: list[LogQuery]) -> None:
            found = numbered(found)
            files = self.files(found)
            for query in queries:
                self.same(query, found, files)

        check()

    def everything(self, get: Any, *filters: Filter) -> LogQuery:
        return LogQuery(since_ms=0, until_ms=100_000, filters=list(filters), get=get)

    def test_prefix_and_contains_take_patterns_as_they_are(self) -> None:
        paths = ["/a%", "/ab", "/a_", "/a%c", "%", "_", "x/a%", "\x00", "a\x00b", "", "a'b"]
        found = numbered([record(path=path, time=1) for path in paths])
        files = self.files_in(found)
        for op in ("prefix", "contains", "eq", "ne"):
            for value in [*paths, "/a", "'", "\\", ".*", "%%", "a\x00"]:
                self.same(
                    self.everything(Rows(columns=["path"]), Filter(column="path", op=op, values=[value])), found, files
                )

    def files_in(self, found: list[Record]) -> list[str]:
        self.folder.mkdir()
        return self.files(found)

    def test_one_time_on_two_engines_is_paged_without_loss(self) -> None:
        """Nor is one number in two generations, whose clocks were the same."""
        found = numbered(
            [record(engine=f"se-{1 + n % 2}", generation=9 + n % 3, time=5, path=str(n)) for n in range(23)]
        )
        files = self.files_in(found)
        for order in ("newest", "oldest"):
            for limit in (1, 4, 23, 24):
                self.same(self.everything(Rows(columns=["path"], limit=limit, order=order)), found, files)

    def test_a_page_of_long_texts_is_cut_and_goes_on(self) -> None:
        self.patch(answers, "ROWS_BYTES", 50_000)
        found = numbered([record(time=n, path="/" + "x" * (TEXT_BYTES - 1)) for n in range(30)])
        files = self.files_in(found)
        query = self.everything(Rows(columns=["path"], limit=30))
        rows, _, more = shaped(query, self.database.execute(*render(query, files)).fetchall())
        self.assertEqual((len(rows), more), (50_000 // (TEXT_BYTES + 4), True))
        self.same(query, found, files)

    def test_errors_are_those_of_servers_and_those_that_no_server_took(self) -> None:
        fine = [(200, -1), (404, -1), (0, 3), (-1, 3), (499, 0)]
        bad = [(500, 3), (503, -1), (0, -1), (-1, -1)]
        found = numbered([record(time=1, status=status, connect_ms=connect_ms) for status, connect_ms in fine + bad])
        files = self.files_in(found)
        self.assertEqual(self.ask(self.everything(Totals(measures=[Measure(of="errors")])), files), [[len(bad)]])

    def test_no_file_is_no_record(self) -> None:
        for get in (
            Rows(columns=["seq"]),
            Series(bucket_s=60, measures=[Measure(of="requests")]),
            Top(columns=["path"]),
            Percentiles(column="total_ms", quantiles=(0.5, 0.9)),
            Totals(measures=[Measure(of="requests"), Measure(of="bytes_in"), Measure(of="mean", column="total_ms")]),
        ):
            self.same(self.everything(get), [], [])

    def test_a_column_that_a_segment_does_not_have_yet_is_empty(self) -> None:
        found = numbered([record(time=1, path="/x")])
        (file,) = self.files_in(found)
        old = Path(file).with_name("3-3.parquet")
        left = ", ".join(f'"{column.name}"' for column in COLUMNS[:12])
        self.database.execute(f"COPY (SELECT {left} FROM '{file}') TO '{old}' (FORMAT parquet)")
        query = self.everything(Rows(columns=["path", "request_id", "retries"]))
        for files in ([file, str(old)], [str(old), file]):
            rows = self.ask(query, files)
            self.assertEqual(sorted(map(repr, rows)), sorted(map(repr, [["/x", "", 0], ["/x", "", None]])))

    def test_only_files_that_can_hold_the_column_as_it_is_are_read(self) -> None:
        self.folder.mkdir()
        wrong = self.folder / "se-1" / "1970-01-01" / "00" / "1-1.parquet"
        wrong.parent.mkdir(parents=True)
        self.database.execute(f"COPY (SELECT 1 AS seq, 'soon' AS time) TO '{wrong}' (FORMAT parquet)")
        query = self.everything(Rows(columns=["path"]))
        self.assertRaises(duckdb.ConversionException, self.ask, query, [str(wrong)])

    def test_gaps_are_in_no_file(self) -> None:
        self.assertRaises(Invalid, render, self.everything(Gaps()), [])


class TextTests(SynchronousTestCase):
    def shape_of(self, query: LogQuery) -> str:
        sql, parameters = render(query, ["/a/se-1/1970-01-01/00/1-2.parquet"])
        for number in range(1, len(parameters) + 1):
            self.assertIn(f"${number}", sql)
        self.assertNotIn(f"${len(parameters) + 1}", sql)
        return sql

    @settings(max_examples=200, deadline=None)
    @given(QUERIES, st.data())
    def test_no_value_changes_the_text(self, query: LogQuery, data: Any) -> None:
        def other(each: Filter) -> Filter:
            values = [data.draw(TEXTS if isinstance(value, str) else NUMBERS) for value in each.values]
            return msgspec.structs.replace(each, values=values)

        changed = msgspec.structs.replace(
            query,
            since_ms=query.since_ms - 7,
            engines=[each[::-1] for each in query.engines],
            services=["x'; DROP TABLE records --" for _ in query.services],
            filters=[other(each) for each in query.filters],
        )
        self.assertEqual(self.shape_of(changed), self.shape_of(query))

    def test_a_megabyte_of_quotes_changes_nothing_either(self) -> None:
        for op in ("eq", "ne", "in", "prefix", "contains"):
            texts = {
                self.shape_of(
                    LogQuery(
                        since_ms=0,
                        until_ms=1,
                        filters=[Filter(column="path", op=op, values=[value])],
                        get=Top(columns=["path"]),
                    )
                )
                for value in ("", "';--" * 250_000, "\x00" * 1_000_000, "$1" * 500_000)
            }
            self.assertEqual(len(texts), 1)

    def test_the_name_of_a_file_is_a_value(self) -> None:
        query = LogQuery(since_ms=0, until_ms=1, get=Top(columns=["path"]))
        self.assertEqual(render(query, ["a"])[0], render(query, ["');--", "b"])[0])
