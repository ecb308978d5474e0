"""How a service engine does with a new version, as pure rules: what it was before, what it is now, and what follows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from avinet.wire.rollout import FAILURES_SHOWN, RolloutFailure, RolloutPlan

BEFORE_DOWN = 100
"""So many servers that were down before are known by name; of more it is known how many."""
LOSSES = 3
"""A version that costs an SE its tunnel so many times is a bad one, though it comes back each time."""
LOSSES_S = 3600.0
"""Losses count that are not longer ago than this, or than it takes a batch to pass with each of them."""
_WHY_CHARS = 300


class Before(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a service engine was before its batch was opened: what was so then is not the new version's fault.

    `down` names servers as POOL/SERVER, and `more` counts those that were down too; `errors` is the percentage of
    requests that failed, by virtual service. One that is `unsteady` lost its tunnel again and again, `LOSSES` times
    within `LOSSES_S`.
    """

    connected: bool = False
    unsteady: bool = False
    problem: bool = False
    down: list[str] = []
    more: int = 0
    errors: dict[str, float] = {}


@dataclass(frozen=True)
class Now:
    """How a service engine is that has its turn.

    `away_s` is how long it has had no tunnel, as far as is known; `asked_s` how long it could have acknowledged, short
    absences included; `losses` how long ago it has lost its tunnel, the last `LOSSES` times. `reported` tells whether
    it has said anything since it acknowledged. `traffic` are requests and those that failed, by virtual service, since
    then, and `recent` those of the last minute, once the version has been there for longer.
    """

    connected: bool
    away_s: float = 0.0
    asked_s: float = 0.0
    losses: Sequence[float] = ()
    refused: str | None = None
    problem: str = ""
    acknowledged: bool = False
    reported: bool = False
    down: Sequence[str] = ()
    traffic: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    recent: Mapping[str, tuple[int, int]] = field(default_factory=dict)


Kind = Literal["well", "pending", "waiting", "failed"]


def judge(plan: RolloutPlan, before: Before | None, now: Now) -> tuple[Kind, str]:
    """How a service engine does with the new version, and why it is not well.

    Of one without a `before`, which came when its turn had come already, or which was away by then, nobody knows what
    it would be like without the version: its servers and the errors of its requests say nothing.
    """
    if now.refused is not None:
        return "failed", f"it refused the configuration: {now.refused}"
    losses = _losses(plan, now)
    unsteady = before is not None and before.unsteady
    if losses >= LOSSES and not unsteady:
        return "failed", f"it has lost its tunnel {losses} times"
    if not now.connected:
        if now.away_s < plan.lost_s:
            return ("waiting" if unsteady else "pending"), ""
        if now.acknowledged or (before is not None and before.connected):
            return "failed", f"its tunnel has been gone for {plan.lost_s:g} s"
        return "waiting", ""
    if now.problem:
        as_before = before is not None and before.problem
        return ("waiting", "") if as_before else ("failed", f"it cannot have it: {now.problem}")
    if not (now.acknowledged and now.reported):
        if now.asked_s < plan.deadline_s:
            return "pending", ""
        what = "reported since it acknowledged" if now.acknowledged else "acknowledged"
        return "failed", f"it has not {what}, for {plan.deadline_s:g} s"
    if before is None or not before.connected:
        return "well", ""
    why = _servers_down(before, now) or _errors(plan, before, now)
    return ("failed", why) if why else ("well", "")


def _losses(plan: RolloutPlan, now: Now) -> int:
    most = max(LOSSES_S, LOSSES * (plan.observe_s + plan.lost_s + plan.deadline_s))
    return sum(each < most for each in now.losses)


def _servers_down(before: Before, now: Now) -> str:
    down = [each for each in now.down if each not in before.down]
    if len(down) <= before.more:
        return ""
    return f"server {down[0]} is down" + (f", and {len(down) - 1} more" if len(down) > 1 else "")


def _errors(plan: RolloutPlan, before: Before, now: Now) -> str:
    for traffic, when in (now.traffic, ""), (now.recent, " in the last minute"):
        for name, (requests, errors) in sorted(traffic.items()):
            most = before.errors.get(name, 0.0) + plan.errors_percent
            if requests >= plan.least_requests and errors * 100 > most * requests:
                return f"{errors} of {requests} requests to {name} failed{when}"
    return ""


class Tally:
    """How all do that have their turn. Whoever is in `forgiven` may fail."""

    def __init__(self, forgiven: Collection[str] = ()) -> None:
        self.counts: dict[Kind, int] = {"well": 0, "pending": 0, "waiting": 0, "failed": 0}
        self.forgiven = 0
        """How many of those that failed may."""
        self._may = frozenset(forgiven)
        self._failures: tuple[list[RolloutFailure], list[RolloutFailure]] = [], []

    def add(self, id: str, kind: Kind, why: str) -> None:
        """One more."""
        self.counts[kind] += 1
        if kind == "failed":
            may = id in self._may
            self.forgiven += may
            if len(self._failures[may]) < FAILURES_SHOWN:
                self._failures[may].append(RolloutFailure(id=id, why=_line(why)))

    @property
    def failures(self) -> list[RolloutFailure]:
        """The first of those that failed; those that may not come before those that may."""
        return [*self._failures[False], *self._failures[True]][:FAILURES_SHOWN]

    @property
    def total(self) -> int:
        """How many they are."""
        return sum(self.counts.values())


def _line(text: str) -> str:
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return text if len(text) <= _WHY_CHARS else text[: _WHY_CHARS - 3] + "..."
