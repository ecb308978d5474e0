"""Floor 0: the beginning and the end of what somebody prints, as much as is kept; what lies between is counted.

A place in it is a number of bytes from its beginning, both streams together.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MERGED_BYTES = 16 * 1024
"""Pieces of one stream become one, up to this."""
_PIECES = 1024


@dataclass(slots=True)
class Piece:
    """What was printed at the place `at`: on the standard error, or on the standard output."""

    at: int
    error: bool
    data: bytes

    @property
    def end(self) -> int:
        """The place behind it."""
        return self.at + len(self.data)


class Transcript:
    """What was printed, of which it keeps the first `head` bytes and the last `tail`, and a piece more of each."""

    def __init__(self, head: int, tail: int) -> None:
        self.size = 0
        """How much there was in all."""
        self.kept = 0
        self._head_bytes = head
        self._tail_bytes = tail
        self._head: list[Piece] = []
        self._tail: deque[Piece] = deque()
        self._tail_kept = 0

    @property
    def left_out(self) -> int:
        """How much there was that is not kept."""
        return self.size - self.kept

    def append(self, error: bool, data: bytes) -> None:
        """More was printed."""
        if not data:
            return
        at, self.size, self.kept = self.size, self.size + len(data), self.kept + len(data)
        pieces = self._tail or self._head
        last = pieces[-1] if pieces else None
        in_head = not self._tail and (at < self._head_bytes and len(self._head) < _PIECES)
        if last is not None and last.error == error and last.end == at and len(last.data) + len(data) <= MERGED_BYTES:
            last.data += data
            self._tail_kept += len(data) if self._tail else 0
        elif in_head:
            self._head.append(Piece(at, error, data))
        else:
            self._tail.append(Piece(at, error, data))
            self._tail_kept += len(data)
        self._forget()

    def skip(self, count: int) -> None:
        """`count` bytes were printed that did not come here."""
        self.size += count

    def _forget(self) -> None:
        tail = self._tail
        while len(tail) > 1 and (self._tail_kept - len(tail[0].data) >= self._tail_bytes or len(tail) > _PIECES):
            gone = len(tail.popleft().data)
            self._tail_kept -= gone
            self.kept -= gone

    def after(self, place: int, limit: int = 1 << 62) -> Iterator[Piece | int]:
        """What is kept behind `place`, about `limit` bytes of it; a number is how many bytes are left out there."""
        for piece in self._from(place):
            if limit <= 0:
                return
            if piece.at > place:
                yield piece.at - place
                place = piece.at
            data = _beginning(piece.data[place - piece.at :], limit)
            yield Piece(place, piece.error, data)
            place, limit = place + len(data), limit - len(data)
            if place < piece.end:
                return
        if limit > 0 and self.size > place:
            yield self.size - place

    def _from(self, place: int) -> Iterator[Piece]:
        """The pieces that end behind `place`, in their order; who is at the end finds the last ones at once."""
        found: list[Piece] = []
        for pieces in (self._tail, self._head):
            for piece in reversed(pieces):
                if piece.end <= place:
                    return iter(found[::-1])
                found.append(piece)
        return iter(found[::-1])

    def texts(self) -> tuple[str, str]:
        """Standard output and standard error, each with a mark where something is left out."""
        texts: tuple[list[str], list[str]] = ([], [])
        for each in self.after(0):
            if isinstance(each, Piece):
                texts[each.error].append(each.data.decode("utf-8", "replace"))
            else:
                for text in filter(None, texts) if any(texts) else texts[:1]:
                    text.append(mark(each))
        return "".join(texts[0]), "".join(texts[1])


def _beginning(data: bytes, limit: int) -> bytes:
    """The first `limit` bytes of a text, or a few more: no character is cut into two."""
    while limit < len(data) and data[limit] & 0xC0 == 0x80:
        limit += 1
    return data[:limit]


def mark(count: int) -> str:
    """The line that stands for `count` bytes that are left out."""
    return f"\n... ({count} bytes left out)\n"


class Text:
    """Bytes of a stream as UTF-8 without NUL: what is no text becomes the mark for that."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, data: bytes, final: bool = False) -> bytes:
        """`data`, but for the beginning of a character at its end, and with that of the call before."""
        return self._decoder.decode(data, final).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8")
