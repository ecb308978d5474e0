"""The names in the spool's folder, and what a start makes of what it finds there. Pure.

Open: `open-FIRST.jsonl`, with `open-FIRST.gaps.jsonl` beside it. Sealed: `FIRST-LAST.parquet` with `FIRST-LAST.json`,
its manifest. Numbers have 20 digits, so that names are in the order of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

LINES, GAPS, PARQUET, MANIFEST = ".jsonl", ".gaps.jsonl", ".parquet", ".json"
ACKNOWLEDGED, CLEAN = "acknowledged", "clean"
"""Files: up to which number records are safe on a node; that the last process has ended in order."""
_OPEN = re.compile(r"open-([0-9]{20})(\.jsonl|\.gaps\.jsonl)\Z")
_SEALED = re.compile(r"([0-9]{20})-([0-9]{20})(\.parquet|\.json)\Z")

Span = tuple[int, int]
"""The first and the last number of a segment."""


def open_name(first: int, suffix: str = LINES) -> str:
    """The name of the open file whose first line has the number `first`, or of its gaps."""
    return f"open-{first:020d}{suffix}"


def sealed_name(span: Span, suffix: str) -> str:
    """The name of a file of the segment `span`."""
    return f"{span[0]:020d}-{span[1]:020d}{suffix}"


@dataclass
class Found:
    """What the names in a folder stand for: numbers of open files and of their gaps, and segments by their files."""

    lines: set[int] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)
    parquet: set[Span] = field(default_factory=set)
    manifests: set[Span] = field(default_factory=set)
    clean: bool = False


def found(names: Collection[str]) -> Found:
    """What `names` stand for; those of others stand for nothing."""
    result = Found(clean=CLEAN in names)
    for name in names:
        if match := _OPEN.match(name):
            (result.lines if match[2] == LINES else result.gaps).add(int(match[1]))
        elif match := _SEALED.match(name):
            (result.parquet if match[3] == PARQUET else result.manifests).add((int(match[1]), int(match[2])))
    return result


@dataclass(frozen=True)
class Plan:
    """What a start does, in this order: `rename` (old, new) of gaps' files, `remove` names, keep `segments`.

    `seal` are the open files to be sealed, in their order; `damaged` are segments of which a file is missing, `stray`
    files of gaps whose lines are.
    """

    rename: Sequence[tuple[str, str]]
    remove: Sequence[str]
    stray: Sequence[str]
    segments: Sequence[Span]
    damaged: Sequence[Span]
    seal: Sequence[int]


def plan(there: Found) -> Plan:
    """What to do with what is `there`.

    A Parquet file without its manifest was being written when the process died: its lines are in the open file still.
    An open file whose segment has its manifest was to be removed next. Gaps without their lines belong to those behind
    them: the pair was being renamed.
    """
    segments = sorted(there.manifests & there.parquet)
    done = {first for first, _ in segments}
    lines = sorted(there.lines - done)
    rename = []
    stray = []
    gaps = set(there.gaps - done)
    for first in sorted(gaps - there.lines):
        behind = next((each for each in lines if each > first), None)
        if behind is None or behind in gaps:
            stray.append(open_name(first, GAPS))
        else:
            rename.append((open_name(first, GAPS), open_name(behind, GAPS)))
            gaps.add(behind)
    return Plan(
        rename=rename,
        remove=[open_name(first, suffix) for first in sorted(done) for suffix in (LINES, GAPS)
                if first in (there.lines if suffix == LINES else there.gaps)]
        + [sealed_name(span, PARQUET) for span in sorted(there.parquet - there.manifests)],
        stray=stray,
        segments=segments,
        damaged=sorted(there.manifests - there.parquet),
        seal=lines,
    )  # fmt: skip


def next_number(spans: Collection[Span], opened: Mapping[int, int], acknowledged: int) -> int:
    """The first number that was never used: `opened` counts the lines of each open file."""
    used = [acknowledged, *(last for _, last in spans), *(first + lines - 1 for first, lines in opened.items())]
    return max(used) + 1
