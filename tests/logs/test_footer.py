"""Footers of Parquet files: of real ones the number of rows, of anything else one error."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import Invalid
from avinet.logs.pull.footer import HEAD_BYTES, TAIL_BYTES, footer_bytes, rows
from tests.logs.naive import record, write_segment


def footer(data: bytes) -> bytes:
    length = footer_bytes(data[-TAIL_BYTES:], len(data))
    return data[-TAIL_BYTES - length : -TAIL_BYTES][:HEAD_BYTES]


class FooterTests(SynchronousTestCase):
    def segment(self, count: int) -> bytes:
        path = Path(self.mktemp())
        return Path(write_segment(path, [record(seq=number, time=number) for number in range(count)])).read_bytes()

    def test_the_rows_of_a_segment(self) -> None:
        for count in (1, 63, 64, 5000):
            self.assertEqual(rows(footer(self.segment(count))), count)

    def test_nested_columns_and_truths(self) -> None:
        path = str(Path(self.mktemp()).absolute())
        duckdb.sql(
            f"COPY (SELECT range AS a, [range] AS b, {{'c': true, 'd': map {{1: 2}}}} AS e FROM range(7)) TO '{path}' (FORMAT parquet)"
        )
        self.assertEqual(rows(footer(Path(path).read_bytes())), 7)

    def test_what_is_no_parquet_file(self) -> None:
        whole = self.segment(1)
        for data in (b"", b"PAR1", whole[:-1], bytes(100), b"PAR1" + b"\xff\xff\xff\x7fPAR1", b"PAR1\0\0\0\0PAR1"):
            self.assertRaises(Invalid, footer, data)

    def test_half_a_footer(self) -> None:
        whole = footer(self.segment(1))
        for length in range(40):
            self.assertRaises(Invalid, rows, whole[:length])

    @given(st.binary(max_size=200))
    def test_anything_is_a_number_or_refused(self, data: bytes) -> None:
        with contextlib.suppress(Invalid):
            self.assertIsInstance(rows(data), int)

    def test_a_list_that_says_to_be_endless_is_not_gone_through(self) -> None:
        self.assertRaises(Invalid, rows, b"\x19\xfc" + b"\xff" * 9 + b"\x01")
        self.assertRaises(Invalid, rows, b"\x1c" * 1000)
