"""A step of a succession: who is not ready for it, and whether it is taken all the same; one at a time, recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from twisted.internet.defer import DeferredLock

from avinet.aio import as_deferred
from avinet.controller.epochs import Epochs
from avinet.controller.standing import Standing
from avinet.enrolment.records import AuditRecord
from avinet.errors import Conflict
from avinet.wire.succession import SHOWN, Succession, SuccessionOrder

CATCH_UP_S = 60.0
HIGHEST = 1 << 62
"""No service engine has said a higher epoch and meant it: there is room for all that are to come."""
_NAMED = 5


class Steps:
    """The steps of a node; `enrolled` are the ids of the service engines that are to know of what follows."""

    def __init__(
        self, standing: Standing, epochs: Epochs, enrolled: Callable[[], Iterable[str]], now: Callable[[], float]
    ) -> None:
        self.standing = standing
        self._epochs = epochs
        self._enrolled = enrolled
        self._now = now
        self._lock = DeferredLock()
        self._caught_up = -CATCH_UP_S

    async def alone(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """One at a time."""
        return await self._lock.run(lambda: as_deferred(step()))

    def count(self, since: int) -> tuple[int, int]:
        """How many service engines have the trust document of the epoch `since` or a later one, and of how many."""
        enrolled = list(self._enrolled())
        return len(enrolled) - len(self._epochs.behind(since, enrolled)), len(enrolled)

    def step(self, since: int, until: float | None, known: int = 0) -> Succession:
        """A step that whoever has not the trust document of epoch `since` is not ready for.

        Such come back until `until`, if they have at least that of epoch `known`; what older ones know is not known.
        """
        behind = self._epochs.behind(since, self._enrolled())
        if self._epochs.behind(known, behind):
            until = None
        return Succession(done=False, waiting=len(behind), ids=behind[:SHOWN], until=until)

    async def catch_up(self) -> None:
        """Publish in an epoch above what any service engine has: it takes nothing below, whoever told it that.

        It is told so by a store that came back as it was before; then it is an alarm. At most once in a while: it goes
        to the whole fleet.
        """
        highest, now = self._epochs.highest(self._enrolled()), self._now()
        if self.standing.document.epoch < highest < HIGHEST and now - self._caught_up >= CATCH_UP_S:
            self._caught_up = now
            record = self.audit("trust-epoch", self.standing.domain.node, f"above {highest}")
            await self.standing.publish(above=highest, audit=msgspec.structs.replace(record, alarm=True))

    def goes(self, step: Succession, order: SuccessionOrder, unknown: str) -> bool:
        """Whether a step is to be taken. Raises `Conflict` when some do not know what is `unknown` to them."""
        if order.dry_run:
            return False
        if step.waiting and not order.force:
            named = ", ".join(step.ids[:_NAMED]) + (", ..." if step.waiting > _NAMED else "")
            raise Conflict(
                f"{step.waiting} service engines do not know {unknown} yet: {named}",
                hint="wait until they have been connected, or say --force; --dry-run tells what becomes of them",
            )
        return True

    def audit(self, kind: str, actor: str, outcome: str) -> AuditRecord:
        """The record of a step."""
        node = self.standing.domain.node
        return AuditRecord(time=self._now(), node=node, kind=kind, source=actor, outcome=outcome, notice=True)

    def time(self) -> datetime:
        """Now."""
        return datetime.fromtimestamp(self._now(), UTC)
