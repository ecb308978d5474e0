"""What a benchmark yields: figures of several runs, beside what was asked for and, where there is one, a peer's."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")


class BenchError(Exception):
    """A benchmark could not be run; the text says why, and what to install where something is missing."""


class Figures(msgspec.Struct, frozen=True):
    """What several runs have in common."""

    median: float
    min: float
    max: float


class PeerFigures(msgspec.Struct, frozen=True):
    """The same, of a peer that ran in turn with ours."""

    name: str
    median: float
    min: float
    max: float


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table, and one object of the JSON list; `must` is what was asked for, word for word."""

    bench: str
    case: str
    unit: str
    better: Literal["higher", "lower"]
    ours: Figures
    peer: PeerFigures | None = None
    ratio: float | None = None
    must: str
    met: bool
    runs: int
    machine: str


def below(limit: float) -> Callable[[Figures, float | None], bool]:
    """Met when the median of ours is below `limit`."""
    return lambda ours, ratio: ours.median < limit


def at_most_always(limit: float) -> Callable[[Figures, float | None], bool]:
    """Met when no run of ours is above `limit`."""
    return lambda ours, ratio: ours.max <= limit


def always_below(limit: float) -> Callable[[Figures, float | None], bool]:
    """Met when every run of ours is below `limit`."""
    return lambda ours, ratio: ours.max < limit


def always_above(limit: float) -> Callable[[Figures, float | None], bool]:
    """Met when every run of ours is above `limit`."""
    return lambda ours, ratio: ours.min > limit


def at_least(factor: float) -> Callable[[Figures, float | None], bool]:
    """Met when ours is at least `factor` times the peer's."""
    return lambda ours, ratio: ratio is not None and ratio >= factor


def at_most(factor: float) -> Callable[[Figures, float | None], bool]:
    """Met when ours is at most `factor` times the peer's."""
    return lambda ours, ratio: ratio is not None and ratio <= factor


def figures(values: Sequence[float]) -> Figures:
    """The median and the range of `values`."""
    return Figures(*(round(each, 4) for each in (statistics.median(values), min(values), max(values))))


def case(
    bench: str,
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    must: str,
    met: Callable[[Figures, float | None], bool],
    better: Literal["higher", "lower"] = "lower",
    peer: tuple[str, Sequence[float]] | None = None,
) -> Case:
    """A case from the values of its runs; `peer` is a peer's name and its values from the same run."""
    ours = figures(values)
    theirs = ratio = None
    if peer is not None:
        found = figures(peer[1])
        theirs = PeerFigures(peer[0], found.median, found.min, found.max)
        ratio = round(ours.median / found.median, 3) if found.median else None
    return Case(
        bench=bench,
        case=name,
        unit=unit,
        better=better,
        ours=ours,
        peer=theirs,
        ratio=ratio,
        must=must,
        met=met(ours, ratio),
        runs=len(values),
        machine=machine(),
    )


@dataclass(frozen=True)
class Effort:
    """How much time a benchmark may take, and on what."""

    quick: bool = False
    full: bool = False
    stock_client: bool = False
    """The client is OpenSSH's, in a benchmark that has such a case."""

    def choose(self, quick: T, normal: T, full: T) -> T:
        """One of three, by the effort."""
        return full if self.full else quick if self.quick else normal


Say = Callable[[str], None]
"""Tells whoever waits what is being done."""
Bench = Callable[[Effort, Say], Iterable[Case]]
"""A benchmark: yields its cases as they are measured. Raises `BenchError`."""


def machine() -> str:
    """The machine, in one line."""
    return ", ".join(
        [
            f"{os.cpu_count()} × {_first('/proc/cpuinfo', 'model name') or platform.machine()}",
            f"{int((_first('/proc/meminfo', 'MemTotal') or '0 kB').split()[0]) // 2**20} GiB",
            f"{platform.system()} {platform.release()}",
            f"Python {platform.python_version()}",
        ]
    )


def memory_mb(process: int) -> float:
    """The resident memory of a process (VmRSS), in MB of 10⁶ bytes."""
    return int(_first(f"/proc/{process}/status", "VmRSS").split()[0]) * 1024 / 1e6


def private_mb(process: int) -> float:
    """The memory of a process, what it shares with others in parts (PSS), in MB of 10⁶ bytes."""
    return int(_first(f"/proc/{process}/smaps_rollup", "Pss").split()[0]) * 1024 / 1e6


def cpu_s(process: int, *, children: bool = False) -> float:
    """The seconds of CPU that a process has used so far, or with its `children` that have ended, and theirs."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")


def _first(path: str, field: str) -> str:
    """The first value of `field` in a file of `field: value` lines; empty when there is none."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            return next(_values(lines, field), "")
    except OSError:
        return ""


def _values(lines: Iterable[str], field: str) -> Iterator[str]:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()
