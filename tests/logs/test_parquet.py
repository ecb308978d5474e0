"""Segments as files: their columns and types, how well they compress, and that both ways of writing agree."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.logs.spool.lines import IN_LINES, mended, record
from avinet.logs.spool.parquet import ROW_GROUP, Unfit, totals, write
from avinet.wire.log import COLUMNS, KEPT_TEXT_BYTES
from bench.records import lines

ROWS = 40_000
ASKED_BYTES_A_ROW = 45
VALUES = {
    column.key: st.text(max_size=10) if column.kind == "text" else st.integers(-(2**63), 2**63 - 1)
    for column in IN_LINES
}
LINES = st.fixed_dictionaries({"t": st.integers(1, 2**53 - 1)}, optional={k: v for k, v in VALUES.items() if k != "t"})


class ParquetTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.source, self.to = self.folder / "lines", self.folder / "parquet"

    def written(self, data: bytes) -> list[tuple[object, ...]]:
        self.source.write_bytes(data)
        write(self.source, self.to, 10)
        return duckdb.read_parquet(str(self.to)).fetchall()

    def test_the_columns_are_those_of_the_schema_in_their_order(self) -> None:
        self.written(b'{"t":1}\n')
        found = duckdb.sql(f"DESCRIBE FROM read_parquet('{self.to}')").fetchall()
        types = {"text": "VARCHAR", "int": "BIGINT", "time": "BIGINT"}
        self.assertEqual([each[:2] for each in found], [(column.name, types[column.kind]) for column in COLUMNS])
        kinds = duckdb.sql(f"SELECT DISTINCT compression FROM parquet_metadata('{self.to}')").fetchall()
        self.assertEqual(kinds, [("ZSTD",)])

    def test_real_lines_take_no_more_than_was_asked(self) -> None:
        data = b"".join(line + b"\n" for line in lines(ROWS))
        self.assertEqual(len(self.written(data)), ROWS)
        self.assertLess(self.to.stat().st_size / ROWS, ASKED_BYTES_A_ROW)

    def test_numbers_are_in_order_through_all_groups_of_rows(self) -> None:
        count = len(self.written(b"".join(line + b"\n" for line in lines(2 * ROWS))))
        groups = duckdb.sql(f"SELECT count(DISTINCT row_group_id) FROM parquet_metadata('{self.to}')").fetchall()
        self.assertEqual(groups, [(-(-count // ROW_GROUP),)])
        numbers = duckdb.sql(f"SELECT seq FROM read_parquet('{self.to}')").fetchall()
        self.assertEqual(numbers, [(each,) for each in range(10, 10 + count)])

    def test_long_texts_that_clients_have_chosen_take_smaller_groups_and_not_more_memory(self) -> None:
        import msgspec

        chance = random.Random(1)
        many = 20_000
        with self.source.open("wb") as file:
            for number in range(many):
                said = {"t": 1 + number, **dict.fromkeys("uqaf", chance.randbytes(KEPT_TEXT_BYTES // 2).hex())}
                file.write(msgspec.json.encode(said) + b"\n")
        self.assertEqual(write(self.source, self.to, 1), many)
        self.assertEqual(
            duckdb.sql(f"SELECT count(*), max(seq) FROM read_parquet('{self.to}')").fetchall(), [(many, many)]
        )

    @settings(max_examples=40, deadline=None)
    @given(st.lists(LINES, min_size=1, max_size=5))
    def test_the_quick_way_and_the_careful_one_say_the_same(self, said: list[dict[str, object]]) -> None:
        import msgspec

        whole = [msgspec.json.encode(each) for each in said]
        quick = self.written(b"".join(line + b"\n" for line in whole))
        unfit: list[int] = []
        careful = self.written(b"".join(mended(whole, unfit)))
        self.assertEqual(quick, careful)
        self.assertEqual(unfit, [])
        expected = [record(line) for line in whole]
        self.assertEqual(
            quick,
            [(10 + n, *(getattr(each, column.key) for column in IN_LINES)) for n, each in enumerate(expected)],
        )
        self.assertEqual(sum(totals(self.to).services.values()), len(said))

    def test_what_is_not_fit_is_refused_and_not_guessed_at(self) -> None:
        for line in (
            b"rubbish",
            b"",
            b"[]",
            b'{"t":1',
            b'{"t":null}',
            b"{}",
            b'{"t":0}',
            b'{"t":1,"st":"x"}',
            b'{"t":1}}',
        ):
            with self.subTest(line):
                self.source.write_bytes(b'{"t":1}\n' + line + b'\n{"t":2}\n')
                with contextlib.suppress(Unfit):
                    self.assertNotEqual(write(self.source, self.to, 1), 3)
