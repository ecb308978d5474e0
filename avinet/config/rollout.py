"""The rules of a roll-out, without clock and store: who is next, and what is to be done now.

Each service engine has a place in the order of a roll-out, by a hash of its id and of the version: a fleet is gone
through in an order that is the same on every node and after every restart, and another one each time. A batch is
opened up to a place, so that also who comes later belongs to a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from avinet.config.health import Tally
from avinet.errors import Conflict
from avinet.wire.rollout import RolloutFailure, RolloutPlan, RolloutState

NOBODY, EVERYBODY = "", "~"
"""The place before the first, and the one behind the last."""
FORGIVEN = 1000
"""So many that an operator has accepted as failed are known by their ids."""
UNDER_WAY: tuple[RolloutState, ...] = ("running", "paused", "stopped")


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A roll-out as the store has it. `boundary` is the place up to which it was opened, in `batch` batches.

    `step` counts the sizes of the plan that were used. `passed` is the last batch that a pause came after by itself,
    `promoted` what an operator asked to be opened without waiting. `forgiven_ids` had failed when one let it go on, and
    `forgiven` more, of whom it is known how many they were. `targets` to `failed` count as at the last change.
    """

    name: str
    version: int
    former: int
    plan: RolloutPlan
    author: str
    started: float
    state: RolloutState = "running"
    boundary: str = NOBODY
    batch: int = 0
    step: int = 0
    passed: int = 0
    promoted: Literal["", "next", "all"] = ""
    forgiven_ids: list[str] = []
    forgiven: int = 0
    changed: float = 0.0
    by: str = ""
    why: str = ""
    targets: int = 0
    opened: int = 0
    well: int = 0
    waiting: int = 0
    failed: int = 0
    failures: list[RolloutFailure] = []

    @property
    def under_way(self) -> bool:
        """Whether two versions are in use."""
        return self.state in UNDER_WAY

    def place(self, id: str) -> str:
        """Where a service engine is in the order."""
        return hashlib.sha256(f"{self.name} {self.version} {id}".encode()).hexdigest()[:16]

    def turn(self, id: str) -> bool:
        """Whether a service engine has the new version."""
        return self.boundary == EVERYBODY or self.place(id) <= self.boundary


# Batches


@dataclass(frozen=True)
class Batch:
    """The batch to be opened next: up to the place `boundary`, which are `ids`."""

    ids: Sequence[str]
    boundary: str
    step: int


def next_batch(record: RolloutRecord, ids: Sequence[str], connected: Callable[[str], bool]) -> Batch:
    """Of all `ids` that the roll-out concerns those that are next.

    They are as many as the plan says, and more where none of these is connected: a batch that nobody is in to be seen
    well says nothing.
    """
    in_order = sorted((record.place(id), id) for id in ids)
    left = [(place, id) for place, id in in_order if place > record.boundary]
    opened, total = len(in_order) - len(left), len(in_order)
    aim, step = _aim(record.plan, record.step, opened, total)
    if record.promoted == "all":
        aim = total
    size = aim - opened
    seen = next((number for number, (_, id) in enumerate(left, 1) if connected(id)), size)
    chosen = left[: max(size, seen)]
    whole = len(chosen) == len(left)
    return Batch([id for _, id in chosen], EVERYBODY if whole else chosen[-1][0], step)


def batches_left(record: RolloutRecord, opened: int, total: int) -> int:
    """How many more batches there are, as things are."""
    if record.boundary == EVERYBODY:
        return 0
    count, step = 0, record.step
    while opened < total:
        opened, step = _aim(record.plan, step, opened, total)
        count += 1
    return max(1, count)


