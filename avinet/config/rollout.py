"""The rules of a roll-out, without clock and store: who is next, who is well, what is to be done now.

Each service engine has a place in the order of a roll-out, by a hash of its id and of the version: a fleet is gone
through in an order that is the same on every node and after every restart, and another one each time. A batch is
opened up to a place, so that also who comes later belongs to a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from avinet.errors import Conflict
from avinet.wire.rollout import FAILURES_SHOWN, RolloutFailure, RolloutPlan, RolloutState

NOBODY, EVERYBODY = "", "~"
"""The place before the first, and the one behind the last."""
BEFORE_DOWN = 100
"""So many servers that were down before are known by name; of more it is known how many."""
UNDER_WAY: tuple[RolloutState, ...] = ("running", "paused", "stopped")
_WHY_CHARS = 300


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A roll-out as the store has it. `boundary` is the place up to which it was opened, in `batch` batches.

    `step` counts the sizes of the plan that were used. `passed` is the last batch that a pause came after by itself,
    `promoted` what an operator asked to be opened without waiting, `forgiven` how many had failed when one let it go
    on. `targets` to `failed` count as at the last change.
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


# Health


class Before(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a service engine was before its batch was opened: what was so then is not the new version's fault.

    `down` names servers as POOL/SERVER, and `more` counts those that were down too; `errors` is the percentage of
    5xx by virtual service.
    """

    connected: bool = False
    problem: bool = False
    down: list[str] = []
    more: int = 0
    errors: dict[str, float] = {}


_UNKNOWN = Before()


@dataclass(frozen=True)
class Now:
    """How a service engine is that has its turn.

    `away_s` is how long it has had no tunnel, as far as is known; `asked_s` how long it has been connected and could
    have acknowledged. `reported` tells whether it has said anything since it acknowledged. `traffic` are requests and
    5xx by virtual service since then.
    """

    connected: bool
    away_s: float = 0.0
    asked_s: float = 0.0
    refused: str | None = None
    problem: str = ""
    acknowledged: bool = False
    reported: bool = False
    down: Sequence[str] = ()
    traffic: Mapping[str, tuple[int, int]] = field(default_factory=dict)


Kind = Literal["well", "pending", "waiting", "failed"]


def judge(plan: RolloutPlan, before: Before | None, now: Now) -> tuple[Kind, str]:
    """How a service engine does with the new version, and why it is not well."""
    before = before or _UNKNOWN
    if now.refused is not None:
        return "failed", f"it refused the configuration: {now.refused}"
    if not now.connected:
        if now.away_s < plan.lost_s:
            return "pending", ""
        if now.acknowledged or before.connected:
            return "failed", f"its tunnel has been gone for {plan.lost_s:g} s"
        return "waiting", ""
    if now.problem:
        return ("waiting", "") if before.problem else ("failed", f"it cannot have it: {now.problem}")
    if not (now.acknowledged and now.reported):
        if now.asked_s < plan.deadline_s:
            return "pending", ""
        what = "reported since it acknowledged" if now.acknowledged else "acknowledged"
        return "failed", f"it has not {what}, for {plan.deadline_s:g} s"
    why = _servers_down(before, now) or _errors(plan, before, now)
    return ("failed", why) if why else ("well", "")


def _servers_down(before: Before, now: Now) -> str:
    down = [each for each in now.down if each not in before.down]
    if len(down) <= before.more:
        return ""
    return f"server {down[0]} is down" + (f", and {len(down) - 1} more" if len(down) > 1 else "")


def _errors(plan: RolloutPlan, before: Before, now: Now) -> str:
    for name, (requests, errors) in sorted(now.traffic.items()):
        most = before.errors.get(name, 0.0) + plan.errors_percent
        if requests >= plan.least_requests and errors * 100 > most * requests:
            return f"{errors} of {requests} requests to {name} were answered with 5xx"
    return ""


class Tally:
    """How all do that have their turn."""

    def __init__(self) -> None:
        self.counts: dict[Kind, int] = {"well": 0, "pending": 0, "waiting": 0, "failed": 0}
        self.failures: list[RolloutFailure] = []

    def add(self, id: str, kind: Kind, why: str) -> None:
        """One more."""
        self.counts[kind] += 1
        if kind == "failed" and len(self.failures) < FAILURES_SHOWN:
            self.failures.append(RolloutFailure(id=id, why=_line(why)))

    @property
    def total(self) -> int:
        """How many they are."""
        return sum(self.counts.values())


def _line(text: str) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text if len(text) <= _WHY_CHARS else text[: _WHY_CHARS - 3] + "..."


# Steps

Step = Literal["hold", "open", "pause", "stop", "finish"]


def decide(record: RolloutRecord, tally: Tally, observed_s: float) -> Step:
    """What is to be done now; `observed_s` is for how long nobody has been pending in the batch that is open."""
    plan, counts = record.plan, tally.counts
    if record.state == "stopped":
        return "hold"
    if counts["failed"] > plan.max_failed + record.forgiven:
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
    return _changed(record, by, now, state="running", why="", forgiven=_forgiven(record))


def promoted(record: RolloutRecord, by: str, now: float, *, all: bool) -> RolloutRecord:
    """The next batch is opened, or `all` that are left, without waiting for what is known of those before."""
    to = "all" if all else "next"
    return _changed(record, by, now, state="running", why="", forgiven=_forgiven(record), promoted=to)


def _forgiven(record: RolloutRecord) -> int:
    return max(record.forgiven, record.failed) if record.state == "stopped" else record.forgiven


def ended(record: RolloutRecord, state: RolloutState, why: str, by: str, now: float) -> RolloutRecord:
    """It is over: `finished`, `rolled-back` or `superseded`."""
    return _changed(record, by, now, state=state, why=why, promoted="")
