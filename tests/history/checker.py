"""Whether a history of a store is strictly serializable, and so linearizable for each key: all that is wrong with it.

Each operation that was answered names the revision at which it was done, and a watch has told of each revision's
changes. That is an order in which the operations may have happened, so nothing has to be searched for. It is one that
explains the history when each operation has seen and done what it must at its place (`_effects`), and none stands
behind one that began only after it had ended (`_times`): Herlihy and Wing, "Linearizability", 1990, section 2.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from typing_extensions import override

Value = bytes | None
"""None where there is no such key."""


@dataclass(frozen=True)
class Change:
    """What a watch has seen of a key: its new value, or that it was removed."""

    revision: int
    key: bytes
    value: Value


@dataclass(frozen=True)
class Operation:
    """What a client asked of the store, from `began` to `ended` (infinity where it had no answer).

    `succeeded` is None where nobody knows whether it was done; False where a condition did not hold, at `revision`, or
    where it was refused, without one. `reads` are values with the revisions of their last changes. No two operations
    write the same value to a key.
    """

    client: str
    began: float
    ended: float
    succeeded: bool | None
    revision: int = 0
    conditions: tuple[tuple[bytes, int], ...] = ()
    writes: tuple[tuple[bytes, Value], ...] = ()
    reads: tuple[tuple[bytes, Value, int], ...] = ()

    @override
    def __str__(self) -> str:
        what = ", ".join(f"{key.decode()} = {value!r}" for key, value in self.writes) or "read"
        return f"{what} by {self.client}, {self.began:.4f} to {self.ended:.4f} s, at revision {self.revision}"


class _Past:
    """The values that each key had, and from which revision on."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._revisions: dict[bytes, list[int]] = defaultdict(list)
        self._values: dict[bytes, list[Value]] = defaultdict(list)
        for change in changes:
            self._revisions[change.key].append(change.revision)
            self._values[change.key].append(change.value)

    def at(self, key: bytes, revision: int) -> tuple[Value, int]:
        """Value of a key, and the revision of its last change: 0 where there is no such key."""
        index = bisect_right(self._revisions[key], revision) - 1
        value = self._values[key][index] if index >= 0 else None
        return value, self._revisions[key][index] if value is not None else 0

    def hold(self, conditions: Sequence[tuple[bytes, int]], revision: int) -> bool:
        return all(self.at(key, revision)[1] == expected for key, expected in conditions)


def faults(operations: Sequence[Operation], changes: Sequence[Change]) -> list[str]:
    """What is wrong with a history; `changes` are those that a watch has seen of it, from its beginning to its end."""
    done: dict[int, Operation] = {}
    found = [*_order(changes), *_makers(operations, changes, done)]
    past = _Past(changes)
    found += _effects(operations, past, done)
    found += _times(operations, done)
    return found


def _order(changes: Sequence[Change]) -> Iterator[str]:
    for one, other in pairwise(changes):
        if one.revision > other.revision or (one.revision, one.key) == (other.revision, other.key):
            yield f"the watch told of {other} after {one}"


def _makers(operations: Sequence[Operation], changes: Sequence[Change], done: dict[int, Operation]) -> Iterator[str]:
    """Find in `done` which operation has made each revision."""
    writers = {each: operation for operation in operations for each in operation.writes if each[1] is not None}
    together: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        together[change.revision].append(change)
    times: dict[int, int] = {}
    for revision, made in together.items():
        makers = {id(maker): maker for each in made if (maker := writers.get((each.key, each.value))) is not None}
        if len(makers) != 1:
            yield f"out of thin air, or of several writes: {made}"
            continue
        [maker] = makers.values()
        if id(maker) in times:
            yield f"written twice, at revisions {times[id(maker)]} and {revision}: {maker}"
        times[id(maker)] = revision
        done[revision] = maker
        wanted, seen = set(maker.writes), {(each.key, each.value) for each in made}
        if not seen <= wanted or any(value is not None for _, value in wanted - seen):
            yield f"not whole, or more than was asked: {made} of {maker}"
        if maker.succeeded is False:
            yield f"done at revision {revision}, though it was said that it is not: {maker}"
        if maker.succeeded and maker.revision != revision:
            yield f"done at revision {revision} instead: {maker}"
    for operation in operations:
        if operation.succeeded and operation.writes and id(operation) not in times:
            yield f"an acknowledged write is lost: {operation}"


def _effects(operations: Sequence[Operation], past: _Past, done: dict[int, Operation]) -> Iterator[str]:
    for revision, maker in done.items():
        if not past.hold(maker.conditions, revision - 1):
            yield f"done at revision {revision}, though its conditions did not hold: {maker}"
    for operation in operations:
        if operation.succeeded is False and operation.revision and past.hold(operation.conditions, operation.revision):
            yield f"said to be in vain, though its conditions held: {operation}"
        for key, value, changed in operation.reads:
            if past.at(key, operation.revision) != (value, changed):
                yield f"{key.decode()} was read as {value!r} of {changed}, and was {past.at(key, operation.revision)}: {operation}"


def _times(operations: Sequence[Operation], done: dict[int, Operation]) -> Iterator[str]:
    """An operation must stand behind all that had ended when it began."""
    revisions = {id(maker): revision for revision, maker in done.items()}
    ending: list[tuple[float, int]] = []
    newest = 0
    for operation in sorted(operations, key=lambda each: each.began):
        while ending and ending[0][0] < operation.began:
            newest = max(newest, heapq.heappop(ending)[1])
        writes = id(operation) in revisions
        revision = revisions.get(id(operation), operation.revision)
        if not revision:
            continue  # never done, as far as anybody has seen
        if revision < newest or (writes and revision == newest):
            yield f"stands at {revision}, before what had ended at {newest} when it began: {operation}"
        if operation.ended < inf:
            heapq.heappush(ending, (operation.ended, revision))
