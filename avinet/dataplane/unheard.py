"""Workers of HAProxy that leave while no service engine takes what they say: that is lost, and told of.

That there are some is on the disk as well, as they may be gone when the next service engine comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime

from avinet.aio import pause
from avinet.dataplane.losses import Losses
from avinet.files import write_atomic

MARK = "unheard"
"""The file that is there from when they were heard last."""
LOOK_S = 0.5
LONGEST_S = 660.0
"""For how long a worker may leave, and some more: see `hard-stop-after` in what HAProxy is given."""


class Unheard:
    """Tells `losses` of them. The mark is in `folder`; `lives` says of a process whether it is there."""

    def __init__(self, clock: IReactorTime, folder: Path, lives: Callable[[int], bool], losses: Losses) -> None:
        self._clock = clock
        self._mark = folder / MARK
        self._lives = lives
        self._losses = losses
        self._workers: set[int] = set()

    def left(self, worker: int) -> None:
        """What this one says from now on may be lost."""
        self._workers.add(worker)

    def keep(self) -> None:
        """In a thread, at the end of the service engine: leave the mark if there are some. Raises `LocalError`."""
        if any(map(self._lives, self._workers)):
            write_atomic(self._mark, b"")

    async def outlast(self, workers: Sequence[int]) -> None:
        """Tell what is lost until now, where there is a mark or are `workers`; and then, until they are gone."""
        since = self._mark.stat().st_mtime if self._mark.exists() else None
        if since is None and not workers:
            return
        self._losses.miss("crash", None, since)
        began = self._clock.seconds()
        self._workers.update(workers)
        gone = False
        try:
            while any(map(self._lives, workers)) and self._clock.seconds() < began + LONGEST_S:
                await pause(self._clock, LOOK_S)
            gone = True
        finally:
            if not gone:  # the service engine ends, and leaves the mark
                self._losses.died(began)
        if workers:
            self._losses.miss("crash", None, began)
        self._workers.difference_update(workers)
        self._mark.unlink(missing_ok=True)
