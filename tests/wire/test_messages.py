"""Every message, from bytes that anybody may have sent: a value that is within its limits, or one line that says why not."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet import wire
from avinet.errors import Invalid, TooLarge
from avinet.wire.message import Message, decode, decode_signed, encode
from avinet.wire.trust import TrustDocument

for module in pkgutil.iter_modules(wire.__path__):
    importlib.import_module(f"avinet.wire.{module.name}")
MESSAGES = sorted(Message.__subclasses__(), key=lambda each: each.__name__)
LIMIT = 1_000_000
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["\ud800", "a\n", "\x00", "-", "a" * 100, "ssh-ed25519 AAAA", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BOTH = (decode, decode_signed)


class MessageTests(SynchronousTestCase):
    def refused(self, data: bytes, into: type[Message]) -> None:
        for read in BOTH:
            error = self.assertRaises((Invalid, TooLarge), read, data, into, limit_bytes=LIMIT)
            self.assertLess(len(str(error)), 400)
            self.assertNotIn("\n", str(error))

    def test_all_are_here(self) -> None:
        self.assertGreater(len(MESSAGES), 40)
        self.assertIn(TrustDocument, MESSAGES)

    def test_unknown_fields_are_refused(self) -> None:
        for each in MESSAGES:
            self.refused(b'{"unheard-of": 1}', each)

    def test_what_is_no_object_is_refused(self) -> None:
        for each in MESSAGES:
            for data in (b"", b"null", b"1", b'"x"', b"[]", b"{", b"\xff", b"{} {}", b'{"v": NaN}', b"\xef\xbb\xbf{}"):
                self.refused(data, each)

    def test_deep_nesting_is_refused(self) -> None:
        for each in MESSAGES:
            fields = [field.encode_name for field in msgspec.structs.fields(each)] or ["x"]
            for opening in (b"[", b'{"x":'):
                self.refused(b'{"%s":' % fields[-1].encode() + opening * 100_000, each)

    def test_more_than_the_limit_is_not_read(self) -> None:
        for each in MESSAGES:
            for read in BOTH:
                self.assertRaises(TooLarge, read, b" " * (LIMIT + 1), each, limit_bytes=LIMIT)

    @settings(max_examples=400, deadline=None)
    @given(st.sampled_from(MESSAGES), st.data())
    def test_any_fields_are_a_message_or_one_line(self, into: type[Message], data: Any) -> None:
        names = [field.encode_name for field in msgspec.structs.fields(into)]
        fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES)) if names else {}
        self.tried(json.dumps(fields).encode(), into)

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(MESSAGES), st.binary(max_size=200))
    def test_any_bytes_are_a_message_or_one_line(self, into: type[Message], data: bytes) -> None:
        self.tried(data, into)

    def tried(self, data: bytes, into: type[Message]) -> None:
        for read in BOTH:
            try:
                found = read(data, into, limit_bytes=LIMIT)
            except Invalid as error:
                self.assertNotIn("\n", str(error))
                continue
            again = decode(encode(found), into, limit_bytes=LIMIT)
            self.assertEqual(again, found)
