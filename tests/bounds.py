"""What a peer that nobody knows can cost: 5 ms of CPU, 64 kB of memory, one line of 200 bytes, for a MiB of anything."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

MIB = 1 << 20
MEMORY_BYTES = 64_000
LOG_BYTES = 200
PIECES = (1448, 65536)
"""What arrives at once: a segment of the network, or as much as a socket is read for."""
RUNS = 5


class Visit(Protocol):
    """A server with one stranger; `pay` has it take what that one sends, `end` is the end of it."""

    def pay(self) -> None: ...

    def end(self) -> None: ...


Make = Callable[[int], Visit]
"""A visit whose bytes arrive in pieces of a size."""


def pieces(data: bytes, piece_bytes: int) -> list[bytes]:
    """A MiB of `data`, or all of it, as it arrives."""
    data = data[: MIB + 4096]
    return [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]


def five_ms() -> float:
    """How long this machine takes, now, for what takes an idle core of 3 GHz about 5 ms."""
    began = time.process_time()
    total = 0
    for number in range(200_000):
        total += number
    return time.process_time() - began


def cpu_s(make: Make, piece_bytes: int) -> float:
    """The CPU seconds that a visit costs, undisturbed."""
    costs = []
    for _ in range(RUNS):
        visit = make(piece_bytes)
        began = time.process_time()
        visit.pay()
        costs.append(time.process_time() - began)
        visit.end()
    return min(costs)


def memory_bytes(make: Make, piece_bytes: int) -> int:
    """What a visit costs at its worst moment, beside the memory that all visits share, which the first brings."""
    first = make(piece_bytes)
    first.pay()
    first.end()
    visit = make(piece_bytes)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        visit.pay()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        visit.end()


class BoundCase(SynchronousTestCase):
    """Visits are held to the bounds; each has a name that is said when it is too dear."""

    def assert_little_cpu(self, visits: Iterable[tuple[str, Make]]) -> None:
        for name, make in visits:
            for piece_bytes in PIECES:
                bound = min(five_ms() for _ in range(RUNS))
                self.assertLess(cpu_s(make, piece_bytes), bound, (name, piece_bytes))

    def assert_little_memory(self, visits: Iterable[tuple[str, Make]]) -> None:
        for name, make in visits:
            for piece_bytes in PIECES:
                self.assertLess(memory_bytes(make, piece_bytes), MEMORY_BYTES, (name, piece_bytes))

    def assert_one_line(self, visits: Iterable[tuple[str, Make]]) -> None:
        for name, make in visits:
            with capturedLogs() as events:
                visit = make(65536)
                visit.pay()
                visit.end()
            self.assertEqual(self.flushLoggedErrors(), [], name)
            self.assertEqual([event["log_failure"] for event in events if "log_failure" in event], [], name)
            lines = [formatEvent(event) for event in events]
            self.assertLessEqual(len(lines), 1, (name, lines))
            for line in lines:
                self.assertLessEqual(len(line.encode("utf-8")), LOG_BYTES, (name, line))
                self.assertTrue(line.isprintable(), (name, line))
