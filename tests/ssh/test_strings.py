"""The types of RFC 4251, and the refusal of everything that is not quite one of them."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.ssh.common import MP
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.ssh.strings import (
    Reader,
    ed25519_blob,
    key_line,
    mpint,
    name_list,
    read_ed25519_blob,
    read_ed25519_signature,
    string,
    uint32,
)
from avinet.trust.keys import public_line

KEY = Ed25519PrivateKey.generate()
BLOB = ed25519_blob(KEY.public_key().public_bytes_raw())


class ReaderTests(SynchronousTestCase):
    """Fields are there whole, or the peer is at fault."""

    @given(st.binary(), st.integers(0, 2**32 - 1), st.booleans(), st.text())
    def test_what_was_written_is_read(self, data: bytes, number: int, truth: bool, text: str) -> None:
        reader = Reader(string(data) + uint32(number) + bytes((truth,)) + string(text.encode()) + b"end", "thing")
        self.assertEqual(
            (reader.string(), reader.uint32(), reader.boolean(), reader.text(1 << 20)), (data, number, truth, text)
        )
        self.assertEqual(reader.rest(), b"end")
        reader.end()

    @given(st.binary(min_size=1), st.data())
    def test_a_string_that_is_cut_is_refused(self, data: bytes, draw: st.DataObject) -> None:
        whole = string(data)
        cut = whole[: draw.draw(st.integers(0, len(whole) - 1))]
        self.assertRaises(PeerError, Reader(cut, "thing").string)

    @given(st.binary())
    def test_whatever_is_read_ends_in_a_value_or_a_peer_error(self, data: bytes) -> None:
        for read in (Reader.string, Reader.text, Reader.name_list, Reader.uint32, Reader.boolean, Reader.byte):
            try:
                read(Reader(data, "thing"))
            except PeerError:
                continue

    def test_a_length_of_four_gigabytes_allocates_nothing(self) -> None:
        self.assertRaises(PeerError, Reader(b"\xff\xff\xff\xffx", "thing").string)

    def test_a_string_over_its_limit_is_refused(self) -> None:
        self.assertRaises(PeerError, Reader(string(b"12345"), "thing").string, 4)

    def test_bytes_after_the_end_are_refused(self) -> None:
        reader = Reader(string(b"") + b"x", "thing")
        reader.string()
        self.assertRaises(PeerError, reader.end)

    def test_text_must_be_utf8(self) -> None:
        self.assertRaises(PeerError, Reader(string(b"\xff"), "thing").text)

    def test_a_list_of_names(self) -> None:
        self.assertEqual(Reader(name_list((b"a", b"b@c")), "thing").name_list(), (b"a", b"b@c"))
        self.assertEqual(Reader(string(b""), "thing").name_list(), ())

    def test_malformed_lists_of_names_are_refused(self) -> None:
        for bad in (b",", b"a,", b",a", b"a,,b", b"a\0", b"\xc3\xa4", b"a b\n", b"x" * 65):
            with self.assertRaises(PeerError, msg=repr(bad)):
                Reader(string(bad), "thing").name_list()


class NumberTests(SynchronousTestCase):
    """Numbers of any size."""

    @given(st.integers(min_value=0, max_value=2**300))
    def test_an_mpint_is_what_conch_makes_of_it(self, number: int) -> None:
        self.assertEqual(mpint(number), MP(number))


class KeyTests(SynchronousTestCase):
    """Ed25519 and nothing else."""

    def refused(self, read: Callable[[bytes], bytes], data: bytes) -> None:
        self.assertRaises(PeerError, read, data)

    def test_a_key_survives_its_line(self) -> None:
        line = key_line(BLOB)
        self.assertEqual(line.split()[0], "ssh-ed25519")
        self.assertEqual(line, public_line(KEY))
        self.assertEqual(read_ed25519_blob(BLOB), KEY.public_key().public_bytes_raw())

    def test_other_blobs_are_refused(self) -> None:
        for bad in (
            b"",
            string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\1" * 2048),
            string(b"ssh-ed25519") + string(b"x" * 31),
            string(b"ssh-ed25519") + string(b"x" * 33),
            BLOB + b"\0",
            BLOB[:-1],
            string(b"ssh-ed25519") + string(b"") * 200_000,
        ):
            self.refused(read_ed25519_blob, bad)

    def test_other_signatures_are_refused(self) -> None:
        good = string(b"ssh-ed25519") + string(b"s" * 64)
        self.assertEqual(read_ed25519_signature(good), b"s" * 64)
        for bad in (b"", good + b"\0", good[:-1], string(b"ssh-rsa") + string(b"s" * 64)):
            self.refused(read_ed25519_signature, bad)
