"""Byte ranges: what is asked for is what comes, and what is not understood is the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.rest.ranges import Unsatisfiable, content_range, read_content_range, wanted

ETAG = '"abc"'


def asked(text: str, size: int = 100, **more: str) -> tuple[int, int] | None:
    return wanted({"range": text, **more}, size, ETAG)


class RangeTests(SynchronousTestCase):
    def test_from_a_byte_on_up_to_one_and_the_last_ones(self) -> None:
        for text, found in (
            ("bytes=0-", (0, 100)),
            ("bytes=99-", (99, 100)),
            ("bytes=10-19", (10, 20)),
            ("Bytes = 10 - 999", (10, 100)),
            ("bytes=-10", (90, 100)),
            ("bytes=-1000", (0, 100)),
        ):
            self.assertEqual(asked(text), found, text)

    def test_what_is_no_single_range_is_all_of_it(self) -> None:
        for text in (
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=1-2,4-5",
            "rows=1-2",
            "bytes=9-3",
            "bytes=1x-",
            "x" * 999,
        ):
            self.assertIsNone(asked(text), text)
        self.assertIsNone(wanted({}, 100, ETAG))

    def test_a_range_of_another_whole_is_all_of_this_one(self) -> None:
        self.assertEqual(asked("bytes=10-", **{"if-range": ETAG}), (10, 100))
        for other in ('"abd"', "abc", 'W/"abc"', "Sun, 29 Nov 2026 12:00:00 GMT"):
            self.assertIsNone(asked("bytes=10-", **{"if-range": other}), other)

    def test_bytes_that_there_are_none_of(self) -> None:
        for text, size in (("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-1", 0)):
            self.assertRaises(Unsatisfiable, asked, text, size)

    @given(st.integers(1, 10**15), st.data())
    def test_what_an_answer_says_is_read_back(self, size: int, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(first + 1, size))
        self.assertEqual(read_content_range(content_range(first, end, size)), (first, end, size))
        self.assertEqual(asked(f"bytes={first}-{end - 1}", size), (first, end))

    def test_what_is_no_content_range(self) -> None:
        for text in ("", "bytes */100", "bytes 5-4/100", "bytes 0-100/100", "bytes 0-1/*", "bytes 0-1/2 "):
            self.assertIsNone(read_content_range(text), text)
