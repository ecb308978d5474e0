"""The queue of bytes gives back what was put in, whatever the pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.chunks import Chunks

STEPS = st.lists(st.one_of(st.binary(max_size=12), st.integers(0, 15), st.just("pop"), st.just("clear")), max_size=40)


class ChunksTests(SynchronousTestCase):
    @given(STEPS)
    def test_is_a_queue_of_bytes(self, steps: list[bytes | int | str]) -> None:
        chunks, model = Chunks(), b""
        for step in steps:
            if isinstance(step, bytes):
                chunks.append(step)
                model += step
            elif isinstance(step, int):
                taken = b"".join(chunks.take(step))
                self.assertEqual(taken, model[:step])
                model = model[step:]
            elif step == "clear":
                chunks.clear()
                model = b""
            elif model:
                popped = chunks.pop()
                self.assertTrue(popped)
                self.assertTrue(model.startswith(popped))
                model = model[len(popped) :]
            self.assertEqual(len(chunks), len(model))
        self.assertEqual(b"".join(chunks.take(1 << 20)), model)

    def test_copies_what_its_owner_may_change(self) -> None:
        chunks, data = Chunks(), bytearray(b"before")
        chunks.append(data)  # type: ignore[arg-type]
        data[:] = b"after."
        self.assertEqual(chunks.pop(), b"before")

    def test_refuses_text(self) -> None:
        self.assertRaises(TypeError, Chunks().append, "text")

    def test_a_large_piece_is_cut_without_copies(self) -> None:
        chunks, data = Chunks(), bytes(1 << 20)
        chunks.append(data)
        pieces = []
        while chunks:
            pieces += chunks.take(1 << 15)
        self.assertEqual(len(pieces), 32)
        self.assertTrue(all(piece.obj is data for piece in pieces if isinstance(piece, memoryview)))
