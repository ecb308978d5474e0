"""Programs: inputs that are read as steps, each of at most 255 bytes and with its length before it.

What is read past the end of a step is zeros, so that every string of bytes is a program, and whole steps can be taken
out, doubled, moved and mixed with those of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
STEP_BYTES = 255
EDGES = (
    *(255, 256, 1000, 4095, 4096, 16384, 32767, 32768, 34999, 35000, 65535, 65536, 131072, 524288),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 131073, (1 << 32) - 2, (1 << 32) - 1),
)


class Draw:
    """Takes choices out of bytes, in order; past their end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def below(self, count: int) -> int:
        """A number below `count`, which is at most 256."""
        return self.byte() % count

    def pick(self, choices: Sequence[T]) -> T:
        """One of at most 256 choices."""
        return choices[self.below(len(choices))]

    def number(self) -> int:
        """A number of four bytes: up to 191, one of the `EDGES`, or any."""
        first = self.byte()
        if first < 192:
            return first
        if first < 192 + len(EDGES):
            return EDGES[first - 192]
        return int.from_bytes(self.take(4), "big")

    def channel(self) -> int:
        """The number of a channel: mostly one of the first, or any."""
        first = self.byte()
        return first % 4 if first < 192 else first % 16 if first < 240 else self.number()

    def some(self, most: int = 64) -> bytes:
        """At most `most` bytes, whose number is below 256."""
        return self.take(self.below(most + 1))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(max(0, len(self._data) - self._at))


def steps(program: bytes) -> Iterator[bytes]:
    """The steps of a program."""
    at = 0
    while at < len(program):
        end = at + 1 + program[at]
        yield program[at + 1 : end]
        at = end


def joined(all_steps: Iterable[bytes]) -> bytes:
    """The program of these steps."""
    return b"".join(bytes((len(step[:STEP_BYTES]),)) + step[:STEP_BYTES] for step in all_steps)


def mutated(
    program: bytes, most_bytes: int, seed: int, mutate: Callable[[bytes, int], bytes], words: Sequence[bytes]
) -> bytes:
    """The program with something changed, of `most_bytes` at most.

    `mutate` changes the bytes of one step, to a given size at most; `words` are steps that make sense.
    """
    chance = Random(seed)
    found = [*steps(program)]
    for _ in range(chance.randrange(1, 5)):
        _edit(found, chance, mutate, words)
    return joined(found)[:most_bytes]


def _edit(found: list[bytes], chance: Random, mutate: Callable[[bytes, int], bytes], words: Sequence[bytes]) -> None:
    at = chance.randrange(len(found) + 1)
    match chance.randrange(12):
        case 0 | 1:
            found.insert(at, chance.choice(words))
        case 2:
            found.insert(at, _nudged(chance.choice(words), chance))
        case 3 if found:
            found.insert(at, chance.choice(found))
        case 4 if found:
            found.insert(at, _nudged(chance.choice(found), chance))
        case 5 if found:
            found[at - 1] = _nudged(found[at - 1], chance)
        case 6:
            found.insert(at, chance.randbytes(chance.randrange(1, 12)))
        case 7:
            del found[at : at + chance.randrange(1, 4)]
        case 8:
            found[at:at] = found[at : at + chance.randrange(1, 4)] * chance.randrange(1, 5)
        case 9 if found:
            found.insert(at, found.pop(chance.randrange(len(found))))
        case _ if found:
            found[at - 1] = mutate(found[at - 1] or b"\0", STEP_BYTES)


def _nudged(step: bytes, chance: Random) -> bytes:
    """A step with one byte after its first that is another small number."""
    at = chance.randrange(1, max(2, len(step)))
    return step[:at] + bytes((chance.randrange(4),)) + step[at + 1 :]


def crossed(program: bytes, other: bytes, most_bytes: int, seed: int) -> bytes:
    """The beginning of one program and an end of the other."""
    chance = Random(seed)
    one, two = [*steps(program)], [*steps(other)]
    both = one[: chance.randrange(len(one) + 1)] + two[chance.randrange(len(two) + 1) :]
    return joined(both)[:most_bytes]
