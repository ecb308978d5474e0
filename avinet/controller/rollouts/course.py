"""What a node knows of a roll-out beside its record, and how it is shown to operators."""

from __future__ import annotations

import hashlib

import msgspec

from avinet.aio import News
from avinet.config import rollout as rules
from avinet.config.health import Before, Tally
from avinet.config.rollout import RolloutRecord
from avinet.controller.rollouts.observed import Concern
from avinet.wire.message import encode
from avinet.wire.rollout import Rollout, RolloutPhase


class Course:
    """A roll-out under way on a node; all but `record` can be learnt anew. Times are those of the node's clock."""

    def __init__(self, record: RolloutRecord, of: Concern, revision: int) -> None:
        self.record = record
        self.of = of
        self.revision = revision
        """The revision of the documents that `of` was made of."""
        self.before: dict[str, Before] | None = None
        self.tally: Tally | None = None
        self.targets = 0
        self.news = News()
        """Why it cannot go on."""
        self._observed: tuple[int, float] | None = None
        self._held: tuple[int, float] | None = None

    def counted(self) -> RolloutRecord:
        """The record with what was counted last."""
        return self.record if self.tally is None else rules.counted(self.record, self.tally, self.targets)

    def stepped(self, record: RolloutRecord) -> None:
        """A step was taken: what was counted is to be counted anew."""
        self.record, self.tally = record, None

    def observed_s(self, now: float) -> float:
        """For how long nobody has been pending in the batch that is open.

        One in a hundred may lose its tunnel for a moment: in a large fleet there is always somebody who does.
        """
        if self.tally is None:
            return 0.0
        pending = self.tally.counts["pending"]
        begun = self._observed is not None and self._observed[0] == self.record.batch
        if pending * 100 > self.tally.total or (pending and not begun):
            self._observed = None
            return 0.0
        if self._observed is None or not begun:
            self._observed = self.record.batch, now
        return now - self._observed[1]

    def held_s(self, now: float) -> float:
        """For how long the next batch has been ready to be opened."""
        if self._held is None or self._held[0] != self.record.batch:
            self._held = self.record.batch, now
        return now - self._held[1]

    def phase(self, now: float) -> RolloutPhase:
        """What it does just now."""
        if self.tally is None or not self.record.batch or self.tally.counts["pending"]:
            return _phase(self.record)
        return "observing" if self.observed_s(now) < self.record.plan.observe_s else "passed"


def shown(record: RolloutRecord, course: Course | None, now: float) -> Rollout:
    """A roll-out as operators see it, with what is known of its `course` on this node."""
    phase = _phase(record)
    if record.under_way and course is not None and course.record == record:
        phase, record = course.phase(now), course.counted()
    found = Rollout(
        name=record.name,
        version=record.version,
        former=record.former,
        state=record.state,
        phase=phase,
        why=record.why,
        author=record.author,
        by=record.by,
        started=record.started,
        changed=record.changed,
        ended=None if record.under_way else record.changed,
        batch=record.batch,
        batches=record.batch + rules.batches_left(record, record.opened, record.targets),
        targets=record.targets,
        opened=record.opened,
        well=record.well,
        pending=max(0, record.opened - record.well - record.waiting - record.failed),
        waiting=record.waiting,
        failed=record.failed,
        failures=record.failures,
        plan=record.plan,
    )
    return msgspec.structs.replace(found, tag=hashlib.sha256(encode(found)).hexdigest()[:16])


def _phase(record: RolloutRecord) -> RolloutPhase:
    """What is known of it without a look at service engines."""
    if not record.under_way:
        return ""
    return "applying" if record.batch else "opening"
