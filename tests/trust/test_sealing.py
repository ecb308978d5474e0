"""A secret is opened with the key that sealed it, for what it was sealed, and nothing of it is seen before."""

from __future__ import annotations

import base64
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.errors import LocalError
from avinet.trust.sealing import KEY_BYTES, Seal, load_seal, make_key

SECRET = b"-----BEGIN PRIVATE KEY-----\nMARKED\n"


class SealTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.seal = Seal(bytes(range(KEY_BYTES)))

    @given(st.binary(max_size=200), st.text(max_size=40))
    def test_what_was_sealed_is_opened(self, secret: bytes, about: str) -> None:
        self.assertEqual(self.seal.open(self.seal.seal(secret, about), about), secret)

    def test_it_hides_what_it_seals_and_never_looks_the_same(self) -> None:
        one, other = self.seal.seal(SECRET, "shop/1"), self.seal.seal(SECRET, "shop/1")
        self.assertNotEqual(one, other)
        self.assertNotIn(b"MARKED", base64.b64decode(one))

    def test_it_opens_nothing_else(self) -> None:
        sealed = self.seal.seal(SECRET, "shop/1")
        data = base64.b64decode(sealed)
        flipped = base64.b64encode(data[:-1] + bytes([data[-1] ^ 1])).decode()
        for seal, text, about in (
            (Seal(bytes(KEY_BYTES)), sealed, "shop/1"),
            (self.seal, sealed, "shop/2"),
            (self.seal, flipped, "shop/1"),
            (self.seal, sealed[:12], "shop/1"),
            (self.seal, "", "shop/1"),
            (self.seal, "no base64", "shop/1"),
        ):
            error = self.assertRaises(LocalError, seal.open, text, about)
            self.assertIn("another key, or is damaged", str(error))
            self.assertIsNone(error.__cause__)

    def test_its_key_is_private_and_has_a_name_that_says_nothing_of_it(self) -> None:
        path = Path(self.mktemp())
        make_key(path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        one, again = load_seal(path), load_seal(path)
        self.assertEqual(again.open(one.seal(SECRET, "a"), "a"), SECRET)
        self.assertEqual(one.id, again.id)
        self.assertNotEqual(one.id, Seal(bytes(KEY_BYTES)).id)
        self.assertNotIn(one.id, path.read_bytes().hex())

    def test_a_damaged_key_is_not_used(self) -> None:
        path = Path(self.mktemp())
        for data in (b"", b"short", bytes(KEY_BYTES + 1)):
            path.write_bytes(data)
            self.assertRaises(LocalError, load_seal, path)
