"""Floor 0: memory that a connection uses while it is at work, and gives back at once: an idle one holds none of it."""

from __future__ import annotations

SCRATCH_BYTES = (1 << 20) + 4096
"""Room for the largest packet that there is."""

_KEPT = 4
_free: list[memoryview] = []


def borrow() -> memoryview:
    """`SCRATCH_BYTES` of memory with anything in it, the last that was given back first: it is still in the cache."""
    return _free.pop() if _free else memoryview(bytearray(SCRATCH_BYTES))


def give_back(memory: memoryview) -> None:
    """`memory` that was borrowed is free for the next."""
    if len(_free) < _KEPT:
        _free.append(memory)
