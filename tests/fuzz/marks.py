"""What an input has come to that no branch of the code shows: states, of which a fuzzer is told as if they were code."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

MARKS = 2048


def _unheard(number: int) -> None:
    """Nobody fuzzes."""


_hear: Callable[[int], None] = _unheard


def listen(hear: Callable[[int], None]) -> None:
    """Have `hear` told of each mark, as a number below `MARKS`."""
    global _hear
    _hear = hear


def mark(*state: object) -> None:
    """Something is in this state."""
    if _hear is not _unheard:
        _hear(crc32(repr(state).encode()) % MARKS)
