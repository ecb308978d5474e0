"""A record has the columns of the schema, and its texts are what is kept of what clients send."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.records import Record, host, milliseconds, path_and_query, text
from avinet.wire.log import COLUMNS, KEPT_TEXT_BYTES, SEQUENCE


class RecordTests(SynchronousTestCase):
    def test_it_has_the_columns_of_the_schema_in_their_order(self) -> None:
        kinds = {"text": str, "int": int, "time": int}
        self.assertEqual(
            [(each.name, each.encode_name, each.type) for each in msgspec.structs.fields(Record)],
            [(each.name, each.key, kinds[each.kind]) for each in COLUMNS if each is not SEQUENCE],
        )

    def test_texts_are_cut_between_characters_and_what_is_no_utf_8_is_left_out(self) -> None:
        for raw, kept in (
            (b"a" * KEPT_TEXT_BYTES + b"b", "a" * KEPT_TEXT_BYTES),
            (b"a" * (KEPT_TEXT_BYTES - 1) + "ä".encode(), "a" * (KEPT_TEXT_BYTES - 1)),
            (b"a\xffb\xed\xa0\x80c", "abc"),
        ):
            self.assertEqual(text(raw), kept)

    def test_hosts(self) -> None:
        for raw, name in (
            (b"A.Example", "a.example"),
            (b"a.example:80", "a.example"),
            (b"[::1]:80", "[::1]"),
            (b"[::1]", "[::1]"),
            (b"", ""),
            (b":80", ""),
        ):
            self.assertEqual(host(raw), name)

    def test_targets(self) -> None:
        for raw, found in (
            (b"/", ("/", "")),
            (b"/a?b?c", ("/a", "b?c")),
            (b"/a?", ("/a", "")),
            (b"http://h:80/a/b?c", ("/a/b", "c")),
            (b"http://h?c=://", ("/", "c=://")),
            (b"*", ("", "")),
            (b"h:80", ("", "")),
        ):
            self.assertEqual(path_and_query(raw), found)

    def test_times_that_did_not_come_are_minus_one(self) -> None:
        self.assertEqual(
            [milliseconds(1.0, 1.0015), milliseconds(2.0, 1.0), milliseconds(None, 1.0), milliseconds(1.0, None)],
            [2, 0, -1, -1],
        )
