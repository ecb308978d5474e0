"""Questions to five million records, as a node answers them, beside DuckDB that reads the same lines of JSON."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.asking import Asked
from bench.measure import BenchError, Case, Effort, Figures, Say, case
from demo.machine import ROOT

NAME = "logs-query"
PEER = "DuckDB over lines of JSON"
SEGMENT_ROWS = 250_000
MAKERS = 2
TITLES = {
    "p99": ("p99 of each minute", 0.2),
    "paths": ("the ten paths with the most requests", 0.1),
    "clients": ("the ten clients with the most requests", 0.1),
    "servers": ("the ten servers with the most requests", 0.1),
    "client": ("the last hundred records of one client", 0.1),
}
T = TypeVar("T")


def run(effort: Effort, say: Say) -> Iterator[Case]:
    """See `bench.measure.Bench`."""
    segments, runs = effort.choose(4, 20, 20), effort.choose(3, 7, 15)
    folder = Path(tempfile.mkdtemp(prefix="avinet-bench-"))
    try:
        say(f"{segments * SEGMENT_ROWS:,} records are made and sealed")
        (folder / "archive").mkdir()
        parts = [_started("make", folder, part, MAKERS, segments, SEGMENT_ROWS) for part in range(MAKERS)]
        if sum(_said(each, int) for each in parts) != segments * SEGMENT_ROWS:
            raise BenchError("not all records are in the archive")
        say("the node is asked")
        ours = _said(_started("ours", folder, runs), dict[str, Asked])
        say("DuckDB is asked")
        peer = _said(_started("peer", folder, max(2, runs // 3)), dict[str, Asked])
        for name, (title, limit_s) in TITLES.items():
            if not _same(ours[name].rows, peer[name].rows):
                raise BenchError(f"{title}: the answers are not the same")
            yield case(
                NAME,
                f"{title}, of {segments * SEGMENT_ROWS / 1e6:g} M records",
                "s",
                ours[name].seconds,
                must=f"≤ {limit_s:g} s",
                met=at_most(limit_s),
                peer=(PEER, peer[name].seconds),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def at_most(limit: float) -> Callable[[Figures, float | None], bool]:
    """Met when the median is no more than `limit`."""
    return lambda ours, ratio: ours.median <= limit


def _same(ours: list[list[Any]], peer: list[list[Any]]) -> bool:
    """Whether the answers say the same: the same values, records of one moment in any order."""

    def shown(rows: list[list[Any]]) -> list[tuple[str, ...]]:
        return sorted(tuple(f"{each:.6g}" if isinstance(each, float) else str(each) for each in row) for row in rows)

    return shown(ours) == shown(peer)


def _started(task: str, folder: Path, *numbers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.asking", task, str(folder), *map(str, numbers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def _said(process: subprocess.Popen[bytes], into: type[T]) -> T:
    said, errors = process.communicate()
    try:
        return msgspec.json.decode(said, type=into)
    except msgspec.DecodeError:
        raise BenchError(f"who asks has failed: {errors.decode(errors='replace')[-2000:]}") from None