def _aim(plan: RolloutPlan, step: int, opened: int, total: int) -> tuple[int, int]:
    """How many are to have it after the next batch, and the step after that; more than have it, if there are more."""
    if plan.batch_size:
        return min(opened + plan.batch_size, total), step
    while step < len(plan.batches):
        size = plan.batches[step]
        step += 1
        aim = -(-total * int(size[:-1]) // 100) if size.endswith("%") else int(size)
        if aim > opened:
            return min(aim, total), step
    return total, step


# Steps

Step = Literal["hold", "open", "pause", "stop", "finish"]


def decide(record: RolloutRecord, tally: Tally, observed_s: float) -> Step:
    """What is to be done now; `observed_s` is for how long nobody has been pending in the batch that is open."""
    plan, counts = record.plan, tally.counts
    if record.state == "stopped":
        return "hold"
    if counts["failed"] - tally.forgiven > plan.max_failed + record.forgiven:
        return "stop"
    if record.state != "running":
        return "hold"
    whole = record.boundary == EVERYBODY
    if record.promoted or not record.batch:
        return "finish" if whole else "open"
    if tally.total:
        if counts["pending"] or observed_s < plan.observe_s:
            return "hold"
        if counts["waiting"] == tally.total:  # nobody has it: nothing is known of it
            return "hold"
    if whole:
        return "finish"
    return "pause" if plan.pause and record.passed < record.batch else "open"


def _changed(record: RolloutRecord, by: str, now: float, **fields: object) -> RolloutRecord:
    if not record.under_way:
        raise Conflict(
            f"the roll-out of version {record.version} of document {record.name} is over: {record.state}",
            hint="see avictl config rollout list",
        )
    return msgspec.structs.replace(record, by=by, changed=now, **fields)


def counted(record: RolloutRecord, tally: Tally, targets: int) -> RolloutRecord:
    """The record with what is known of all that have their turn, and of how many that is."""
    return msgspec.structs.replace(
        record,
        targets=targets,
        opened=tally.total,
        well=tally.counts["well"],
        waiting=tally.counts["waiting"],
        failed=tally.counts["failed"],
        failures=tally.failures,
        forgiven=min(record.forgiven, tally.counts["failed"] - tally.forgiven),
    )


def opened(record: RolloutRecord, batch: Batch, by: str, now: float) -> RolloutRecord:
    """The next batch has its turn."""
    return _changed(
        record,
        by,
        now,
        boundary=batch.boundary,
        step=batch.step,
        batch=record.batch + 1,
        opened=record.opened + len(batch.ids),
        promoted="",
        why="",
    )


def stopped(record: RolloutRecord, why: str, by: str, now: float) -> RolloutRecord:
    """No more batches: too many are not well. Whether it is taken back is another matter."""
    return _changed(record, by, now, state="stopped", why=why, promoted="")


def paused(record: RolloutRecord, by: str, now: float, *, passed: bool = False) -> RolloutRecord:
    """No more batches for now; with `passed` since one is well that the plan has a pause after."""
    if record.state != "running" and not passed:
        _changed(record, by, now)
        raise Conflict(f"the roll-out of document {record.name} is {record.state} already")
    why = f"batch {record.batch} is well, and the plan has a pause after it" if passed else ""
    return _changed(
        record, by, now, state="paused", why=why, promoted="", passed=record.batch if passed else record.passed
    )


def resumed(record: RolloutRecord, by: str, now: float) -> RolloutRecord:
    """It goes on where it was; who has failed until then counts no more."""
    if record.state == "running":
        raise Conflict(f"the roll-out of document {record.name} is running")
    return _changed(record, by, now, state="running", why="", **_forgiven(record))


def promoted(record: RolloutRecord, by: str, now: float, *, all: bool) -> RolloutRecord:
    """The next batch is opened, or `all` that are left, without waiting for what is known of those before."""
    to = "all" if all else "next"
    return _changed(record, by, now, state="running", why="", promoted=to, **_forgiven(record))


def _forgiven(record: RolloutRecord) -> dict[str, object]:
    if record.state != "stopped":
        return {}
    ids = [each.id for each in record.failures]
    known = [each for each in record.forgiven_ids if each not in ids] + ids
    return {"forgiven_ids": known[-FORGIVEN:], "forgiven": max(0, record.failed - len(ids))}


def ended(record: RolloutRecord, state: RolloutState, why: str, by: str, now: float) -> RolloutRecord:
    """It is over: `finished`, `rolled-back` or `superseded`."""
    return _changed(record, by, now, state=state, why=why, promoted="")
