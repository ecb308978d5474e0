"""A step of a succession: who is not ready for it, and whether it is taken all the same; one at a time, recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import DeferredLock

from avinet.aio import as_deferred
from avinet.controller.epochs import Epochs
from avinet.controller.standing import Standing
from avinet.enrolment.records import AuditRecord
from avinet.errors import Conflict
from avinet.wire.succession import SHOWN, Succession, SuccessionOrder
from avinet.wire.trust import TrustDocument

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

    async def alone(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """One at a time."""
        return await self._lock.run(lambda: as_deferred(step()))

    def count(self, since: int) -> tuple[int, int]:
        """How many service engines have the trust document of the epoch `since` or a later one, and of how many."""
        enrolled = list(self._enrolled())
        return len(enrolled) - len(self._epochs.behind(since, enrolled)), len(enrolled)

    def step(self, since: int, until: float | None) -> Succession:
        """A step that whoever has not the trust document of epoch `since` is not ready for.

        Such come back until `until`.
        """
        behind = self._epochs.behind(since, self._enrolled())
        return Succession(done=False, waiting=len(behind), ids=behind[:SHOWN], until=until)

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

    def audit(self, kind: str, actor: str, outcome: str) -> Callable[[TrustDocument], AuditRecord]:
        """The record of a step, once the epoch is known that it makes."""
        node = self.standing.domain.node
        return lambda document: AuditRecord(
            time=self._now(),
            node=node,
            kind=kind,
            source=actor,
            outcome=f"{outcome}, epoch {document.epoch}",
            notice=True,
        )

    def time(self) -> datetime:
        """Now."""
        return datetime.fromtimestamp(self._now(), UTC)
