"""What is printed is kept at both ends, and everything between is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.transcript import Piece, Text, Transcript

PRINTED = st.lists(
    st.one_of(st.tuples(st.booleans(), st.text(min_size=1, max_size=40)), st.integers(min_value=1, max_value=50)),
    max_size=60,
)


class TranscriptTests(SynchronousTestCase):
    def test_what_is_short_is_whole(self) -> None:
        kept = Transcript(10, 10)
        kept.append(False, b"one\n")
        kept.append(True, b"two\n")
        self.assertEqual(list(kept.after(0)), [Piece(0, False, b"one\n"), Piece(4, True, b"two\n")])
        self.assertEqual((kept.texts(), kept.left_out), (("one\n", "two\n"), 0))

    def test_of_what_is_long_the_beginning_and_the_end_are_kept(self) -> None:
        kept = Transcript(10, 10)
        for number in range(1000):
            kept.append(bool(number % 2), b"%04d" % number)
        output, error = kept.texts()
        self.assertTrue(output.startswith("0000"))
        self.assertTrue(error.endswith("0999"))
        self.assertIn(f"... ({kept.left_out} bytes left out)", output)
        self.assertEqual(kept.size, 4000)
        self.assertLess(kept.kept, 40)

    def test_a_reader_that_comes_late_is_told_how_much_it_has_missed(self) -> None:
        kept = Transcript(4, 4)
        for letter in b"abcdefgh":
            kept.append(letter % 2 == 0, bytes([letter]) * 2)
        found = list(kept.after(6))
        self.assertIsInstance(found[0], int)
        self.assertEqual(found[-1], Piece(14, True, b"hh"))

    def test_it_holds_few_pieces_whatever_is_printed(self) -> None:
        kept = Transcript(1 << 20, 1 << 20)
        for number in range(20_000):
            kept.append(bool(number % 2), b"x")
        self.assertLess(len(list(kept.after(0))), 2100)
        self.assertEqual(kept.kept + kept.left_out, 20_000)

    @given(PRINTED, st.integers(1, 60), st.integers(1, 60), st.integers(1, 30))
    def test_every_byte_is_handed_over_or_counted_and_no_character_is_cut(
        self, printed: list[tuple[bool, str] | int], head: int, tail: int, limit: int
    ) -> None:
        kept, whole = Transcript(head, tail), b""
        for each in printed:
            if isinstance(each, int):
                kept.skip(each)
                whole += b"\0" * each
            else:
                kept.append(each[0], each[1].encode())
                whole += each[1].encode()
        place = 0
        while taken := list(kept.after(place, limit)):
            for each in taken:
                if isinstance(each, int):
                    place += each
                else:
                    self.assertEqual((each.at, each.data), (place, whole[place : place + len(each.data)]))
                    each.data.decode("utf-8")
                    place += len(each.data)
        self.assertEqual(place, len(whole))
        self.assertEqual(kept.size, len(whole))

    def test_bytes_become_text_wherever_they_are_cut(self) -> None:
        text, data = Text(), "aé€\0".encode() + b"\xff\xe2\x82"
        found = b"".join(text.of(data[at : at + 1]) for at in range(len(data))) + text.of(b"", final=True)
        self.assertEqual(found.decode(), "aé€\N{REPLACEMENT CHARACTER}" + "\N{REPLACEMENT CHARACTER}" * 2)
