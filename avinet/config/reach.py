"""Whom a change of a document reaches, and whether all of them can have it: also where other documents roll out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations

from twisted.internet.interfaces import IReactorTime

from avinet.aio import pause
from avinet.config.catalogue import Catalogue, Pick
from avinet.config.compile import Compiled, Target
from avinet.errors import Conflict, Invalid

BREATH = 20
"""How many configurations are compiled before the reactor gets its turn."""
OVERLAPPING = 4
"""So many documents that roll out may select the same service engine: it can have any of their versions together."""

Picks = tuple[Pick, ...]


class Reach:
    """What the change of document `name` from `before` to `after` means for service engines, by groups."""

    def __init__(self, before: Catalogue, after: Catalogue, name: str) -> None:
        self._before = before
        self._after = after
        self._name = name
        self._groups: dict[tuple[Picks, Picks], Counter[frozenset[str]]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}

    def add(self, target: Target) -> None:
        """One service engine."""
        self._labels[target.id] = target.labels
        self._add(target, 1)

    def _add(self, target: Target, count: int) -> None:
        old, new = self._before.selecting(target), self._after.selecting(target)
        if any(pick[0] == self._name for pick in (*old, *new)):
            self._groups.setdefault((old, new), Counter())[self._before.turns(old, target.id)] += count

    async def reached(self, clock: IReactorTime) -> int:
        """How many of them run something else when all have the change.

        Raises `Invalid` when one of them, or the smallest that a document selects, could run its documents before and
        cannot any more, in whatever versions it has them; `Conflict` when these are too many to tell.
        """
        for target in self._after.smallest_targets(self._labels):
            self._add(target, 0)
        compiled = reached = 0
        for (old, new), counts in self._groups.items():
            every = dict.fromkeys(overlaps(self._after, new, self._name), 0)
            for turns, count in {**every, **counts}.items():
                compiled += 1
                if compiled % BREATH == 0:
                    await pause(clock, 0)
                before = _compiled(self._before, self._before.chosen(old, turns))
                try:
                    after = self._after.compiled(self._after.chosen(new, turns | {self._name}))
                except Invalid:
                    if before is not None:
                        raise
                else:
                    if before is None or before.sha256 != after.sha256:
                        reached += count
        return reached


def overlaps(catalogue: Catalogue, selecting: Picks, name: str = "") -> Iterator[frozenset[str]]:
    """Every set of the documents that roll out, but for `name`, of which a service engine may have the last version.

    Raises `Conflict` when there are too many.
    """
    others = sorted({each for each, _ in selecting if each in catalogue.rolling and each != name})
    if len(others) + (name in catalogue.rolling) > OVERLAPPING:
        raise Conflict(
            f"{OVERLAPPING} documents that are being rolled out select the same service engines: {', '.join(others)}",
            hint="wait until one of them has come everywhere",
        )
    for count in range(len(others) + 1):
        for some in combinations(others, count):
            yield frozenset(some)


def _compiled(catalogue: Catalogue, picks: Picks) -> Compiled | None:
    try:
        return catalogue.compiled(picks)
    except Invalid:
        return None
