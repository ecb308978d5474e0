"""How far a pull is: what its service engines tell of it, in numbers, and what of it may still be spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from twisted.internet.defer import Deferred

from avinet.controller.log_pulls.records import Kept
from avinet.feed import Bell
from avinet.logs.pull.source import OutOfBudget
from avinet.logs.pull.turns import Turn, Turns
from avinet.units import format_bytes
from avinet.wire.log_pulls import SPANS, EngineState, LogPull, PulledEngine
from avinet.wire.pull import Span

_LONGEST_WHY = 300


class EngineCourse:
    """One service engine in a pull; see `avinet.logs.pull.source.Course`. `seen` is how far it is."""

    def __init__(self, under_way: UnderWay, seen: PulledEngine) -> None:
        self.seen = seen
        self.gone_on = 0
        """Grows whenever something comes of it."""
        self._under_way = under_way
        self._unsealed = self._wrong = ""

    def now(self, state: EngineState, why: str = "") -> None:
        """It is in another state."""
        self._set(state=state, why=line(why) or self._unsealed or self._wrong)

    def unsealed(self, why: str) -> None:
        """What is open there was not sealed."""
        self._unsealed = line(why)
        self._set(why=self._unsealed)

    @property
    def well(self) -> bool:
        """Whether all that there was is in the archive."""
        return not (self._unsealed or self.seen.refused)

    def _set(self, **changes: object) -> None:
        self.seen = msgspec.structs.replace(self.seen, **changes)
        self._under_way.dirty.add(self.seen.id)
        self._under_way.changed.ring()

    # what pulling tells

    def listed(self, segments: int, size: int, missing: Sequence[tuple[int, int]]) -> None:
        """See `Course`."""
        self._wrong = ""
        self._set(
            segments=segments,
            size=size,
            here=0,
            there_bytes=0,
            refused=0,
            removed=0,
            missing_records=sum(last - first + 1 for first, last in missing),
            missing=[Span(first=first, last=last) for first, last in missing[:SPANS]],
        )

    def there(self, size: int) -> None:
        """See `Course`."""
        self._set(there_bytes=max(0, self.seen.there_bytes + size))

    def kept(self) -> None:
        """See `Course`."""
        self._set(here=self.seen.here + 1)

    def removed(self, size: int) -> None:
        """See `Course`."""
        self._set(
            segments=max(0, self.seen.segments - 1), size=max(0, self.seen.size - size), removed=self.seen.removed + 1
        )

    def archived(self) -> None:
        """See `Course`."""
        self.gone_on += 1
        self._set(here=self.seen.here + 1, archived=self.seen.archived + 1)

    def arrived(self, count: int) -> None:
        """See `Course`."""
        self.gone_on += 1
        self._under_way.arrived(count)
        self._set(bytes=self.seen.bytes + count, there_bytes=self.seen.there_bytes + count)

    def refused(self, why: str) -> None:
        """See `Course`."""
        self.gone_on += 1
        self.problem(why)
        self._set(refused=self.seen.refused + 1)

    def problem(self, why: str) -> None:
        """See `Course`."""
        self._wrong = self._wrong or line(why)
        self._set(why=self.seen.why or self._wrong)

    def reserve(self, size: int) -> Callable[[int], None]:
        """See `Course`."""
        return self._under_way.reserve(size)

    def turn(self) -> Turn:
        """See `Course`."""
        return self._under_way.turns.one()


class Rate:
    """Bytes a second, over the last `over_s`."""

    def __init__(self, over_s: float = 10.0) -> None:
        self._over_s = over_s
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, total: int) -> float:
        """The rate, now that there are `total` bytes."""
        if not self._seen or now - self._seen[-1][0] >= self._over_s / 20:
            self._seen.append((now, total))
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._over_s:
            self._seen.popleft()
        then, before = self._seen[0]
        return (total - before) / (now - then) if now > then else 0.0


class UnderWay:
    """A pull under way, of which `engines` are known. Their segments are fetched in `turns`."""

    def __init__(
        self,
        kept: Kept,
        engines: Sequence[PulledEngine],
        turns: Turns,
        seconds: Callable[[], float],
    ) -> None:
        self.kept = kept
        self.turns = turns
        self.dirty: set[str] = set()
        """Of which service engines there is news that is not kept yet."""
        self.changed, self.over = Bell(), Bell()
        self.working: list[Deferred[None]] = []
        self.courses = {each.id: EngineCourse(self, each) for each in engines}
        self.ending: EngineState | None = None
        """What becomes of those that have not ended, as the pull has: nothing more of it begins."""
        self._rate = Rate()
        self._seconds = seconds
        self._reserved = 0

    @property
    def pull(self) -> LogPull:
        """The pull as it is now."""
        seen = [each.seen for each in self.courses.values()]
        total = sum(each.bytes for each in seen)
        size, there = sum(each.size for each in seen), sum(each.there_bytes for each in seen)
        running = self.kept.pull.state == "running"
        rate = self._rate.at(self._seconds(), total) if running else 0.0
        return msgspec.structs.replace(
            self.kept.pull,
            ended=sum(each.ended for each in seen),
            failed=sum(each.ended and each.state != "done" for each in seen),
            segments=sum(each.segments for each in seen),
            here=sum(each.here for each in seen),
            archived=sum(each.archived for each in seen),
            removed=sum(each.removed for each in seen),
            size=size,
            there_bytes=there,
            bytes=total,
            bytes_per_s=max(0.0, rate),
            left_s=min(max(0, size - there) / rate, 1e9) if rate > 0 else None,
        )

    def reserve(self, size: int) -> Callable[[int], None]:
        """So many bytes are to come: what to call in the end. Raises `OutOfBudget`."""
        budget = self.kept.pull.order.budget_bytes
        spent = sum(each.seen.bytes for each in self.courses.values())
        if budget is not None and spent + self._reserved + size > budget:
            raise OutOfBudget(
                f"the next segment has {format_bytes(size)}, and of the budget of {format_bytes(budget)}"
                f" {format_bytes(max(0, budget - spent))} are left"
            )
        self._reserved += size
        return partial(self._spent, size)

    def arrived(self, count: int) -> None:
        """So many of the bytes that are to come have."""
        self._reserved -= count

    def _spent(self, size: int, came: int) -> None:
        self._reserved -= size - came

    def end(self, state: EngineState) -> None:
        """Nothing more of it is to happen."""
        self.ending = self.ending or state
        for each in list(self.working):
            each.cancel()


def line(text: str) -> str:
    """What a peer says, as one line that may be kept and shown."""
    return "".join(each if each.isprintable() else " " for each in text)[:_LONGEST_WHY].strip()
